"""
The options of SQSProducer.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import attrs

from ...masking import mask
from ...rules import (
    Rule,
    build,
    is_int,
    is_seconds,
    mapping,
    mistake,
    non_empty_str,
    option,
    optional,
    positive_int,
    positive_seconds,
    rule,
    takes,
)  # fmt: skip
from ..common.options import PollingOptions
from ..common.outcomes import outcome
from .deliveries import ATTRIBUTES

MAX_VISIBILITY = 43200
"""Seconds, from receipt, for which a message can be kept invisible: a limit of the service."""

Names = Union[str, Sequence[str], None]


def _int_between(first: int, last: int) -> Rule:
    return rule(lambda value: is_int(value, first) and value <= last, f"an int from {first} to {last}")


def _all_or_list(is_name: Callable[[Any], bool], names: str) -> Rule:
    def test(value: Any) -> bool:
        return value == "all" or (isinstance(value, (list, tuple)) and all(map(is_name, value)))

    return optional(rule(test, f'"all" or a list of {names}'))


def _is_attribute(value: Any) -> bool:
    return isinstance(value, str) and value in ATTRIBUTES


def _is_non_empty_str(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"https?://[^/]", value) is not None


@attrs.frozen(kw_only=True, repr=False)
class SQSConfig:
    """
    The option ``config``: how to reach SQS. What is not given boto3 looks for in its usual places.
    """

    region_name: Optional[str] = option(
        None, optional(non_empty_str), "AWS region (default: the one in queue_url, else boto3's own)"
    )
    endpoint_url: Optional[str] = option(
        None,
        optional(rule(_is_url, "an address that begins with http:// or https://")),
        "address of the service, if it is not AWS itself",
    )
    aws_access_key_id: Optional[str] = option(None, optional(non_empty_str), "with aws_secret_access_key")
    aws_secret_access_key: Optional[str] = option(None, optional(non_empty_str), "with aws_access_key_id")
    aws_session_token: Optional[str] = option(None, optional(non_empty_str), "of temporary credentials")
    profile_name: Optional[str] = option(None, optional(non_empty_str), "a profile of boto3's configuration files")
    session: Optional[Callable[[], Any]] = option(
        None,
        optional(rule(takes(0), "a callable without arguments that returns a boto3 Session")),
        "returns the boto3 Session of a producer, in place of keys and profile (roles to assume, ...); called when it "
        "connects, and again when its credentials are refused",
    )
    verify: Union[bool, str, None] = option(
        None,
        # Not "": botocore would take it for False.
        optional(
            rule(
                lambda value: isinstance(value, bool) or _is_non_empty_str(value),
                "True, False or the path of a CA bundle",
            )
        ),
        "False: do not verify TLS certificates; a path: the CA bundle to verify them with",
    )
    connect_timeout: float = option(5.0, positive_seconds, "seconds to open a connection")
    read_timeout: Optional[float] = option(
        None, optional(positive_seconds), "seconds to wait for an answer (default: the longest poll and 10 s)"
    )
    max_attempts: int = option(
        2, positive_int, "attempts of boto3 at one request; what still fails is retried with the back-off"
    )
    client_config: Mapping[str, Any] = option(
        attrs.Factory(dict), mapping, "further arguments of botocore.config.Config (proxies, client_cert, ...)"
    )

    def __attrs_post_init__(self) -> None:
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise mistake(
                "aws_access_key_id", "aws_access_key_id and aws_secret_access_key go together, one is missing"
            )
        if self.session is not None:
            for name in ("aws_access_key_id", "aws_session_token", "profile_name"):
                if getattr(self, name) is not None:
                    raise mistake(name, "not together with session, which brings credentials of its own")

    def __repr__(self) -> str:
        return f"SQSConfig({mask(attrs.asdict(self, recurse=False))!r})"


def _to_config(value: Any) -> SQSConfig:
    return build(SQSConfig, value, "config")


@attrs.frozen(kw_only=True)
class SQSOptions(PollingOptions):
    """
    Everything that SQSProducer takes.
    """

    queue_url: str = option(attrs.NOTHING, non_empty_str, "address of the queue; one that ends in .fifo keeps order")
    max_number_of_messages: int = option(10, _int_between(1, 10), "most messages of one receive")
    wait_time_seconds: Optional[int] = option(
        None, optional(_int_between(0, 20)), "how long a receive waits for a first message (default: the queue's own)"
    )
    visibility_timeout: Optional[int] = option(
        None,
        optional(_int_between(0, MAX_VISIBILITY)),
        "seconds that a received message is invisible to others (default: the queue's own)",
    )
    attribute_names: Names = option(
        None, _all_or_list(_is_attribute, ", ".join(map(repr, ATTRIBUTES))), 'system attributes to ask for, or "all"'
    )
    message_attribute_names: Names = option(
        None, _all_or_list(_is_non_empty_str, "non-empty str"), 'attributes of the sender to ask for, or "all"'
    )
    config: SQSConfig = option(attrs.Factory(SQSConfig), None, "how to reach SQS, see below", _to_config)
    on_success: Any = option("ack", outcome(MAX_VISIBILITY), 'of a successful message: "ack" deletes it')
    on_failure: Any = option(
        "noop",
        outcome(MAX_VISIBILITY),
        'of a failed message: "noop" leaves it to the visibility timeout, "ack" deletes it',
    )

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        wait = self.wait_time_seconds
        name, timeout = "config.read_timeout", self.config.read_timeout
        if "read_timeout" in self.config.client_config:  # it is the one that counts
            name, timeout = "config.client_config.read_timeout", self.config.client_config["read_timeout"]
        if wait is not None and timeout is not None and is_seconds(timeout) and timeout <= wait:
            raise mistake(
                name,
                f"expected seconds > wait_time_seconds, which is {wait}, got: {timeout}; every receive that finds "
                "nothing would end as an error",
            )
