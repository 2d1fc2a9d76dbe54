"""
What one process runs and measures: the bare loop, a pipeline, and what is measured otherwise than by throughput.

Each job takes :class:`Settings` and returns its figures; ``rate`` is messages a second.
"""

from __future__ import annotations

import bisect
import logging
import os
import statistics
import threading
import time
from typing import Any, Callable, Dict, List, Optional

from broadway_sync import DummyProducer, Pipeline, telemetry

from . import floor, handlers, source
from .limit import Limit
from .meter import Meter, memory, percentiles, switches
from .settings import Settings

Figures = Dict[str, Any]

# How long a job waits for its pipeline; the process as a whole has its own limit, see runner.
PATIENCE = 3600.0

EVENTS = [
    ("broadway", "topology", "init"),
    *(
        ("broadway", stage, moment)
        for stage in ("processor", "batcher", "batch_processor", "handle_failed")
        for moment in ("start", "stop", "exception")
    ),
    *(("broadway", "processor", "message", moment) for moment in ("start", "stop", "exception")),
]


class SkippedError(Exception):
    """
    This job cannot run here; the text says why.
    """


def limit(settings: Settings) -> Figures:
    """
    The yardstick: the same work on one thread.
    """
    acknowledger = source.CountingAcknowledger(settings.messages)
    loop = Limit.of(settings)
    meter = Meter()
    meter.start()
    loop.run(settings.messages, (acknowledger, "bench", None))
    meter.stop()
    acknowledger.check(settings.failures)
    return meter.throughput(settings.messages)


def pipeline(settings: Settings) -> Figures:
    """
    A pipeline from the counter to the counting acknowledger.
    """
    acknowledger = source.CountingAcknowledger(settings.messages)
    figures = _run(settings, acknowledger)
    if settings.sleep:
        figures["share_of_ideal"] = figures["rate"] * settings.sleep / settings.concurrency
    return figures


