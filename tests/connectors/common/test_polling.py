"""
Polling producers against a source in memory: demand, leases, acknowledgements, groups, back-off, stop and crash.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

import attrs
import pytest

from broadway_sync import Around, ConfigurationError, DrainTimeoutError, PipelineFailedError, telemetry
from broadway_sync.connectors.common import polling
from broadway_sync.connectors.common import settler as settling
from broadway_sync.connectors.common.events import ACKNOWLEDGE, CONNECT, CONNECTION_UP, LEASE_LOST, RECEIVE
from broadway_sync.connectors.common.options import PollingOptions
from broadway_sync.connectors.common.outcomes import outcome
from broadway_sync.connectors.common.polling import PollingProducer
from broadway_sync.connectors.common.polling_client import Refusal
from broadway_sync.rules import option, positive_int
from tests.connectors.common.fake_source import FakeSource
from tests.helpers import BOUND, QUIET, SCALE, eventually, make_handler, stage_threads, unique_name


@attrs.frozen(kw_only=True)
class FakeOptions(PollingOptions):
    """
    What a connector adds.
    """

    on_success: Any = option("ack", outcome(600), "after a success")
    on_failure: Any = option("noop", outcome(600), "after a failure")
    max_number_of_messages: int = option(10, positive_int, "in a request")


class FakeProducer(PollingProducer):
    """
    A connector whose client is always given.
    """

    connector = "fake"
    options_class = FakeOptions


@pytest.fixture
def source() -> FakeSource:
    """
    A source whose leases outlive every test.
    """
    return FakeSource()


@pytest.fixture
def start(make_pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return a function that starts a pipeline on a source.
    """

    def start(source: FakeSource, handler: Any = None, options: Mapping[str, Any] = {}, **settings: Any) -> Any:
        return make_pipeline(handler, **{**settings, "producer": producer_of(source, options, settings)}).start()

    return start


def producer_of(source: FakeSource, options: Mapping[str, Any], settings: Mapping[str, Any]) -> Dict[str, Any]:
    """
    Return the pipeline's option ``producer``.
    """
    fast = {"receive_interval": 0.0, "backoff_min": 0.01, "backoff_max": 0.02}
    module = (FakeProducer, {"client": source.client, **fast, **options})
    return {"concurrency": 1, **settings.get("producer", {}), "module": module}


_listening: List[str] = []


def events_of(*names: Any) -> List[Any]:
    """
    Collect events until the end of the test: (event, measurements, metadata).
    """
    seen: List[Any] = []
    _listening.append(unique_name())
    telemetry.attach_many(_listening[-1], list(names), lambda *args: seen.append(args[:3]))
    return seen


@pytest.fixture(autouse=True)
def _listen_no_longer() -> Iterator[None]:
    yield
    while _listening:
        telemetry.detach(_listening.pop())


def fail_first(source: FakeSource, call: str, count: int) -> None:
    """
    Have the first *count* requests of a kind fail.
    """
    failures = iter([OSError("broken pipe")] * count)

    def before(called: str, argument: Any) -> None:
        if called == call:
            for error in failures:
                raise error

    source.before = before


def test_everything_is_handled_and_acknowledged_once(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Over several producers, processors and batches.
    """
    source.publish(*range(1000))
    pipeline = start(
        source, batchers={"default": {"batch_size": 10, "batch_timeout": 0.05}}, producer={"concurrency": 3}
    )
    source.wait_until(lambda: len(source.acked) == 1000)
    pipeline.stop()
    assert sorted(source.acked) == list(range(1000))
    assert set(source.received.values()) == {1}
    assert not source.items


def test_acknowledgements_travel_in_lots(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Though processors acknowledge five at a time.
    """
    source.publish(*range(500))
    start(source, processors={"default": {"concurrency": 4}})
    source.wait_until(lambda: len(source.acked) == 500)
    acks = [count for action, count in source.requests if action == "ack"]
    assert max(acks) == 10
    assert len(acks) < 100


def test_no_more_is_received_than_is_wanted(source: FakeSource, start: Callable[..., Any], gate: Any) -> None:
    """
    While handlers hang, what is leased stays within the demand.
    """
    source.publish(*range(100))
    start(source, make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1]))
    gate.arrived()
    eventually(lambda: len(source.received) == 10, "the demand of one processor is met")
    time.sleep(QUIET)
    assert len(source.received) == 10


