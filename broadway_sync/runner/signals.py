"""
Signals that drain: for the runner, and as :func:`run_until_signal` for scripts.
"""

from __future__ import annotations

import os
import signal
import threading
from time import monotonic
from types import FrameType
from typing import Any, Dict, Iterable, List, Optional

from ..errors import DrainTimeoutError
from ..log import log_error
from ..pipeline import Pipeline
from .child import unblock_signals
from .group import Group

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Seconds in which a signal counts as the echo of the one before: shells, process managers and coreutils' timeout signal
# a process and then its whole group, and nobody means that as "at once".
ECHO = 0.1

START_INTERRUPTED = "a start was interrupted by a second signal; whatever the pipeline had taken is left behind"


class StopNow(BaseException):
    """
    Raised by a signal handler into what cannot be asked to stop: imports, and a ``start()`` that hangs.

    No ``Exception``: it must get through user code that catches those.
    """


class StopSignals:
    """
    Handlers, for the time of a ``with``: the first signal drains the group, a second one stops it at once, unless it is
    an echo of the first.

    Before there is a group the first signal raises :class:`StopNow`: nothing was taken yet. The handlers set flags, and
    call ``request_stop``, which takes no lock.

    Args:
        signals: Their numbers.
        is_patient: For a process with a parent that decides: a second signal does no more than the first, and at the
            end of the ``with`` signals are ignored.

    Raises:
        RuntimeError: By ``with``: this is not the main thread.
    """

    def __init__(self, signals: Iterable[int] = STOP_SIGNALS, *, is_patient: bool = False) -> None:
        self._signals = tuple(dict.fromkeys(signals))  # one that is there twice would be put back as ours
        self._is_patient = is_patient
        self._previous: Dict[int, Any] = {}
        self._pid = os.getpid()
        self.group: Optional[Group] = None
        self.received: List[signal.Signals] = []
        """What has arrived, in order, without echoes."""
        self._last = 0.0

    def __enter__(self) -> StopSignals:
        check_main_thread()
        try:
            for number in self._signals:
                self._previous[number] = signal.signal(number, self._handle)
            if self._is_patient:  # forked with signals blocked, see child.py
                unblock_signals(self._signals)
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            if self._is_patient and os.getpid() == self._pid:
                handler = signal.SIG_IGN  # it ends now: its parent may still tell it to, which must not kill it
            # None: it was not set from Python, which cannot set it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: Optional[FrameType]) -> None:
        if os.getpid() != self._pid:
            self._handle_in_fork(number)
            return
        if self.received and monotonic() - self._last < ECHO:
            return
        self._last = monotonic()
        self.received.append(_named(number))
        try:
            self._obey()
        finally:
            self._last = monotonic()  # a busy machine may take its time, and the echo is handled after that

    def _obey(self) -> None:
        """
        Do what the signal that came last means.
        """
        if self.group is None:
            raise StopNow
        if len(self.received) == 1:
            self.group.request_stop()
        elif not self._is_patient:
            self.group.request_stop(0)
            if self.group.is_starting:
                raise StopNow

    def _handle_in_fork(self, number: int) -> None:
        """
        In a process that user code forked: it has these handlers and no pipelines. Do what was done before.
        """
        self._restore()
        os.kill(os.getpid(), number)


def _named(number: int) -> Any:
    """
    Return the signal with its name; the number where it has none, as most real-time signals.
    """
    try:
        return signal.Signals(number)
    except ValueError:
        return number


def check_main_thread() -> None:
    """
    Raise RuntimeError on any other thread.
    """
    if threading.current_thread() is not threading.main_thread():
        name = threading.current_thread().name
        raise RuntimeError(f"signals can be handled on the main thread only, this is {name!r}")


def run_until_signal(
    *pipelines: Pipeline, signals: Iterable[int] = STOP_SIGNALS, shutdown: Optional[float] = None
) -> Optional[signal.Signals]:
    """
    Run pipelines until they end or a signal comes: the first one drains all, a second one stops at once.

    What comes within 100 ms counts as the same signal: process managers signal a process and then its group.
    For scripts. Starts those that do not run yet; returns when all have ended, so that ``join()`` on any of them
    returns at once. When one gives up the others are drained. Handlers of signals are installed for the time of the
    call only; what was there before is put back, whatever happens.

    Args:
        pipelines: At least one.
        signals: Which signals do so; default SIGTERM and SIGINT.
        shutdown: Seconds that a drain may take; default: each pipeline's own.

    Returns:
        The first signal that came, None if the sources were exhausted or somebody else stopped the pipelines.

    Raises:
        PipelineFailedError: A pipeline gave up; from the cause.
        DrainTimeoutError: Messages or threads were left behind, also by a second signal.
        RuntimeError: This is not the main thread.
        ConfigurationError: There is no pipeline, two have the same name, or an argument is none of these.
        BaseException: What a ``start()`` raised.
    """
    group = Group(pipelines, shutdown)
    stop_signals = StopSignals(signals)
    stop_signals.group = group  # before a signal can come
    with stop_signals:
        try:
            group.run()
        except StopNow as interrupt:
            raise DrainTimeoutError(START_INTERRUPTED, 0, {}) from interrupt
    _raise_worst(group)
    return stop_signals.received[0] if stop_signals.received else None


def _raise_worst(group: Group) -> None:
    """
    Raise the first failure, else the first drain that ran out of time; log the others.
    """
    endings = sorted(group.endings, key=lambda ending: ending.failed is None)
    errors: List[Any] = [(e.name, error) for e in endings for error in (e.failed, e.drain) if error is not None]
    for name, error in errors[1:]:
        log_error(str(error), error.__cause__, name, name)
    if errors:
        raise errors[0][1]
