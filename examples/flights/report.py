"""
What happened, counted and timed from telemetry alone: the pipeline itself does not know that it is watched.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from statistics import quantiles
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Tuple

import attrs

from broadway_sync import Message, telemetry

from .pipeline import rejection_of

NANOSECONDS = 1_000_000_000

STARTED = ("broadway", "topology", "init")
MESSAGE_DONE = ("broadway", "processor", "message", "stop")
MESSAGE_RAISED = ("broadway", "processor", "message", "exception")
PROCESSED = ("broadway", "processor", "stop")
BATCH_DONE = ("broadway", "batch_processor", "stop")


@attrs.frozen
class Counts:
    """
    The state of an import; once it is over, ``rows == settled``.
    """

    rows: int
    """Rows that went through ``handle_message``."""

    stored: int
    rejected_by_reason: Mapping[str, int]
    seconds: float

    @property
    def rejected(self) -> int:
        return sum(self.rejected_by_reason.values())

    @property
    def settled(self) -> int:
        """
        Rows that are through: stored, or rejected.
        """
        return self.stored + self.rejected

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@attrs.frozen
class Timing:
    """
    How long one callback took, in seconds.
    """

    calls: int
    p50: float
    p95: float
    p99: float


class Report:
    """
    Listens to one pipeline inside its ``with`` block. Thread-safe.

    Durations are kept one by one, eight bytes each, so that the percentiles are exact; 8 MB for a million rows.
    """

    def __init__(self, pipeline_name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline_name = pipeline_name
        self._clock = clock
        # Guards everything below. Innermost lock: telemetry calls from the threads of all stages.
        self._mutex = threading.Lock()
        self._rejected: Counter[str] = Counter()
        self._stored = 0
        self._message_durations = array("q")
        self._batch_durations = array("q")
        self._started: Optional[float] = None
        self._last_event: Optional[float] = None
        self._handlers: Dict[Tuple[str, ...], Callable[[Mapping[str, int], Mapping[str, Any]], None]] = {
            STARTED: self._on_start,
            MESSAGE_DONE: self._on_message,
            MESSAGE_RAISED: self._on_message,
            PROCESSED: self._on_processed,
            BATCH_DONE: self._on_batch,
        }

    def __enter__(self) -> Report:
        telemetry.attach_many(self._handler_id, list(self._handlers), self._on_event)
        return self

    def __exit__(self, *exc_info: object) -> None:
        telemetry.detach(self._handler_id)

    def counts(self) -> Counts:
        """
        Return how far the import is; the clock stands still after the last event.
        """
        with self._mutex:
            started, ended = self._started, self._last_event
            seconds = 0.0 if started is None or ended is None else ended - started
            return Counts(len(self._message_durations), self._stored, dict(self._rejected.most_common()), seconds)

    def timings(self) -> Dict[str, Timing]:
        """
        Return the timings of the callbacks that were called at all, by name.

        The event of a batch also spans what follows ``handle_batch`` itself: ``handle_failed`` and acknowledging.
        """
        with self._mutex:
            durations = {"handle_message": self._message_durations[:], "handle_batch": self._batch_durations[:]}
        return {name: _timing(values) for name, values in durations.items() if values}

    @property
    def _handler_id(self) -> str:
        return f"flights-report-{self._pipeline_name}"

    def _on_event(
        self, event: Tuple[str, ...], measurements: Mapping[str, int], metadata: Mapping[str, Any], config: Any
    ) -> None:
        name = metadata["name"] if event == STARTED else metadata["topology_name"]
        if name != self._pipeline_name:
            return
        with self._mutex:
            self._handlers[event](measurements, metadata)
            self._last_event = self._clock()

    # The rest runs with _mutex held.

    def _on_start(self, measurements: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        self._started = self._clock()

    def _on_message(self, measurements: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        self._message_durations.append(measurements["duration"])

    def _on_processed(self, measurements: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        self._count_rejected(metadata["failed_messages"])

    def _on_batch(self, measurements: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        self._batch_durations.append(measurements["duration"])
        self._stored += len(metadata["successful_messages"])
        self._count_rejected(metadata["failed_messages"])

    def _count_rejected(self, messages: Iterable[Message]) -> None:
        self._rejected.update(rejection_of(message).reason for message in messages)


def _timing(durations: array[int]) -> Timing:
    # quantiles() wants two values at least.
    values = [duration / NANOSECONDS for duration in durations] * (2 if len(durations) == 1 else 1)
    cuts = quantiles(values, n=100, method="inclusive")
    return Timing(len(durations), cuts[49], cuts[94], cuts[98])
