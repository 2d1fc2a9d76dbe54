"""
The seam to boto3, over a stand-in for boto3's clients that records what it is asked.
"""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from broadway_sync import ConnectorError
from broadway_sync.connectors.common.options import build
from broadway_sync.connectors.common.polling_client import Refusal
from broadway_sync.connectors.sqs import client as module
from broadway_sync.connectors.sqs.client import SQSClient
from broadway_sync.connectors.sqs.errors import (
    CredentialsError,
    OverLimitError,
    QueueMissingError,
    RefusedError,
    UnreachableError,
)  # fmt: skip
from broadway_sync.connectors.sqs.options import SQSOptions
from broadway_sync.connectors.sqs.requests import region_of

pytest.importorskip("boto3")

import botocore.exceptions as boto  # noqa: E402

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/invoices"
FIFO = URL + ".fifo"


class FakeBoto:
    """
    A session and the clients that it makes, all in one: answers each operation by a function or with a value.
    """

    region_name = "us-east-2"

    def __init__(self, parameters: tuple[str, ...] = ("MessageSystemAttributeNames",), **answers: Any) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.made: list[dict[str, Any]] = []
        self.closed = 0
        self._answers = {"get_queue_attributes": {"Attributes": {"VisibilityTimeout": "45"}}, **answers}
        shape = SimpleNamespace(input_shape=SimpleNamespace(members=parameters))
        self.meta = SimpleNamespace(service_model=SimpleNamespace(operation_model=lambda name: shape))

    def client(self, service: str, **arguments: Any) -> FakeBoto:
        """
        Stand in for ``Session.client``.
        """
        assert service == "sqs"
        self.made.append(arguments)
        return self

    def close(self) -> None:
        """
        Stand in for the client's.
        """
        self.closed += 1

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append((operation, arguments))
            answer = self._answers.get(operation, {})
            if isinstance(answer, list):
                answer = answer.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call


def make(boto: FakeBoto, url: str = URL, warnings: list[str] | None = None, **options: Any) -> SQSClient:
    """
    Return a client that is connected to *boto*.
    """
    config = {"session": lambda: boto, **options.pop("config", {})}
    client = SQSClient(
        build(SQSOptions, {"queue_url": url, "config": config, **options}),
        ([] if warnings is None else warnings).append,
    )
    client.connect()
    return client


def refusal(code: str, message: str = "no") -> boto.ClientError:
    """
    Return an error as the service answers with it.
    """
    return boto.ClientError({"Error": {"Code": code, "Message": message}}, "Operation")


def test_two_clients_with_the_timeouts_of_their_calls() -> None:
    """
    The receiving one outwaits the longest poll; the other one notices a dead connection before a lease is over.
    """
    fake = FakeBoto()
    make(fake)
    receiver, settler = (made["config"] for made in fake.made)
    assert (receiver.read_timeout, settler.read_timeout) == (30, 10)
    assert (receiver.connect_timeout, settler.connect_timeout) == (5, 5)
    assert receiver.retries == settler.retries == {"mode": "standard", "total_max_attempts": 2}


@pytest.mark.parametrize(
    ("options", "timeouts"),
    [
        ({"wait_time_seconds": 0}, (10, 10)),
        ({"wait_time_seconds": 1}, (11, 10)),
        ({"wait_time_seconds": 20}, (30, 10)),
        ({"config": {"read_timeout": 3}}, (3, 3)),
        ({"config": {"read_timeout": 60}}, (60, 10)),
        ({"config": {"client_config": {"read_timeout": 7}}}, (7, 7)),
    ],
    ids=repr,
)
def test_read_timeouts(options: dict[str, Any], timeouts: tuple[float, float]) -> None:
    """
    From the wait, unless given.
    """
    fake = FakeBoto()
    make(fake, **options)
    assert tuple(made["config"].read_timeout for made in fake.made) == timeouts


