"""
A forked process and the two pipes between it and its parent; which of them is which side is in the names.

The parent writes orders into one; that its end closes tells the child that the parent is gone, on every system and
however it died. The child writes one byte into the other when it is ready.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from time import monotonic
from typing import Iterable, Optional, Set, Union

from .logs import flush_streams

DRAIN, NOW, READY = b"d", b"n", b"r"

_SIGNALS: Set[int] = {signal.SIGTERM, signal.SIGINT} | ({signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set())


class Child:
    """
    A process that was forked, as its parent sees it.
    """

    def __init__(self, pid: int, orders: int, status: int) -> None:
        self.pid = pid
        self.is_ready = False
        self.started_at = monotonic()
        self.kill_at: Optional[float] = None
        """When the parent's patience ends; None while no stop was asked for."""
        self.was_killed = False
        """Whether it was killed because that had come."""
        self._orders = orders
        os.set_blocking(status, False)
        self.status: Optional[int] = status
        """Readable when it has something to say, None when it cannot say anything any more."""

    def tell(self, order: bytes, seconds: float) -> None:
        """
        Send an order, and give the child so many seconds to end.
        """
        at = monotonic() + seconds
        self.kill_at = at if self.kill_at is None else min(at, self.kill_at)
        with suppress(OSError):  # it has just ended
            os.write(self._orders, order)

    def hear(self) -> None:
        """
        Take in what it says, if anything.
        """
        if self.status is None:
            return
        try:
            said = os.read(self.status, 16)
        except BlockingIOError:
            return
        if said:
            self.is_ready = True
        else:
            os.close(self.status)
            self.status = None

    def signal(self, number: int) -> None:
        """
        Send a signal, unless it has ended.
        """
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_if_late(self) -> bool:
        """
        Kill it if its time is up; return whether that was now.
        """
        if self.was_killed or self.kill_at is None or monotonic() < self.kill_at:
            return False
        self.was_killed = True
        self.signal(signal.SIGKILL)
        return True

    def reap(self) -> Optional[int]:
        """
        Return how it ended, as ``subprocess`` does (negative for a signal), None while it runs.
        """
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def close(self) -> None:
        """
        Close this side of the pipes. In a child of the same parent: they are none of its business.
        """
        os.close(self._orders)
        if self.status is not None:
            os.close(self.status)
            self.status = None


class ParentLine:
    """
    The child's side.
    """

    def __init__(self, orders: int, status: int) -> None:
        self._orders = orders
        self._status = status

    def say_ready(self) -> None:
        """
        Tell the parent.
        """
        with suppress(OSError):  # it is gone: the orders say so too
            os.write(self._status, READY)

    def next_order(self) -> bytes:
        """
        Wait for an order; nothing (``b""``) means that the parent is gone.
        """
        return os.read(self._orders, 1)

    @property
    def orders(self) -> int:
        """
        The file descriptor that is readable when there is an order.
        """
        return self._orders


def fork() -> Union[Child, ParentLine]:
    """
    Fork; return the child in the parent, and the line to the parent in the child.

    In the child the signals of a runner stay blocked until :func:`unblock_signals`: it begins with its parent's
    handlers.

    Raises:
        OSError: The system has no process left.
    """
    flush_streams()  # else both processes would write what is in their buffers
    orders = os.pipe()
    try:
        status = os.pipe()
    except OSError:
        os.close(orders[0])
        os.close(orders[1])
        raise
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        unused = (*orders, *status) if pid < 0 else (orders[0], status[1]) if pid else (orders[1], status[0])
        for end in unused:
            os.close(end)
    return Child(pid, orders[1], status[0]) if pid else ParentLine(orders[0], status[1])


def unblock_signals(signals: Iterable[int]) -> None:
    """
    In a forked child, when its own handlers of *signals* stand.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
