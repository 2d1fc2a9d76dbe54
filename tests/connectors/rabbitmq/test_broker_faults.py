"""
RabbitMQ under faults: nothing is lost, and nothing is handled twice but what was in flight.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, List, Set

import pytest

from broadway_sync import Message, telemetry
from broadway_sync.connectors.common.events import CONNECT
from broadway_sync.connectors.rabbitmq.connection import ABORT_PATIENCE, CANCEL_PATIENCE, CLOSE_PATIENCE
from tests.connectors.rabbitmq.support import (
    QUICK,
    Seen,
    assert_settled,
    bodies,
    producer,
    texts,
    wait_until_consuming,
    wait_until_empty,
)
from tests.helpers import SCALE, Call, eventually

CONSUMER = "tests.connectors.rabbitmq.consumer"
PREFETCH = {"qos": {"prefetch_count": 50}}


def done(*processes: Any) -> List[bytes]:
    """
    Return the bodies that consumer processes have handled, with repetitions.
    """
    lines = [line for process in processes for line in process.lines]
    return [line[4:].encode() for line in lines if line.startswith("did ")]


def slowly(seconds: float) -> Seen:
    """
    Return a handler that takes its time.
    """
    return Seen(lambda message: time.sleep(seconds))


# ---- processes that die


def test_consumer_is_killed(rabbitmq: Any, spawn: Any) -> None:
    """
    A process is killed half way; the next one gets the rest, and again what the first one had in flight.
    """
    queue, all_bodies = rabbitmq.queue(), bodies(2000)
    rabbitmq.publish(queue, all_bodies)
    first = spawn(CONSUMER, rabbitmq.url, queue, '{"pause": 0.005}')
    first.wait_for("did 300")  # far from the end, also if this test stands still now
    first.kill()
    second = spawn(CONSUMER, rabbitmq.url, queue)
    eventually(lambda: len(set(done(first, second))) == 2000, "every message was handled", 20 * SCALE)
    wait_until_empty(rabbitmq, queue)
    assert set(done(first, second)) == set(all_bodies)
    assert len(done(first)) < 2000
    assert len(done(first, second)) - 2000 <= 50


def test_one_of_several_processes_dies(rabbitmq: Any, spawn: Any) -> None:
    """
    Three processes share a queue and one of them is killed: the others do its work too.
    """
    queue, all_bodies = rabbitmq.queue(), bodies(3000)
    consumers = [spawn(CONSUMER, rabbitmq.url, queue) for _ in range(3)]
    for consumer in consumers:
        consumer.wait_for("ready")
    wait_until_consuming(rabbitmq, queue, 3)
    rabbitmq.publish(queue, all_bodies)
    eventually(lambda: len(done(*consumers)) > 500, "work has begun")
    consumers[0].kill()
    eventually(lambda: len(set(done(*consumers))) == 3000, "every message was handled", 20 * SCALE)
    wait_until_empty(rabbitmq, queue)
    assert all(done(consumer) for consumer in consumers)
    assert len(done(*consumers)) - 3000 <= 50


def test_sigterm_with_full_buffers(rabbitmq: Any, spawn: Any) -> None:
    """
    A process that is asked to stop hands back what it has not begun and acknowledges the rest: none is done twice.
    """
    queue, all_bodies = rabbitmq.queue(), bodies(1000)
    rabbitmq.publish(queue, all_bodies)
    first = spawn(CONSUMER, rabbitmq.url, queue, '{"pause": 0.01, "qos": {"prefetch_count": 500}}')
    first.wait_for("did 100")
    first.terminate()
    assert first.wait() == 0, first.errors
    assert first.lines[-1] == "stopped"
    eventually(lambda: rabbitmq.counts(queue) == (1000 - len(done(first)), 0), "the rest is ready again")
    second = spawn(CONSUMER, rabbitmq.url, queue)
    eventually(lambda: len(done(first, second)) >= 1000, "every message was handled", 20 * SCALE)
    wait_until_empty(rabbitmq, queue)
    assert sorted(done(first, second)) == sorted(all_bodies)


# ---- brokers that die


@pytest.mark.parametrize("hard", [False, True], ids=["stopped", "killed"])
def test_broker_restarts(make_pipeline: Any, rabbitmq: Any, caplog: Any, hard: bool) -> None:
    """
    The broker is stopped, or killed, and started again: the pipeline goes on by itself.
    """
    queue, all_bodies, seen = rabbitmq.queue(), bodies(2000), slowly(0.0005)
    rabbitmq.publish(queue, all_bodies)
    rabbitmq.sync()
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, **PREFETCH)) as pipeline:
        seen.wait_for_count(700)
        rabbitmq.restart(hard=hard)
        seen.wait(all_bodies)
        assert pipeline.state == "running"
    assert_settled(rabbitmq, queue)
    if not hard:  # one that is killed has not written down the acknowledgements of its last second
        assert seen.duplicates() <= 50
    assert 1 <= len([text for text in texts(caplog) if "no connection" in text]) <= 3


def test_broker_is_down_at_the_start(make_pipeline: Any, rabbitmq: Any, make_proxy: Any, caplog: Any) -> None:
    """
    start() does not wait for the broker: the pipeline tries again until there is one, and says so once.
    """
    queue, seen, proxy = rabbitmq.queue(), Seen(), make_proxy(rabbitmq.port)
    proxy.refuse()
    rabbitmq.publish(queue, ["x"])
    attempts: List[Any] = []
    telemetry.attach("attempts", (*CONNECT, "exception"), lambda *event: attempts.append(event))
    try:
        with make_pipeline(seen, producer=producer(rabbitmq.url_of(proxy.port), queue)) as pipeline:
            eventually(lambda: len(attempts) >= 3, "it tries again")
            assert pipeline.state == "running"
            proxy.accept()
            seen.wait([b"x"])
    finally:
        telemetry.detach("attempts")
    assert len([text for text in texts(caplog) if "no connection" in text]) == 1


# ---- connections that break


@pytest.mark.parametrize("fault", ["drop", "reset"])
def test_connection_is_cut(make_pipeline: Any, rabbitmq: Any, make_proxy: Any, fault: str) -> None:
    """
    The connection is cut several times while messages flow.
    """
    queue, all_bodies, seen, proxy = rabbitmq.queue(), bodies(2000), slowly(0.0005), make_proxy(rabbitmq.port)
    rabbitmq.publish(queue, all_bodies)
    with make_pipeline(seen, producer=producer(rabbitmq.url_of(proxy.port), queue, **PREFETCH)):
        for cut in range(1, 4):
            seen.wait_for_count(cut * 400)
            getattr(proxy, fault)()
        seen.wait(all_bodies)
    assert_settled(rabbitmq, queue)
    assert seen.duplicates() <= 3 * 50


def test_connection_stalls_for_a_while(make_pipeline: Any, rabbitmq: Any, make_proxy: Any) -> None:
    """
    When nothing passes for a moment and then all of it, nothing has happened.
    """
    queue, all_bodies, seen, proxy = rabbitmq.queue(), bodies(1000), Seen(), make_proxy(rabbitmq.port)
    with make_pipeline(seen, producer=producer(rabbitmq.url_of(proxy.port), queue, **PREFETCH)):
        wait_until_consuming(rabbitmq, queue)
        proxy.stall()
        rabbitmq.publish(queue, all_bodies)
        assert seen.messages == []
        proxy.resume()
        seen.wait(all_bodies)
    assert_settled(rabbitmq, queue)
    assert seen.duplicates() == 0


@pytest.mark.slow
def test_connection_stalls_for_good(make_pipeline: Any, rabbitmq: Any, make_proxy: Any) -> None:
    """
    A connection on which nothing passes any more is given up for another one: the heartbeat finds it.
    """
    queue, seen, proxy = rabbitmq.queue(), Seen(), make_proxy(rabbitmq.port)
    url = f"{rabbitmq.url_of(proxy.port)}?heartbeat=1"
    with make_pipeline(seen, producer=producer(url, queue)):
        wait_until_consuming(rabbitmq, queue)
        proxy.stall()
        eventually(lambda: proxy.accepted == 2, "it has connected again", 30 * SCALE)
        proxy.resume()
        rabbitmq.publish(queue, ["x"])
        seen.wait([b"x"])


def test_handler_slower_than_the_heartbeat(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    While all handlers are busy for longer than the broker waits for a heartbeat, the connection is kept up.
    """
    queue, seen = rabbitmq.queue(), slowly(4.0)
    rabbitmq.publish(queue, ["x"])
    with make_pipeline(seen, producer=producer(f"{rabbitmq.url}?heartbeat=1", queue)):
        seen.wait([b"x"])
    assert_settled(rabbitmq, queue)
    assert seen.times == {b"x": 1}


