"""
What a connector tells the outside: telemetry, and the log once per change of state.
"""

from __future__ import annotations

from time import time_ns
from types import TracebackType
from typing import Any, Dict, Mapping, Optional, Set, Tuple, Type

from ...log import log_error, log_info, log_warning
from ...masking import mask
from ...producer import Stage
from ...telemetry.registry import Span, execute, handlers
from .events import CONNECTION_DOWN, CONNECTION_UP

Event = Tuple[str, ...]

# Characters of an error's text that credentials are looked for in; of what is left 1000 are shown.
_MOST = 10_000


class Reporter:
    """
    The voice of one producer of a connector. Thread-safe, but for :meth:`up` and :meth:`down`, which belong to the
    thread that connects.
    """

    def __init__(self, connector: str, stage: Stage) -> None:
        """
        Args:
            connector: Its short name, as in the metadata of events.
        """
        self._pipeline = stage.pipeline_name
        self._name = stage.name
        self._fields = {
            "connector": connector,
            "topology_name": stage.pipeline_name,
            "name": stage.name,
            "index": stage.index,
        }
        self._is_up = False
        self._faults: Set[Any] = set()  # the kinds of errors that were told since it was up

    def span(self, event: Event, **metadata: Any) -> ReportedSpan:
        """
        Return a context manager that emits start and stop, or exception, of *event*.
        """
        return ReportedSpan(event, {**self._fields, **metadata})

    def execute(self, event: Event, measurements: Mapping[str, Any], **metadata: Any) -> None:
        """
        Emit a single event.
        """
        if event in handlers:
            execute(event, measurements, {**self._fields, **metadata})

    def is_heard(self, event: Event) -> bool:
        """
        Whether anybody listens to *event*: a look at one dict.
        """
        return event in handlers

    def up(self) -> None:
        """
        The broker answers: say so if it did not before.
        """
        if self._faults:
            log_info("connected again", self._pipeline, self._name)
        if not self._is_up:
            self._is_up = True
            self._faults.clear()
            self.execute(CONNECTION_UP, {"system_time": time_ns()})

    def down(self, error: BaseException, hint: str = "") -> None:
        """
        The broker does not answer, or refuses: say so, once for each kind of error until it is up again.

        Args:
            hint: What helps, or what happens next.
        """
        # pika has one class for all that a broker may say.
        fault = (type(error), getattr(error, "reply_code", None))
        if fault not in self._faults:
            self._is_up = False
            self._faults.add(fault)
            self.execute(CONNECTION_DOWN, {"system_time": time_ns()}, reason=error)
            text = f"no connection: {describe(error)}" + (f"; {hint}" if hint else "")
            log_warning(text, self._pipeline, self._name)

    def error(self, text: str, error: Optional[BaseException] = None) -> None:
        """
        Log a failure; of *error* only type and text, in which credentials are masked.
        """
        log_error(mask(text) if error is None else f"{mask(text)}: {describe(error)}", None, self._pipeline, self._name)

    def warning(self, text: str) -> None:
        """
        Log what is no failure yet but should be looked at.
        """
        log_warning(mask(text), self._pipeline, self._name)


class ReportedSpan:
    """
    One span of a connector.
    """

    __slots__ = ("_metadata", "_span", "stop_metadata")

    def __init__(self, event: Event, metadata: Dict[str, Any]) -> None:
        self._span = Span(event)
        self._metadata = metadata
        self.stop_metadata: Dict[str, Any] = {}
        """Fill in what only the end knows."""

    def __enter__(self) -> ReportedSpan:
        self._span.start({**self._metadata})
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if error is None:
            self._span.stop({**self._metadata, **self.stop_metadata})
        else:
            self._span.exception({**self._metadata}, error)


def describe(error: BaseException) -> str:
    """
    Return type and text of *error*, in one line and without credentials.
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # an error of a client library whose __str__ raises
        text = ""
    # Not all of it is looked at: errors of databases may have the whole statement, and that takes its time.
    return f"{type(error).__name__}: {mask(text[:_MOST])[:1000]}" if text else f"{type(error).__name__}"
