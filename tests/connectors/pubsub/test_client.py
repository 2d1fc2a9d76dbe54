"""
The seam to google-cloud-pubsub: what it makes of the service's answers. No service is needed.
"""

from __future__ import annotations

import datetime
import types
from typing import Any, Callable

import pytest

pytest.importorskip("google.cloud.pubsub_v1", reason="needs google-cloud-pubsub (the extra pubsub)")

import grpc  # type: ignore[import-untyped, unused-ignore]
from google.api_core import exceptions
from google.protobuf.any_pb2 import Any as AnyMessage
from google.pubsub_v1.types import PullResponse
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from broadway_sync.connectors.common.polling_client import Refusal
from broadway_sync.connectors.pubsub import client as seam
from broadway_sync.connectors.pubsub.client import PubSubClient, read_refusals
from broadway_sync.connectors.pubsub.deliveries import to_delivery
from broadway_sync.connectors.pubsub.options import PubSubOptions

NAME = "projects/acme/subscriptions/orders"
UTC = datetime.timezone.utc

# ---- messages


def received(**fields: Any) -> Any:
    """
    Return a received message, as the library has it on the wire.
    """
    message = fields.pop("message", {})
    response = PullResponse.pb(PullResponse())
    one = response.received_messages.add(ack_id="a1", **fields)
    attributes, seconds = message.pop("attributes", {}), message.pop("seconds", None)
    for name, value in message.items():
        setattr(one.message, name, value)
    one.message.attributes.update(attributes)
    if seconds is not None:
        one.message.publish_time.seconds, one.message.publish_time.nanos = seconds
    return one


def test_a_whole_message() -> None:
    """
    Everything that the service says about a message is in its metadata, in types of Python.
    """
    message = {
        "data": b"\x00\xff",
        "attributes": {"colour": "röd", "empty": ""},
        "message_id": "17",
        "ordering_key": "k",
        "seconds": (1_700_000_000, 123_456_789),
    }
    delivery = to_delivery(received(message=message, delivery_attempt=3), is_ordered=True)
    assert (delivery.handle, delivery.data, delivery.group) == ("a1", b"\x00\xff", "k")
    assert delivery.metadata == {
        "attributes": {"colour": "röd", "empty": ""},
        "delivery_attempt": 3,
        "message_id": "17",
        "ordering_key": "k",
        "publish_time": datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, UTC),
    }
    assert type(delivery.metadata["attributes"]) is dict


def test_an_empty_message() -> None:
    """
    A message of attributes alone has empty data; without a dead letter policy nobody counts deliveries.
    """
    delivery = to_delivery(received(), is_ordered=True)
    assert (delivery.data, delivery.group) == (b"", None)
    assert delivery.metadata == {
        "attributes": {},
        "delivery_attempt": None,
        "message_id": "",
        "ordering_key": "",
        "publish_time": None,
    }


def test_a_time_that_is_none() -> None:
    """
    A timestamp beyond the calendar costs the time, not the messages that came with it.
    """
    assert to_delivery(received(message={"seconds": (10**15, 0)}), True).metadata["publish_time"] is None


def test_keys_do_not_matter_without_ordering() -> None:
    """
    Of a subscription that keeps no order, messages of one key may be handled at the same time.
    """
    delivery = to_delivery(received(message={"ordering_key": "k"}), is_ordered=False)
    assert (delivery.group, delivery.metadata["ordering_key"]) == (None, "k")


# ---- refusals


class Call:
    """
    The end of a gRPC call that failed.
    """

    def __init__(self, code: Any, details: list[Any], text: str = "no") -> None:
        status = Status(code=code.value[0], message=text)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        self._code, self._text, self._status = code, text, status

    def code(self) -> Any:
        """
        As gRPC has it.
        """
        return self._code

    def details(self) -> str:
        """
        As gRPC has it.
        """
        return self._text

    def trailing_metadata(self) -> Any:
        """
        As gRPC has it.
        """
        return [("grpc-status-details-bin", self._status.SerializeToString())]


def failed(kind: Any, *details: Any) -> Any:
    """
    Return the error of a request.
    """
    code = {exceptions.InvalidArgument: "INVALID_ARGUMENT", exceptions.ServiceUnavailable: "UNAVAILABLE"}[kind]
    assert Code.Value(code)
    return kind("no", response=Call(getattr(grpc.StatusCode, code), list(details)))


