"""
The rate limit between producers and channels.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, Deque, List, Optional, Tuple

from ..core.rate_limit import RateLimit
from ..options import RateLimiting
from ..runtime.wait_list import WaitList

if TYPE_CHECKING:
    from ..message import Message
    from .dispatcher import Channel, Chunk


class RateLimiter:
    """
    Holds back what exceeds the limit and lets it go window by window, in the order in which it came.

    A stage with a thread of its own, so that neither a producer in a long poll nor a stop waits for a window.
    The limit itself outlives restarts of the stages: a crash gives no new allowance.
    """

    def __init__(self, name: str, limit: SharedRateLimit) -> None:
        self.name = name
        self._limit = limit
        self._held: Deque[Tuple[Channel, Chunk]] = deque()
        # Guards _held and _when_empty, and the order in which held chunks are put. Inside a source's lock, outside
        # SharedRateLimit's.
        self._lock = threading.Lock()
        self._timer = WaitList()
        self._when_empty: Optional[Callable[[], None]] = None
        self._is_ended = False
        limit.changed = self._changed

    @property
    def is_holding(self) -> bool:
        """
        Whether some message is held back.
        """
        return bool(self._held)

    def hold(self, placed: List[Tuple[Channel, Chunk]]) -> None:
        """
        Take chunks, and let go at once what the limit allows.
        """
        with self._lock:
            self._held.extend(placed)
        self._release()
        if self._held:
            self._timer.wake()

    def close(self, when_empty: Callable[[], None]) -> None:
        """
        Nothing will be held any more; call *when_empty* once the last message has gone.
        """
        with self._lock:
            self._when_empty = when_empty
        self._release()
        self._timer.wake_all()

    def remove_all(self) -> List[Message]:
        """
        Forget what is held, and return it.
        """
        with self._lock:
            messages = [message for _, chunk in self._held for message in chunk[1]]
            self._held.clear()
        return messages

    def abandon(self) -> int:
        """
        End the thread; what is held is counted by whoever removes it.
        """
        self._is_ended = True
        self._timer.wake_all()
        return 0

    def run(self) -> None:
        """
        Let messages go at the beginning of each window, as long as some are held.
        """
        while not self._is_ended:
            self._timer.wait_for(lambda: self._held or self._is_ended)
            seen = self._limit.version
            self._release()  # after reading the version: an update that came before is acted on here
            pause = self._limit.window_end() - monotonic()
            if self._held and pause > 0:
                self._timer.wait_for(lambda: self._is_ended or self._limit.version != seen, pause)  # noqa: B023

    def _changed(self) -> None:
        self._timer.wake_all()

    def _release(self) -> None:
        with self._lock:
            held = self._held
            while held:
                channel, (source, messages, is_rejected) = held[0]
                granted = len(messages) if is_rejected else self._limit.take(len(messages))
                if granted == 0:
                    break
                if granted == len(messages):
                    channel.put([held.popleft()[1]])
                else:
                    held[0] = (channel, (source, messages[granted:], False))
                    channel.put([(source, messages[:granted], False)])
            is_over = not held and self._when_empty is not None
        if is_over and not self._is_ended:
            self._is_ended = True
            self._timer.wake_all()
            assert self._when_empty is not None
            self._when_empty()


class SharedRateLimit:
    """
    The limit of a running pipeline, which its user may change. Thread-safe.
    """

    def __init__(self, options: RateLimiting) -> None:
        # Guards _limit. Innermost.
        self._lock = threading.Lock()
        self._limit = RateLimit(options.allowed_messages, options.interval, monotonic())
        self.version = 0
        """Changes with each update."""
        self.changed: Callable[[], Any] = lambda: None
        """Called after each update, without a lock."""

    def take(self, wanted: int) -> int:
        """
        Return how many of *wanted* messages may go now, and count them.
        """
        with self._lock:
            return self._limit.take(wanted, monotonic())

    def window_end(self) -> float:
        """
        Return when the next window begins.
        """
        with self._lock:
            return self._limit.window_end(monotonic())

    def current(self) -> RateLimiting:
        """
        Return the values in force from the next window on.
        """
        with self._lock:
            return self._current()

    def update(self, change: Callable[[RateLimiting], RateLimiting], *, reset: bool) -> None:
        """
        Use new values from the next window on, or at once with *reset*.

        Args:
            change: Returns the new values for the current ones; called with the lock held, so that of two changes
                at once neither is lost. What it raises changes nothing.
        """
        with self._lock:
            options = change(self._current())
            self._limit.update(options.allowed_messages, options.interval, monotonic(), reset=reset)
            self.version += 1
        self.changed()

    def _current(self) -> RateLimiting:
        return RateLimiting(allowed_messages=self._limit.allowed_messages, interval=self._limit.interval)