@pytest.mark.parametrize(
    ("on_failure", "left", "free"), [("noop", 1, 0), ("ack", 0, 0), ("nack", 1, 1), (("nack", 600), 1, 0)]
)
def test_failures_are_told_as_configured(
    source: FakeSource, start: Callable[..., Any], on_failure: Any, left: int, free: int
) -> None:
    """
    Nothing, gone, again at once, again later.
    """
    failed = threading.Event()

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        pipeline.request_stop()  # it must not come again in this pipeline
        failed.set()
        raise ValueError("bad")

    pipeline = start(source, make_handler(handle_message=handle_message), {"on_failure": on_failure})
    source.publish("bad")
    assert failed.wait(BOUND)
    assert pipeline.join(BOUND)
    assert (len(source.items), source.free()) == (left, free)


def test_configure_ack_keeps_what_is_not_given(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    The original resets it.
    """
    source.publish("a")
    handled = threading.Event()

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        message.configure_ack(on_failure=("nack", 5))
        handled.set()
        return message

    pipeline = start(source, make_handler(handle_message=handle_message), {"on_success": "noop"})
    assert handled.wait(BOUND)
    pipeline.stop()
    assert len(source.items) == 1
    assert not [action for action, _ in source.requests if action != "extend"]


def test_configure_ack_refuses_what_makes_no_sense(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    That message fails, and says why.
    """
    source.publish("unknown", "value")
    reasons: Dict[str, Any] = {}

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        options = {"on_sucess": "ack"} if message.data == "unknown" else {"on_failure": ("nack", 601)}
        return message.configure_ack(**options)

    def handle_failed(messages: List[Any], context: Any) -> List[Any]:
        reasons.update({message.data: message.reason for message in messages})
        return messages

    start(source, make_handler(handle_message=handle_message, handle_failed=handle_failed))
    eventually(lambda: len(reasons) == 2, "both fail")
    assert all(isinstance(reason, ConfigurationError) for reason in reasons.values())
    assert str(reasons["unknown"]).startswith("on_sucess: unknown option")
    assert str(reasons["value"]).startswith("on_failure: expected")


def test_leases_are_extended_while_a_handler_takes_its_time(start: Callable[..., Any], gate: Any) -> None:
    """
    From receipt on, also for messages that wait; nothing is delivered twice.
    """
    source = FakeSource(lease=2.0 * SCALE)  # half of it is left when an extension is due
    source.publish(*range(10))
    start(source, make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1]))
    gate.arrived()
    eventually(lambda: [a for a, _ in source.requests].count("extend") >= 3, "three extensions", BOUND)
    gate.open()
    source.wait_until(lambda: len(source.acked) == 10)
    assert set(source.received.values()) == {1}


def test_a_lease_is_not_extended_after_its_message_was_handed_back(start: Callable[..., Any], gate: Any) -> None:
    """
    Though it was due in the same moment as others whose requests took long.
    """
    source = FakeSource(lease=2.0 * SCALE, lot=1)
    extending, handed_back = threading.Event(), threading.Event()

    def before(call: str, argument: Any) -> None:
        if call == "extend" and not extending.is_set():
            extending.set()
            assert handed_back.wait(BOUND)

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        if message.data == "slow":
            gate.wait()
            return message
        assert extending.wait(BOUND)
        return message.fail("no")

    source.before = before
    source.publish("slow", "fails")
    start(
        source,
        make_handler(handle_message=handle_message),
        {"on_failure": ("nack", 600)},
        processors={"default": {"concurrency": 2, "max_demand": 1}},
    )
    source.wait_until(lambda: ("nack", 1) in source.requests)
    handed_back.set()
    source.wait_until(lambda: source.requests.count(("extend", 1)) >= 2)
    assert [item.visible_at > time.monotonic() + 500 for item in source.items] == [False, True]
    gate.open()