def test_broker_closes_every_connection(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    An operator closes the connections: they are opened again.
    """
    queue, all_bodies, seen = rabbitmq.queue(), bodies(600), slowly(0.001)
    rabbitmq.publish(queue, all_bodies)
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, **PREFETCH)):
        seen.wait_for_count(200)
        rabbitmq.close_connections()
        seen.wait(all_bodies)
    assert_settled(rabbitmq, queue)
    assert seen.duplicates() <= 50


# ---- channels and consumers that end


def test_channel_is_closed_by_a_bad_acknowledgement(make_pipeline: Any, rabbitmq: Any, caplog: Any) -> None:
    """
    Somebody else acknowledges on the channel what it never delivered: the broker closes it, the pipeline goes on.
    """
    channels: List[Any] = []
    queue, all_bodies, seen = rabbitmq.queue(), bodies(600), slowly(0.001)
    rabbitmq.publish(queue, all_bodies)
    source = producer(rabbitmq.url, queue, after_connect=channels.append, **PREFETCH)
    with make_pipeline(seen, producer=source):
        seen.wait_for_count(200)
        channel = channels[0]
        channel.connection.add_callback_threadsafe(lambda: channel.basic_ack(10**6))
        seen.wait(all_bodies)
    assert len(channels) == 2
    assert_settled(rabbitmq, queue)
    assert seen.duplicates() <= 50
    assert any("somebody else acknowledged on this channel" in text for text in texts(caplog))


def test_late_acknowledgements_are_dropped(make_pipeline: Any, rabbitmq: Any, gate: Any, caplog: Any) -> None:
    """
    What was finished after its connection was lost is not acknowledged on the next one, where its tag is another
    message: that one would be lost.
    """
    queue = rabbitmq.queue()
    seen = Seen(lambda message: gate.wait() if message.data == b"0" and not message.metadata["redelivered"] else None)
    rabbitmq.publish(queue, bodies(1))
    source = producer(rabbitmq.url, queue, metadata=["redelivered"])
    with make_pipeline(seen, producer=source, processors={"default": {"concurrency": 2, "max_demand": 1}}):
        gate.arrived()
        rabbitmq.close_connections()
        seen.wait_for_count(2)
        wait_until_empty(rabbitmq, queue)
        gate.open()
        eventually(lambda: any("acknowledgements are dropped" in text for text in texts(caplog)), "it says so")
        rabbitmq.publish(queue, bodies(100, 1))
        seen.wait(bodies(101))
        wait_until_empty(rabbitmq, queue)
    assert seen.duplicates() == 1


def test_queue_is_deleted_and_declared_again(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    The queue is deleted under the consumer: with ``declare`` it is there again at once.
    """
    queue, seen = rabbitmq.queue(), Seen()
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, declare={"durable": True})):
        wait_until_consuming(rabbitmq, queue)
        rabbitmq.delete_queue(queue)
        eventually(lambda: _consumers(rabbitmq, queue) == 1, "the queue is consumed again")
        rabbitmq.publish(queue, ["x"])
        seen.wait([b"x"])


