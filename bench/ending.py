"""
Ending a run before its time so that what was measured until then is not lost.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import Any, Iterator, Optional

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)]


class EndedError(BaseException):
    """
    The run is to end now; the text says why. As KeyboardInterrupt no error that a job may have.
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
        raise EndedError(f"time limit of {time_limit:g} s" if name == "SIGALRM" and time_limit is not None else name)

    for number in SIGNALS:
        signal.signal(number, end)
    if time_limit is not None:
        signal.setitimer(signal.ITIMER_REAL, time_limit)
    try:
        yield
    finally:
        restore()
