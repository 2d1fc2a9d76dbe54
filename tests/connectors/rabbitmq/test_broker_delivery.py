"""
RabbitMQ itself, without faults: everything arrives, once, and gets the outcome that was chosen.
"""

from __future__ import annotations

import threading
from typing import Any, Dict, List

import pytest

from broadway_sync import Message
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from tests.connectors.rabbitmq.support import (
    Seen,
    assert_settled,
    bodies,
    producer,
    texts,
    wait_until_consuming,
    wait_until_empty,
)
from tests.helpers import BOUND, eventually, make_handler


def fail(message: Message) -> None:
    """
    Fail the message without a trace in the log.
    """
    message.fail("as told")


def test_ten_thousand_messages(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    10,000 messages, two producers, 1% failures that come back once: every one is handled and acknowledged, those that
    failed twice, no other more than once.
    """

    def fail_one_in_hundred(message: Message) -> None:
        if int(message.data) % 100 == 7 and not message.metadata["redelivered"]:
            message.fail("the first time")

    queue, all_bodies, seen = rabbitmq.queue(), bodies(10_000), Seen(fail_one_in_hundred)
    rabbitmq.publish(queue, all_bodies)
    source = producer(
        rabbitmq.url, queue, concurrency=2, on_failure="reject_and_requeue_once", metadata=["redelivered"],
        qos={"prefetch_count": 200},
    )  # fmt: skip
    batchers = {"default": {"batch_size": 50, "batch_timeout": 0.1, "concurrency": 2}}
    handler = make_handler(handle_message=seen.handle_message)
    with make_pipeline(handler, producer=source, processors={"default": {"concurrency": 4}}, batchers=batchers):
        seen.wait(all_bodies)
        seen.wait_for_count(10_100)
        wait_until_empty(rabbitmq, queue)
    assert {body for body, times in seen.times.items() if times == 2} == {b for b in all_bodies if int(b) % 100 == 7}
    assert seen.duplicates() == 100


def test_message(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    The data is the body, bytes; the metadata is what was asked for.
    """
    queue, seen = rabbitmq.queue(), Seen()
    rabbitmq.publish(queue, ["grün"], headers={"a": [1, None]}, content_type="text/plain", message_id="m-1")
    keys = ["delivery_tag", "redelivered", "exchange", "routing_key", "headers", "persistent", "message_id", "app_id"]
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, metadata=keys)):
        seen.wait(["grün".encode()])
    assert seen.messages[0].metadata == {
        "delivery_tag": 1, "redelivered": False, "exchange": "", "routing_key": queue, "headers": {"a": [1, None]},
        "persistent": True, "message_id": "m-1", "app_id": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "on_failure, handled, dead",
    [("ack", 1, 0), ("reject", 1, 1), ("reject_and_requeue_once", 2, 1)],
)
def test_failed_messages(make_pipeline: Any, rabbitmq: Any, on_failure: str, handled: int, dead: int) -> None:
    """
    A failed message is gone, is moved to the dead-letter exchange, or comes back once and is moved then.
    """
    morgue = rabbitmq.queue()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": morgue}
    queue, seen = rabbitmq.queue(arguments=arguments), Seen(fail)
    rabbitmq.publish(queue, ["bad"])
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, on_failure=on_failure)):
        seen.wait_for_count(handled)
        eventually(lambda: rabbitmq.ready_count(morgue) == dead, "the dead letters are there")
    assert_settled(rabbitmq, queue)
    assert len(seen.messages) == handled
    assert [body for body, _, _ in rabbitmq.take(morgue)] == [b"bad"] * dead