def reasons(**by_id: str) -> Any:
    """
    Return the detail of an error that tells which ids were refused.
    """
    return ErrorInfo(reason="EXACTLY_ONCE_ACKID_FAILURE", domain="pubsub.googleapis.com", metadata=by_id)


def test_refused_ids() -> None:
    """
    What is permanent is final, what is transient is not, what is not named was accepted.
    """
    error = failed(
        exceptions.InvalidArgument,
        RetryInfo(),
        reasons(a="PERMANENT_FAILURE_INVALID_ACK_ID", b="TRANSIENT_FAILURE_UNORDERED_ACK_ID", other="PERMANENT_X"),
    )
    assert read_refusals(error, ["a", "b", "c"]) == [
        Refusal("a", "PERMANENT_FAILURE_INVALID_ACK_ID", True),
        Refusal("b", "TRANSIENT_FAILURE_UNORDERED_ACK_ID", False),
    ]


def test_refused_ids_in_an_error_of_the_moment() -> None:
    """
    When the service fails for a moment, ids that it does not name were not accepted.
    """
    error = failed(exceptions.ServiceUnavailable, reasons(a="PERMANENT_FAILURE_INVALID_ACK_ID"))
    assert read_refusals(error, ["a", "b"]) == [
        Refusal("a", "PERMANENT_FAILURE_INVALID_ACK_ID", True),
        Refusal("b", "503 no", False),
    ]


@pytest.mark.parametrize(
    "error",
    [
        failed(exceptions.InvalidArgument),
        failed(exceptions.ServiceUnavailable, RetryInfo()),
        failed(exceptions.InvalidArgument, reasons(other="PERMANENT_FAILURE_INVALID_ACK_ID")),
        exceptions.InvalidArgument("made up by the client, without a call"),
        exceptions.InvalidArgument("no", response=Call(grpc.StatusCode.UNKNOWN, [], "details of another status")),
    ],
    ids=["no details", "other details", "other ids", "no call", "contradiction"],
)
def test_errors_that_name_no_id(error: Any) -> None:
    """
    Nothing is known about single ids.
    """
    if str(error).endswith("no") and error.response and error.response.code() is grpc.StatusCode.UNKNOWN:
        error.response._status.code = 3  # not the code of the call
    assert read_refusals(error, ["a"]) is None


# ---- requests


