"""
The options of the Kafka producer.
"""

from __future__ import annotations

import os
import re
import ssl as ssl_module
from datetime import datetime, timezone
from typing import Any, Callable, Mapping, Optional, Tuple

import attrs

from ...log import safe_repr
from ...masking import mask
from ...rules import (
    boolean,
    build,
    is_int,
    is_seconds,
    mapping,
    mistake,
    non_empty_str,
    one_of,
    option,
    optional,
    positive_seconds,
    rule,
    seconds_from_zero,
    takes,
)
from ..common.options import BackoffOptions

_PORT = 9092
_MOST_PORT = 65535
# In the protocol sizes, and times in milliseconds, are ints of 32 bits: the client says only to its log that others
# cannot be sent, and tries again for ever.
_MOST = 2**31 - 1
_MOST_TIMESTAMP = 2**63 - 1
# Kafka's own rule for the names of topics, and of static members.
_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER")
_SSL_NAMES = ("cafile", "certfile", "keyfile", "password", "crlfile", "ciphers", "check_hostname")
# What the connector must set itself, or a pipeline would lose messages.
RESERVED = (
    "bootstrap_servers", "group_id", "group_instance_id", "enable_auto_commit", "auto_commit_interval_ms",
    "auto_offset_reset", "key_deserializer", "value_deserializer", "consumer_timeout_ms", "max_poll_interval_ms",
    "session_timeout_ms", "heartbeat_interval_ms", "kafka_client", "client_id", "request_timeout_ms", "fetch_min_bytes",
    "fetch_max_wait_ms", "max_partition_fetch_bytes", "isolation_level", "check_crcs", "default_offset_commit_callback",
)  # fmt: skip


def _to_hosts(value: Any) -> Tuple[str, ...]:
    """
    Return ``host:port`` of each host.
    """
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not given:
        raise _wrong_hosts(value)
    return tuple(_to_host(one, value) for one in given)


def _to_host(one: Any, value: Any) -> str:
    if isinstance(one, (list, tuple)) and len(one) == 2:
        host, port = one
        is_valid = isinstance(host, str) and bool(host.strip()) and is_int(port, 1) and port <= _MOST_PORT
        if is_valid:
            return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    elif isinstance(one, str) and one.strip():
        host, _, port = one.strip().rpartition(":")
        if host and _is_port(port) and (":" not in host or host.startswith("[")):
            return one.strip()
        if ":" not in one.strip() or one.strip().endswith("]"):
            return f"{one.strip()}:{_PORT}"
    raise _wrong_hosts(value)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_PORT


def _wrong_hosts(value: Any) -> Exception:
    expected = 'a list of "host:port" or (host, port), or one str "host:port,host:port"'
    return mistake("hosts", f"expected {expected}, got: {safe_repr(mask(value))}")


def _to_topics(value: Any) -> Tuple[str, ...]:
    topics = tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else ()
    if not topics or not all(map(_is_name, topics)):
        expected = 'a list of names, at least one, of letters, digits, ".", "_" and "-"'
        raise mistake("topics", f"expected {expected}, got: {safe_repr(value)}")
    return tuple(dict.fromkeys(topics))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


_size = rule(lambda value: is_int(value, 1) and value <= _MOST, f"an int from 1 to {_MOST}")
_seconds = rule(
    lambda value: is_seconds(value) and 0 < value <= _MOST // 1000, f"a number of seconds > 0 and <= {_MOST // 1000}"
)
_member = rule(lambda value: _is_name(value) and len(value) <= 240, 'at most 240 letters, digits, ".", "_" and "-"')


def _to_policy(value: Any) -> Any:
    """
    Return ``"earliest"``, ``"latest"`` or milliseconds since the epoch.
    """
    if isinstance(value, str) and value in ("earliest", "latest"):
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == "timestamp":
        moment = value[1]
        if isinstance(moment, datetime):
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
            moment = int(moment.timestamp() * 1000)
        if is_int(moment, 0) and moment <= _MOST_TIMESTAMP:
            return moment
    expected = '"earliest", "latest" or ("timestamp", milliseconds since the epoch, or a datetime)'
    raise mistake("offset_reset_policy", f"expected {expected}, got: {safe_repr(value)}")


