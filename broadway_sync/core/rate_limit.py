"""
A fixed window: so many messages per interval, shared by all producers of a pipeline.
"""

from __future__ import annotations


class RateLimit:
    """
    Grants at most *allowed_messages* in each window; windows follow each other without a gap, from *now* on.

    What a window does not use is lost, and nothing is ever granted ahead. Not thread-safe: the caller holds a lock.
    Times are monotonic seconds and must not decrease between calls.

    Follows Broadway 1.3, ``rate_limiter.ex``; windows are computed when asked for, not ticked.
    """

    def __init__(self, allowed_messages: int, interval: float, now: float) -> None:
        self.allowed_messages = allowed_messages
        self.interval = interval
        self._window_start = now
        # The window that runs keeps the values that it began with: 0 <= _remaining <= its allowance.
        self._window_length = interval
        self._remaining = allowed_messages

    def take(self, wanted: int, now: float) -> int:
        """
        Return how many of *wanted* messages may go now, and count them.
        """
        self._advance(now)
        granted = min(wanted, self._remaining)
        self._remaining -= granted
        return granted

    def window_end(self, now: float) -> float:
        """
        Return when the next window begins.
        """
        self._advance(now)
        return self._window_start + self._window_length

    def update(self, allowed_messages: int, interval: float, now: float, *, reset: bool) -> None:
        """
        Use new values from the next window on, or at once, in a new window, with *reset*.
        """
        self._advance(now)
        self.allowed_messages = allowed_messages
        self.interval = interval
        if reset:
            self._begin(now)

    def _advance(self, now: float) -> None:
        end = self._window_start + self._window_length
        if now >= end:
            # Later windows have the interval's length, whatever the one that ended had.
            self._begin(end + (now - end) // self.interval * self.interval)

    def _begin(self, start: float) -> None:
        self._window_start = start
        self._window_length = self.interval
        self._remaining = self.allowed_messages
