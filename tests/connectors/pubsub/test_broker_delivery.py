"""
PubSubProducer on Google's emulator: delivery, metadata, outcomes, order, exactly-once, dead letters.
"""

from __future__ import annotations

import datetime
import threading
import time
from typing import Any, Callable

import pytest

from broadway_sync import Message
from broadway_sync.connectors.common.events import ACKNOWLEDGE, RECEIVE
from broadway_sync.connectors.pubsub import PubSubProducer
from tests.brokers.pubsub import PubSub
from tests.connectors.pubsub.support import LEASE, failures, is_empty, numbers
from tests.connectors.recorder import LONG, Recorder
from tests.helpers import Gate, eventually, stage_threads


def test_ten_thousand_messages(
    emulator: PubSub,
    topic: str,
    subscription: str,
    start: Callable[..., Any],
    hear: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    Two producers, one message in a hundred fails: each is handled, each acknowledged, nothing twice, nothing left.
    """
    acknowledged = hear(ACKNOWLEDGE + ("stop",))
    data = numbers(10_000)
    emulator.publish(topic, data)

    def fail_some(message: Message) -> None:
        if int(message.data) % 100 == 0:
            raise ValueError("every hundredth")

    recorder = Recorder(fail_some)
    pipeline = start(
        subscription,
        recorder,
        producers=2,
        processors={"default": {"concurrency": 2, "max_demand": 200}},
        options={"max_number_of_messages": 1000, "on_failure": "ack"},
    )
    recorder.wait_for_data(data)
    pipeline.stop()
    assert recorder.duplicates() == set()
    assert sum(metadata["count"] for metadata in acknowledged.metadata(lambda m: m["action"] == "ack")) == 10_000
    assert all(metadata["failed"] == 0 for metadata in acknowledged.metadata())
    assert failures(caplog, "no connection") == []
    assert is_empty(emulator, subscription)
    time.sleep(LEASE)  # nothing can be leased any longer than this
    assert is_empty(emulator, subscription)


def test_failed_messages_come_again(emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]) -> None:
    """
    With the default, "noop", when the lease is over; with "nack" at once. Then they are handled.
    """
    emulator.publish(topic, ["noop", "nack"])
    times: dict[str, list[float]] = {"noop": [], "nack": []}

    def fail_once(message: Message) -> None:
        name = message.data.decode()
        times[name].append(time.monotonic())
        if name == "nack":
            message.configure_ack(on_failure="nack")
        if len(times[name]) == 1:
            message.fail("not yet")

    recorder = Recorder(fail_once)
    pipeline = start(subscription, recorder)
    recorder.wait_for(lambda: sum(recorder.counts.values()) == 4)
    pipeline.stop()
    assert is_empty(emulator, subscription)
    assert times["noop"][1] - times["noop"][0] > LEASE / 2
    assert times["nack"][1] - times["nack"][0] < times["noop"][1] - times["noop"][0]


def test_nack_with_a_pause(emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]) -> None:
    """
    ("nack", seconds): not before that.
    """
    emulator.publish(topic, ["a"])
    times: list[float] = []

    def fail_once(message: Message) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            message.fail("not yet")

    recorder = Recorder(fail_once)
    start(subscription, recorder, options={"on_failure": ("nack", 1)})
    recorder.wait_for(lambda: recorder.counts["a"] == 2)
    assert times[1] - times[0] >= 0.9


def test_noop_on_success(emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]) -> None:
    """
    Nothing is acknowledged that should not be.
    """
    emulator.publish(topic, ["a"])
    recorder = Recorder()
    pipeline = start(subscription, recorder, options={"on_success": "noop"})
    recorder.wait_for(lambda: recorder.counts["a"] == 2)
    pipeline.stop()
    eventually(lambda: not is_empty(emulator, subscription), "it comes again", LONG)


def test_metadata(emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]) -> None:
    """
    As the service has it; a message of attributes alone has empty data.
    """
    (first,) = emulator.publish(topic, ["hällo"], colour="röd", count="7")
    (second,) = emulator.publish(topic, [b""], alone="yes")
    recorder = Recorder()
    start(subscription, recorder)
    recorder.wait_for(lambda: len(recorder.messages) == 2)
    by_id = {message.metadata["message_id"]: message for message in recorder.messages}
    assert by_id[first].data == "hällo".encode()
    assert by_id[second].data == b""
    now = datetime.datetime.now(datetime.timezone.utc)
    assert abs(by_id[first].metadata.pop("publish_time") - now) < datetime.timedelta(minutes=5)
    assert by_id[first].metadata == {
        "attributes": {"colour": "röd", "count": "7"},
        "delivery_attempt": None,
        "message_id": first,
        "ordering_key": "",
    }
    assert by_id[second].metadata["attributes"] == {"alone": "yes"}


def test_large_messages(emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]) -> None:
    """
    Three megabytes; one at a time, as the client library's channel to an emulator takes no more than four.
    """
    data = [letter * 3_000_000 for letter in "abc"]
    emulator.publish(topic, data)
    recorder = Recorder()
    start(subscription, recorder, options={"max_number_of_messages": 1})
    recorder.wait_for_data(data)


def test_no_more_is_pulled_than_is_wanted(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any], gate: Gate, hear: Callable[..., Any]
) -> None:
    """
    What the pipeline has no room for stays with the service, for other processes.
    """
    received = hear(RECEIVE + ("stop",))
    emulator.publish(topic, numbers(100))
    recorder = Recorder(lambda message: gate.wait())
    start(subscription, recorder, processors={"default": {"concurrency": 2, "max_demand": 4}})
    received.wait_for(1, lambda metadata: metadata["count"])
    recorder.wait_for(lambda: len(recorder.order) == 2)
    assert len(emulator.pull(subscription, 1000)) >= 100 - 2 * 4
    assert sum(metadata["count"] for metadata in received.metadata()) <= 2 * 4
    gate.open()


def test_defaults(
    emulator: PubSub, topic: str, subscription: str, make_pipeline: Callable[..., Any], hear: Callable[..., Any]
) -> None:
    """
    Nothing but the subscription is needed. An idle pipeline waits in a long pull, and a message ends it at once; after
    a stop too, and that message is handed back.
    """
    received = hear(RECEIVE + ("start",))
    recorder = Recorder()
    module = (PubSubProducer, {"subscription": subscription})
    pipeline = make_pipeline(recorder, producer={"module": module}).start()
    emulator.publish(topic, numbers(50))
    recorder.wait_for_data(numbers(50))
    eventually(lambda: is_empty(emulator, subscription), "everything is acknowledged", LONG)
    count = len(received.metadata())
    published = time.monotonic()
    emulator.publish(topic, ["now"])
    recorder.wait_for_data(["now"])
    assert time.monotonic() - published < LONG / 10
    received.wait_for(count + 1)  # the next pull waits again
    pipeline.stop()
    emulator.publish(topic, ["late"])
    eventually(lambda: not stage_threads(pipeline.name), "the pull has returned", LONG)
    assert [received.message.data for received in emulator.take(subscription)] == [b"late"]
    assert recorder.duplicates() == set()


# ---- leases


def test_handlers_slower_than_the_lease(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    Leases are extended, of what is being handled and of what waits: nothing comes twice.
    """
    data = numbers(6)
    emulator.publish(topic, data)
    recorder = Recorder(lambda message: time.sleep(0.4 * LEASE))
    start(subscription, recorder, processors={"default": {"concurrency": 1, "max_demand": 10}})
    recorder.wait_for(lambda: len(recorder.order) == 6)
    eventually(lambda: is_empty(emulator, subscription), "everything is acknowledged", LONG)
    assert recorder.order == data or sorted(recorder.order) == data
    assert failures(caplog) == []


def test_a_batch_that_waits_longer_than_the_lease(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    The batch timeout has nothing to do with the subscription's deadline.
    """
    data = numbers(3)
    emulator.publish(topic, data)
    recorder = Recorder()
    batchers = {"default": {"batch_size": 100, "batch_timeout": 1.5 * LEASE}}
    pipeline = start(subscription, recorder, batchers=batchers)
    recorder.wait_for_data(data)
    eventually(lambda: pipeline.state == "running" and not recorder.duplicates(), "it runs", LONG)
    time.sleep(2 * LEASE)  # the batch is through, and nothing is leased any longer
    pipeline.stop()
    assert recorder.duplicates() == set()
    assert is_empty(emulator, subscription)
    assert failures(caplog) == []


# ---- order


@pytest.fixture
def ordered(emulator: PubSub, topic: str) -> str:
    """
    Return a subscription that keeps the order of each key.
    """
    return emulator.subscription(topic, ack_deadline_seconds=LEASE, enable_message_ordering=True)


def of_key(order: list[str], key: str) -> list[str]:
    """
    Return what was handled of one key.
    """
    return [data for data in order if data.startswith(f"{key}:")]


def test_keys_stay_in_order(emulator: PubSub, topic: str, ordered: str, start: Callable[..., Any]) -> None:
    """
    Through several processors, a batcher and several batch processors, without partition_by; never two at a time.
    """
    keys = "abcde"
    sent = {key: [f"{key}:{number:02}" for number in range(20)] for key in keys}
    for key in keys:
        emulator.publish(topic, sent[key], ordering_key=key)
    running: dict[str, str] = {}
    overlaps: list[Any] = []
    lock = threading.Lock()

    def watch(message: Message) -> None:
        key = message.metadata["ordering_key"]
        with lock:
            overlaps.extend([(running[key], message.data)] if key in running else [])
            running[key] = message.data
        time.sleep(0.001)
        with lock:
            del running[key]

    recorder = Recorder(watch)
    batched: list[str] = []

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        batched.extend(message.data.decode() for message in messages)
        return messages

    recorder.handle_batch = handle_batch  # type: ignore[method-assign]
    pipeline = start(
        ordered,
        recorder,
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"batch_size": 5, "batch_timeout": 0.05, "concurrency": 3}},
        options={"max_number_of_messages": 100},
    )
    recorder.wait_for(lambda: len(recorder.order) >= 100)
    pipeline.stop()
    for key in keys:
        assert of_key(recorder.order, key) == sent[key]
        assert of_key(batched, key) == sent[key]
    assert overlaps == []
    assert is_empty(emulator, ordered)


@pytest.mark.parametrize("on_failure", ["noop", "nack", ("nack", 1)])
def test_order_after_a_failure(
    emulator: PubSub, topic: str, ordered: str, start: Callable[..., Any], on_failure: Any
) -> None:
    """
    What follows the message that failed is not handled before it has come again.
    """
    data = [f"a:{number}" for number in range(6)]
    emulator.publish(topic, data, ordering_key="a")
    emulator.publish(topic, ["b:0"], ordering_key="b")

    def fail_once(message: Message) -> None:
        if message.data == b"a:2" and recorder.counts["a:2"] == 1:
            message.fail("not yet")

    recorder = Recorder(fail_once)
    pipeline = start(ordered, recorder, options={"on_failure": on_failure})
    recorder.wait_for_data([*data, "b:0"])
    eventually(lambda: is_empty(emulator, ordered), "everything is acknowledged", LONG)
    pipeline.stop()
    handled = of_key(recorder.order, "a")
    # The service may deliver what came before once more; in order all the same.
    assert handled[:3] == data[:3]
    assert [item for item in handled[3:] if item >= "a:2"] == data[2:]


def test_a_failure_that_is_acknowledged_lets_the_key_go_on(
    emulator: PubSub, topic: str, ordered: str, start: Callable[..., Any]
) -> None:
    """
    Nothing comes again.
    """
    data = [f"a:{number}" for number in range(6)]
    emulator.publish(topic, data, ordering_key="a")

    def fail(message: Message) -> None:
        if message.data == b"a:2":
            raise ValueError("never")

    recorder = Recorder(fail)
    pipeline = start(ordered, recorder, options={"on_failure": "ack"})
    recorder.wait_for_data(data)
    pipeline.stop()
    assert recorder.order == data
    assert is_empty(emulator, ordered)


# ---- exactly-once


@pytest.fixture
def exactly_once(emulator: PubSub, topic: str) -> str:
    """
    Return a subscription that confirms acknowledgements.
    """
    return emulator.subscription(topic, ack_deadline_seconds=LEASE, enable_exactly_once_delivery=True)


def test_exactly_once(
    emulator: PubSub, topic: str, exactly_once: str, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    Every acknowledgement is confirmed, and leases are extended as anywhere.
    """
    data = numbers(200)
    emulator.publish(topic, data)
    recorder = Recorder(lambda message: time.sleep(0.02))
    pipeline = start(exactly_once, recorder, processors={"default": {"concurrency": 2, "max_demand": 100}})
    recorder.wait_for_data(data)
    pipeline.stop()
    assert recorder.duplicates() == set()
    assert is_empty(emulator, exactly_once)
    assert failures(caplog) == []


def test_refused_acknowledgements_are_told(
    emulator: PubSub,
    topic: str,
    exactly_once: str,
    start: Callable[..., Any],
    hear: Callable[..., Any],
    gates: Callable[[], Gate],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    Somebody else has acknowledged one of two messages: the log and telemetry say so of that one, the other is accepted.
    """
    acknowledged = hear(ACKNOWLEDGE + ("stop",))
    emulator.publish(topic, ["theirs", "ours"])
    gate = gates()
    recorder = Recorder(lambda message: gate.wait())
    # One chunk of two messages: both are acknowledged in one request.
    pipeline = start(exactly_once, recorder, processors={"default": {"concurrency": 2, "max_demand": 1}})
    recorder.wait_for(lambda: len(recorder.order) == 2)
    theirs = next(message for message in recorder.messages if message.data == b"theirs")
    with emulator.subscriber() as subscriber:
        subscriber.acknowledge(subscription=exactly_once, ack_ids=[theirs.acknowledger[2].handle])
    gate.open()
    acknowledged.wait_for(1, lambda metadata: metadata["action"] == "ack" and metadata["failed"] == 1)
    pipeline.stop()
    (said,) = failures(caplog, "ack of 1 messages was not accepted")
    assert "PERMANENT_FAILURE_INVALID_ACK_ID" in said
    assert is_empty(emulator, exactly_once)


# ---- dead letters


def test_dead_letters(emulator: PubSub, topic: str, start: Callable[..., Any]) -> None:
    """
    With a dead letter policy deliveries are counted, and after the last one the message goes to the other topic.
    """
    dead = emulator.topic()
    letters = emulator.subscription(dead)
    policy = {"dead_letter_topic": dead, "max_delivery_attempts": 5}
    subscription = emulator.subscription(topic, ack_deadline_seconds=LEASE, dead_letter_policy=policy)
    emulator.publish(topic, ["poison"])
    attempts: list[int] = []

    def fail(message: Message) -> None:
        attempts.append(message.metadata["delivery_attempt"])
        message.fail("always")

    start(subscription, Recorder(fail), options={"on_failure": "nack"})
    (letter,) = eventually(lambda: emulator.pull(letters), "the dead letter arrives", LONG)
    assert letter.message.data == b"poison"
    assert attempts == [1, 2, 3, 4, 5]


# ---- more


def test_a_pipeline_may_be_started_again(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]
) -> None:
    """
    With a new connection.
    """
    recorder = Recorder()
    pipeline = start(subscription, recorder)
    for round_ in range(2):
        emulator.publish(topic, [f"round {round_}"])
        recorder.wait_for_data([f"round {round_}"])
        pipeline.stop()
        pipeline.start()
    assert recorder.duplicates() == set()


def test_two_pipelines_share_a_subscription(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]
) -> None:
    """
    Each message goes to one of them.
    """
    recorder = Recorder(lambda message: time.sleep(0.001))
    pipelines = [start(subscription, recorder) for _ in range(2)]
    data = numbers(500)
    emulator.publish(topic, data)
    recorder.wait_for_data(data)
    for pipeline in pipelines:
        pipeline.stop()
    assert recorder.duplicates() == set()
    assert is_empty(emulator, subscription)
