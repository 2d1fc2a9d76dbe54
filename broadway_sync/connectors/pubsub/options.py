"""
The options of :class:`PubSubProducer`.
"""

from __future__ import annotations

import math
import re
from typing import Any, Mapping, Optional

import attrs

from ...masking import mask
from ...rules import is_int, is_seconds, mistake, option, optional, rule
from ..common.options import PollingOptions
from ..common.outcomes import outcome

LONGEST_NACK = 600  # seconds: the service's limit for an acknowledgement deadline
MOST_MESSAGES = 1000  # that the service returns at a time

# The service's own rule: a letter, then 2 to 254 more characters, and no "goog" at the beginning. A project may carry a
# domain ("example.com:project").
_SUBSCRIPTION = re.compile(r"projects/[a-z0-9][a-z0-9.:-]*/subscriptions/(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
_ENDPOINT = re.compile(
    r"(?:https://)?[A-Za-z0-9._-]+(?::[0-9]{1,5})?/?|(?:https://)?\[[0-9a-fA-F:.]+\](?::[0-9]{1,5})?/?"
)

_outcome = outcome(LONGEST_NACK)


def _is_subscription(value: Any) -> bool:
    return isinstance(value, str) and bool(_SUBSCRIPTION.fullmatch(value))


def _is_timeout(value: Any) -> bool:
    return value == math.inf or (is_seconds(value) and value > 0)


def _are_credentials(value: Any) -> bool:
    # A file, or credentials of google.auth: told by what the transport calls, as this module must not import them.
    return bool(value) if isinstance(value, str) else callable(getattr(value, "before_request", None))


def _is_endpoint(value: Any) -> bool:
    return isinstance(value, str) and bool(_ENDPOINT.fullmatch(value))


def _are_client_options(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


@attrs.frozen(kw_only=True)
class PubSubOptions(PollingOptions):
    """
    From which subscription to pull, with which rights, and what becomes of the messages.
    """

    subscription: str = option(
        attrs.NOTHING,
        rule(_is_subscription, '"projects/<project>/subscriptions/<subscription>"'),
        'the subscription, as "projects/<project>/subscriptions/<subscription>"',
    )
    max_number_of_messages: int = option(
        10,
        rule(lambda value: is_int(value, 1) and value <= MOST_MESSAGES, f"an int from 1 to {MOST_MESSAGES}"),
        f"most messages that one pull asks for, 1 to {MOST_MESSAGES}; never more than are demanded",
    )
    on_success: Any = option(
        "ack", _outcome, 'what becomes of a message that was handled: "ack", "noop", "nack" or ("nack", seconds)'
    )
    on_failure: Any = option(
        "noop",
        _outcome,
        'what becomes of one that failed: "noop" (it comes again when its lease is over), "nack" (at once), '
        '("nack", seconds) (after 0 to 600 seconds) or "ack" (never)',
    )
    receive_timeout: Optional[float] = option(
        None,
        optional(rule(_is_timeout, "a number of seconds > 0, or None")),
        "longest time that a pull waits, seconds (None: 60); below 10 messages may be handed out to nobody",
    )
    credentials: Any = attrs.field(
        default=None,
        validator=optional(rule(_are_credentials, "credentials of google.auth, or the path of a service account file")),
        repr=False,
        metadata={
            "doc": "credentials of google.auth, or the path of a service account file (None: the application default)"
        },
    )
    base_url: Optional[str] = option(
        None,
        optional(rule(_is_endpoint, "https://<host> or <host>:<port>")),
        'another endpoint, for example "https://europe-west1-pubsub.googleapis.com"',
    )
    client_options: Mapping[str, Any] = attrs.field(
        factory=dict,
        validator=rule(_are_client_options, "a mapping of str"),
        repr=lambda value: repr(mask(value)),  # it may have an api_key
        metadata={"doc": "for the client library's ClientOptions, for example quota_project_id"},
    )

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.base_url is not None and "api_endpoint" in self.client_options:
            raise mistake("base_url", "client_options has an api_endpoint already, give one of them")
        if self.credentials is not None and {"credentials_file", "api_key"} & set(self.client_options):
            raise mistake(
                "credentials", "client_options has a credentials_file or an api_key already, give one of them"
            )

    @property
    def endpoint_options(self) -> Mapping[str, Any]:
        """
        The client options with ``base_url`` as gRPC wants it: a host, with or without a port.
        """
        if self.base_url is None:
            return dict(self.client_options)
        host = self.base_url[len("https://") :] if self.base_url.startswith("https://") else self.base_url
        return {**self.client_options, "api_endpoint": host.rstrip("/")}
