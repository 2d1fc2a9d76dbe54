"""
The seam between the producer and boto3: the only module that imports it.

What boto3 forces on it:

* Sessions, and the creation of clients, are not safe in several threads; clients are. So every producer has a session
  of its own, and clients are made one after the other.
* A timeout belongs to a client, not to a call. Receives wait for messages up to 20 s and must not time out before; all
  the rest should be tried again on another connection long before a lease ends. So there are two clients.
* A batch call that succeeded may have refused some of its entries: ``Failed`` says which, by the id that the entry was
  given. Ids must differ, and one message may have been received twice: they are positions.
"""

from __future__ import annotations

import math
import os
import threading
import uuid
from typing import Any, Callable, Container, Dict, Iterable, List, Mapping, Optional

from ...errors import ConfigurationError
from ...extras import import_codec_of_host_names
from ..common.polling_client import Action, Delivery, PollingClient, Refusal
from .deliveries import to_delivery
from .errors import CredentialsError, code_of, explain, is_denied, is_passing
from .options import MAX_VISIBILITY, SQSOptions
from .requests import is_fifo, receive_request, region_of

DEFAULT_VISIBILITY = 30.0
"""Seconds of a queue for which nobody chose a visibility timeout."""

LONGEST_POLL = 20
"""Seconds: the most that a queue may set for receives that say nothing about waiting."""

# Beyond the long poll, for the answer to arrive.
_READ_MARGIN = 10.0
# Of everything that is not a long poll: a connection that died silently is noticed while a lease of 30 s still lasts.
_SETTLE_TIMEOUT = 10.0

# Held while a client is made; the lock of a process that forked meanwhile must not stay locked in the child.
_creation = threading.Lock()


def _after_fork_in_child() -> None:
    global _creation
    _creation = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def require() -> Any:
    """
    Return the module ``boto3``.

    Raises:
        ConfigurationError: It is not installed.
    """
    import_codec_of_host_names()
    try:
        import boto3
    except ImportError as error:
        raise ConfigurationError(
            f"SQSProducer needs boto3, which cannot be imported ({error}): pip install broadway_sync[sqs]"
        ) from error
    return boto3


def check(options: SQSOptions) -> None:
    """
    Look whether boto3 takes these options, without opening anything.

    Raises:
        ConfigurationError: boto3 is missing, or refuses ``config.client_config``.
    """
    require()
    try:
        _configs(options)
    except Exception as error:  # TypeError, and botocore has an exception of its own for each option
        raise ConfigurationError(f"producer.module.config.client_config: botocore refuses it: {error}") from error


