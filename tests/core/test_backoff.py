"""
Back-off: the pauses between attempts.
"""

from __future__ import annotations

from typing import List, Optional

import pytest

from broadway_sync.core.backoff import Backoff


def low(minimum: float, maximum: float) -> float:
    """
    The least that chance may give.
    """
    assert minimum <= maximum
    return minimum


def high(minimum: float, maximum: float) -> float:
    """
    The most that chance may give.
    """
    assert minimum <= maximum
    return maximum


def pauses(backoff: Backoff, count: int) -> List[Optional[float]]:
    """
    Return the next *count* pauses.
    """
    return [backoff.next() for _ in range(count)]


def test_exp_doubles_up_to_the_maximum() -> None:
    """
    As measured with the original: 1, 2, 4, 8, 16, 30, 30.
    """
    assert pauses(Backoff("exp", 1, 30), 7) == [1, 2, 4, 8, 16, 30, 30]


def test_rand_stays_between_the_bounds() -> None:
    """
    Each pause anew.
    """
    assert pauses(Backoff("rand", 1, 30, low), 2) == [1, 1]
    assert pauses(Backoff("rand", 1, 30, high), 2) == [30, 30]


def test_rand_exp_grows_threefold_at_most() -> None:
    """
    The first pause is between the minimum and three times that.
    """
    assert pauses(Backoff("rand_exp", 1, 30, high), 5) == [3, 9, 27, 30, 30]


def test_rand_exp_never_falls_below_a_third_of_the_maximum_once_there() -> None:
    """
    Nor below the pause before, until then.
    """
    assert pauses(Backoff("rand_exp", 1, 30, low), 3) == [1, 1, 1]
    bounds = []
    backoff = Backoff("rand_exp", 1, 30, lambda a, b: bounds.append((a, b)) or b)  # type: ignore[func-returns-value]
    pauses(backoff, 5)
    assert bounds == [(1, 3), (3, 9), (9, 27), (10, 30), (10, 30)]


@pytest.mark.parametrize("kind", ["exp", "rand_exp"])
def test_reset_begins_anew(kind: str) -> None:
    """
    After an attempt that succeeded.
    """
    backoff = Backoff(kind, 1, 30, high)
    first = pauses(backoff, 3)
    backoff.reset()
    assert pauses(backoff, 3) == first


def test_stop_means_never() -> None:
    """
    And not zero.
    """
    assert pauses(Backoff("stop", 1, 30), 2) == [None, None]


@pytest.mark.parametrize("kind", ["exp", "rand", "rand_exp"])
def test_a_minimum_of_zero_does_not_spin(kind: str) -> None:
    """
    The original loops without a pause.
    """
    assert all(pause is not None and pause >= 0.01 for pause in pauses(Backoff(kind, 0, 0, low), 20))
    assert all(pause is not None and pause >= 0.01 for pause in pauses(Backoff(kind, 0, 5, low), 20))