@attrs.frozen(kw_only=True)
class GroupConfig:
    """
    How this consumer is a member of its group.
    """

    offset_commit_interval_seconds: Optional[float] = option(
        None, optional(positive_seconds), "the original's name of offset_commit_interval; wins over it"
    )
    session_timeout_seconds: float = option(
        30.0, _seconds, "after so long without a heartbeat the broker gives the partitions to others"
    )
    heartbeat_rate_seconds: float = option(5.0, positive_seconds, "pause between two heartbeats")
    rebalance_timeout_seconds: float = option(
        30.0, _seconds, "how long a rebalance waits for this member; handlers may take longer"
    )
    rejoin_delay_seconds: float = option(
        1.0, seconds_from_zero, "pause after the group or the broker refused something for good"
    )
    revoke_timeout_seconds: float = option(
        5.0,
        seconds_from_zero,
        "how long a rebalance waits for messages that are in the pipeline",
    )
    group_instance_id: Optional[str] = option(
        None, optional(_member), "static membership: a name that only this process has; the index is appended"
    )

    def __attrs_post_init__(self) -> None:
        if self.heartbeat_rate_seconds >= self.session_timeout_seconds:
            raise mistake(
                "heartbeat_rate_seconds",
                f"expected less than session_timeout_seconds, which is {self.session_timeout_seconds}, "
                f"got: {self.heartbeat_rate_seconds}",
            )
        if self.revoke_timeout_seconds >= self.rebalance_timeout_seconds:
            raise mistake(
                "revoke_timeout_seconds",
                f"expected less than rebalance_timeout_seconds, which is {self.rebalance_timeout_seconds}, "
                f"got: {self.revoke_timeout_seconds}",
            )


@attrs.frozen(kw_only=True)
class FetchConfig:
    """
    How records are fetched.
    """

    min_bytes: int = option(1, _size, "the broker waits until it has so much")
    max_bytes: int = option(1024 * 1024, _size, "the most that is fetched of one partition at a time")
    max_wait_time: float = option(0.5, _seconds, "the longest that the broker waits for min_bytes, seconds")
    isolation_level: str = option(
        "read_committed",
        one_of("read_committed", "read_uncommitted"),
        "whether records of transactions that were aborted, or are still open, are left out",
    )
    check_crcs: bool = option(True, boolean, "whether checksums are checked (install crc32c to make it cheap)")