def test_a_message_that_is_held_for_too_long_is_let_go(start: Callable[..., Any], gate: Any) -> None:
    """
    It comes again, telemetry and the log say so.
    """
    source = FakeSource(lease=0.2)
    source.publish("slow")
    lost = events_of(LEASE_LOST)
    start(
        source,
        make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1]),
        {"max_lease": 0.5},
        processors={"default": {"concurrency": 2}},
    )
    eventually(lambda: source.received["slow"] >= 2, "delivered again")
    eventually(lambda: lost, "telemetry says so")
    assert lost[0][1] == {"count": 1}
    assert lost[0][2]["connector"] == "fake"


def test_a_stop_hands_back_what_was_not_begun(start: Callable[..., Any], gates: Callable[[], Any]) -> None:
    """
    What the pipeline has is handled and acknowledged; what is held behind it in the connector is free at once.
    """
    source = FakeSource()
    source.publish(*range(5), group="g")
    gate = gates()
    pipeline = start(source, make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1]))
    gate.arrived()
    eventually(lambda: len(source.received) == 5, "all are received")
    pipeline.request_stop()
    receivers = lambda: [thread for thread in stage_threads(pipeline.name) if "Receiver" in thread.name]  # noqa: E731
    eventually(lambda: not receivers(), "the producer has begun to drain")
    assert source.free() == 0  # others must not handle them while the first is being handled
    gate.open()
    assert pipeline.join(BOUND)
    assert source.acked == [0]
    assert source.free() == 4


def test_a_stop_does_not_wait_for_a_long_poll(start: Callable[..., Any]) -> None:
    """
    What the poll still brings is released, then the client is closed.
    """
    source = FakeSource(wait=0.0)
    in_poll, end_poll = threading.Event(), threading.Event()

    def before(call: str, argument: Any) -> None:
        if call == "receive":
            in_poll.set()
            assert end_poll.wait(BOUND)

    source.before = before
    released = events_of(ACKNOWLEDGE + ("stop",))
    pipeline = start(source)
    assert in_poll.wait(BOUND)
    started = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - started < 4.0 * SCALE
    assert not source.clients[0].closed.is_set()
    source.publish("late")
    end_poll.set()
    assert source.clients[0].closed.wait(BOUND)
    assert source.received["late"] == 1
    assert source.free() == 1
    assert [(m["action"], m["count"], m["failed"]) for _, _, m in released] == [("nack", 1, 0)]