def test_configure_ack(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    A message may choose for itself; the others go as configured.
    """

    def choose(message: Message) -> None:
        if message.data == b"keep":
            message.configure_ack(on_failure="reject_and_requeue")
        message.fail("all fail")
        if message.metadata["redelivered"]:
            message.configure_ack(on_failure="ack")

    queue, seen = rabbitmq.queue(), Seen(choose)
    rabbitmq.publish(queue, ["drop", "keep"])
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, metadata=["redelivered"])):
        seen.wait_for_count(3)
    assert_settled(rabbitmq, queue)
    assert seen.times == {b"drop": 1, b"keep": 2}


def test_set_up(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    after_connect runs first; then the queue is declared and bound, and messages arrive through its binding.
    """
    exchange, queue, seen = f"{rabbitmq.queue()}-exchange", f"{rabbitmq.queue()}-declared", Seen()

    def declare_exchange(channel: Any) -> None:
        channel.exchange_declare(exchange, "direct", auto_delete=True)

    source = producer(
        rabbitmq.url, queue, after_connect=declare_exchange, declare={"auto_delete": True},
        bindings=[(exchange, {"routing_key": "red"}), (exchange, {"routing_key": "blue"})],
    )  # fmt: skip
    with make_pipeline(seen, producer=source):
        eventually(lambda: "IO" in threading_names(), "the connection's thread runs")
        eventually(lambda: _publishes(rabbitmq, exchange, "blue"), "the binding is there")
        seen.wait([b"to blue"])


def _publishes(rabbitmq: Any, exchange: str, key: str) -> bool:
    import pika.exceptions

    try:
        with rabbitmq.channel() as channel:
            channel.basic_publish(exchange, key, b"to " + key.encode(), mandatory=True)
    except (pika.exceptions.UnroutableError, pika.exceptions.ChannelClosedByBroker):
        return False
    return True


def threading_names() -> List[str]:
    """
    Return the last part of the name of every thread.
    """
    return [thread.name.rsplit(".", 1)[-1] for thread in threading.enumerate()]


def test_queue_named_by_the_broker(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    Two producers with a queue of their own each, both bound to a fanout: both get every message.
    """
    exchange, seen = f"{rabbitmq.queue()}-fanout", Seen()
    with rabbitmq.channel() as channel:
        channel.exchange_declare(exchange, "fanout")
    options = {"declare": {"exclusive": True}, "bindings": [exchange], "metadata": ["exchange"]}
    with make_pipeline(seen, producer=producer(rabbitmq.url, "", concurrency=2, **options)):
        eventually(lambda: rabbitmq.ctl("list_bindings").count(exchange) == 2, "both are bound", 3 * BOUND)
        rabbitmq.publish("", ["hello"], exchange=exchange)
        eventually(lambda: seen.times.get(b"hello") == 2, "both got it")
    assert seen.messages[0].metadata == {"exchange": exchange}


def test_merge_options(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    Options may depend on the producer's index.
    """
    queues, seen = [rabbitmq.queue(), rabbitmq.queue()], Seen()
    for number, queue in enumerate(queues):
        rabbitmq.publish(queue, [f"{number}"])
    source = producer(rabbitmq.url, "none", concurrency=2, merge_options=lambda index: {"queue": queues[index]})
    with make_pipeline(seen, producer=source):
        seen.wait([b"0", b"1"])


def test_connection_as_mapping_list_and_parameters(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    The address is a URL, a mapping, pika's parameters, or a list of such: those that refuse are passed over.
    """
    import pika

    nobody = {"host": rabbitmq.host, "port": 1, "connection_timeout": 2.0}
    there = {"host": rabbitmq.host, "port": rabbitmq.port, "username": "guest", "password": "guest"}
    for connection in [there, [nobody, there], pika.URLParameters(rabbitmq.url), [pika.URLParameters(rabbitmq.url)]]:
        queue, seen = rabbitmq.queue(), Seen()
        rabbitmq.publish(queue, ["x"])
        with make_pipeline(seen, producer=producer(connection, queue)):
            seen.wait([b"x"])


def test_name_of_the_connection(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    The broker's lists show the producer's name, or the one that was chosen.
    """
    queue, seen = rabbitmq.queue(), Seen()
    with make_pipeline(seen, name="orders", producer=producer(rabbitmq.url, queue)):
        with make_pipeline(seen, producer=producer(rabbitmq.url, queue, name="chosen")):
            wait_until_consuming(rabbitmq, queue, 2)
            listed = rabbitmq.ctl("list_connections", "client_properties")
    assert "orders.Broadway.Producer_0" in listed and "chosen" in listed


def test_prefetch_is_the_limit(make_pipeline: Any, rabbitmq: Any, gate: Any) -> None:
    """
    A pipeline never has more messages than prefetch_count allows; the others stay in the queue.
    """
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, bodies(40))
    seen = Seen(lambda message: gate.wait())
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, qos={"prefetch_count": 7})):
        gate.arrived()
        eventually(lambda: rabbitmq.counts(queue) == (33, 7), "it has as many as it may")
        gate.open()
        seen.wait(bodies(40))


