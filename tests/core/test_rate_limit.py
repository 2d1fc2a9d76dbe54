"""
``core/rate_limit.py``: a fixed window. Time is an argument.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadway_sync.core.rate_limit import RateLimit


def state(limit: RateLimit, now: float) -> Tuple[Any, ...]:
    """
    Return everything that a limit knows at *now*.
    """
    end = limit.window_end(now)
    return (limit.allowed_messages, limit.interval, limit._window_start, end, limit._remaining)


class TestTake:
    """
    What is granted.
    """

    def test_a_window_grants_exactly_what_is_allowed(self) -> None:
        """
        In one or in many portions; the rest waits for the next window.
        """
        limit = RateLimit(10, 1.0, 100.0)
        assert [limit.take(4, 100.0 + step / 10) for step in range(4)] == [4, 4, 2, 0]
        assert limit.window_end(100.5) == 101.0
        assert limit.take(25, 101.0) == 10

    def test_a_take_that_grants_nothing_changes_nothing(self) -> None:
        """
        Neither the window nor what the next one grants.
        """
        limit = RateLimit(3, 1.0, 0.0)
        limit.take(3, 0.0)
        before = state(limit, 0.5)
        assert [limit.take(wanted, 0.5) for wanted in (5, 1, 0)] == [0, 0, 0]
        assert state(limit, 0.5) == before

    def test_what_a_window_does_not_use_is_lost(self) -> None:
        """
        After any pause there is one window's allowance, never more.
        """
        limit = RateLimit(3, 1.0, 0.0)
        assert limit.take(10, 500.25) == 3
        assert limit.take(10, 500.75) == 0

    def test_windows_follow_each_other_without_a_gap(self) -> None:
        """
        They begin at the start and after each interval, whenever somebody asks.
        """
        limit = RateLimit(3, 2.0, 1.0)
        assert [limit.window_end(now) for now in (1.0, 2.9, 3.0, 8.5)] == [3.0, 3.0, 5.0, 9.0]


class TestUpdate:
    """
    New values while it runs.
    """

    def test_new_values_hold_from_the_next_window_on(self) -> None:
        """
        The window that runs keeps its end and its allowance.
        """
        limit = RateLimit(10, 1.0, 0.0)
        assert limit.take(4, 0.0) == 4
        limit.update(2, 5.0, 0.5, reset=False)
        assert state(limit, 0.5) == (2, 5.0, 0.0, 1.0, 6)
        assert limit.take(20, 0.5) == 6
        assert limit.take(20, 1.0) == 2
        assert limit.window_end(1.0) == 6.0

    def test_with_reset_a_new_window_begins_at_once(self) -> None:
        """
        With its whole allowance.
        """
        limit = RateLimit(10, 1.0, 0.0)
        limit.take(10, 0.0)
        limit.update(3, 5.0, 0.5, reset=True)
        assert state(limit, 0.5) == (3, 5.0, 0.5, 5.5, 3)

    def test_an_update_after_a_long_pause(self) -> None:
        """
        The window that runs by then began with the old values.
        """
        limit = RateLimit(10, 1.0, 0.0)
        limit.update(3, 5.0, 7.25, reset=False)
        assert state(limit, 7.25) == (3, 5.0, 7.0, 8.0, 10)
        assert limit.window_end(8.0) == 13.0

    def test_a_longer_window_is_finished_before_shorter_ones_begin(self) -> None:
        """
        Also when nobody asked for a while.
        """
        limit = RateLimit(10, 10.0, 0.0)
        limit.update(1, 1.0, 0.0, reset=False)
        assert limit.window_end(12.5) == 13.0
        assert limit.take(5, 12.5) == 1


class Reference:
    """
    Windows counted one by one, in exact numbers.
    """

    def __init__(self, allowed: int, interval: Fraction) -> None:
        self.new = (allowed, interval)
        self.begin(Fraction(0))

    def begin(self, start: Fraction) -> None:
        self.start = start
        self.remaining, self.length = self.new

    def advance(self, now: Fraction) -> None:
        while now >= self.start + self.length:
            self.begin(self.start + self.length)

    def take(self, wanted: int, now: Fraction) -> int:
        self.advance(now)
        granted = min(wanted, self.remaining)
        self.remaining -= granted
        return granted

    def update(self, allowed: int, interval: Fraction, now: Fraction, reset: bool) -> None:
        self.advance(now)
        self.new = (allowed, interval)
        if reset:
            self.begin(now)


# Powers of two: floats are exact, so that the reference may be too.
intervals = st.sampled_from([0.25, 0.5, 1.0, 4.0])
steps = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 12)),
    st.tuples(st.just("take"), st.integers(0, 12)),
    st.tuples(st.just("pass"), st.sampled_from([0.125, 0.25, 0.5, 1.0, 7.375])),
    st.tuples(st.just("update"), st.integers(1, 10), intervals, st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(allowed=st.integers(1, 10), interval=intervals, script=st.lists(steps, max_size=40))
def test_no_window_grants_more_than_it_may(allowed: int, interval: float, script: List[Tuple[Any, ...]]) -> None:
    """
    Whatever is taken and updated: each take grants what a reference that counts windows one by one grants.
    """
    limit, reference, now = RateLimit(allowed, interval, 0.0), Reference(allowed, Fraction(interval)), 0.0
    for kind, *arguments in script:
        if kind == "pass":
            now += arguments[0]
        elif kind == "take":
            assert limit.take(arguments[0], now) == reference.take(arguments[0], Fraction(now))
        else:
            limit.update(arguments[0], arguments[1], now, reset=arguments[2])
            reference.update(arguments[0], Fraction(arguments[1]), Fraction(now), arguments[2])
        assert 0 <= limit._remaining
        reference.advance(Fraction(now))
        assert limit.window_end(now) == reference.start + reference.length > now


@settings(max_examples=200, deadline=None)
@given(
    interval=st.floats(0.001, 1000.0),
    start=st.floats(0.0, 1e9),
    pauses=st.lists(st.floats(0.0, 3000.0), max_size=30),
)
def test_with_any_float_no_more_is_granted_than_windows_have_begun(
    interval: float, start: float, pauses: List[float]
) -> None:
    """
    Rounding may move the beginning of a window by the last digit of the time, so one window more is allowed for.
    """
    limit, now, granted = RateLimit(5, interval, start), start, 0
    for pause in pauses:
        now += pause
        granted += limit.take(3, now)
        windows = (Fraction(now) - Fraction(start)) // Fraction(interval) + 1
        assert granted <= 5 * (windows + 1)


@pytest.mark.parametrize("wanted", [0, 1, 100])
def test_never_more_than_wanted(wanted: int) -> None:
    """
    And all of it, if the window has as much.
    """
    assert RateLimit(100, 1.0, 0.0).take(wanted, 0.0) == wanted
