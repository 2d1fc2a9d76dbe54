"""
Ending a run before its time so that what was measured until then is not lost.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)]

# What came while a signal had to wait; None: it need not. One list for each `postponed` block, and there is only one.
_waiting: Optional[List[EndedError]] = None


class EndedError(BaseException):
    """
    The run is to end now; the text says why. Like KeyboardInterrupt, it is no error that a job may have.
    """


@contextmanager
def ended_by_signals(time_limit: Optional[float] = None) -> Iterator[None]:
    """
    Raise :class:`EndedError` in the main thread, which this is, on the first signal that asks to end.

    A second one does what it did before: somebody is in a hurry.

    Args:
        time_limit: Seconds after which the system sends such a signal; needs ``signal.setitimer``.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        if time_limit is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: Any) -> None:
        restore()
        name = signal.Signals(number).name
        error = EndedError(f"time limit of {time_limit:g} s" if name == "SIGALRM" and time_limit is not None else name)
        if _waiting is None:
            raise error
        _waiting.append(error)

    for number in SIGNALS:
        signal.signal(number, end)
    if time_limit is not None:
        signal.setitimer(signal.ITIMER_REAL, time_limit)
    try:
        yield
    finally:
        restore()


@contextmanager
def postponed() -> Iterator[None]:
    """
    Let a signal wait until this block is left: for what must not be done by halves.
    """
    global _waiting
    came = _waiting = []
    try:
        yield
    finally:
        _waiting = None
        for error in came:
            raise error