def test_no_ack_pauses_and_loses_nothing(make_pipeline: Any, rabbitmq: Any, gate: Any) -> None:
    """
    With no_ack the broker would send without limit: the consumer pauses while buffer_size messages wait, and resumes.
    """
    # 20 MB: more than the buffers of the sockets hold, which fill before the consumer is cancelled.
    queue, all_bodies = rabbitmq.queue(), [body.ljust(4096) for body in bodies(5000)]
    rabbitmq.publish(queue, all_bodies)
    seen = Seen(lambda message: gate.wait() if message.data == all_bodies[0] else None)
    options: Dict[str, Any] = {"consume_options": {"no_ack": True}, "buffer_size": 100}
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, **options)):
        gate.arrived()
        wait_until_consuming(rabbitmq, queue, 0)
        left = rabbitmq.ready_count(queue)
        gate.open()
        seen.wait(all_bodies)
    assert 0 < left < 5000
    assert seen.duplicates() == 0
    assert_settled(rabbitmq, queue)


def test_stop_with_no_ack_loses_nothing(make_pipeline: Any, rabbitmq: Any, gate: Any) -> None:
    """
    What the broker has sent, and forgotten, is handled before a stop ends.
    """
    queue, all_bodies = rabbitmq.queue(), bodies(5000)
    rabbitmq.publish(queue, all_bodies)
    seen = Seen(lambda message: gate.wait())
    pipeline = make_pipeline(seen, producer=producer(rabbitmq.url, queue, consume_options={"no_ack": True}))
    with pipeline:
        gate.arrived()
        pipeline.request_stop()
        gate.open()
    assert len(seen.messages) + rabbitmq.ready_count(queue) == 5000
    assert seen.duplicates() == 0