def test_queue_is_deleted_and_comes_back(make_pipeline: Any, rabbitmq: Any, caplog: Any) -> None:
    """
    Without ``declare`` the pipeline waits until somebody creates the queue; the log says why, once for each reason.
    """
    queue, seen = rabbitmq.queue(), Seen()
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue)) as pipeline:
        wait_until_consuming(rabbitmq, queue)
        rabbitmq.delete_queue(queue)
        eventually(lambda: any("no queue" in text for text in texts(caplog)), "it says that there is no queue")
        assert pipeline.state == "running"
        rabbitmq.queue(queue)
        rabbitmq.publish(queue, ["x"])
        seen.wait([b"x"])
    reasons = [text for text in texts(caplog) if "no connection" in text]
    assert len(reasons) == 2, reasons
    assert "was the queue deleted?" in reasons[0] and "create it, or set declare" in reasons[1]


def test_queue_in_exclusive_use(make_pipeline: Any, rabbitmq: Any, caplog: Any) -> None:
    """
    A second pipeline with an exclusive consumer stands by, says why, and takes over when the first one ends.
    """
    queue, first, second = rabbitmq.queue(), Seen(), Seen()
    source = producer(rabbitmq.url, queue, consume_options={"exclusive": True})
    active = make_pipeline(first, producer=source).start()
    wait_until_consuming(rabbitmq, queue)
    with make_pipeline(second, producer=source):
        eventually(lambda: any("another consumer has the queue" in text for text in texts(caplog)), "it says why")
        rabbitmq.publish(queue, bodies(5))
        first.wait(bodies(5))
        active.stop()
        rabbitmq.publish(queue, bodies(5, 5))
        second.wait(bodies(5, 5))
    assert "ACCESS_REFUSED" in texts(caplog)[0] and "in exclusive use" in texts(caplog)[0]
    assert not set(first.times) & set(second.times)