def test_options_of_boto3_reach_it() -> None:
    """
    Endpoint and certificates as arguments, the rest in its config.
    """
    fake = FakeBoto()
    config = {
        "endpoint_url": "http://localhost:9324", "region_name": "elsewhere-1", "verify": "/ca.pem",
        "connect_timeout": 1, "max_attempts": 5,
        "client_config": {"proxies": {"http": "http://proxy"}, "retries": {"mode": "legacy"}},
    }  # fmt: skip
    make(fake, config=config)
    for made in fake.made:
        assert made["endpoint_url"] == "http://localhost:9324"
        assert made["region_name"] == "elsewhere-1"
        assert made["verify"] == "/ca.pem"
        assert made["config"].connect_timeout == 1
        assert made["config"].proxies == {"http": "http://proxy"}
        assert made["config"].retries == {"mode": "legacy"}


def test_keys_make_a_session_of_this_producer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The default session, which all threads share, is not touched.
    """
    import boto3

    made: list[dict[str, Any]] = []
    fake = FakeBoto()
    monkeypatch.setattr(boto3, "Session", lambda **arguments: made.append(arguments) or fake)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_session_token": "c"}
    client = SQSClient(build(SQSOptions, {"queue_url": URL, "config": keys}), print)
    client.connect()
    assert made == [{**keys, "profile_name": None}]
    assert boto3.DEFAULT_SESSION is None


@pytest.mark.parametrize(
    ("url", "region"),
    [
        (URL, "eu-west-1"),
        ("https://sqs.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://ap-southeast-2.queue.amazonaws.com/1/q", "ap-southeast-2"),
        ("https://vpce-0a1b-xyz.sqs.us-east-1.vpce.amazonaws.com/1/q", "us-east-1"),
        ("https://queue.amazonaws.com/1/q", None),
        ("http://localhost:9324/000000000000/q", None),
        ("http://sqs.eu-west-1.localhost:4566/1/q", None),
        ("not a url", None),
    ],
)
def test_region_comes_from_the_address_of_the_queue(url: str, region: str | None) -> None:
    """
    Or from wherever boto3 looks for it.
    """
    assert region_of(url) == region
    fake = FakeBoto()
    make(fake, url)
    assert {made["region_name"] for made in fake.made} == {region or "us-east-2"}


def test_lease_is_the_queues_visibility_timeout() -> None:
    """
    Looked up in connect().
    """
    fake = FakeBoto()
    client = make(fake)
    assert client.lease == 45.0
    assert fake.calls == [("get_queue_attributes", {"QueueUrl": URL, "AttributeNames": ["VisibilityTimeout"]})]


@pytest.mark.parametrize("seconds", [0, 7, 43200])
def test_lease_is_the_option_if_there_is_one(seconds: int) -> None:
    """
    The queue is asked all the same: that is what tells whether it is there.
    """
    fake = FakeBoto()
    client = make(fake, visibility_timeout=seconds)
    assert (client.lease, client.longest_lease) == (seconds, 43200 - seconds)
    assert [operation for operation, _ in fake.calls] == ["get_queue_attributes"]


def test_no_permission_to_look_the_lease_up() -> None:
    """
    The default of SQS is assumed, with a warning; without one if an option says it.
    """
    warnings: list[str] = []
    denied = {"get_queue_attributes": refusal("AccessDeniedException")}
    assert make(FakeBoto(**denied), warnings=warnings).lease == 30.0
    assert warnings == [
        f"no permission for sqs:GetQueueAttributes of {URL}: leases are taken to last 30 s; if the queue's visibility "
        "timeout is shorter, set visibility_timeout"
    ]
    warnings.clear()
    assert make(FakeBoto(**denied), warnings=warnings, visibility_timeout=7).lease == 7.0
    assert warnings == []


def test_failed_connect_leaves_nothing_open() -> None:
    """
    And can be tried again.
    """
    attributes = {"Attributes": {"VisibilityTimeout": "5"}}
    fake = FakeBoto(get_queue_attributes=[refusal("QueueDoesNotExist"), attributes])
    client = SQSClient(build(SQSOptions, {"queue_url": URL, "config": {"session": lambda: fake}}), print)
    with pytest.raises(QueueMissingError):
        client.connect()
    assert fake.closed == 2
    client.connect()
    assert client.lease == 5.0
    client.close()
    client.close()
    assert fake.closed == 4


def test_request_of_the_defaults() -> None:
    """
    Nothing but how often a message came: what is absent is the queue's business.
    """
    fake = FakeBoto()
    assert make(fake).receive(7) == []
    assert fake.calls[-1] == (
        "receive_message",
        {"QueueUrl": URL, "MaxNumberOfMessages": 7, "MessageSystemAttributeNames": ["ApproximateReceiveCount"]},
    )


def test_zeros_are_sent() -> None:
    """
    0 is not the same as absent.
    """
    fake = FakeBoto()
    make(fake, wait_time_seconds=0, visibility_timeout=0).receive(1)
    request = fake.calls[-1][1]
    assert (request["WaitTimeSeconds"], request["VisibilityTimeout"]) == (0, 0)


def test_request_of_everything() -> None:
    """
    Each option under the name of the API.
    """
    fake = FakeBoto()
    make(
        fake, wait_time_seconds=20, visibility_timeout=60, attribute_names=["sender_id", "approximate_receive_count"],
        message_attribute_names=["a", "b.*"],
    ).receive(10)  # fmt: skip
    assert fake.calls[-1][1] == {
        "QueueUrl": URL,
        "MaxNumberOfMessages": 10,
        "WaitTimeSeconds": 20,
        "VisibilityTimeout": 60,
        "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SenderId"],
        "MessageAttributeNames": ["a", "b.*"],
    }
    make(fake, attribute_names="all", message_attribute_names="all").receive(10)
    request = fake.calls[-1][1]
    assert (request["MessageSystemAttributeNames"], request["MessageAttributeNames"]) == (["All"], ["All"])


def test_older_boto3_knows_system_attributes_by_their_older_name() -> None:
    """
    Before 1.34.
    """
    fake = FakeBoto(parameters=("QueueUrl", "AttributeNames"))
    make(fake, FIFO).receive(1)
    request = fake.calls[-1][1]
    assert request["AttributeNames"] == ["ApproximateReceiveCount", "MessageGroupId"]
    assert "MessageSystemAttributeNames" not in request


def test_receive_of_a_fifo_queue_keeps_its_id_until_there_is_an_answer() -> None:
    """
    So that messages of an answer that was lost on its way come again at once.
    """
    lost = boto.ReadTimeoutError(endpoint_url="x")
    fake = FakeBoto(receive_message=[lost, lost, {}, {}, refusal("InvalidParameterValue"), {}])
    client = make(fake, FIFO)
    for outcome in ("lost", "lost", "", "", "refused", ""):
        if outcome:
            with pytest.raises(ConnectorError):
                client.receive(10)
        else:
            client.receive(10)
    ids = [
        arguments["ReceiveRequestAttemptId"] for operation, arguments in fake.calls if operation == "receive_message"
    ]
    assert ids[0] == ids[1] == ids[2]
    assert len({*ids[2:]}) == 4
    assert all(ids)


def test_received_messages_become_deliveries() -> None:
    """
    In the order of the answer; groups of a FIFO queue alone.
    """
    messages = [{"ReceiptHandle": f"h{n}", "Body": str(n), "Attributes": {"MessageGroupId": "g"}} for n in range(3)]
    for url, group in ((URL, None), (FIFO, "g")):
        deliveries = make(FakeBoto(receive_message={"Messages": messages}), url).receive(10)
        assert [(each.handle, each.data, each.group) for each in deliveries] == [
            ("h0", "0", group), ("h1", "1", group), ("h2", "2", group),
        ]  # fmt: skip


def test_ack_deletes_by_position() -> None:
    """
    Ids are positions: one message may be there under two handles.
    """
    fake = FakeBoto()
    assert make(fake).settle(("ack", 0.0), ["h0", "h1"]) == []
    assert fake.calls[-1] == (
        "delete_message_batch",
        {"QueueUrl": URL, "Entries": [{"Id": "0", "ReceiptHandle": "h0"}, {"Id": "1", "ReceiptHandle": "h1"}]},
    )


@pytest.mark.parametrize(
    ("action", "seconds"),
    [
        (("nack", 0.0), 0), (("nack", 7.0), 7), (("extend", 45.0), 45), (("extend", 0.2), 1), (("nack", 1e9), 43200),
    ],
)  # fmt: skip
def test_nack_and_extend_change_the_visibility(action: tuple[str, float], seconds: int) -> None:
    """
    In whole seconds, 0 too; never beyond what the service takes.
    """
    fake = FakeBoto()
    assert make(fake).settle(action, ["h0", "h1"]) == []
    entries = [
        {"Id": "0", "ReceiptHandle": "h0", "VisibilityTimeout": seconds},
        {"Id": "1", "ReceiptHandle": "h1", "VisibilityTimeout": seconds},
    ]
    assert fake.calls[-1] == ("change_message_visibility_batch", {"QueueUrl": URL, "Entries": entries})
    assert type(fake.calls[-1][1]["Entries"][0]["VisibilityTimeout"]) is int


def test_one_handle_twice_in_a_lot_is_sent_once() -> None:
    """
    And a refusal names the right handle.
    """
    failed = {"Failed": [{"Id": "1", "SenderFault": True, "Code": "ReceiptHandleIsInvalid", "Message": "old"}]}
    fake = FakeBoto(delete_message_batch=failed)
    assert make(fake).settle(("ack", 0.0), ["a", "a", "b", "a"]) == [Refusal("b", "ReceiptHandleIsInvalid: old", True)]
    assert [entry["ReceiptHandle"] for entry in fake.calls[-1][1]["Entries"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "is_senders", "is_final"),
    [
        ("ReceiptHandleIsInvalid", True, True), ("InvalidParameterValue", True, True), ("InternalError", False, False),
        ("InternalError", True, False), ("RequestThrottled", True, False),
        ("AWS.SimpleQueueService.KmsThrottled", True, False), ("ThrottlingException", True, False),
        ("Whatever", False, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["ack", "nack", "extend"])
def test_partial_failures(code: str, is_senders: bool, is_final: bool, kind: str) -> None:
    """
    An answer with status 200 may have refused entries: final is what the sender did wrong and cannot mend.
    """
    failed = {"Failed": [{"Id": "1", "SenderFault": is_senders, "Code": code}], "Successful": [{"Id": "0"}]}
    fake = FakeBoto(delete_message_batch=failed, change_message_visibility_batch=failed)
    assert make(fake).settle((kind, 5.0), ["h0", "h1"]) == [Refusal("h1", f"{code}: ", is_final)]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (boto.EndpointConnectionError(endpoint_url="http://x"), UnreachableError, "no answer from {url}: "),
        (boto.ReadTimeoutError(endpoint_url="x"), UnreachableError, "no answer from {url}: ReadTimeoutError: "),
        (boto.ConnectionClosedError(endpoint_url="x"), UnreachableError, "no answer from {url}: "),
        (boto.SSLError(endpoint_url="x", error="bad"), UnreachableError, "no answer from {url}: SSLError"),
        (ConnectionResetError("reset"), UnreachableError, "no answer from {url}: ConnectionResetError: reset"),
        (boto.NoCredentialsError(), CredentialsError, "no credentials for {url}: Unable to locate credentials"),
        (boto.ProfileNotFound(profile="p"), CredentialsError, "no credentials for {url}: "),
        (refusal("InvalidClientTokenId"), CredentialsError, "credentials or permissions for {url} are not sufficient"),
        (refusal("InvalidSignatureException"), CredentialsError, "credentials or permissions for {url} are not"),
        (refusal("com.amazonaws.sqs.UnrecognizedClientException"), CredentialsError, "credentials or permissions for"),
        (refusal("SignatureDoesNotMatch"), CredentialsError, "credentials or permissions for {url}"),
        (refusal("AWS.SimpleQueueService.NonExistentQueue"), QueueMissingError, "there is no queue {url}, or not in"),
        (refusal("QueueDoesNotExist"), QueueMissingError, "there is no queue {url}, or not in this region or account"),
        (refusal("AWS.SimpleQueueService.OverLimit"), OverLimitError, "{url} has as many messages in flight"),
        (refusal("OverLimit"), OverLimitError, "{url} has as many messages in flight (received, neither deleted nor"),
        (refusal("InternalFailure"), RefusedError, "{url} refused: An error occurred (InternalFailure)"),
        (boto.NoRegionError(), RefusedError, "{url} cannot be asked: NoRegionError: You must specify a region."),
        (ValueError("bug"), RefusedError, "{url} cannot be asked: ValueError: bug"),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, BaseException) else None,
)
def test_errors_in_words_that_help(error: Exception, kind: type, text: str) -> None:
    """
    Of every call, with boto3's own error as the cause.
    """
    answers = {"receive_message": error, "delete_message_batch": error, "change_message_visibility_batch": error}
    client = make(FakeBoto(**answers))
    calls: list[Callable[[], Any]] = [
        lambda: client.receive(1), lambda: client.settle(("ack", 0), ["h"]), lambda: client.settle(("nack", 0), ["h"]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ConnectorError) as caught:
            call()
        assert type(caught.value) is kind
        assert str(caught.value).startswith(text.format(url=URL))
        assert caught.value.__cause__ is error


def test_session_that_cannot_be_made() -> None:
    """
    What the option ``session`` raises is an attempt that failed; a ConnectorError says what it says.
    """

    def fail(error: Exception) -> Any:
        raise error

    for error, text in (
        (ConnectorError("the role cannot be assumed"), "the role cannot be assumed"),
        (KeyError("ROLE"), f"{URL} cannot be asked: KeyError: 'ROLE'"),
    ):
        options = {"queue_url": URL, "config": {"session": lambda error=error: fail(error)}}
        with pytest.raises(ConnectorError) as caught:
            SQSClient(build(SQSOptions, options), print).connect()
        assert str(caught.value) == text


def test_credentials_that_are_refused_are_read_anew() -> None:
    """
    Those of a file may have expired, and be newer by now. By a new session, in another attempt if it cannot be made; no
    other error makes one.
    """
    expired = refusal("ExpiredTokenException")
    first = FakeBoto(receive_message=[boto.ReadTimeoutError(endpoint_url="x"), expired])
    second = FakeBoto()
    sessions: list[Any] = [first, boto.ProfileNotFound(profile="p"), second]

    def session() -> FakeBoto:
        made = sessions.pop(0)
        if isinstance(made, BaseException):
            raise made
        return made

    client = SQSClient(build(SQSOptions, {"queue_url": URL, "config": {"session": session}}), print)
    client.connect()
    for kind in (UnreachableError, CredentialsError, CredentialsError):
        assert first.closed == 0
        with pytest.raises(kind):
            client.receive(1)
    assert client.receive(1) == client.receive(1) == []
    assert client.settle(("ack", 0.0), ["h"]) == []
    assert [operation for operation, _ in second.calls] == ["receive_message"] * 2 + ["delete_message_batch"]
    assert (first.closed, second.closed, sessions) == (2, 0, [])


def test_denied_receive_is_an_error() -> None:
    """
    Only the look at the queue's attributes may be denied.
    """
    client = make(FakeBoto(get_queue_attributes=refusal("AccessDenied"), receive_message=refusal("AccessDenied")))
    with pytest.raises(CredentialsError):
        client.receive(1)


def test_clients_are_made_one_after_the_other() -> None:
    """
    Also when several producers connect at once.
    """
    inside, most, lock = 0, 0, threading.Lock()

    class Slow(FakeBoto):
        def client(self, service: str, **arguments: Any) -> FakeBoto:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.005)
            with lock:
                inside -= 1
            return super().client(service, **arguments)

    threads = [threading.Thread(target=lambda: make(Slow())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_forked_while_a_client_was_made_can_make_its_own() -> None:
    """
    The lock of the parent's thread is not locked for ever there.
    """
    with module._creation:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if module._creation.acquire(timeout=5) else 1)
    _, status = os.waitpid(pid, 0)
    assert os.WEXITSTATUS(status) == 0
