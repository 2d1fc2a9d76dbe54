"""
The seam to google-cloud-pubsub: the one module that imports it, hence imported late.

Synchronous pull and unary acknowledgements, by the client's public methods. Its own retries are switched off
(``retry=None``): they would repeat a request for a minute, and neither the back-off of the options nor a stop could
interrupt them.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Callable, Dict, List, Optional

from google.api_core import exceptions
from google.api_core.client_options import from_dict
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1 import types
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from ...errors import ConfigurationError
from ..common.polling_client import Action, Delivery, PollingClient, Refusal
from .deliveries import to_delivery
from .options import LONGEST_NACK, PubSubOptions

SHORTEST_LEASE = 10.0
"""Seconds: no subscription has a shorter acknowledgement deadline."""

# The client's own default for a pull. The service answers an empty one after about 90 s.
_PULL_TIMEOUT = 60.0
# For every other request: an answer that takes longer than the shortest lease comes too late.
_REQUEST_TIMEOUT = 10.0
# The service takes requests of 512 KiB; an id costs up to three bytes more than its length.
_MOST_BYTES, _BYTES_AROUND_ID = 500_000, 4

# What the service may have meant for a moment: worth another attempt, as Google's own clients have it.
_TEMPORARY = (
    exceptions.Aborted,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ResourceExhausted,
    exceptions.ServiceUnavailable,
)


class PubSubClient(PollingClient):
    """
    One subscription. Thread-safe, but for :meth:`connect` and :meth:`close`.
    """

    lot = 1000  # the client library's own limit for one request

    def __init__(self, options: PubSubOptions) -> None:
        self.lease = SHORTEST_LEASE
        self._options = options
        self._subscription = options.subscription
        timeout = options.receive_timeout
        self._pull_timeout = _PULL_TIMEOUT if timeout in (None, math.inf) else float(timeout or 0)
        self._request_timeout = min(_REQUEST_TIMEOUT, self._pull_timeout)
        # Whether groups matter: without ordering the service keeps no order that could be kept here.
        self._is_ordered = True
        self._is_exactly_once = False
        # Guards the two fields below; never held during a call.
        self._mutex = threading.Lock()
        self._client: Any = None
        self._is_stale = False

    def connect(self) -> None:
        """
        Open a client and look up what the subscription promises.
        """
        self._reopen()
        try:
            self._look_up()
        except exceptions.GoogleAPICallError as error:
            self._name(error)
            raise

    def receive(self, count: int) -> List[Delivery]:
        """
        Pull once; waits until something comes, at most ``receive_timeout``.
        """
        if self._is_stale:
            self._reopen()
        try:
            return self._pull(count)
        except BaseException as error:
            # A gRPC channel has a back-off of its own, up to two minutes between attempts to connect, during which
            # every request fails at once. A new channel tries at once, so that ours is the only back-off; and its
            # credentials are read anew.
            self._is_stale = True
            self._name(error)
            raise

    def settle(self, action: Action, handles: List[str]) -> List[Refusal]:
        """
        Send one acknowledgement or change of deadlines; more requests only to find out which ids are refused.
        """
        return self._send(self._request(action), handles)

    def action_for_followers(self, action: Optional[Action]) -> Action:
        """
        Hand back the messages behind one that failed for as long as that one stays away: with it, or, if it waits for
        the end of its lease, not before.

        The emulator delivers nothing of an ordering key while a message of it is out; the service promises no more
        than the order.
        """
        return ("nack", self.lease) if action is None else action

    def close(self) -> None:
        """
        Close the channel: requests that are still under way fail.
        """
        self._replace(None)

    # Connection.

    def _reopen(self) -> None:
        self._replace(open_client(self._options))

    def _replace(self, client: Any) -> None:
        with self._mutex:
            old, self._client = self._client, client
            self._is_stale = False
        if old is not None:
            old.close()

    def _look_up(self) -> None:
        """
        Read the length of the lease and whether there is an order, as far as one may.
        """
        found = self._find()
        if found is not None:
            self.lease = float(found.ack_deadline_seconds or SHORTEST_LEASE)
            self._is_ordered = found.enable_message_ordering
            self._is_exactly_once = found.enable_exactly_once_delivery

    def _find(self) -> Any:
        """
        Return the subscription, None if one may not look at it.
        """
        try:
            return self._client.get_subscription(
                subscription=self._subscription, retry=None, timeout=self._request_timeout
            )
        except exceptions.PermissionDenied:  # roles/pubsub.subscriber may pull, but not look
            return None

    def _name(self, error: BaseException) -> None:
        """
        Put the subscription into the text of *error*: the service's own has its name only at times.
        """
        if isinstance(error, exceptions.GoogleAPICallError) and self._subscription not in str(error):
            error.message = f"{self._subscription}: {error.message}"

    # Pulling.

    def _pull(self, count: int) -> List[Delivery]:
        try:
            request = types.PullRequest(subscription=self._subscription, max_messages=count)
            response = self._client.pull(request=request, retry=None, timeout=self._pull_timeout)
        except exceptions.DeadlineExceeded:
            # Nothing came in time, or the connection hangs: whoever answers here is there.
            self._find()
            return []
        messages = _plain(response).received_messages
        deliveries = [to_delivery(received, self._is_ordered) for received in messages]
        if self._is_exactly_once:
            # Of a message that came again, the service takes nothing but the newest id.
            for delivery in deliveries:
                delivery.identity = delivery.metadata["message_id"] or None
        return deliveries

    # Settling.

    def _request(self, action: Action) -> Callable[[List[str]], None]:
        name, seconds = action
        client, timeout = self._client, self._request_timeout

        def acknowledge(handles: List[str]) -> None:
            request = self._fill(types.AcknowledgeRequest(), handles)
            client.acknowledge(request=request, retry=None, timeout=timeout)

        def modify(handles: List[str]) -> None:
            deadline = min(math.ceil(seconds), LONGEST_NACK)
            request = self._fill(types.ModifyAckDeadlineRequest(ack_deadline_seconds=deadline), handles)
            client.modify_ack_deadline(request=request, retry=None, timeout=timeout)

        return acknowledge if name == "ack" else modify

    def _fill(self, request: Any, handles: List[str]) -> Any:
        plain = _plain(request)
        plain.subscription = self._subscription
        plain.ack_ids.extend(handles)
        return request

    def _send(self, request: Callable[[List[str]], None], handles: List[str]) -> List[Refusal]:
        if len(handles) > 1 and _size(handles) > _MOST_BYTES:
            return self._send_halves(request, handles)
        try:
            request(handles)
        except exceptions.GoogleAPICallError as error:
            refusals = read_refusals(error, handles)
            if refusals is not None:
                return refusals
            if not isinstance(error, exceptions.InvalidArgument):
                raise
            # One id that the service cannot read makes it refuse the whole request.
            if len(handles) == 1:
                return [Refusal(handles[0], str(error), is_final=True)]
            return self._send_halves(request, handles)
        return []

    def _send_halves(self, request: Callable[[List[str]], None], handles: List[str]) -> List[Refusal]:
        middle = len(handles) // 2
        refusals = self._send(request, handles[:middle])
        try:
            return refusals + self._send(request, handles[middle:])
        except Exception as error:  # to raise would say that the first half was not accepted either
            return refusals + [Refusal(handle, str(error), is_final=False) for handle in handles[middle:]]


def check(options: PubSubOptions) -> None:
    """
    Look whether the library takes ``client_options``, without opening anything.

    Raises:
        ConfigurationError: It does not.
    """
    try:
        from_dict(dict(options.endpoint_options))
    except ValueError as error:  # an unknown name, or two that contradict each other; it shows no value
        raise ConfigurationError(f"producer.module.client_options: the client library refuses it: {error}") from None


def open_client(options: PubSubOptions) -> Any:
    """
    Return a client of the library, which itself looks at ``PUBSUB_EMULATOR_HOST`` and the application default.
    """
    client_options = dict(options.endpoint_options) or None
    if isinstance(options.credentials, str):
        return pubsub_v1.SubscriberClient.from_service_account_file(options.credentials, client_options=client_options)
    return pubsub_v1.SubscriberClient(credentials=options.credentials, client_options=client_options)


def _plain(message: Any) -> Any:
    """
    Return the protobuf message in one of proto-plus, which wraps each field at each look, at several times the cost.
    """
    return type(message).pb(message)


def _size(handles: List[str]) -> int:
    return sum(map(len, handles)) + len(handles) * _BYTES_AROUND_ID


def read_refusals(error: exceptions.GoogleAPICallError, handles: List[str]) -> Optional[List[Refusal]]:
    """
    Return what an exactly-once subscription refused; None if *error* says nothing of single ids.

    The error of such a request names the ids that failed; the others have been accepted, unless the error is one of
    the moment.
    """
    reasons = _reasons(error)
    if not any(handle in reasons for handle in handles):
        return None
    refusals = [
        Refusal(handle, reasons[handle], is_final=not reasons[handle].startswith("TRANSIENT_"))
        for handle in handles
        if handle in reasons
    ]
    if isinstance(error, _TEMPORARY):
        refusals += [Refusal(handle, str(error), is_final=False) for handle in handles if handle not in reasons]
    return refusals


def _reasons(error: exceptions.GoogleAPICallError) -> Dict[str, str]:
    """
    Return why acknowledgements failed, by id; nothing for any other error.
    """
    try:
        status = rpc_status.from_call(error.response) if error.response is not None else None
    except ValueError:  # details that contradict the status of the call
        return {}
    reasons: Dict[str, str] = {}
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Is(ErrorInfo.DESCRIPTOR) and detail.Unpack(info):
            reasons.update(info.metadata)
    return reasons