def test_no_thread_is_left_after_a_stop(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    And the client is closed, once.
    """
    source.publish(*range(10))
    pipeline = start(source)
    source.wait_until(lambda: len(source.acked) == 10)
    pipeline.stop()
    assert not stage_threads(pipeline.name)
    assert [client.closed.is_set() for client in source.clients] == [True]


def test_a_pipeline_may_be_started_again(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    With a client of its own.
    """
    pipeline = start(source)
    pipeline.stop()
    source.publish("second")
    pipeline.start()
    source.wait_until(lambda: source.acked == ["second"])
    assert len(source.clients) == 2


def test_a_source_that_is_down_is_tried_again(
    source: FakeSource, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    At the start and later; the log has one record a change, telemetry every attempt.
    """
    caplog.set_level(logging.INFO, "broadway_sync")
    attempts = events_of(CONNECT + ("exception",), RECEIVE + ("exception",))
    down = threading.Event()
    down.set()

    def before(call: str, argument: Any) -> None:
        if down.is_set():
            raise OSError("refused, password=hunter2")

    source.before = before
    pipeline = start(source)
    eventually(lambda: len(attempts) >= 5, "five attempts")
    assert pipeline.state == "running"
    down.clear()
    source.publish("a")
    source.wait_until(lambda: source.acked == ["a"])
    down.set()
    count = len(attempts)
    eventually(lambda: len(attempts) >= count + 5, "five more attempts")
    down.clear()
    source.publish("b")
    source.wait_until(lambda: source.acked == ["a", "b"])
    pipeline.stop()
    said = [record.getMessage() for record in caplog.records]
    assert sum("no connection" in text for text in said) == 2
    assert sum("connected again" in text for text in said) == 2
    assert not any("hunter2" in text for text in said)


def test_a_source_that_is_back_is_told_at_once(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Though it has nothing, so that the next receive is far away.
    """
    fail_first(source, "receive", 1)
    up = events_of(CONNECTION_UP)
    start(source, options={"receive_interval": 3600.0})
    eventually(lambda: len(up) == 2, "it is up for the first time, and again")


def test_backoff_type_stop_ends_the_pipeline(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Silence would be a trap.
    """

    def before(call: str, argument: Any) -> None:
        raise OSError("refused")

    source.before = before
    pipeline = start(source, options={"backoff_type": "stop"}, max_restarts=0, resubscribe_interval=0)
    with pytest.raises(PipelineFailedError, match="refused"):
        pipeline.join(BOUND)


def test_a_stop_while_the_source_is_down(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Does not wait for the back-off.
    """

    def before(call: str, argument: Any) -> None:
        raise OSError("refused")

    source.before = before
    attempts = events_of(CONNECT + ("exception",))
    pipeline = start(source, options={"backoff_min": 60.0, "backoff_max": 60.0})
    eventually(lambda: attempts, "one attempt")
    started = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - started < 4.0 * SCALE
    assert not stage_threads(pipeline.name)
    assert source.clients[0].closed.is_set()


def test_an_acknowledgement_that_fails_is_sent_again(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Nothing is delivered twice.
    """
    failed = events_of(ACKNOWLEDGE + ("exception",))
    fail_first(source, "ack", 2)
    source.publish(*range(10))
    pipeline = start(source)
    source.wait_until(lambda: len(source.acked) == 10)
    pipeline.stop()
    assert set(source.received.values()) == {1}
    assert [args[2]["action"] for args in failed] == ["ack", "ack"]


def test_acknowledgements_that_fail_together_are_sent_again_together(start: Callable[..., Any]) -> None:
    """
    After one pause, the first: there was one fault, however many requests met it.
    """
    source = FakeSource(lot=1)
    fail_first(source, "ack", 20)
    source.publish(*range(20))
    start(source, options={"max_number_of_messages": 20}, processors={"default": {"max_demand": 20, "min_demand": 0}})
    source.wait_until(lambda: len(source.acked) == 20, 5.0 * SCALE)
    assert set(source.received.values()) == {1}


def test_a_stop_sends_again_what_waits_for_another_attempt(
    source: FakeSource, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    At once: the pause may be longer than the stop.
    """
    monkeypatch.setattr(settling, "_RETRY_MIN", 30.0)
    monkeypatch.setattr(settling, "_RETRY_MAX", 30.0)
    failed = events_of(ACKNOWLEDGE + ("exception",))
    fail_first(source, "ack", 1)
    source.publish("a")
    pipeline = start(source)
    eventually(lambda: failed, "the first attempt")
    pipeline.stop()
    assert source.acked == ["a"]


def test_partial_refusals_are_sent_again_unless_final(
    source: FakeSource, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    The others of the lot are done with.
    """
    refused: Dict[Any, int] = {}
    settle = source.settle

    def refuse_some(action: Any, handles: List[str]) -> List[Refusal]:
        data = {item.handle: item.data for item in source.items}
        again = [handle for handle in handles if data[handle] == 3 and not refused.get(3)]
        final = [handle for handle in handles if data[handle] == 7]
        for handle in again + final:
            refused[data[handle]] = refused.get(data[handle], 0) + 1
        accepted = [handle for handle in handles if handle not in again + final]
        refusals = settle(action, accepted) if accepted else []
        return refusals + [Refusal(h, "busy", False) for h in again] + [Refusal(h, "bad handle", True) for h in final]

    source.settle = refuse_some  # type: ignore[method-assign]
    source.publish(*range(10))
    pipeline = start(source)
    source.wait_until(lambda: len(source.acked) == 9)
    pipeline.stop()
    assert refused == {3: 1, 7: 1}
    assert [item.data for item in source.items] == [7]
    assert any("bad handle" in record.getMessage() for record in caplog.records)


def test_a_stop_sends_the_last_acknowledgements(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Before it returns, however slow the source is.
    """
    sending = threading.Event()

    def before(call: str, argument: Any) -> None:
        if call == "ack":
            sending.set()
            time.sleep(0.3)  # a slow source, not a wait

    source.before = before
    source.publish(*range(30))
    handled: List[int] = []
    handler = make_handler(handle_message=lambda p, message, c: (handled.append(message.data), message)[1])
    pipeline = start(source, handler, processors={"default": {"concurrency": 3}})
    assert sending.wait(BOUND)
    pipeline.stop()
    assert sorted(source.acked) == sorted(handled)
    assert source.free() == 30 - len(source.acked)


def test_a_source_that_takes_no_acknowledgement_does_not_hang_a_stop(
    source: FakeSource, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    The log says what may come again.
    """
    refused = threading.Event()

    def before(call: str, argument: Any) -> None:
        if call == "ack":
            refused.set()
            raise OSError("refused")

    source.before = before
    source.publish("a")
    pipeline = start(source, shutdown=4.0 * SCALE)  # half of it is for what the source does not take
    assert refused.wait(BOUND)
    try:
        pipeline.stop()
    except DrainTimeoutError as error:
        pytest.fail(str(error))
    assert any("may be delivered again" in record.getMessage() for record in caplog.records)


def test_a_source_that_takes_nothing_is_not_asked_for_long_after_a_stop(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    However many requests that would be: each takes its time to fail. The log says it once.
    """
    source = FakeSource(lot=1)
    failing = threading.Event()

    def before(call: str, argument: Any) -> None:
        if call == "ack":
            failing.set()
            time.sleep(0.2 * SCALE)
            raise OSError("timed out")

    source.before = before
    source.publish(*range(100))
    pipeline = start(
        source,
        options={"max_number_of_messages": 100},
        processors={"default": {"concurrency": 1, "max_demand": 100, "min_demand": 0}},
        shutdown=6.0 * SCALE,  # half of it is for what the source does not take
    )
    assert failing.wait(BOUND)
    pipeline.stop()
    eventually(lambda: not stage_threads(pipeline.name), "its threads have ended")
    assert source.clients[0].closed.is_set()
    texts = [record.getMessage() for record in caplog.records]
    assert sum("ack of 100 messages was not accepted" in text for text in texts) == 1


def test_a_telemetry_handler_may_stop_the_pipeline(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    On a thread of the connector too: it only begins the stop, which needs that thread.
    """
    source.publish(*range(30))
    handled: List[int] = []
    ready = threading.Event()

    def stop(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        assert ready.wait(BOUND)
        pipeline.stop()

    _listening.append(unique_name())
    telemetry.attach(_listening[-1], ACKNOWLEDGE + ("start",), stop)
    handler = make_handler(handle_message=lambda p, message, c: (handled.append(message.data), message)[1])
    pipeline = start(source, handler, processors={"default": {"concurrency": 3}})
    ready.set()
    assert pipeline.join(BOUND)
    assert sorted(source.acked) == sorted(handled)
    assert source.free() == 30 - len(handled)


def test_groups_stay_in_order(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    One message of a group at a time, whatever the concurrency.
    """
    for number in range(50):
        for group in "abc":
            source.publish((group, number), group=group)
    handled: List[Any] = []
    running: Dict[str, int] = {}

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        group = message.data[0]
        running[group] = running.get(group, 0) + 1
        handled.append(message.data)
        assert running[group] == 1
        running[group] -= 1
        return message

    start(source, make_handler(handle_message=handle_message), processors={"default": {"concurrency": 6}})
    source.wait_until(lambda: len(source.acked) == 150)
    for group in "abc":
        assert [number for name, number in handled if name == group] == list(range(50))


def test_a_group_does_not_wait_for_batch_timeouts(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    A message that others wait for flushes its batch.
    """
    source.publish(*range(9), group="g")
    start(source, batchers={"default": {"batch_timeout": 3600.0, "batch_size": 100}})
    source.wait_until(lambda: source.acked == list(range(8)))


def test_after_a_failure_the_rest_of_the_group_is_handed_back(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    And handled only after the one that failed, when that comes again.
    """
    source.publish(*range(4), group="g")
    handled: List[int] = []

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        handled.append(message.data)
        if handled.count(1) == 1 and message.data == 1:
            raise ValueError("once")
        return message

    pipeline = start(source, make_handler(handle_message=handle_message), {"on_failure": "nack"})
    source.wait_until(lambda: len(source.acked) == 4)
    pipeline.stop()
    assert handled == [0, 1, 1, 2, 3]
    assert source.acked == [0, 1, 2, 3]


def test_a_failure_that_is_acknowledged_lets_the_group_go_on(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    It will not come again.
    """
    source.publish(*range(4), group="g")

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        return message.fail("no") if message.data == 1 else message

    start(source, make_handler(handle_message=handle_message), {"on_failure": "ack"})
    source.wait_until(lambda: source.acked == [0, 1, 2, 3])
    assert set(source.received.values()) == {1}


def crash_at(source: FakeSource, crash: threading.Event) -> None:
    """
    Let the first receive after *crash* is set end its thread.
    """
    crashed = threading.Event()

    def receive(count: int) -> List[Any]:
        if crash.is_set() and not crashed.is_set():
            crashed.set()
            raise SystemExit("a bug")
        return FakeSource.receive(source, count)

    source.receive = receive  # type: ignore[method-assign]


def test_a_crash_of_a_thread_restarts_the_producer(source: FakeSource, start: Callable[..., Any], gate: Any) -> None:
    """
    What is in the pipeline is acknowledged all the same, through the session that received it.
    """
    source.publish("before")
    crash = threading.Event()
    crash_at(source, crash)
    pipeline = start(
        source,
        make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1]),
        processors={"default": {"concurrency": 2}},
    )
    gate.arrived()
    crash.set()
    source.publish("after")
    eventually(lambda: len(source.clients) == 2, "a second client")
    gate.arrived()
    gate.open()
    source.wait_until(lambda: sorted(source.acked) == ["after", "before"])
    assert source.clients[0].closed.wait(BOUND)
    assert source.received["before"] == 1
    pipeline.stop()


def test_a_stop_waits_for_the_acknowledgements_of_a_producer_that_crashed(
    source: FakeSource, start: Callable[..., Any], gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    As for those of the one that took its place.
    """
    monkeypatch.setattr(polling, "_LAST_SECONDS", BOUND)

    def before(call: str, argument: Any) -> None:
        if call == "ack":
            time.sleep(0.3)  # a slow source, not a wait

    source.before = before
    source.publish("before")
    crash = threading.Event()
    crash_at(source, crash)
    handler = make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1])
    pipeline = start(source, handler, processors={"default": {"concurrency": 2}})
    gate.arrived()
    crash.set()
    eventually(lambda: len(source.clients) == 2, "a second client")
    gate.open()
    pipeline.stop()
    assert source.acked == ["before"]
    assert not stage_threads(pipeline.name)
    assert [client.closed.is_set() for client in source.clients] == [True, True]


def test_a_crash_after_the_hand_over_refuses_nothing(source: FakeSource, start: Callable[..., Any], gate: Any) -> None:
    """
    A hook raises on its way out: what a transformer has let through is in the pipeline, and is acknowledged.
    """
    has_crashed = threading.Event()
    let_through: List[Any] = []

    class Hook(Around):
        def around_producer(self, call: Any) -> Any:
            call()
            if let_through and not has_crashed.is_set():
                has_crashed.set()
                raise RuntimeError("the hook failed")

    def transformer(message: Any) -> Any:
        let_through.append(message)
        return message

    source.publish("before")
    handler = make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1])
    pipeline = start(source, handler, producer={"transformer": transformer}, around=Hook())
    gate.arrived()
    assert has_crashed.is_set()
    eventually(lambda: len(source.clients) == 2, "a second client")
    gate.open()
    source.wait_until(lambda: source.acked == ["before"])
    pipeline.stop()
    assert source.received == {"before": 1}


def test_what_a_crash_and_a_drain_leave_behind_is_left_to_the_source(start: Callable[..., Any], gate: Any) -> None:
    """
    Its lease is extended no more, once nobody is there to acknowledge it.
    """
    source = FakeSource(lease=1.0 * SCALE)
    source.publish("stuck")
    crash = threading.Event()
    crash_at(source, crash)
    handler = make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1])
    pipeline = start(source, handler, processors={"default": {"concurrency": 2}})
    gate.arrived()
    crash.set()
    eventually(lambda: len(source.clients) == 2, "a second client")
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(timeout=0.2)
    assert source.clients[0].closed.wait(BOUND)
    eventually(lambda: source.free() == 1, "its lease has run out")
    gate.open()


@pytest.mark.parametrize("group", [None, "g"])
def test_what_a_transformer_refuses_comes_again(start: Callable[..., Any], group: Optional[str]) -> None:
    """
    When its lease is over, and what came with it: the pipeline has not got them, so nobody keeps them.
    """
    source = FakeSource(lease=1.0 * SCALE)
    refused: List[Any] = []

    def transform(message: Any) -> Any:
        if message.data == "b" and not refused:
            refused.append(message.data)
            raise ValueError("once")
        return message

    source.publish("a", "b", "c", group=group)
    pipeline = start(source, producer={"transformer": transform}, resubscribe_interval=0.0)
    source.wait_until(lambda: sorted(source.acked) == ["a", "b", "c"])
    assert source.clients[0].closed.wait(BOUND)
    pipeline.stop()
    assert source.received == ({"a": 2, "b": 2, "c": 2} if group is None else {"a": 1, "b": 2, "c": 2})
    assert group is None or source.acked == ["a", "b", "c"]


def test_a_drain_that_runs_out_of_time_leaves_its_messages_to_the_source(start: Callable[..., Any], gate: Any) -> None:
    """
    Their leases are extended no more.
    """
    source = FakeSource(lease=0.4)
    source.publish("stuck")
    pipeline = start(source, make_handler(handle_message=lambda p, m, c: (gate.wait(), m)[1]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(timeout=0.2)
    eventually(lambda: source.free() == 1, "its lease has run out")
    gate.open()


def test_requests_are_spans(source: FakeSource, start: Callable[..., Any]) -> None:
    """
    Connect, receive and acknowledge.
    """
    seen = events_of(CONNECT + ("stop",), RECEIVE + ("stop",), ACKNOWLEDGE + ("stop",))
    source.publish("a")
    pipeline = start(source)
    source.wait_until(lambda: source.acked == ["a"])
    pipeline.stop()
    mine = [(event, metadata) for event, _, metadata in seen if metadata["topology_name"] == pipeline.name]
    assert {event[1] for event, _ in mine} == {"connect", "receive", "acknowledge"}
    assert all(metadata["index"] == 0 and metadata["connector"] == "fake" for _, metadata in mine)
    received = [metadata["count"] for event, metadata in mine if event[1] == "receive"]
    assert sum(received) == 1
    acknowledged = [(m["action"], m["count"], m["failed"]) for event, m in mine if event[1] == "acknowledge"]
    assert acknowledged == [("ack", 1, 0)]