class SQSClient(PollingClient):
    """
    One producer's connection to its queue.

    Thread-safe, but for :meth:`connect` and :meth:`close`.
    """

    lot = 10
    """Entries of a batch call: a limit of the service."""

    def __init__(self, options: SQSOptions, warn: Callable[[str], None]) -> None:
        """
        Args:
            warn: Told what is no failure but should be looked at.
        """
        self._options = options
        self._warn = warn
        self._is_fifo = is_fifo(options)
        self._receiver: Any = None
        self._settler: Any = None
        self._request: Dict[str, Any] = {}
        # Owned by the thread that receives. See _receive.
        self._attempt_id: Optional[str] = None
        # Owned by the thread that receives: whether the service did not accept the credentials.
        self._is_refused = False
        self.lease = DEFAULT_VISIBILITY
        """Seconds that a received message stays invisible to others."""

    def connect(self) -> None:
        """
        Make the clients and look at the queue: whether it answers, and how long it lends a message.

        Raises:
            ConnectorError: It does not answer, or refuses.
        """
        try:
            self._open()
            self._request = receive_request(self._options, _parameters(self._receiver, "ReceiveMessage"))
            self.lease = self._look_up_lease()
            self.longest_lease = MAX_VISIBILITY - self.lease
        except Exception as error:
            self.close()
            raise explain(error, self._options.queue_url) from error

    def close(self) -> None:
        """
        Close the connections; harmless if there are none.
        """
        self._replace(None, None)

    def receive(self, count: int) -> List[Delivery]:
        """
        Return up to *count* messages; waits for the first one as long as ``wait_time_seconds`` says.

        Raises:
            ConnectorError: The service does not answer, or refuses.
        """
        try:
            if self._is_refused:
                self._open()
                self._is_refused = False
            answer = self._receive(count)
        except Exception as error:
            explained = explain(error, self._options.queue_url)
            self._is_refused = self._is_refused or isinstance(explained, CredentialsError)
            raise explained from error
        return [to_delivery(raw, self._is_fifo) for raw in answer.get("Messages") or ()]

    def settle(self, action: Action, handles: List[str]) -> List[Refusal]:
        """
        Delete messages, or say when they become visible again.

        Args:
            action: ``("ack", _)`` deletes, ``("nack", seconds)`` and ``("extend", seconds)`` set the time from now
                until they are visible, in whole seconds.
            handles: At most :attr:`lot`. One that is there twice is sent once.

        Returns:
            The handles that the service refused.

        Raises:
            ConnectorError: The service does not answer, or refuses all of it.
        """
        unique = list(dict.fromkeys(handles))
        entries: List[Dict[str, Any]] = [
            {"Id": str(position), "ReceiptHandle": handle} for position, handle in enumerate(unique)
        ]
        kind, seconds = action
        try:
            if kind == "ack":
                answer = self._settler.delete_message_batch(QueueUrl=self._options.queue_url, Entries=entries)
            else:
                answer = self._change_visibility(entries, seconds)
        except Exception as error:
            raise explain(error, self._options.queue_url) from error
        return list(_refusals(answer.get("Failed") or (), unique))

    def _open(self) -> None:
        """
        Make the clients, with credentials that are read anew: a session keeps those of a file for good.
        """
        receive_config, settle_config = _configs(self._options)
        session = _make_session(self._options)
        arguments = _client_arguments(self._options, session)
        # A lock around a client library, against the rule: making clients in several threads at once is unsafe.
        with _creation:
            receiver = session.client("sqs", config=receive_config, **arguments)
            settler = session.client("sqs", config=settle_config, **arguments)
        self._replace(receiver, settler)

    def _replace(self, receiver: Any, settler: Any) -> None:
        clients = (self._receiver, self._settler)
        self._receiver, self._settler = receiver, settler
        for client in clients:
            if client is not None:
                client.close()

    def _change_visibility(self, entries: List[Dict[str, Any]], seconds: float) -> Any:
        whole_seconds = min(math.ceil(seconds), MAX_VISIBILITY)
        for entry in entries:
            entry["VisibilityTimeout"] = whole_seconds
        return self._settler.change_message_visibility_batch(QueueUrl=self._options.queue_url, Entries=entries)

    def _receive(self, count: int) -> Any:
        """
        Send one request. Of a queue in order it has an id, which stays the same until there was an answer: what went
        into an answer that was lost on its way would otherwise block its groups until it is visible again.
        """
        if not self._is_fifo:
            return self._receiver.receive_message(MaxNumberOfMessages=count, **self._request)
        self._attempt_id = self._attempt_id or uuid.uuid4().hex
        try:
            answer = self._receiver.receive_message(
                MaxNumberOfMessages=count, ReceiveRequestAttemptId=self._attempt_id, **self._request
            )
        except Exception as error:
            if code_of(error):  # an answer, if a bad one; and perhaps it is the id that has become too old
                self._attempt_id = None
            raise
        self._attempt_id = None
        return answer

    def _look_up_lease(self) -> float:
        """
        Return the visibility timeout that applies. Asks the queue even if an option gives it: this is also what tells
        whether the queue is there.
        """
        given = self._options.visibility_timeout
        try:
            answer = self._settler.get_queue_attributes(
                QueueUrl=self._options.queue_url, AttributeNames=["VisibilityTimeout"]
            )
        except Exception as error:
            if not is_denied(error):
                raise
            if given is None:
                self._warn(
                    f"no permission for sqs:GetQueueAttributes of {self._options.queue_url}: leases are taken to last "
                    f"{DEFAULT_VISIBILITY:g} s; if the queue's visibility timeout is shorter, set visibility_timeout"
                )
            answer = {}
        if given is not None:
            return float(given)
        return float((answer.get("Attributes") or {}).get("VisibilityTimeout", DEFAULT_VISIBILITY))


def _refusals(failed: Iterable[Mapping[str, Any]], handles: List[str]) -> Iterable[Refusal]:
    """
    Read what a batch call says of the entries that it refused.
    """
    for entry in failed:
        code = str(entry.get("Code"))
        is_final = bool(entry.get("SenderFault")) and not is_passing(code)
        reason = f"{code}: {entry.get('Message', '')}"
        yield Refusal(handle=handles[int(entry["Id"])], reason=reason, is_final=is_final)


def _parameters(client: Any, operation: str) -> Container[str]:
    """
    Return the names of the parameters that an operation has in this version of boto3.
    """
    return client.meta.service_model.operation_model(operation).input_shape.members  # type: ignore[no-any-return]


def _make_session(options: SQSOptions) -> Any:
    config = options.config
    if config.session is not None:
        return config.session()
    return require().Session(
        aws_access_key_id=config.aws_access_key_id,
        aws_secret_access_key=config.aws_secret_access_key,
        aws_session_token=config.aws_session_token,
        profile_name=config.profile_name,
    )


def _client_arguments(options: SQSOptions, session: Any) -> Dict[str, Any]:
    config = options.config
    return {
        "region_name": config.region_name or region_of(options.queue_url) or session.region_name,
        "endpoint_url": config.endpoint_url,
        "verify": config.verify,
    }


def _configs(options: SQSOptions) -> List[Any]:
    """
    Return botocore's options for the client that receives and for the one that does everything else.
    """
    from botocore.config import Config

    config = options.config
    given = dict(config.client_config)
    longest_poll = LONGEST_POLL if options.wait_time_seconds is None else options.wait_time_seconds
    timeout = config.read_timeout or longest_poll + _READ_MARGIN
    common = {
        "connect_timeout": config.connect_timeout,
        "retries": {"mode": "standard", "total_max_attempts": config.max_attempts},
    }
    return [Config(**{**common, "read_timeout": each, **given}) for each in (timeout, min(timeout, _SETTLE_TIMEOUT))]