def soak(settings: Settings) -> Figures:
    """
    The same, with the memory after a tenth, a half and all of the messages.
    """
    acknowledger = source.CountingAcknowledger(settings.messages)
    readings: List[Optional[float]] = []
    for count in (settings.messages // 10, settings.messages // 2, settings.messages):
        acknowledger.at(count, lambda: readings.append(memory()))
    figures = _run(settings, acknowledger)
    first, middle, last = readings
    figures.update(memory_at_tenth_mb=first, memory_at_half_mb=middle, memory_at_end_mb=last)
    figures["growth_mb"] = None if first is None or last is None else last - first
    return figures


def _run(settings: Settings, acknowledger: source.CountingAcknowledger) -> Figures:
    """
    Run one pipeline to its end and check that no message was lost or acknowledged twice.
    """
    _prepare_process(settings)
    gate = threading.Event()
    running = build(
        settings,
        source.options(settings.messages, acknowledger, gate),
        handlers.HANDLERS[settings.handler](),
        settings.context,
    )
    meter = Meter()
    running.start()
    try:
        time.sleep(0.2)  # until every thread is up and waits
        threads = threading.active_count() - 1
        meter.start()
        gate.set()
        acknowledger.finished.wait(PATIENCE)
        meter.stop(acknowledger.finished_at)
        ended = running.join(PATIENCE)
    finally:
        gate.set()
        running.stop()
    if not ended:
        raise source.LostMessagesError("the pipeline did not end by itself")
    acknowledger.check(settings.failures)
    return {**meter.throughput(settings.messages), "threads": threads}


def _prepare_process(settings: Settings) -> None:
    """
    Drop log records, attach telemetry handlers and pin the threads to a core, as the settings say.
    """
    quiet_log()
    if settings.telemetry:
        telemetry.attach_many("bench", EVENTS, _trivial)
    if settings.pinned:
        if not hasattr(os, "sched_setaffinity"):
            raise SkippedError("this platform cannot pin a process to a core")
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def quiet_log() -> None:
    """
    Drop the library's log records.
    """
    logger = logging.getLogger("broadway_sync")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _trivial(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
    return None


def build(settings: Settings, producer: Dict[str, Any], handler: Any, context: Any) -> Pipeline:
    """
    Return the pipeline that *settings* describe.
    """
    batcher = {
        "concurrency": settings.batch_concurrency,
        "batch_size": settings.batch_size,
        "batch_timeout": settings.batch_timeout,
    }
    return Pipeline(
        handler,
        name="bench",
        producer=producer,
        processors={"default": {"concurrency": settings.concurrency, "max_demand": settings.max_demand}},
        batchers={"default": batcher} if settings.batch_size else None,
        context=context,
        partition_by=handlers.partition_by if settings.partition else None,
    )


SILENT: Dict[str, Any] = {"module": (DummyProducer, {}), "concurrency": 1}


def latency(settings: Settings) -> Figures:
    """
    One test message at a time, from the call to its acknowledgement in hand.
    """
    times: List[float] = []
    with build(settings, SILENT, handlers.Nothing(), None) as running:
        for number in range(-settings.messages // 10, settings.messages):  # a tenth to warm up
            started_at = time.perf_counter()
            ref = running.test_message(number)
            successful, failed = ref.receive(timeout=30.0)
            if number >= 0:
                times.append((time.perf_counter() - started_at) * 1e6)
            if [message.data for message in successful] != [number] or failed:
                raise source.LostMessagesError(f"test message {number} came back as {successful}, {failed}")
    return percentiles(times)


def rate(settings: Settings) -> Figures:
    """
    A rate limit, and a source that always has more.
    """
    times: List[float] = []
    acknowledger = source.CountingAcknowledger(settings.messages)
    gate = threading.Event()
    gate.set()
    producer = source.options(settings.messages, acknowledger, gate)
    producer["rate_limiting"] = {"allowed_messages": settings.allowed_messages, "interval": settings.interval}
    with build(settings, producer, handlers.Times(), times) as running:
        if not running.join(PATIENCE):
            raise source.LostMessagesError("the pipeline did not end by itself")
    acknowledger.check(0)
    times.sort()
    return {
        "messages": settings.messages,
        "share_of_ideal": _exactness(times, settings.allowed_messages, settings.interval),
        "most_in_a_window": most_in_a_window(times, settings.interval),
    }


def _exactness(times: List[float], allowed: int, interval: float) -> float:
    """
    Return how long the windows should have taken, over how long they took: first message of first to first of last.
    """
    windows = (len(times) - 1) // allowed
    if windows == 0:
        raise ValueError(f"fewer messages than two windows: {len(times)}")
    return windows * interval / (times[windows * allowed] - times[0])


def most_in_a_window(times: List[float], interval: float) -> int:
    """
    Return the most messages in one window of a fixed grid, for the phase of the grid at which this is lowest.

    The limiter's own phase is not known here. A limiter that lets too many through in one window does so for
    every phase, as its messages leave in a burst at the window's beginning.
    """
    phases = (times[0] - interval * step / 50 for step in range(50))
    return min(_most(times, phase, interval) for phase in phases)


def _most(times: List[float], begin: float, interval: float) -> int:
    most = seen = 0
    while seen < len(times):
        begin += interval
        before, seen = seen, bisect.bisect_left(times, begin)
        most = max(most, seen - before)
    return most


def idle(settings: Settings) -> Figures:
    """
    A pipeline that has nothing to do, watched for some seconds.
    """
    with build(settings, SILENT, handlers.Nothing(), None):
        time.sleep(1.0)  # until every thread has found out that there is nothing to do
        threads = threading.active_count() - 1
        before, cpu_before = switches(), time.process_time()
        time.sleep(settings.seconds)
        cpu, after = time.process_time() - cpu_before, switches()
    wake_ups = None if before is None or after is None else after[0] - before[0] - 1  # one is this thread's own
    return {
        "threads": threads,
        "cpu_percent": cpu / settings.seconds * 100,
        "wake_ups_per_second": None if wake_ups is None else wake_ups / settings.seconds,
    }


def start_stop(settings: Settings) -> Figures:
    """
    Start a pipeline and stop it, many times.
    """
    times: List[float] = []
    threads = 0
    for _ in range(settings.times):
        idle_pipeline = build(settings, SILENT, handlers.Nothing(), None)
        started_at = time.perf_counter()
        idle_pipeline.start()
        threads = max(threads, threading.active_count() - 1)
        idle_pipeline.stop()
        times.append((time.perf_counter() - started_at) * 1e3)
    if threading.active_count() > 1:
        raise RuntimeError(f"threads left behind: {threading.enumerate()}")
    return {"threads": threads, "milliseconds": statistics.median(times), "worst_milliseconds": max(times)}


JOBS: Dict[str, Callable[[Settings], Figures]] = {
    job.__name__: job
    for job in (
        limit, pipeline, soak, latency, rate, idle, start_stop,
        floor.hand_over, floor.bare_threads, floor.round_trip,
    )
}  # fmt: skip
