"""
Reporters that send: a thread of their own does it, at intervals.
"""

from __future__ import annotations

import atexit
import queue
import threading
from time import monotonic
from typing import Any, Dict, Optional

from ... import registry
from ...connectors.common.reporter import describe
from ...errors import ConfigurationError
from ...log import log_info, log_warning, safe_repr
from ...rules import is_seconds
from .aggregates import Key, Samples
from .listener import Values
from .reporter import Reporter

LONGEST_INTERVAL = 86400
"""Seconds between two reports at most."""

END_BOUND = 2.0
"""Seconds that the last report may take before nobody waits for it any longer."""


class PushReporter(Reporter):
    """
    Hands sums to a client every second, and gauges less often, on a thread of its own.

    Nothing that the client does, or fails to do, reaches a pipeline: the stages add to sums and never wait.

    Args:
        flush_interval: Seconds between two reports of counters and times.
        interval: Seconds between two reports of gauges.

    Raises:
        ConfigurationError: An interval is wrong.
    """

    def __init__(self, *, flush_interval: float, interval: float, per_message: bool, per_thread: bool) -> None:
        for name, seconds in (("flush_interval", flush_interval), ("interval", interval)):
            is_right = is_seconds(seconds) and 0 < seconds <= LONGEST_INTERVAL
            check(name, seconds, is_right, f"a number of seconds > 0 and <= {LONGEST_INTERVAL}")
        super().__init__(Samples, per_message=per_message, per_thread=per_thread)
        self._flush_interval = flush_interval
        self._interval = interval
        self._thread: Optional[threading.Thread] = None
        # To the thread: an event to set when a report is done, or None: the end. One queue for each thread.
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._fault: Optional[type] = None  # of the last report
        self._gauges_at = 0.0

    def flush(self, timeout: float = END_BOUND) -> bool:
        """
        Report now, gauges included; whether that was done within *timeout* seconds.
        """
        with self._lock:
            if self._thread is None:
                return False
            done = threading.Event()
            self._requests.put(done)
        return done.wait(timeout)

    # What a reporter that sends says.

    def _send(self, counters: Dict[Key, float], samples: Dict[Key, Samples]) -> None:
        """
        Report what was added to counters and histograms.
        """
        raise NotImplementedError

    def _send_gauges(self, values: Values) -> None:
        """
        Report the gauges; those of the last time that are not among them are over. The last report has none.
        """
        raise NotImplementedError

    def _close(self) -> None:
        """
        Called last on the thread: let go of what the client holds.
        """

    # The life of the thread.

    def _pipeline_runs(self) -> None:
        with self._lock:
            if self._thread is None and self._is_attached:
                name = f"broadway_sync {self.name} reporter"
                thread = threading.Thread(target=self._run, args=(self._requests,), name=name, daemon=True)
                thread.start()
                self._thread = thread
                atexit.register(self._at_exit)

    def detach(self) -> None:
        """
        See :meth:`Reporter.detach`; pipelines that start meanwhile do not wait.
        """
        with self._lock:
            thread = self._thread
            super().detach()
        _wait_for(thread)

    def _detached(self) -> None:
        atexit.unregister(self._at_exit)
        self._dismiss()

    def _dismiss(self) -> None:
        """
        Have the thread report for the last time. Needs the lock.
        """
        if self._thread is not None:
            self._requests.put(None)
            self._thread, self._requests = None, queue.SimpleQueue()

    def _at_exit(self) -> None:
        """
        At the end of the interpreter: the last messages are through, report them.
        """
        registry._drain_all()  # Python 3.8 comes here first
        with self._lock:
            thread = self._thread
            self._dismiss()
        _wait_for(thread)

    def after_fork_in_child(self) -> None:
        """
        Also forget the thread, which is the parent's: the next pipeline that starts gets another one.
        """
        super().after_fork_in_child()
        self._thread = None
        self._requests = queue.SimpleQueue()
        self._fault = None

    # On the thread.

    def _run(self, requests: queue.SimpleQueue[Any]) -> None:
        due = monotonic() + self._flush_interval
        self._gauges_at = due
        request: Any = self
        while request is not None:
            try:
                request = requests.get(timeout=max(0.0, due - monotonic()))
            except queue.Empty:
                request = self
                due = max(due, monotonic() - self._flush_interval) + self._flush_interval
            self._report(request is not self or monotonic() >= self._gauges_at, is_last=request is None)
            if isinstance(request, threading.Event):
                request.set()
        self._close()

    def _report(self, with_gauges: bool, *, is_last: bool) -> None:
        try:
            self._send(*self._aggregates.take())
            if with_gauges:
                self._gauges_at = monotonic() + self._interval
                self._send_gauges([] if is_last else self._gauges.sample())
        except Exception as error:  # a client library, a socket, a name: what was taken is lost, the next report counts
            if self._fault is not type(error):
                self._fault = type(error)
                log_warning(f"metrics cannot be reported, it is tried again: {describe(error)}", "", self.name)
            return
        if self._fault is not None:
            self._fault = None
            log_info("metrics are reported again", "", self.name)


def _wait_for(thread: Optional[threading.Thread]) -> None:
    if thread is not None and thread is not threading.current_thread():
        thread.join(END_BOUND)


def check(name: str, value: Any, is_right: bool, expected: str) -> None:
    """
    Raise ConfigurationError for the argument *name* unless it is right.
    """
    if not is_right:
        raise ConfigurationError(f"{name}: expected {expected}, got: {safe_repr(value)}")
