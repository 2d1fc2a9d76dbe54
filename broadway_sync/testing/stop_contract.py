"""
The contract's tests of stops, starts and crashes.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Iterable, List, TypeVar

from ..errors import DrainTimeoutError
from . import hints
from .contract_base import (
    check,
    check_empty,
    check_nothing_lost,
    check_once,
    hint,
    hold,
    make_pipeline,
    publish,
    recorder,
    running,
    started,
    timed_stop,
    wait_for_handled,
    watch,
    work,
)
from .harness import ConnectorHarness
from .hints import HANDING_BACK
from .recording import RecordingHandler
from .waiting import Gate, wait_until
from .watching import Inventory

T = TypeVar("T")


class StopContract:
    """
    What a stop leaves behind: nothing.
    """

    def test_stop_hands_back_what_was_not_begun(self, harness: ConnectorHarness) -> None:
        """
        A stop in the middle: what was begun is acknowledged, the rest is delivered to the next pipeline, at once.
        """
        published = publish(harness, "stop")
        gate = Gate()
        first = recorder(harness, hold(harness, gate, lambda data, attempt: True))
        with running(harness, first, processors=2) as pipeline, gate:
            gate.arrived(harness.timeout)
            watch(harness)  # meanwhile the connector may fetch ahead: that is what it has to hand back
            pipeline.request_stop()
            wait_until(lambda: pipeline.state != "running", harness.timeout, "the stop has begun")
            watch(harness)  # the producer hears of it, and nothing moves meanwhile
        begun = list(first.begun)
        what = f"the pipeline handled all {len(published)} messages after the stop had begun"
        check(len(begun) < len(published), what, hints.PREFETCHING)
        check_empty(harness, HANDING_BACK, expected=len(published) - len(begun))
        second, before = recorder(harness), time.monotonic()
        with running(harness, second):
            wait_for_handled(harness, second, set(published).difference(begun), HANDING_BACK, again=True)
            elapsed = time.monotonic() - before
            check_empty(harness, HANDING_BACK)
        check_once(begun + second.begun, published, HANDING_BACK)
        if harness.lease is not None:
            what = f"the rest came after {elapsed:.1f} s, as late as if its lease of {harness.lease:g} s had to run out"
            check(elapsed < harness.lease / 2, what, HANDING_BACK)

    def test_stops_under_load_lose_nothing(self, harness: ConnectorHarness) -> None:
        """
        Pipelines that are stopped at full speed, one after the other, handle each message once.
        """
        published = publish(harness, "load")
        handler = recorder(harness, work)
        for number in (1, 2, 3):
            with running(harness, handler, processors=2, max_demand=4):
                _wait_for_count(harness, handler, number * len(published) // 5)
        with running(harness, handler, processors=2, max_demand=4):
            wait_for_handled(harness, handler, published, hints.ARRIVING_LATE, again=True)
            check_empty(harness, hints.ARRIVING_LATE)
        check_once(handler.begun, published, hints.ARRIVING_LATE)

    def test_unfinished_messages_come_again(self, harness: ConnectorHarness) -> None:
        """
        A message whose handler never ended before the stop gave up was not acknowledged, whatever else was.
        """
        published = publish(harness, "hang")
        gate = Gate()
        held = published[len(published) // 2]
        first = recorder(harness, hold(harness, gate, lambda data, attempt: data == held))
        pipeline = make_pipeline(harness, first, processors=2, max_demand=1)
        with gate:
            pipeline.start()
            gate.arrived(harness.timeout)
            _wait_for_silence(harness, lambda: len(first.handled))
            finished = list(first.handled)
            check(_ends_with_drain_timeout(pipeline, harness.quiet), "a stop waited for no handler", hints.HARNESS)
            second = recorder(harness)
            with running(harness, second):
                rest = set(published).difference(finished)
                wait_for_handled(harness, second, rest, hints.COVERING, again=True)
                check_empty(harness, hints.COVERING)
        check_nothing_lost([*finished, *second.handled], published, hints.COVERING)

    def test_idle_stop_is_prompt(self, harness: ConnectorHarness) -> None:
        """
        A pipeline that waits for messages stops at once, in the middle of a long poll too.
        """
        handler = recorder(harness)
        pipeline = make_pipeline(harness, handler)
        with started(harness, pipeline):
            wait_for_handled(harness, handler, publish(harness, "idle", 1), hints.RECEIVING)
            watch(harness)
            seconds = timed_stop(pipeline)
        check(seconds < harness.stop_timeout, f"the stop of an idle pipeline took {seconds:.1f} s", hints.LONG_POLLS)

    def test_same_pipeline_runs_again(self, harness: ConnectorHarness) -> None:
        """
        A pipeline that was stopped starts again, and goes on where it was.
        """
        handler = recorder(harness)
        pipeline = make_pipeline(harness, handler)
        published: List[str] = []
        for _ in range(3):
            published += publish(harness, "again", max(10, harness.count // 5))
            with started(harness, pipeline):
                wait_for_handled(harness, handler, published, hints.STARTING_AGAIN)
                check_empty(harness, hints.STARTING_AGAIN)
        check_once(handler.begun, published, hints.STARTING_AGAIN)

    def test_nothing_is_left_behind(self, harness: ConnectorHarness) -> None:
        """
        After a stop the connector's threads end and its connections are closed.
        """
        _run_once(harness)  # what a client library sets up for the whole process
        before = Inventory(harness.ignored_threads)
        for _ in range(3):
            _run_once(harness)
        patience = harness.linger + 2 * harness.stop_timeout
        threads = _watch(before.new_threads, patience)
        what = f"threads are alive {patience:g} s after the stop: {', '.join(threads)}"
        check(not threads, what, hints.ENDING_THREADS)
        sockets = _watch(before.new_sockets, patience)
        check(not sockets, f"{sockets} sockets are open {patience:g} s after three stops", hints.CLOSING)

    def test_nothing_is_opened_before_start(self, harness: ConnectorHarness) -> None:
        """
        Making a pipeline opens no connection and starts no thread: processes fork after that.
        """
        harness.producer(), harness.remaining()  # what the harness itself has to open
        before = Inventory(harness.ignored_threads)
        pipeline = make_pipeline(harness, recorder(harness))
        threads, sockets = before.new_threads(), before.new_sockets()
        check(not threads, f"making a pipeline started threads: {', '.join(threads)}", hints.OPENING_EARLY)
        check(not sockets, f"making a pipeline opened {sockets} sockets", hints.OPENING_EARLY)
        check(pipeline.state == "new", f"the pipeline is {pipeline.state}", hints.HARNESS)

    def test_crash_of_the_producer(self, harness: ConnectorHarness) -> None:
        """
        A producer that crashes is made again: nothing is lost, and what it had handed over is still acknowledged.
        """
        cls, options = harness.producer()
        calls = iter(["", "", "crash"])

        class Crashing(cls):  # type: ignore[misc, valid-type]
            def handle_demand(self, demand: int) -> Iterable[Any]:
                if next(calls, ""):
                    raise RuntimeError("planned by the contract suite")
                returned: Iterable[Any] = super().handle_demand(demand)
                return returned

        handler = recorder(harness)
        published = publish(harness, "crash")
        with running(harness, handler, module=(Crashing, options)):
            wait_for_handled(harness, handler, published, hints.CRASHING, again=True)
            published += publish(harness, "crashed")
            wait_for_handled(harness, handler, published, hints.CRASHING, again=True)
            check_empty(harness, hints.CRASHING)
        check(not list(calls), "the producer was asked fewer than three times", hints.POLLING)
        check_nothing_lost(handler.begun, published, hints.CRASHING)


def _run_once(harness: ConnectorHarness) -> None:
    handler = recorder(harness)
    with running(harness, handler, producers=2):
        wait_for_handled(harness, handler, publish(harness, "left", 10), hints.RECEIVING)


def _wait_for_count(harness: ConnectorHarness, handler: RecordingHandler, count: int) -> None:
    timeout = harness.timeout + harness.redelivery_timeout
    with hint(hints.ARRIVING_LATE):
        handler.wait_for(lambda: len(handler.handled) >= count, timeout, f"{count} messages handled")


def _wait_for_silence(harness: ConnectorHarness, count: Callable[[], int]) -> None:
    """
    Wait until a count has not changed for ``harness.quiet`` seconds.
    """
    last: List[float] = [-1, time.monotonic()]

    def is_silent() -> bool:
        now = count()
        if now != last[0]:
            last[:] = [now, time.monotonic()]
        return time.monotonic() - last[1] >= harness.quiet

    wait_until(is_silent, harness.timeout, "handlers that have nothing more to do")


def _ends_with_drain_timeout(pipeline: Any, timeout: float) -> bool:
    try:
        pipeline.stop(timeout)
    except DrainTimeoutError:
        return True
    return False


def _watch(what: Callable[[], T], seconds: float) -> T:
    """
    Call *what* until it returns nothing, for *seconds*; return its last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)