def _consumers(rabbitmq: Any, queue: str) -> int:
    import pika.exceptions

    try:
        return int(rabbitmq.consumer_count(queue))
    except pika.exceptions.ChannelClosedByBroker:
        return 0


def test_broker_gives_up_on_a_slow_message(make_pipeline: Any, rabbitmq: Any, gate: Any, caplog: Any) -> None:
    """
    A handler takes longer than the broker's consumer_timeout: the channel is closed and the message comes again.
    """
    queue = rabbitmq.queue()
    seen = Seen(lambda message: None if message.metadata["redelivered"] else gate.wait())
    rabbitmq.publish(queue, ["x"])
    rabbitmq.set_env("consumer_timeout", "1000")
    try:
        source = producer(rabbitmq.url, queue, metadata=["redelivered"])
        with make_pipeline(seen, producer=source, processors={"default": {"concurrency": 2, "max_demand": 1}}):
            seen.wait_for_count(2)
            wait_until_empty(rabbitmq, queue)
            gate.open()
    finally:
        rabbitmq.set_env("consumer_timeout", "1800000")
    assert seen.times == {b"x": 2}
    assert any("longer than the broker's consumer_timeout" in text for text in texts(caplog))


def test_acknowledgement_fails_once(make_pipeline: Any, rabbitmq: Any, monkeypatch: Any) -> None:
    """
    An acknowledgement that cannot be sent costs the connection: what it was for comes again, nothing else.
    """
    from broadway_sync.connectors.rabbitmq.client import PikaLink

    failures: List[Exception] = [OSError("injected")]
    settle = PikaLink.settle

    def fail_once(self: Any, frames: Any) -> None:
        if failures:
            raise failures.pop()
        settle(self, frames)

    monkeypatch.setattr(PikaLink, "settle", fail_once)
    queue, all_bodies, seen = rabbitmq.queue(), bodies(500), Seen()
    rabbitmq.publish(queue, all_bodies)
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, **PREFETCH)):
        seen.wait(all_bodies)
    assert failures == []
    assert_settled(rabbitmq, queue)
    assert seen.duplicates() <= 50


def test_blocked_connection(make_pipeline: Any, rabbitmq: Any, caplog: Any) -> None:
    """
    A broker that is short of memory stops the connection on which after_connect publishes: the log says so, and when it
    is over; nothing is lost meanwhile.
    """
    queue, notes, seen = rabbitmq.queue(), rabbitmq.queue(), Seen()
    rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        source = producer(rabbitmq.url, queue, after_connect=lambda channel: channel.basic_publish("", notes, b"here"))
        with make_pipeline(seen, producer=source):
            eventually(lambda: any("broker blocks the connection" in text for text in texts(caplog)), "it says so")
            rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
            eventually(lambda: any("unblocked the connection" in text for text in texts(caplog)), "it is over")
            rabbitmq.publish(queue, bodies(100))
            seen.wait(bodies(100))
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    assert_settled(rabbitmq, queue)
    assert seen.duplicates() == 0


