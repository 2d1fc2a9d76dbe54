"""
SQSProducer on real servers: delivery, metadata, failures, leases, FIFO queues, stops. Each test on both servers.
"""

from __future__ import annotations

import time
from typing import Any, Callable

import pytest

from broadway_sync import Message
from broadway_sync.connectors.common.events import ACKNOWLEDGE, RECEIVE
from tests.connectors.recorder import LONG, Recorder
from tests.connectors.sqs.support import failures, said
from tests.helpers import SCALE, eventually, stage_threads


class OnAnyServer:
    """
    The tests; ``server`` says on which one.
    """

    def test_everything_is_handled_and_deleted_once(
        self, server: Any, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Nothing is left, nothing is said.
        """
        queue = server.queue()
        data = {str(number) for number in range(200)}
        server.send(queue, sorted(data))
        recorder = Recorder()
        batchers = {"default": {"batch_size": 10, "batch_timeout": 0.05}}
        pipeline = start(server, queue, recorder, producers=2, batchers=batchers)
        recorder.wait_for_data(data)
        eventually(lambda: server.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
        pipeline.stop()
        assert recorder.duplicates() == set()
        assert failures(caplog) == []

    def test_metadata(self, server: Any, start: Callable[..., Any]) -> None:
        """
        As the client's own receive gives them, with names and types of this library.
        """
        queue = server.queue()
        attributes = {
            "colour": {"DataType": "String", "StringValue": "röd"},
            "price": {"DataType": "Number.eur", "StringValue": "2.5"},
            "count": {"DataType": "Number", "StringValue": "7"},
            "image": {"DataType": "Binary.gif", "BinaryValue": b"\x00\xff"},
        }
        sent = server.client().send_message(QueueUrl=queue, MessageBody="hällo", MessageAttributes=attributes)
        recorder = Recorder()
        start(server, queue, recorder, options={"attribute_names": "all", "message_attribute_names": "all"})
        recorder.wait_for_data(["hällo"])
        metadata = recorder.messages[0].metadata
        assert metadata["message_id"] == sent["MessageId"]
        assert metadata["md5_of_body"] == sent["MD5OfMessageBody"]
        assert isinstance(metadata["receipt_handle"], str)
        assert metadata["receipt_handle"]
        assert metadata["message_attributes"] == {
            "colour": {"data_type": "String", "value": "röd"},
            "price": {"data_type": "Number.eur", "value": 2.5},
            "count": {"data_type": "Number", "value": 7},
            "image": {"data_type": "Binary.gif", "value": b"\x00\xff"},
        }
        assert metadata["approximate_receive_count"] == metadata["attributes"]["approximate_receive_count"] == 1
        assert abs(metadata["attributes"]["sent_timestamp"] / 1000 - time.time()) < 60

    def test_only_the_wanted_attributes_come(self, server: Any, start: Callable[..., Any]) -> None:
        """
        And always how often the message came.
        """
        queue = server.queue()
        attributes = {name: {"DataType": "String", "StringValue": name} for name in "ab"}
        server.client().send_message(QueueUrl=queue, MessageBody="x", MessageAttributes=attributes)
        recorder = Recorder()
        start(server, queue, recorder, options={"attribute_names": ["sender_id"], "message_attribute_names": ["a"]})
        recorder.wait_for_data("x")
        metadata = recorder.messages[0].metadata
        assert set(metadata["attributes"]) == {"approximate_receive_count", "sender_id"}
        assert set(metadata["message_attributes"]) == {"a"}

    @pytest.mark.parametrize("on_failure", ["noop", "nack", ("nack", 1)])
    def test_failed_message_comes_again(self, server: Any, start: Callable[..., Any], on_failure: Any) -> None:
        """
        When its visibility timeout is over, at once, or when it was said.
        """
        queue = server.queue(VisibilityTimeout=30 if on_failure == "nack" else 2)
        server.send(queue, ["x"])
        times: list[float] = []

        def fail_once(message: Message) -> None:
            times.append(time.monotonic())
            if message.metadata["approximate_receive_count"] == 1:
                raise ValueError("once")

        recorder = Recorder(fail_once)
        start(server, queue, recorder, options={"on_failure": on_failure})
        recorder.wait_for(lambda: len(recorder.order) == 2)
        eventually(lambda: server.counts(queue) == (0, 0, 0), "it is deleted", LONG)
        assert recorder.messages[1].metadata["approximate_receive_count"] == 2
        least = {"noop": 1.5, "nack": 0.0}.get(on_failure, 0.5)  # servers look at visibility in steps
        assert least <= times[1] - times[0]
        if on_failure == "nack":
            assert times[1] - times[0] < 15

    def test_failed_message_may_be_deleted(self, server: Any, start: Callable[..., Any]) -> None:
        """
        For all, or for one.
        """
        queue = server.queue(VisibilityTimeout=1)
        server.send(queue, ["a", "b"])

        def fail(message: Message) -> None:
            if message.data == "b":
                message.configure_ack(on_failure="noop")
            message.fail("no")

        recorder = Recorder(fail)
        start(server, queue, recorder, options={"on_failure": "ack"})
        recorder.wait_for(lambda: recorder.counts["b"] >= 2)
        assert recorder.counts["a"] == 1

    def test_dead_letters_go_where_the_queue_says(self, server: Any, start: Callable[..., Any]) -> None:
        """
        After as many receives as its redrive policy allows.
        """
        dead = server.queue()
        policy = f'{{"deadLetterTargetArn": "{server.arn(dead)}", "maxReceiveCount": "2"}}'
        queue = server.queue(RedrivePolicy=policy)
        server.send(queue, ["poison"])
        recorder = Recorder(lambda message: message.fail("always"))
        start(server, queue, recorder, options={"on_failure": "nack"})
        eventually(lambda: server.counts(dead)[0] == 1, "it is among the dead letters", LONG)
        assert recorder.order == ["poison", "poison"]

    def test_slow_handlers_keep_their_messages(
        self, server: Any, start: Callable[..., Any], hear: Callable[..., Any], gate: Any
    ) -> None:
        """
        Leases are extended again and again, also of what waits behind them: nothing is delivered twice.
        """
        queue = server.queue(VisibilityTimeout=2)
        extended = hear((*ACKNOWLEDGE, "stop"))
        data = {str(number) for number in range(8)}
        server.send(queue, sorted(data))
        recorder = Recorder(gate.wait)
        start(server, queue, recorder, processors={"default": {"concurrency": 2, "max_demand": 5}})
        gate.arrived()
        extended.wait_for(4, lambda metadata: metadata["action"] == "extend" and metadata["failed"] == 0)
        gate.open()
        recorder.wait_for_data(data)
        eventually(lambda: server.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
        assert recorder.duplicates() == set()

    def test_message_that_is_received_twice(
        self, server: Any, start: Callable[..., Any], gate: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        While the first copy is still in the pipeline: the newest handle counts, for both.
        """
        queue = server.queue(VisibilityTimeout=20)
        server.send(queue, ["twice"])
        recorder = Recorder(gate.wait)
        pipeline = start(server, queue, recorder, processors={"default": {"concurrency": 4}})
        gate.arrived()
        handle = recorder.messages[0].metadata["receipt_handle"]
        server.client().change_message_visibility(QueueUrl=queue, ReceiptHandle=handle, VisibilityTimeout=0)
        gate.arrived()
        assert recorder.messages[1].metadata["receipt_handle"] != handle
        assert recorder.messages[1].metadata["message_id"] == recorder.messages[0].metadata["message_id"]
        gate.open()
        eventually(lambda: server.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
        pipeline.stop()
        assert recorder.counts == {"twice": 2}
        assert failures(caplog) == []

    def test_partial_failure_of_a_batch_call(
        self, server: Any, start: Callable[..., Any], gate: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        One message is gone before it is deleted: the others of its batch are deleted, and the log says what was not.
        """
        queue = server.queue()
        data = [str(number) for number in range(10)]
        server.send(queue, data)
        recorder = Recorder(gate.wait)
        pipeline = start(server, queue, recorder, processors={"default": {"concurrency": 10, "max_demand": 1}})
        for _ in data:
            gate.arrived()
        gone = recorder.messages[3].metadata["receipt_handle"]
        server.client().delete_message(QueueUrl=queue, ReceiptHandle=gone)
        gate.open()
        eventually(lambda: server.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
        pipeline.stop()
        assert len(said(caplog, "ack of 1 messages was not accepted")) == 1

    def test_stop_in_the_middle_of_a_long_poll(
        self, server: Any, start: Callable[..., Any], hear: Callable[..., Any]
    ) -> None:
        """
        It does not wait for it; what the poll still brings is visible to others at once.
        """
        queue = server.queue(VisibilityTimeout=600)
        polls = hear((*RECEIVE, "start"))
        pipeline = start(server, queue, Recorder(), options={"wait_time_seconds": 20})
        polls.wait_for(1)
        started = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - started < 4.0 * SCALE
        server.send(queue, ["late"])  # ends the poll, too
        eventually(lambda: not stage_threads(pipeline.name), "the receiver has ended", LONG)
        assert server.counts(queue) == (1, 0, 0)

    def test_fifo_queue_keeps_order_in_its_groups(self, server: Any, start: Callable[..., Any]) -> None:
        """
        Whatever the concurrency, and although batches could wait for an hour.
        """
        queue = server.queue(fifo=True)
        for number in range(12):
            for group in "ab":
                server.send(queue, [f"{group}{number}"], group=group)
        recorder = Recorder()
        batchers = {"default": {"batch_size": 1, "batch_timeout": 3600.0, "concurrency": 3}}
        start(server, queue, recorder, processors={"default": {"concurrency": 5}}, batchers=batchers)
        eventually(lambda: server.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
        assert recorder.duplicates() == set()
        for group in "ab":
            mine = [data for data in recorder.order if data[0] == group]
            assert mine == [f"{group}{number}" for number in range(12)]

    def test_fifo_group_waits_for_the_message_that_failed(self, server: Any, start: Callable[..., Any]) -> None:
        """
        What was received behind it is handed back, and comes again behind it; other groups go on.
        """
        queue = server.queue(fifo=True, VisibilityTimeout=3)
        for number in range(5):
            for group in "ab":
                server.send(queue, [f"{group}{number}"], group=group)

        def fail_once(message: Message) -> None:
            if message.data == "a1" and message.metadata["approximate_receive_count"] == 1:
                raise ValueError("once")

        recorder = Recorder(fail_once)
        start(server, queue, recorder, processors={"default": {"concurrency": 3}})
        eventually(lambda: server.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
        assert [data for data in recorder.order if data[0] == "a"] == ["a0", "a1", "a1", "a2", "a3", "a4"]
        assert [data for data in recorder.order if data[0] == "b"] == ["b0", "b1", "b2", "b3", "b4"]

    def test_visibility_timeout_of_zero_is_sent(self, server: Any, start: Callable[..., Any], gate: Any) -> None:
        """
        Then every message is anybody's at once; the producer neither spins nor complains.
        """
        queue = server.queue()
        server.send(queue, ["x"])
        recorder = Recorder(gate.wait)
        start(server, queue, recorder, options={"visibility_timeout": 0, "max_number_of_messages": 1})
        gate.arrived()
        eventually(lambda: server.counts(queue) == (1, 0, 0), "the message is visible although it is being handled")
        gate.open()

    def test_pipeline_may_be_started_again(self, server: Any, start: Callable[..., Any]) -> None:
        """
        And goes on where it stopped.
        """
        queue = server.queue()
        recorder = Recorder()
        pipeline = start(server, queue, recorder)
        server.send(queue, ["a"])
        recorder.wait_for_data("a")
        pipeline.stop()
        server.send(queue, ["b"])
        pipeline.start()
        recorder.wait_for_data("ab")
        pipeline.stop()
        assert server.counts(queue) == (0, 0, 0)
        assert recorder.counts == {"a": 1, "b": 1}


class TestElasticMQ(OnAnyServer):
    """
    The most complete one.
    """

    @pytest.fixture
    def server(self, elasticmq: Any) -> Any:
        """
        ElasticMQ.
        """
        return elasticmq


class TestMiniStack(OnAnyServer):
    """
    A second opinion.
    """

    @pytest.fixture
    def server(self, ministack: Any) -> Any:
        """
        ministack.
        """
        return ministack
