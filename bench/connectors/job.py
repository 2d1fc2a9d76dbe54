"""
What jobs of connectors have in common: their parts, the stretch that they measure, our pipeline.
"""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from typing import Any, Callable, Dict, List

import attrs

from broadway_sync import BatchInfo, Message, Pipeline, telemetry

from ..jobs import PATIENCE, Figures, SkippedError, quiet_log
from ..meter import Meter
from ..settings import Settings
from ..source import LostMessagesError

Target = Dict[str, Any]
"""Address and names of one run, as JSON has them."""

BODY = b"." * 100
"""What is in a message."""


def nothing(broker: Any, target: Target) -> None:
    """
    The end of a job that leaves nothing worth removing.
    """


@attrs.frozen
class BrokerJob:
    """
    One way to empty a queue.
    """

    broker: str
    prepare: Callable[[Any, Settings], Target]
    run: Callable[[Target, Settings], Figures]
    check: Callable[[Any, Target], None] = nothing
    clear: Callable[[Any, Target], None] = nothing


def library(name: str) -> Any:
    """
    Return a module that this job needs, or skip the job.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SkippedError(f"{error}; pip install 'broadway_sync[all,bench]'") from error


def empty_or_lost(what: str, left: Any) -> None:
    """
    Raise if anything is left.
    """
    if left:
        raise LostMessagesError(f"{what}: {left}")


class Stretch:
    """
    Measures from a tenth of the messages to the last one.
    """

    def __init__(self, settings: Settings) -> None:
        self.messages = settings.messages
        self.first = settings.messages // 10
        self.meter = Meter()

    def figures(self, **more: Any) -> Figures:
        """
        Return the figures, once the meter was stopped.
        """
        return {**self.meter.throughput(self.messages - self.first), **more}


class Progress(Stretch):
    """
    Counts messages that several threads receive: call it for each.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._next = itertools.count(1).__next__  # atomic: it is written in C
        self.finished_at = 0.0
        self.finished = threading.Event()

    def __call__(self) -> None:
        number = self._next()
        if number == self.first:
            self.meter.start()
        elif number == self.messages:
            self.finished_at = time.perf_counter()
            self.finished.set()

    def wait(self) -> None:
        """
        Wait for the last message, and stop the meter.
        """
        self.finished.wait(PATIENCE)
        self.meter.stop(self.finished_at)


class Handler:
    """
    Counts in ``handle_message``.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        self._progress()
        return message

    def handle_batch(self, batcher: str, messages: List[Message], batch_info: BatchInfo, context: Any) -> List[Message]:
        return messages


class Acknowledged:
    """
    Counts what the connector says it has acknowledged; a handler of telemetry.
    """

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.count = 0
        self.calls = 0
        self.finished_at = 0.0
        self.finished = threading.Event()
        self._mutex = threading.Lock()  # guards all of these: connectors may acknowledge on several threads

    def __call__(self, event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        with self._mutex:
            self.count += metadata["count"]
            self.calls += 1
            if self.count >= self.messages and not self.finished_at:
                self.finished_at = time.perf_counter()
                self.finished.set()


def run_pipeline(settings: Settings, producer: Any, options: Dict[str, Any], *, until_acknowledged: bool) -> Figures:
    """
    Empty the queue with a pipeline, and stop it.

    Args:
        settings: Processors and batchers.
        producer: The connector's class.
        options: Its options.
        until_acknowledged: Whether the measured stretch ends when the broker has the last acknowledgement; otherwise
            when the last message was handled (Kafka: offsets are committed every few seconds, in a raw loop too).
    """
    quiet_log()
    progress, acknowledged = Progress(settings), Acknowledged(settings.messages)
    telemetry.attach("bench", ("broadway", "acknowledge", "stop"), acknowledged)
    pipeline = Pipeline(
        Handler(progress),
        name="bench",
        producer={"module": (producer, options), "concurrency": settings.producers},
        processors={"default": {"concurrency": settings.concurrency, "max_demand": settings.max_demand}},
        batchers={
            "default": {
                "concurrency": settings.batch_concurrency,
                "batch_size": settings.batch_size,
                "batch_timeout": settings.batch_timeout,
            }
        }
        if settings.batch_size
        else None,
    )
    with pipeline:
        last = acknowledged if until_acknowledged else progress
        if not last.finished.wait(PATIENCE):
            raise LostMessagesError(f"handled fewer than {settings.messages} messages")
        progress.meter.stop(last.finished_at)
    calls = acknowledged.calls or 1
    return progress.figures(messages_per_acknowledgement=acknowledged.count / calls)