# ---- what is wrong from the start


def test_wrong_credentials(make_pipeline: Any, rabbitmq: Any, caplog: Any) -> None:
    """
    The broker's refusal is logged once, with what to check and without the password, and retried at leisure.
    """
    caplog.set_level(logging.DEBUG)
    attempts: List[float] = []
    telemetry.attach("attempts", (*CONNECT, "exception"), lambda *event: attempts.append(time.monotonic()))
    url = rabbitmq.url_of(user="guest", password="swordfish")
    try:
        with make_pipeline(producer=producer(url, rabbitmq.queue(), backoff_min=0.2, backoff_type="exp")):
            eventually(lambda: len(attempts) >= 3, "it tries again")
    finally:
        telemetry.detach("attempts")
    assert attempts[1] - attempts[0] >= 0.2
    reasons = texts(caplog)
    assert len(reasons) == 1, reasons
    assert "ACCESS_REFUSED" in reasons[0] and "check user, password" in reasons[0]
    assert "swordfish" not in "".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)


def test_after_connect_that_raises(make_pipeline: Any, rabbitmq: Any, caplog: Any) -> None:
    """
    What after_connect raises fails the attempt and nothing else; no connection is left behind.
    """
    queue, seen, calls = rabbitmq.queue(), Seen(), []

    def fail_twice(channel: Any) -> None:
        calls.append(channel)
        if len(calls) <= 2:
            raise LookupError("not yet")

    rabbitmq.publish(queue, ["x"])
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue, after_connect=fail_twice)):
        seen.wait([b"x"])
        assert [channel.connection.is_open for channel in calls] == [False, False, True]
    assert [text for text in texts(caplog) if "LookupError: not yet" in text]


# ---- stops


def io_threads() -> List[str]:
    """
    Return the names of the threads of connections.
    """
    return [thread.name for thread in threading.enumerate() if thread.name.endswith(".IO")]


