"""
Waiting for a change without a lock around what changes.

A ``threading.Condition`` ties the state to a lock that every user takes. With the GIL that is slow in a bad way:
a thread that is woken holds the lock before it may run, the one that runs needs the lock again and blocks, and from
then on each hand-over costs a thread switch (a lock convoy). Here the state lives in objects whose single
operations are atomic (deques, attributes), and only threads that must wait pay for waiting.

Why no wake-up is lost: a waiter first announces itself, then looks at the state; a waker first changes the state, then
looks for waiters. Whichever comes second sees what the other did.

Nothing here is held while somebody waits, so all of it may be called from a signal handler.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from time import monotonic
from typing import Any, Callable, Deque, Optional

# Seconds after which the main thread looks up from a long wait. A signal that another thread got, or that came right
# before the wait for a lock, does not interrupt that wait, and its handler runs on the main thread alone.
GLANCE = 1.0


class WaitList:
    """
    Threads that wait until a predicate is true. Thread-safe.
    """

    __slots__ = ("parked",)

    def __init__(self) -> None:
        # One locked lock for each waiting thread; whoever takes it out must release it, which wakes the thread.
        self.parked: Deque[Any] = deque()
        """Truthy while threads wait: a look that costs nothing, before :meth:`wake`."""

    def wait_for(
        self,
        predicate: Callable[[], Any],
        timeout: Optional[float] = None,
        before: Optional[Callable[[], Any]] = None,
    ) -> bool:
        """
        Wait until *predicate* is true, and return whether it is; False only after *timeout* seconds.

        *predicate* is called on this thread, at least once, and again after each wake-up; *before*, see :meth:`park`.
        Interruptible by signals on the main thread.
        """
        if predicate():
            return True
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            remaining = -1.0 if deadline is None else min(deadline - monotonic(), threading.TIMEOUT_MAX)
            if deadline is not None and remaining <= 0:
                return bool(predicate())
            self.park(predicate, remaining, before)
            if predicate():
                return True

    def wake(self) -> bool:
        """
        Wake the thread that began to wait last (its data is warm); return whether there was one.
        """
        try:
            ticket = self.parked.pop()
        except IndexError:
            return False
        ticket.release()
        return True

    def wake_all(self) -> None:
        """
        Wake every thread that waits now.
        """
        while self.wake():
            pass

    def park(
        self, predicate: Callable[[], Any], timeout: float = -1, before: Optional[Callable[[], Any]] = None
    ) -> bool:
        """
        Wait once, unless *predicate* is true: until woken, or *timeout* seconds (-1: no limit) have passed.

        Args:
            before: Called as the last thing before the wait, to wake somebody else: a thread that is woken earlier
                finds the GIL taken, and goes to sleep once more.

        Returns:
            Whether somebody woke this thread; what it finds then may have been taken by another one.
        """
        ticket = threading.Lock()
        ticket.acquire()
        is_woken = False
        try:
            self.parked.append(ticket)
            if not predicate():
                if before is not None:
                    before()
                is_woken = ticket.acquire(timeout=timeout)
        finally:
            if not is_woken:
                self._retract(ticket)
        return is_woken

    def _retract(self, ticket: Any) -> None:
        try:
            self.parked.remove(ticket)
        except ValueError:  # somebody woke this thread at the last moment: the wake-up belongs to the next one
            self.wake()


class Latch:
    """
    A door that opens once. Thread-safe; :meth:`open` takes no lock.
    """

    __slots__ = ("_waiters", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._waiters = WaitList()

    def open(self) -> None:
        """
        Let everybody through, for good.
        """
        self.is_open = True
        self._waiters.wake_all()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """
        Wait until the latch is open, at most *timeout* seconds; return whether it is.

        On the main thread signal handlers run meanwhile, after :data:`GLANCE` seconds at the latest.
        """
        if threading.current_thread() is not threading.main_thread():
            return self._waiters.wait_for(lambda: self.is_open, timeout)
        ends_at = math.inf if timeout is None else monotonic() + timeout
        while not self._waiters.wait_for(lambda: self.is_open, min(GLANCE, ends_at - monotonic())):
            if monotonic() >= ends_at:
                return False
        return True
