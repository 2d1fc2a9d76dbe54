"""
Counts and percentiles, from events alone.
"""

from __future__ import annotations

import threading
from typing import Any, Iterator, List

import attrs
import pytest

from broadway_sync import Message, NoopAcknowledger, telemetry
from examples.flights.records import Rejection
from examples.flights.report import Counts, Report

MESSAGE = ("broadway", "processor", "message")
MILLISECOND = 1_000_000


class Clock:
    """
    A clock that a test moves.
    """

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """
    Return a clock that a test moves.
    """
    return Clock()


@pytest.fixture
def report(clock: Clock) -> Iterator[Report]:
    """
    Return a report that listens to the pipeline ``mine``.
    """
    with Report("mine", clock=clock) as report:
        yield report


def emit(*event: str, duration: int = 0, name: str = "mine", **metadata: Any) -> None:
    """
    Emit an event as a pipeline does.
    """
    telemetry.execute(("broadway", *event), {"duration": duration}, {"topology_name": name, **metadata})


def failed(*reasons: Any) -> List[Message]:
    """
    Return messages that failed.
    """
    return [Message(None, NoopAcknowledger.init()).fail(reason) for reason in reasons]


def test_nothing_happened_yet(report: Report) -> None:
    """
    No division by zero, no percentiles of nothing.
    """
    assert report.counts() == Counts(0, 0, {}, 0.0)
    assert report.counts().rows_per_second == 0.0
    assert report.timings() == {}


def test_rows_are_counted_once(report: Report) -> None:
    """
    Each row by its one message event, whether it was stored, failed, or made a callback raise.
    """
    for event in ("stop", "stop", "exception"):
        emit("processor", "message", event)
    emit("processor", "stop", failed_messages=failed(Rejection("a", "1"), ValueError("x")))
    emit("batch_processor", "stop", successful_messages=[object()] * 5, failed_messages=failed(Rejection("a", "2")))
    counts = report.counts()
    assert (counts.rows, counts.stored, counts.rejected) == (3, 5, 3)
    assert counts.rejected_by_reason == {"a": 2, "not stored: unexpected ValueError": 1}
    assert list(counts.rejected_by_reason) == ["a", "not stored: unexpected ValueError"]


def test_the_rate_is_that_between_the_first_and_the_last_event(report: Report, clock: Clock) -> None:
    """
    Time before the start and after the end does not count.
    """
    telemetry.execute(("broadway", "topology", "init"), {}, {"name": "mine"})
    clock.now += 4
    for _ in range(8):
        emit("processor", "message", "stop")
    clock.now += 1000
    assert report.counts().seconds == 4
    assert report.counts().rows_per_second == 2


def test_percentiles(report: Report) -> None:
    """
    Of 1 to 101 ms the 50th is 51, the 95th 96, the 99th 100.
    """
    for milliseconds in reversed(range(1, 102)):
        emit("processor", "message", "stop", duration=milliseconds * MILLISECOND)
    emit("batch_processor", "stop", duration=7 * MILLISECOND, successful_messages=[], failed_messages=[])
    timings = report.timings()
    assert attrs.astuple(timings["handle_message"]) == pytest.approx((101, 0.051, 0.096, 0.1))
    assert attrs.astuple(timings["handle_batch"]) == pytest.approx((1, 0.007, 0.007, 0.007))


def test_other_pipelines_do_not_count(report: Report) -> None:
    """
    Several pipelines may run in one process.
    """
    emit("processor", "message", "stop", name="another")
    telemetry.execute(("broadway", "topology", "init"), {}, {"name": "another"})
    assert report.counts() == Counts(0, 0, {}, 0.0)


def test_it_listens_inside_its_block_only() -> None:
    """
    And leaves nothing attached behind.
    """
    before = telemetry.list_handlers()
    with Report("mine") as report:
        assert len(telemetry.list_handlers()) > len(before)
    emit("processor", "message", "stop")
    assert report.counts().rows == 0
    assert telemetry.list_handlers() == before


def test_nothing_is_lost_between_threads(report: Report) -> None:
    """
    Stages emit at the same time.
    """

    def work() -> None:
        for _ in range(500):
            emit("processor", "message", "stop", duration=1)
            emit("batch_processor", "stop", successful_messages=[None], failed_messages=failed(Rejection("a")))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert report.counts().rows == 2000
    assert report.counts().stored == 2000
    assert report.counts().rejected_by_reason == {"a": 2000}