def test_stop_while_waiting(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    A stop does not wait for the next message.
    """
    queue = rabbitmq.queue()
    with make_pipeline(producer=producer(rabbitmq.url, queue)) as pipeline:
        wait_until_consuming(rabbitmq, queue)
        began = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - began < 4 * SCALE
    assert rabbitmq.consumer_count(queue) == 0


@pytest.mark.parametrize("fault", ["refuse", "stall"])
def test_stop_while_connecting(make_pipeline: Any, rabbitmq: Any, make_proxy: Any, fault: str) -> None:
    """
    A stop does not wait for a broker that refuses, or that takes connections and does not answer.
    """
    proxy = make_proxy(rabbitmq.port)
    getattr(proxy, fault)()
    connection = {"host": rabbitmq.host, "port": proxy.port, "connection_timeout": 60.0}
    with make_pipeline(producer=producer(connection, "none", backoff_min=60.0, backoff_max=60.0)) as pipeline:
        if fault == "stall":
            eventually(lambda: proxy.accepted, "it has begun to connect")
        began = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - began < 4 * SCALE
        proxy.reset()
        eventually(lambda: not io_threads(), "its thread has ended")


def test_stop_while_the_set_up_hangs(make_pipeline: Any, rabbitmq: Any, make_proxy: Any) -> None:
    """
    The broker falls silent between the connection and the consumer: a stop ends the attempt, and its thread.
    """
    queue, proxy, reached = rabbitmq.queue(), make_proxy(rabbitmq.port), threading.Event()

    def stall(channel: Any) -> None:
        proxy.stall()
        reached.set()

    source = producer(rabbitmq.url_of(proxy.port), queue, after_connect=stall)
    with make_pipeline(producer=source) as pipeline:
        assert reached.wait(10 * SCALE)
        began = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - began < 4 * SCALE
        eventually(lambda: not io_threads(), "its thread has ended")


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "with finished messages"])
def test_stop_while_the_broker_hangs(make_pipeline: Any, rabbitmq: Any, gate: Any, is_busy: bool) -> None:
    """
    A broker that hangs with its port open cannot keep a pipeline from ending, nor a thread alive.
    """
    queue, seen = rabbitmq.queue(), Seen(lambda message: gate.wait())
    rabbitmq.publish(queue, bodies(3 if is_busy else 0))
    patience = CANCEL_PATIENCE + CLOSE_PATIENCE + ABORT_PATIENCE
    with make_pipeline(seen, producer=producer(rabbitmq.url, queue), shutdown=60.0) as pipeline:
        wait_until_consuming(rabbitmq, queue)
        if is_busy:
            gate.arrived()
        rabbitmq.pause()
        gate.open()
        began = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - began < patience + 4 * SCALE
        eventually(lambda: not io_threads(), "its thread has ended")
    rabbitmq.resume()


def test_stop_hands_back_what_was_not_begun(make_pipeline: Any, rabbitmq: Any, gate: Any) -> None:
    """
    A stop does not wait for what nobody has begun: it goes back to the queue, the rest is acknowledged.
    """
    queue, all_bodies, seen = rabbitmq.queue(), bodies(300), Seen(lambda message: gate.wait())
    rabbitmq.publish(queue, all_bodies)
    source = producer(rabbitmq.url, queue, qos={"prefetch_count": 200})
    with make_pipeline(seen, producer=source) as pipeline:
        gate.arrived()
        eventually(lambda: rabbitmq.ready_count(queue) == 100, "the prefetch is used up")
        pipeline.request_stop()
        eventually(lambda: rabbitmq.ready_count(queue) >= 280, "what was not begun is back")
        gate.open()
    eventually(lambda: rabbitmq.counts(queue) == (300 - len(seen.messages), 0), "the rest is ready again")
    assert seen.duplicates() == 0
    assert {body for body, _, _ in rabbitmq.take(queue)} | set(seen.times) == set(all_bodies)


def test_stop_while_the_connection_is_lost(make_pipeline: Any, rabbitmq: Any, make_proxy: Any, gate: Any) -> None:
    """
    A connection that is lost during the drain is not made again: its acknowledgements would be void.
    """
    queue, seen, proxy = rabbitmq.queue(), Seen(lambda message: gate.wait()), make_proxy(rabbitmq.port)
    rabbitmq.publish(queue, bodies(3))
    with make_pipeline(seen, producer=producer(rabbitmq.url_of(proxy.port), queue)) as pipeline:
        gate.arrived()
        stopping = Call(pipeline.stop)
        eventually(lambda: rabbitmq.consumer_count(queue) == 0, "the consumer is cancelled")
        proxy.drop()
        eventually(lambda: rabbitmq.ready_count(queue) == 3, "the broker has them all back")
        gate.open()
        stopping.result()
    assert proxy.accepted == 1
    assert rabbitmq.counts(queue) == (3, 0)


def test_crash_of_the_producer(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    The producer crashes (a transformer that raises): another one takes over, with another connection.
    """
    raised: Set[bytes] = set()

    def raise_once(message: Message) -> Message:
        if message.data == b"100" and message.data not in raised:
            raised.add(message.data)
            raise ValueError("a transformer's fault")
        return message

    queue, all_bodies, seen = rabbitmq.queue(), bodies(300), Seen()
    rabbitmq.publish(queue, all_bodies)
    source = {**producer(rabbitmq.url, queue, **PREFETCH), "transformer": raise_once}
    with make_pipeline(seen, producer=source, resubscribe_interval=0.01):
        seen.wait(all_bodies)
    assert raised == {b"100"}
    assert_settled(rabbitmq, queue)
    assert seen.duplicates() <= 50


def test_no_second_attempt(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    With ``backoff_type="stop"`` a broker that is not there crashes the producer, and in the end the pipeline.
    """
    from broadway_sync import ConnectorError, PipelineFailedError

    connection = {"host": rabbitmq.host, "port": 1}
    source = producer(connection, "none", backoff_type="stop")
    pipeline = make_pipeline(producer=source, max_restarts=0, resubscribe_interval=0.01).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join()
    assert isinstance(caught.value.__cause__, ConnectorError)
    assert "no connection to RabbitMQ" in str(caught.value.__cause__)
    assert QUICK["backoff_min"] < 1
