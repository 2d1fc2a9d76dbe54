"""
``core/restart_intensity.py``: how many crashes in which time are too many. Time is an argument.
"""

from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadway_sync.core.restart_intensity import RestartIntensity


def test_the_crash_that_is_one_too_many_is_refused() -> None:
    """
    Three restarts within five seconds are allowed, the fourth is not.
    """
    intensity = RestartIntensity(3, 5.0)
    assert [intensity.allows(now) for now in (0.0, 1.0, 2.0, 3.0)] == [True, True, True, False]


@pytest.mark.parametrize(("last", "is_allowed"), [(5.0, False), (5.001, True)])
def test_old_crashes_are_forgotten(last: float, is_allowed: bool) -> None:
    """
    A crash exactly *max_seconds* ago still counts, as in Erlang.
    """
    intensity = RestartIntensity(1, 5.0)
    assert intensity.allows(0.0)
    assert intensity.allows(last) is is_allowed


def test_a_refused_crash_counts_too() -> None:
    """
    Crashes that go on stay refused.
    """
    intensity = RestartIntensity(1, 5.0)
    assert [intensity.allows(now) for now in (0.0, 4.0, 8.0, 12.0)] == [True, False, False, False]
    assert intensity.allows(17.5)


def test_no_restart_at_all() -> None:
    """
    With a budget of 0 every crash is too many.
    """
    intensity = RestartIntensity(0, 5.0)
    assert [intensity.allows(now) for now in (0.0, 1000.0)] == [False, False]


@given(
    budget=st.integers(0, 4),
    seconds=st.sampled_from([1.0, 5.0]),
    pauses=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 6.0]), max_size=30),
)
def test_it_counts_the_crashes_of_the_last_seconds(budget: int, seconds: float, pauses: List[float]) -> None:
    """
    A restart is allowed if and only if there were no more crashes than the budget within *max_seconds*, itself
    included; what is older is forgotten.
    """
    intensity = RestartIntensity(budget, seconds)
    now, crashes = 0.0, []
    for pause in pauses:
        now += pause
        crashes.append(now)
        recent = [crash for crash in crashes if now - crash <= seconds]
        assert intensity.allows(now) is (len(recent) <= budget)
        assert list(intensity._crashes) == recent