def _to_sasl(value: Any) -> Any:
    """
    Return the client's options for SASL, or None.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        given = dict(value)
        mechanism = _to_mechanism(given.pop("mechanism", None))
        is_valid = all(isinstance(name, str) for name in given)
        if mechanism is not None and is_valid and isinstance(given.get("path", ""), (str, os.PathLike)):
            return {"mechanism": mechanism, **given}
    elif isinstance(value, (list, tuple)) and len(value) in (2, 3) and all(isinstance(part, str) for part in value):
        mechanism = _to_mechanism(value[0])
        if mechanism is not None and len(value) == 3:
            return {"mechanism": mechanism, "plain_username": value[1], "plain_password": value[2]}
        if mechanism is not None:
            return {"mechanism": mechanism, "path": value[1]}
    # The value is not shown: it has a password.
    raise mistake(
        "sasl",
        f"expected (mechanism, username, password), (mechanism, path of a file with both on a line each) or a mapping "
        f"with the mechanism and further sasl options of the client; mechanisms: {', '.join(_MECHANISMS)}",
    )


def _to_mechanism(value: Any) -> Optional[str]:
    name = value.upper().replace("_", "-") if isinstance(value, str) else None
    return name if name in _MECHANISMS else None


def _to_ssl(value: Any) -> Any:
    if isinstance(value, (bool, ssl_module.SSLContext)):
        return value
    if isinstance(value, Mapping) and all(name in _SSL_NAMES for name in value):
        for name, item in value.items():
            if not _is_ssl_value(name, item):
                expected = "True or False" if name == "check_hostname" else "a non-empty str"
                raise mistake(f"ssl.{name}", f"expected {expected}, got: {safe_repr(mask({name: item})[name])}")
        return dict(value)
    shown = list(value) if isinstance(value, Mapping) else value
    expected = f"True, False, an ssl.SSLContext or a mapping with some of {', '.join(_SSL_NAMES)}"
    raise mistake("ssl", f"expected {expected}, got: {safe_repr(shown)}")


def _is_ssl_value(name: str, value: Any) -> bool:
    if name == "check_hostname":
        return isinstance(value, bool)
    if name == "password" and (isinstance(value, bytes) or callable(value)):
        return True
    return isinstance(value, str) and bool(value)


def _is_free(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(name in RESERVED for name in value)


@attrs.frozen(kw_only=True)
class ClientConfig:
    """
    How brokers are reached.
    """

    client_id_prefix: Optional[str] = option(
        None, optional(non_empty_str), "put before the name of the producer, which is how this client introduces itself"
    )
    sasl: Any = attrs.field(
        default=None,
        converter=_to_sasl,
        repr=False,
        metadata={"doc": "(mechanism, username, password), (mechanism, path), or a mapping with mechanism"},
    )
    ssl: Any = attrs.field(
        default=False,
        converter=_to_ssl,
        repr=False,
        metadata={"doc": f"True, an ssl.SSLContext, or a mapping with some of {', '.join(_SSL_NAMES)}"},
    )
    connect_timeout: float = option(5.0, positive_seconds, "how long one attempt to reach a broker may take, seconds")
    request_timeout: float = option(40.0, positive_seconds, "how long a request may take, seconds")
    extra_config: Mapping[str, Any] = attrs.field(
        default={},
        validator=[
            mapping,
            rule(_is_free, f"none of the names that the connector sets itself: {', '.join(RESERVED)}"),
        ],
        repr=False,
        metadata={"doc": "more arguments for kafka.KafkaConsumer, by its names and in its units"},
    )


def _to_group(value: Any) -> GroupConfig:
    return build(GroupConfig, value, "group_config")


def _to_fetch(value: Any) -> FetchConfig:
    return build(FetchConfig, value, "fetch_config")


def _to_client(value: Any) -> ClientConfig:
    return build(ClientConfig, value, "client_config")


@attrs.frozen(kw_only=True)
class KafkaOptions(BackoffOptions):
    """
    All options of the producer.
    """

    hosts: Tuple[str, ...] = option(
        attrs.NOTHING, None, 'some brokers: "host:port,host:port", or a list of "host:port" or (host, port)', _to_hosts
    )
    group_id: str = option(attrs.NOTHING, non_empty_str, "the consumer group, which shares the partitions")
    topics: Tuple[str, ...] = option(attrs.NOTHING, None, "names of the topics, a list", _to_topics)
    receive_interval: float = option(
        0.1,
        positive_seconds,
        "the longest wait for records before acknowledgements are looked after again, seconds; 1 at most, and 0.1 at "
        "most while there are any",
    )
    offset_commit_on_ack: bool = option(
        True,
        boolean,
        "commit soon after messages are acknowledged; False: every offset_commit_interval",
    )
    offset_commit_interval: float = option(
        5.0, positive_seconds, "seconds between two commits, without offset_commit_on_ack"
    )
    offset_reset_policy: Any = option(
        "earliest",
        None,
        'where to begin without a (valid) committed offset: "earliest", "latest" or ("timestamp", milliseconds)',
        _to_policy,
    )
    begin_offset: str = option(
        "assigned",
        one_of("assigned", "reset"),
        '"assigned": begin at the committed offset; "reset": by offset_reset_policy at each start and assignment',
    )
    group_config: GroupConfig = option({}, None, "membership of the group, see below", _to_group)
    fetch_config: FetchConfig = option({}, None, "how records are fetched, see below", _to_fetch)
    client_config: ClientConfig = option({}, None, "how brokers are reached, see below", _to_client)
    client: Optional[Callable[[Any], Any]] = attrs.field(
        default=None,
        validator=optional(rule(takes(1), "a function of the options")),
        repr=False,
        metadata={"doc": "for tests: returns the client to use"},
    )

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        fetch, client = self.fetch_config, self.client_config
        if fetch.max_wait_time >= client.request_timeout:
            raise mistake(
                "fetch_config.max_wait_time",
                f"expected less than client_config.request_timeout, which is {client.request_timeout}, "
                f"got: {fetch.max_wait_time}",
            )
        if self.group_config.session_timeout_seconds >= client.request_timeout:
            raise mistake(
                "group_config.session_timeout_seconds",
                f"expected less than client_config.request_timeout, which is {client.request_timeout}, "
                f"got: {self.group_config.session_timeout_seconds}",
            )

    @property
    def commit_interval(self) -> float:
        """
        Seconds between two commits.
        """
        if self.offset_commit_on_ack:
            return _COALESCE
        return self.group_config.offset_commit_interval_seconds or self.offset_commit_interval


# What is acknowledged within this time goes out in one commit. A commit is a round trip to the broker in which nothing
# is fetched; what a crash delivers again grows by this much.
_COALESCE = 0.05
