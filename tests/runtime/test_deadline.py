"""
``runtime/deadline.py``: one limit across several waits.
"""

from __future__ import annotations

from typing import Any, List

import pytest

from broadway_sync.runtime import deadline as module
from broadway_sync.runtime.deadline import Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """
    The time, in a list, for the test to change.
    """
    now: List[Any] = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_what_remains_gets_less_and_never_negative(clock: List[float]) -> None:
    """
    Until the time has run out.
    """
    deadline = Deadline(2.5)
    assert (deadline.remaining(), deadline.is_over()) == (2.5, False)
    clock[0] = 102.0
    assert (deadline.remaining(), deadline.is_over()) == (0.5, False)
    clock[0] = 102.5
    assert (deadline.remaining(), deadline.is_over()) == (0.0, True)
    clock[0] = 200.0
    assert (deadline.remaining(), deadline.is_over()) == (0.0, True)


def test_without_a_limit_it_is_never_over(clock: List[float]) -> None:
    """
    Until it is tightened.
    """
    deadline = Deadline(None)
    clock[0] = 1e9
    assert (deadline.remaining(), deadline.is_over()) == (None, False)
    deadline.tighten(1.0)
    assert (deadline.remaining(), deadline.is_over()) == (1.0, False)


def test_it_moves_forward_only(clock: List[float]) -> None:
    """
    The earlier of two limits holds.
    """
    deadline = Deadline(2.0)
    deadline.tighten(5.0)
    assert deadline.remaining() == 2.0
    deadline.tighten(0.0)
    assert (deadline.remaining(), deadline.is_over()) == (0.0, True)
