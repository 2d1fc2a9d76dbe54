"""
What kafka-python is told.
"""

from __future__ import annotations

from typing import Any, Callable, Container, Dict, Mapping

from ...errors import ConfigurationError, ConnectorError
from .options import ClientConfig, KafkaOptions

# The client's own default for one response; all partitions of a broker share it.
_FETCH_MAX_BYTES = 50 * 1024 * 1024
_IDLE_MS = 9 * 60 * 1000


def to_config(
    options: KafkaOptions, name: str, index: int, known: Mapping[str, Any], make_network: Callable[..., Any]
) -> Dict[str, Any]:
    """
    Return the arguments of a ``KafkaConsumer``.

    Args:
        name: How the client introduces itself.
        index: Number of the producer, for the name of a static member.
        known: The arguments that this version of kafka-python has; what it does not know is left out.
        make_network: Makes the client's network client.

    Raises:
        ConfigurationError: See :func:`check`.
        ConnectorError: User and password cannot be read from their file.
    """
    check(options.client_config, known)
    config = {name: value for name, value in _arguments(options, name, index).items() if name in known}
    return {**config, "kafka_client": make_network, **options.client_config.extra_config}


def check(client: ClientConfig, known: Container[str]) -> None:
    """
    Check what only the client library knows: the names of its own arguments.

    Args:
        known: The arguments that this version of kafka-python has.

    Raises:
        ConfigurationError: ``extra_config`` or ``sasl`` has a name that is not among them.
    """
    sasl = [name for name in client.sasl or () if name != "path"]
    for option, unknown in (
        ("extra_config", [name for name in client.extra_config if name not in known]),
        ("sasl", [name for name in sasl if f"sasl_{name}" not in known]),
    ):
        if unknown:
            names = ", ".join(sorted(map(repr, unknown)))
            raise ConfigurationError(
                f"producer.module.client_config.{option}: this version of kafka-python does not know {names}"
            )


def _arguments(options: KafkaOptions, name: str, index: int) -> Dict[str, Any]:
    group, fetch = options.group_config, options.fetch_config
    client = options.client_config
    config: Dict[str, Any] = {
        "bootstrap_servers": list(options.hosts),
        "client_id": f"{client.client_id_prefix or ''}{name}",
        "group_id": options.group_id,
        # True would commit what was delivered, handled or not.
        "enable_auto_commit": False,
        # Positions are ours to find: the client knows no times, and says nothing when it jumps.
        "auto_offset_reset": "none",
        "max_poll_interval_ms": milliseconds(group.rebalance_timeout_seconds),
        "session_timeout_ms": milliseconds(group.session_timeout_seconds),
        "heartbeat_interval_ms": milliseconds(group.heartbeat_rate_seconds),
        "request_timeout_ms": milliseconds(client.request_timeout),
        # The client's own nine minutes, unless a request may take longer, which it refuses.
        "connections_max_idle_ms": max(_IDLE_MS, milliseconds(client.request_timeout) + 1000),
        "fetch_min_bytes": fetch.min_bytes,
        "fetch_max_wait_ms": milliseconds(fetch.max_wait_time),
        "max_partition_fetch_bytes": fetch.max_bytes,
        "check_crcs": fetch.check_crcs,
        # A tenth of the client's time, for figures that nobody can ask for.
        "metrics_enabled": False,
        # A topic's name with a typo must not become a topic.
        "allow_auto_create_topics": False,
        # How long the constructor tries: 3.x, and 2.x.
        "bootstrap_timeout_ms": milliseconds(client.connect_timeout),
        "api_version_auto_timeout_ms": milliseconds(client.connect_timeout),
        # 2.x takes no more than 1 MB in one response, which two full partitions exceed, and then never gets on.
        "receive_message_max_bytes": _FETCH_MAX_BYTES + 2 * fetch.max_bytes,
        "fetch_max_bytes": _FETCH_MAX_BYTES,
        # The client's 30 s would be added to every outage.
        "reconnect_backoff_max_ms": 1000,
        "isolation_level": fetch.isolation_level,
        **_security(client),
    }
    if group.group_instance_id is not None:
        config["group_instance_id"] = f"{group.group_instance_id}-{index}"
    return config


def _security(client: ClientConfig) -> Dict[str, Any]:
    """
    Return the client's options for TLS and SASL.
    """
    config: Dict[str, Any] = {"security_protocol": _PROTOCOLS[bool(client.sasl), client.ssl is not False]}
    if isinstance(client.ssl, Mapping):
        config.update({f"ssl_{name}": value for name, value in client.ssl.items()})
    elif not isinstance(client.ssl, bool):
        config["ssl_context"] = client.ssl
    if client.sasl:
        config.update({f"sasl_{name}": value for name, value in _with_password(client.sasl).items()})
    return config


_PROTOCOLS = {
    (False, False): "PLAINTEXT", (False, True): "SSL", (True, False): "SASL_PLAINTEXT", (True, True): "SASL_SSL",
}  # fmt: skip


def _with_password(sasl: Mapping[str, Any]) -> Dict[str, Any]:
    """
    Read username and password from the file, if there is one: at each connect, so that they can be changed.
    """
    config = dict(sasl)
    path = config.pop("path", None)
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, ValueError) as error:  # perhaps it is being replaced just now
            raise ConnectorError(f"client_config.sasl: cannot read {path}: {type(error).__name__}") from None
        if len(lines) < 2:
            raise ConnectorError(f"client_config.sasl: {path} must have two lines, user and password")
        config["plain_username"], config["plain_password"] = lines[0].strip(), lines[1].strip()
    return config


def milliseconds(seconds: float) -> int:
    """
    Return *seconds* as the client wants them, at least 1.
    """
    return max(1, int(seconds * 1000))
