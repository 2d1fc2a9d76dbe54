"""
SQSProducer when something breaks: the server, the connection, the credentials, the consumer itself. Each time: nothing
lost, and duplicates only of what was in flight.
"""

from __future__ import annotations

import http.server
import json
import logging
import os
import threading
import time
from typing import Any, Callable, Iterator

import pytest

from broadway_sync import ConnectorError, Message, PipelineFailedError
from broadway_sync.connectors.common.events import ACKNOWLEDGE, CONNECT, RECEIVE
from broadway_sync.connectors.sqs.client import SQSClient
from tests.connectors.recorder import LONG, Recorder
from tests.connectors.sqs.support import FAST, failures, module, said
from tests.helpers import SCALE, eventually, stage_threads

CONSUMER = "tests.connectors.sqs.consumer"
# Handed out and not deleted, at most, when a fault strikes: what the pipeline holds, and one receive on its way.
IN_FLIGHT = 2 * 10 + 10


def numbers(count: int) -> list[str]:
    """
    Return *count* bodies.
    """
    return [str(number) for number in range(count)]


def test_server_is_killed_and_comes_back(
    elasticmq: Any, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    The pipeline goes on with the rest, having said so once.
    """
    caplog.set_level(logging.INFO, "broadway_sync")
    queue = elasticmq.queue(VisibilityTimeout=3)
    elasticmq.send(queue, numbers(300))
    recorder = Recorder()
    pipeline = start(elasticmq, queue, recorder, processors={"default": {"concurrency": 2}})
    recorder.wait_for(lambda: len(recorder.counts) >= 100)
    elasticmq.kill()
    eventually(lambda: said(caplog, "no connection"), "the fault is logged", LONG)
    elasticmq.start()
    recorder.wait_for_data(numbers(300))
    eventually(lambda: elasticmq.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    assert pipeline.state == "running"
    # What was deleted just before the kill may come back: the server had not written it yet.
    assert len(recorder.duplicates()) <= 2 * IN_FLIGHT
    assert 1 <= len(said(caplog, "no connection")) <= 2
    assert said(caplog, "connected again")


@pytest.mark.parametrize("verb", ["drop", "reset", "stall"])
def test_connection_is_cut(
    elasticmq: Any, start: Callable[..., Any], make_proxy: Callable[..., Any], verb: str
) -> None:
    """
    In the middle of the work, several times.
    """
    queue = elasticmq.queue(VisibilityTimeout=2)
    elasticmq.send(queue, numbers(240))
    proxy = make_proxy(elasticmq.port)
    recorder = Recorder()
    config = {"read_timeout": 1.0, "connect_timeout": 1.0}
    start(
        elasticmq, queue, recorder, port=proxy.port, options={"config": config},
        processors={"default": {"concurrency": 2}},
    )  # fmt: skip
    for number in (60, 180) if verb == "stall" else (60, 120, 180):
        recorder.wait_for(lambda number=number: len(recorder.counts) >= number)
        getattr(proxy, verb)()
        if verb == "stall":
            time.sleep(1.5)  # longer than the client waits for an answer: that is the fault
            proxy.resume()
    recorder.wait_for_data(numbers(240))
    eventually(lambda: elasticmq.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    assert len(recorder.duplicates()) <= 3 * IN_FLIGHT


def test_connection_is_cut_in_the_middle_of_a_long_poll(
    elasticmq: Any, start: Callable[..., Any], make_proxy: Callable[..., Any], hear: Callable[..., Any]
) -> None:
    """
    The next poll brings what was sent meanwhile.
    """
    queue = elasticmq.queue()
    proxy = make_proxy(elasticmq.port)
    polls = hear((*RECEIVE, "start"))
    recorder = Recorder()
    start(elasticmq, queue, recorder, port=proxy.port, options={"wait_time_seconds": 2})
    polls.wait_for(1)
    eventually(lambda: proxy.connections >= 1, "the poll is on its way")
    proxy.reset()
    elasticmq.send(queue, ["x"])
    recorder.wait_for_data("x")
    assert recorder.counts == {"x": 1}


def test_answer_of_a_fifo_receive_is_lost(elasticmq: Any, start: Callable[..., Any]) -> None:
    """
    The next attempt brings the same messages at once, not after their visibility timeout.
    """
    import boto3
    from botocore.exceptions import ReadTimeoutError

    queue = elasticmq.queue(fifo=True, VisibilityTimeout=600)
    for body in "xy":
        elasticmq.send(queue, [body], group="g")
    lost: list[Any] = []

    class Losing(boto3.Session):  # type: ignore[misc]
        def client(self, *arguments: Any, **options: Any) -> Any:
            made = super().client(*arguments, **{**options, **elasticmq.client_options()})
            receive = made.receive_message

            def lose_the_first(**request: Any) -> Any:
                answer = receive(**request)
                if answer.get("Messages") and not lost:
                    lost.extend(answer["Messages"])
                    raise ReadTimeoutError(endpoint_url=elasticmq.url)
                return answer

            made.receive_message = lose_the_first
            return made

    recorder = Recorder()
    credentials = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"))
    start(elasticmq, queue, recorder, options={"config": {**credentials, "session": Losing}})
    recorder.wait_for_data("xy")
    assert recorder.order == ["x", "y"]
    assert len(lost) == 2


def test_acknowledgement_fails_once(
    elasticmq: Any, start: Callable[..., Any], hear: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It is sent again, telemetry counts it, nothing is delivered twice.
    """
    queue = elasticmq.queue(VisibilityTimeout=5)
    failed, errors = hear((*ACKNOWLEDGE, "exception")), [ConnectorError("no answer")]
    settle = SQSClient.settle

    def fail_once(self: Any, action: Any, handles: Any) -> Any:
        if action[0] == "ack" and errors:
            raise errors.pop()
        return settle(self, action, handles)

    monkeypatch.setattr(SQSClient, "settle", fail_once)
    elasticmq.send(queue, numbers(30))
    recorder = Recorder()
    start(elasticmq, queue, recorder)
    recorder.wait_for_data(numbers(30))
    eventually(lambda: elasticmq.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    assert recorder.duplicates() == set()
    failed.wait_for(1)
    assert [metadata["action"] for _, _, metadata in failed.events] == ["ack"]


def test_transformer_raises(elasticmq: Any, make_pipeline: Callable[..., Any]) -> None:
    """
    What it was given comes again when its visibility timeout is over, of a FIFO queue in order.
    """
    queue = elasticmq.queue(fifo=True, VisibilityTimeout=2)
    elasticmq.send(queue, numbers(5), group="g")
    refused: list[str] = []

    def refuse_one(message: Message) -> Message:
        if message.data == "1" and not refused:
            refused.append(message.data)
            raise ValueError("once")
        return message

    recorder = Recorder()
    producer = {"module": module(queue, elasticmq), "transformer": refuse_one}
    pipeline = make_pipeline(recorder, producer=producer).start()
    eventually(lambda: elasticmq.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    pipeline.stop()
    assert recorder.order == numbers(5)
    assert refused == ["1"]


def test_queue_that_is_not_there_yet(
    elasticmq: Any, start: Callable[..., Any], hear: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    Is said once, tried again, and found when it is there.
    """
    attempts = hear((*CONNECT, "exception"))
    name = f"later_{os.getpid()}"
    url = f"{elasticmq.url}/000000000000/{name}"
    recorder = Recorder()
    pipeline = start(elasticmq, url, recorder)
    attempts.wait_for(4)
    assert pipeline.state == "running"
    assert len(failures(caplog)) == 1
    assert f"there is no queue {url}, or not in this region or account" in failures(caplog)[0]
    elasticmq.client().create_queue(QueueName=name)
    elasticmq.send(url, ["x"])
    recorder.wait_for_data("x")


def test_endpoint_where_nobody_is(
    elasticmq: Any, start: Callable[..., Any], make_proxy: Callable[..., Any], hear: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """
    Start does not fail, stop does not wait.
    """
    proxy = make_proxy(elasticmq.port)
    proxy.refuse()
    attempts = hear((*CONNECT, "exception"))
    pipeline = start(elasticmq, elasticmq.queue(), port=proxy.port)
    attempts.wait_for(3)
    assert len(failures(caplog)) == 1
    assert "no connection: UnreachableError: no answer from" in failures(caplog)[0]
    started = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - started < 4.0 * SCALE


def test_stop_while_a_connection_is_being_made(
    elasticmq: Any, start: Callable[..., Any], make_proxy: Callable[..., Any]
) -> None:
    """
    To a server that accepts it and does not answer: the stop does not wait.
    """
    queue = elasticmq.queue()
    proxy = make_proxy(elasticmq.port)
    proxy.stall()
    config = {"read_timeout": 60.0, "max_attempts": 1}
    pipeline = start(elasticmq, queue, port=proxy.port, options={"config": config})
    eventually(lambda: proxy.connections == 1, "the connection is open")
    started = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - started < 4.0 * SCALE
    proxy.reset()
    eventually(lambda: not stage_threads(pipeline.name), "the receiver has ended", LONG)


SECRETIVE = "The security token included in the request is invalid, aws_secret_access_key=wJalrSECRET"


class Refusing(http.server.BaseHTTPRequestHandler):
    """
    AWS, as it answers wrong credentials, in both of its protocols: older versions of boto3 speak the older one.
    """

    def do_POST(self) -> None:  # noqa: N802 - the name that the base class wants
        """
        Refuse.
        """
        self.server.requests += 1  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "").split(";")[0]
        if kind == "application/x-amz-json-1.0":
            body = json.dumps({"__type": "com.amazon.coral.service#InvalidClientTokenId", "message": SECRETIVE})
        else:
            kind = "text/xml"
            error = f"<Type>Sender</Type><Code>InvalidClientTokenId</Code><Message>{SECRETIVE}</Message>"
            body = f"<ErrorResponse><Error>{error}</Error><RequestId>1</RequestId></ErrorResponse>"
        self.send_response(403)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: Any) -> None:
        """
        Say nothing.
        """


@pytest.fixture
def refusing() -> Iterator[Any]:
    """
    A server that accepts no credentials.
    """
    pytest.importorskip("boto3")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.requests = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def to_refusing(server: Any, **options: Any) -> dict[str, Any]:
    """
    Return the options of a producer that asks *server*.
    """
    config = {
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "AKIAEXAMPLE",
        "aws_secret_access_key": "wJalrSECRET",
    }
    return {"queue_url": "http://127.0.0.1/1/q", **FAST, "config": config, **options}


def test_wrong_credentials(
    refusing: Any, make_pipeline: Callable[..., Any], hear: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    One clear record, no spin, no secret; the pipeline lives, for they may be mended elsewhere.
    """
    from broadway_sync.connectors.sqs import SQSProducer

    attempts = hear((*CONNECT, "exception"))
    options = to_refusing(refusing, backoff_min=0.2, backoff_max=0.2)
    pipeline = make_pipeline(producer={"module": (SQSProducer, options)}).start()
    started = time.monotonic()
    attempts.wait_for(3)
    assert time.monotonic() - started >= 2 * 0.2  # two pauses between three attempts
    assert refusing.requests <= 4
    assert pipeline.state == "running"
    assert len(failures(caplog)) == 1
    assert "CredentialsError: credentials or permissions for http://127.0.0.1/1/q are not sufficient" in caplog.text
    assert "InvalidClientTokenId" in caplog.text
    assert "SECRET" not in caplog.text


def test_wrong_credentials_with_backoff_type_stop(refusing: Any, make_pipeline: Callable[..., Any]) -> None:
    """
    The pipeline fails.
    """
    from broadway_sync.connectors.sqs import SQSProducer

    options = to_refusing(refusing, backoff_type="stop")
    pipeline = make_pipeline(
        producer={"module": (SQSProducer, options)}, max_restarts=0, resubscribe_interval=0.0
    ).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(LONG)
    assert isinstance(caught.value.__cause__, ConnectorError)
    assert "are not sufficient" in str(caught.value.__cause__)
    assert "SECRET" not in str(caught.value.__cause__)


def test_no_credentials_at_all(
    make_pipeline: Callable[..., Any], hear: Callable[..., Any], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any,
) -> None:  # fmt: skip
    """
    Is said so.
    """
    pytest.importorskip("boto3")
    from broadway_sync.connectors.sqs import SQSProducer

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    attempts = hear((*CONNECT, "exception"))
    url = "https://sqs.eu-west-1.amazonaws.com/1/q"
    options = {"queue_url": url, **FAST, "config": {"endpoint_url": "http://127.0.0.1:9"}}
    make_pipeline(producer={"module": (SQSProducer, options)}).start()
    attempts.wait_for(2)
    assert f"CredentialsError: no credentials for {url}: Unable to locate credentials" in caplog.text


def test_server_hangs_during_a_stop(
    elasticmq: Any, start: Callable[..., Any], gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The stop ends in its time all the same, and says what may come again.
    """
    queue = elasticmq.queue(VisibilityTimeout=2)
    elasticmq.send(queue, numbers(10))
    recorder = Recorder(gate.wait)
    config = {"read_timeout": 1.0, "max_attempts": 1}
    # Acknowledgements are tried for half of it; what is left is for a machine that is slow.
    pipeline = start(elasticmq, queue, recorder, options={"config": config}, shutdown=4.0 * SCALE)
    gate.arrived()
    elasticmq.pause()
    gate.open()
    pipeline.stop()  # which would raise if its time ran out
    # By a thread that may still be in its last request.
    eventually(lambda: said(caplog, "may be delivered again"), "it is said what was not acknowledged", LONG)
    elasticmq.resume()
    # It may have obeyed what it had not answered in time.
    eventually(lambda: elasticmq.counts(queue)[1] == 0, "what was not acknowledged is visible again", LONG)


def options_for(server: Any, **options: Any) -> dict[str, Any]:
    """
    Return options of SQSProducer for a consumer process.
    """
    return {**FAST, "config": server.client_options(), **options}


def handled(*processes: Any) -> list[str]:
    """
    Return what consumer processes have handled, in order.
    """
    return [line.split()[1] for process in processes for line in process.lines if line.startswith("handled")]


def undone(process: Any) -> int:
    """
    Return how much of what a consumer process has handled it could not delete, as far as it could say.
    """
    return len(handled(process)) - sum(int(line.split()[1]) for line in process.lines if line.startswith("deleted"))


def test_consumer_is_killed_half_way(elasticmq: Any, spawn: Callable[..., Any]) -> None:
    """
    Another one gets all that it had not deleted.
    """
    queue = elasticmq.queue(VisibilityTimeout=4)
    elasticmq.send(queue, numbers(300))
    settings = {"processors": {"default": {"concurrency": 2}}}
    given = json.dumps({"options": options_for(elasticmq), "settings": settings, "seconds": 0.01})
    first = spawn(CONSUMER, queue, given)
    for _ in range(100):
        first.wait_for("handled")
    first.kill()
    second = spawn(CONSUMER, queue, given)
    second.wait_for("started")  # it listens to signals, even if there was nothing left to do
    eventually(lambda: elasticmq.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    second.terminate()
    assert second.wait() == 0, second.errors
    done = handled(first, second)
    assert set(done) == set(numbers(300))
    assert len(done) - 300 <= undone(first)


def test_sigterm_with_full_buffers(elasticmq: Any, spawn: Callable[..., Any]) -> None:
    """
    What was begun is finished and deleted, what was not is visible again: nothing is left in flight.
    """
    queue = elasticmq.queue(VisibilityTimeout=600)
    elasticmq.send(queue, numbers(200))
    settings = {
        "processors": {"default": {"concurrency": 2}},
        "batchers": {"default": {"batch_size": 50, "batch_timeout": 3600.0}},
    }
    given = {"options": options_for(elasticmq), "settings": settings, "seconds": 0.02}
    consumer = spawn(CONSUMER, queue, json.dumps({**given, "producers": 2}))
    for _ in range(30):
        consumer.wait_for("handled")
    consumer.terminate()
    assert consumer.wait() == 0, consumer.errors
    assert consumer.lines[-1] == "stopped"
    assert consumer.errors == ""
    done = handled(consumer)
    visible, hidden, _ = elasticmq.counts(queue)
    assert hidden == 0
    left = [message["Body"] for message in elasticmq.take(queue)]
    assert len(left) == visible
    assert sorted(done + left) == sorted(numbers(200))


def test_several_processes_on_one_queue_and_one_dies(elasticmq: Any, spawn: Callable[..., Any]) -> None:
    """
    They share the work; what the dead one had is done by the others.
    """
    queue = elasticmq.queue(VisibilityTimeout=4)
    settings = {"processors": {"default": {"concurrency": 2}}}
    given = json.dumps({"options": options_for(elasticmq), "settings": settings, "seconds": 0.01})
    processes = [spawn(CONSUMER, queue, given) for _ in range(3)]
    sent: list[str] = []

    def all_have_worked() -> bool:
        if len(sent) < 300 + len(handled(*processes)):  # one that comes late has something to do
            more = [str(number) for number in range(len(sent), len(sent) + 100)]
            elasticmq.send(queue, more)
            sent.extend(more)
        return all(handled(process) for process in processes)

    eventually(all_have_worked, "all three work", LONG)
    processes[0].kill()
    eventually(lambda: elasticmq.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    for process in processes[1:]:
        process.terminate()
        assert process.wait() == 0, process.errors
    done = handled(*processes)
    assert set(done) == set(sent)
    assert len(done) - len(sent) <= undone(processes[0])


def test_ten_thousand_messages(ministack: Any, start: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """
    Several producers, one message in a hundred fails the first time: each is handled, deleted, and none twice.
    """
    queue = ministack.queue(VisibilityTimeout=60)
    count = 10_000
    ministack.send(queue, numbers(count))

    def fail_once(message: Message) -> None:
        if int(message.data) % 100 == 0 and message.metadata["approximate_receive_count"] == 1:
            message.fail("one in a hundred")

    recorder = Recorder(fail_once)
    pipeline = start(
        ministack, queue, recorder, producers=3, options={"on_failure": "nack"},
        processors={"default": {"concurrency": 4, "max_demand": 20}},
        batchers={"default": {"batch_size": 50, "batch_timeout": 0.05, "concurrency": 2}},
    )  # fmt: skip
    recorder.wait_for(lambda: len(recorder.order) >= count + count // 100, 2 * LONG)
    eventually(lambda: ministack.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    pipeline.stop()
    assert recorder.duplicates() == {str(number) for number in range(0, count, 100)}
    assert len(recorder.order) == count + count // 100
    assert failures(caplog) == []