class Service:
    """
    Stands for the library's client: requests are recorded, and answered by what a test puts into ``answers``.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.answer: Callable[[str, Any], Any] = lambda name, request: None
        self.closed = 0

    def __getattr__(self, name: str) -> Any:
        def call(**request: Any) -> Any:
            fields = request.pop("request", None)
            if fields is not None:
                request = {**type(fields).to_dict(fields), **request}
            self.requests.append((name, request))
            return self.answer(name, request)

        return call

    def close(self) -> None:
        """
        Count.
        """
        self.closed += 1

    def sent(self, name: str) -> list[Any]:
        """
        Return the requests of one kind.
        """
        return [request for sent, request in self.requests if sent == name]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """
    Return the library's clients that are opened, in order; the second and later ones answer like the first.
    """
    opened: list[Service] = [Service()]
    fresh = iter(opened)

    def open_client(options: Any) -> Service:
        service = next(fresh, None)
        if service is None:
            service = Service()
            service.answer = opened[0].answer
            opened.append(service)
        return service

    monkeypatch.setattr(seam, "open_client", open_client)
    return opened


def promised(lease: int = 20, is_ordered: bool = False, is_exactly_once: bool = False) -> Any:
    """
    Return a subscription.
    """
    return types.SimpleNamespace(
        ack_deadline_seconds=lease, enable_message_ordering=is_ordered, enable_exactly_once_delivery=is_exactly_once
    )


def connected(
    services: list[Service], lease: int = 20, is_ordered: bool = False, is_exactly_once: bool = False, **options: Any
) -> PubSubClient:
    """
    Return a client whose subscription promises that much.
    """
    found = promised(lease, is_ordered, is_exactly_once)
    services[0].answer = lambda name, request: found
    made = PubSubClient(PubSubOptions(subscription=NAME, **options))
    made.connect()
    return made


def raising(error: BaseException) -> Callable[..., Any]:
    """
    Return an answer that is an error.
    """

    def answer(name: str, request: Any) -> Any:
        raise error

    return answer


def test_the_lease_is_that_of_the_subscription(services: list[Service]) -> None:
    """
    Looked up once, without the library's own retries.
    """
    assert connected(services, lease=20).lease == 20.0
    assert services[0].requests == [("get_subscription", {"subscription": NAME, "retry": None, "timeout": 10.0})]


def test_who_may_not_look_takes_the_shortest_lease(services: list[Service]) -> None:
    """
    The role that is needed to pull does not allow to look at the subscription.
    """
    made = PubSubClient(PubSubOptions(subscription=NAME))
    services[0].answer = raising(exceptions.PermissionDenied("no"))
    made.connect()
    assert made.lease == 10.0


def test_connect_fails_with_the_error_of_the_service(services: list[Service]) -> None:
    """
    Whoever calls it says so and tries again.
    """
    made = PubSubClient(PubSubOptions(subscription=NAME))
    services[0].answer = raising(exceptions.NotFound("Resource not found (resource=orders)."))
    with pytest.raises(exceptions.NotFound) as caught:
        made.connect()
    assert str(caught.value) == f"404 {NAME}: Resource not found (resource=orders)."
    services[0].answer = lambda name, request: promised(30)
    made.connect()
    assert (made.lease, services[0].closed, services[1].closed) == (30.0, 1, 0)
    made.close()
    assert services[1].closed == 1


@pytest.mark.parametrize(("timeout", "expected"), [(None, 60.0), (float("inf"), 60.0), (90, 90.0), (2.5, 2.5)])
def test_receive_timeout(services: list[Service], timeout: Any, expected: float) -> None:
    """
    The library's own unless given; other requests have ten seconds at most.
    """
    made = connected(services, receive_timeout=timeout)
    response = PullResponse()
    services[0].answer = lambda name, request: response
    assert made.receive(5) == []
    (request,) = services[0].sent("pull")
    assert request.pop("return_immediately") is False
    assert request == {"subscription": NAME, "max_messages": 5, "retry": None, "timeout": expected}
    made.settle(("ack", 0.0), ["a"])
    assert services[0].sent("acknowledge")[0]["timeout"] == min(10.0, expected)


def test_an_idle_subscription_is_no_error(services: list[Service]) -> None:
    """
    The library raises when nothing comes in time. Whether the service is there at all, another request tells.
    """
    made = connected(services)

    def answer(name: str, request: Any) -> Any:
        if name == "pull":
            raise exceptions.DeadlineExceeded("Deadline Exceeded")
        return promised(45)

    services[0].answer = answer
    assert made.receive(5) == []
    # The leases of what is in the pipeline go by what was promised first.
    assert (len(services), made.lease) == (1, 20.0)


def test_a_service_that_hangs_is_an_error(services: list[Service]) -> None:
    """
    If the other request is not answered either, somebody should know.
    """
    made = connected(services)
    services[0].answer = raising(exceptions.DeadlineExceeded("Deadline Exceeded"))
    with pytest.raises(exceptions.DeadlineExceeded) as caught:
        made.receive(5)
    assert str(caught.value) == f"504 {NAME}: Deadline Exceeded"


@pytest.mark.parametrize(("is_exactly_once", "identity"), [(True, "17"), (False, None)])
def test_copies_are_known_where_old_ids_are_refused(
    services: list[Service], is_exactly_once: bool, identity: Any
) -> None:
    """
    An exactly-once subscription takes only the newest id of a message; elsewhere any will do.
    """
    made = connected(services, is_exactly_once=is_exactly_once)
    response = PullResponse()
    one = PullResponse.pb(response).received_messages.add(ack_id="a1")
    one.message.message_id = "17"
    services[0].answer = lambda name, request: response
    (delivery,) = made.receive(5)
    assert delivery.identity == identity


def test_after_a_failure_the_next_pull_has_a_new_channel(services: list[Service]) -> None:
    """
    An old one would go on failing for as long as its own back-off takes.
    """
    made = connected(services)
    services[0].answer = raising(exceptions.ServiceUnavailable("connection refused"))
    with pytest.raises(exceptions.ServiceUnavailable):
        made.receive(5)
    assert (len(services), services[0].closed) == (1, 0), "acknowledgements may still be under way"
    services[0].answer = lambda name, request: PullResponse()
    assert made.receive(5) == []
    assert made.receive(5) == []
    assert (len(services), services[0].closed, services[1].closed) == (2, 1, 0)
    assert made.settle(("ack", 0.0), ["a"]) == []
    assert [name for name, _ in services[1].requests] == ["pull", "pull", "acknowledge"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (("nack", 0.0), 0),
        (("nack", 600.0), 600),
        (("extend", 10.0), 10),
        (("extend", 10.2), 11),
        (("extend", 601.0), 600),
    ],
)
def test_deadlines(services: list[Service], action: Any, expected: int) -> None:
    """
    Whole seconds, as many as the service allows.
    """
    made = connected(services)
    assert made.settle(action, ["a", "b"]) == []
    (request,) = services[0].sent("modify_ack_deadline")
    assert request["ack_deadline_seconds"] == expected
    assert (request["ack_ids"], request["retry"]) == (["a", "b"], None)


def test_bad_ids_are_told_apart(services: list[Service]) -> None:
    """
    The service refuses a whole request for one id that it cannot read, so the others are sent without it.
    """
    made = connected(services)
    accepted: list[str] = []

    def answer(name: str, request: Any) -> Any:
        if {"bad1", "bad2"} & set(request["ack_ids"]):
            raise exceptions.InvalidArgument("Invalid ack id")
        accepted.extend(request["ack_ids"])

    services[0].answer = answer
    good = [f"good{number}" for number in range(98)]
    refused = made.settle(("ack", 0.0), [*good[:30], "bad1", *good[30:], "bad2"])
    assert refused == [Refusal(bad, "400 Invalid ack id", True) for bad in ("bad1", "bad2")]
    assert accepted == good
    assert len(services[0].sent("acknowledge")) < 30


def test_what_fails_behind_something_accepted_is_refused_alone(services: list[Service]) -> None:
    """
    To raise would say that nothing was accepted.
    """
    made = connected(services)

    def answer(name: str, request: Any) -> Any:
        ids = request["ack_ids"]
        if "bad" in ids and len(ids) > 1:
            raise exceptions.InvalidArgument("Invalid ack id")
        if "bad" in ids:
            raise exceptions.ServiceUnavailable("gone")

    services[0].answer = answer
    assert made.settle(("ack", 0.0), ["a", "b", "c", "bad"]) == [Refusal("bad", "503 gone", False)]


def test_errors_of_a_whole_request_are_raised(services: list[Service]) -> None:
    """
    Then nothing was accepted.
    """
    made = connected(services)
    services[0].answer = raising(exceptions.NotFound("gone"))
    with pytest.raises(exceptions.NotFound):
        made.settle(("ack", 0.0), ["a", "b"])


def test_requests_stay_below_the_limit_of_the_service(services: list[Service]) -> None:
    """
    512 KiB: real ids have some two hundred characters, but nobody promises that.
    """
    made = connected(services)
    ids = [f"{number:04}" + "x" * 1000 for number in range(1000)]
    assert made.settle(("ack", 0.0), ids) == []
    requests = [request["ack_ids"] for request in services[0].sent("acknowledge")]
    assert [ack_id for request in requests for ack_id in request] == ids
    assert all(sum(map(len, request)) < 512 * 1024 - 10_000 for request in requests)
    assert len(requests) == 4


def test_one_id_beyond_the_limit_is_still_sent(services: list[Service]) -> None:
    """
    It cannot be cut; the service has to say what it thinks of it.
    """
    made = connected(services)
    assert made.settle(("ack", 0.0), ["x" * 600_000]) == []


@pytest.mark.parametrize(
    ("action", "expected"),
    [(("nack", 0.0), ("nack", 0.0)), (("nack", 30.0), ("nack", 30.0)), (None, ("nack", 20.0))],
)
def test_followers_stay_away_as_long_as_the_message_that_failed(
    services: list[Service], action: Any, expected: Any
) -> None:
    """
    Its own action, or the length of a lease if it waits for the end of its own.
    """
    assert connected(services, lease=20).action_for_followers(action) == expected