def test_same_pipeline_again(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    A pipeline that was stopped may be started again, and goes on where it was.
    """
    queue, seen = rabbitmq.queue(), Seen()
    pipeline = make_pipeline(seen, producer=producer(rabbitmq.url, queue))
    for round_ in range(3):
        rabbitmq.publish(queue, bodies(100, round_ * 100))
        with pipeline:
            seen.wait(bodies(100, round_ * 100))
    assert seen.duplicates() == 0
    assert_settled(rabbitmq, queue)


def test_two_pipelines_share_a_queue(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    The broker divides the messages between the consumers of a queue.
    """
    queue, first, second = rabbitmq.queue(), Seen(), Seen()
    options = {"qos": {"prefetch_count": 10}}
    with make_pipeline(first, producer=producer(rabbitmq.url, queue, **options)):
        with make_pipeline(second, producer=producer(rabbitmq.url, queue, **options)):
            wait_until_consuming(rabbitmq, queue, 2)
            rabbitmq.publish(queue, bodies(1000))
            eventually(lambda: len(first.messages) + len(second.messages) >= 1000, "all were handled")
    assert first.messages and second.messages
    assert set(first.times) | set(second.times) == set(bodies(1000))
    assert len(first.messages) + len(second.messages) == 1000
    assert_settled(rabbitmq, queue)


def test_delivery_limit_of_a_quorum_queue(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    A quorum queue counts how often a message came back, and moves it away at its limit.
    """
    morgue = rabbitmq.queue()
    arguments = {
        "x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": morgue,
    }  # fmt: skip
    queue, seen = rabbitmq.queue(arguments=arguments), Seen(fail)
    rabbitmq.publish(queue, ["poison"])
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, on_failure="reject_and_requeue")):
        eventually(lambda: rabbitmq.ready_count(morgue) == 1, "the message was moved away")
    assert [message.metadata.get("delivery_count") for message in seen.messages] == [None, 1, 2]
    assert [body for body, _, _ in rabbitmq.take(morgue)] == [b"poison"]


@pytest.mark.parametrize("is_consumed", [False, True], ids=["basic_get", "basic_consume"])
def test_messages_of_somebody_else(make_pipeline: Any, rabbitmq: Any, is_consumed: bool) -> None:
    """
    What after_connect takes from the channel is not acknowledged along with the pipeline's messages.
    """
    queue, others, seen = rabbitmq.queue(), rabbitmq.queue(), Seen()
    rabbitmq.publish(queue, bodies(200))

    def take_one(channel: Any) -> None:
        if is_consumed:
            channel.basic_consume(others, lambda *delivery: None)
        else:
            rabbitmq.publish(others, ["not yours"])
            assert channel.basic_get(others)[2] == b"not yours"

    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, after_connect=take_one)):
        seen.wait(bodies(200))
        if is_consumed:
            rabbitmq.publish(others, ["not yours"])
            eventually(lambda: rabbitmq.ready_count(others) == 0, "it is delivered")
        rabbitmq.publish(queue, bodies(200, 200))
        seen.wait(bodies(400))
        eventually(lambda: rabbitmq.ready_count(queue) == 0, "all were delivered")
        assert rabbitmq.counts(others) == (0, 1)
    assert_settled(rabbitmq, queue)
    eventually(lambda: rabbitmq.ready_count(others) == 1, "what was not ours is ready again")


def test_forked_child(rabbitmq: Any, spawn: Any) -> None:
    """
    A child of a fork has a connection of its own when it starts the pipeline, and leaves that of its parent alone.
    """
    queue = rabbitmq.queue()
    process = spawn(
        """
import os, sys, time
from broadway_sync import Pipeline
from tests.connectors.rabbitmq.support import Seen, bodies, producer
url, queue = sys.argv[1:]
seen = Seen()
pipeline = Pipeline(
    seen, name="p", producer=producer(url, queue, qos={"prefetch_count": 5}), processors={"default": {"concurrency": 1}}
).start()
pid = os.fork()
if not pid:
    seen.messages.clear()
    pipeline.start()
    sys.stdout.write("child runs\\n")
seen.wait_for_count(20)
pipeline.stop()
who = "parent" if pid else "child"
sys.stdout.write(f"{who} handled {len(seen.messages)}, {len(set(seen.times)) == len(seen.messages)}\\n")
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
""",
        rabbitmq.url,
        queue,
    )
    process.wait_for("child runs")
    wait_until_consuming(rabbitmq, queue, 2)
    rabbitmq.publish(queue, bodies(100))
    assert process.wait() == 0, process.errors
    counts = {line.split()[0]: int(line.split()[2].rstrip(",")) for line in process.lines if "handled" in line}
    assert set(counts) == {"parent", "child"} and all(line.endswith("True") for line in process.lines if "," in line)
    eventually(lambda: rabbitmq.ready_count(queue) == 100 - sum(counts.values()), "the rest is ready again")


def test_prefetch_that_does_not_suit(make_pipeline: Any, rabbitmq: Any, caplog: Any) -> None:
    """
    start() warns when batches can never fill, and when there are more processors than messages.
    """
    queue = rabbitmq.queue()
    with make_pipeline(
        name="p", producer=producer(rabbitmq.url, queue, qos={"prefetch_count": 3}),
        processors={"default": {"concurrency": 4}}, batchers={"default": {"batch_size": 100}},
    ):  # fmt: skip
        assert texts(caplog) == [
            "[p.Broadway.Producer] qos.prefetch_count lets the broker send 3 messages, but there are 4 processors: "
            "some will never have anything to do",
            "[p.Broadway.Producer] qos.prefetch_count lets the broker send 3 messages, fewer than "
            "batchers.default.batch_size (100): its batches will never be full, and wait for batch_timeout",
        ]


def test_factory(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    A factory makes the producer as well as (class, options) does.
    """
    queue, seen = rabbitmq.queue(), Seen()
    rabbitmq.publish(queue, ["x"])
    make = {"module": lambda: RabbitMQProducer(queue=queue, connection=rabbitmq.url, on_failure="ack")}
    with make_pipeline(seen, producer=make):
        seen.wait([b"x"])
