"""
The option ``connection``: where the broker is, and how to log in.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Tuple

import attrs

from ...log import safe_repr
from ...masking import mask
from ...rules import (
    boolean,
    build,
    is_int,
    mapping,
    mistake,
    non_empty_str,
    option,
    optional,
    positive_seconds,
    rule,
)

any_str = rule(lambda value: isinstance(value, str), "a str")
_heartbeat = rule(lambda value: is_int(value, 0) and value <= 65535, "whole seconds from 0 (none) to 65535")
_channel_max = rule(lambda value: is_int(value, 1) and value <= 65535, "an int from 1 to 65535")
_frame_max = rule(lambda value: is_int(value, 4096) and value <= 131072, "an int from 4096 to 131072")
_port = rule(lambda value: is_int(value, 1) and value <= 65535, "an int from 1 to 65535")


def arguments(doc: str) -> Any:
    """
    Return the attrs field of a table of arguments.
    """
    return option(attrs.Factory(dict), mapping, doc)


@attrs.frozen(kw_only=True)
class SslOptions:
    """
    TLS by files, which are read at each connect.
    """

    cafile: Optional[str] = option(None, optional(non_empty_str), "certificates to trust (default: the system's)")
    certfile: Optional[str] = option(None, optional(non_empty_str), "our certificate")
    keyfile: Optional[str] = option(None, optional(non_empty_str), "its key, unless it is in certfile")
    password: Optional[str] = attrs.field(
        default=None, validator=optional(any_str), repr=False, metadata={"doc": "the key's password"}
    )
    server_hostname: Optional[str] = option(
        None, optional(non_empty_str), "the name in the broker's certificate (default: host)"
    )
    check_hostname: bool = option(True, boolean, "whether that name is checked")

    def __attrs_post_init__(self) -> None:
        if self.keyfile is not None and self.certfile is None:
            raise mistake("certfile", "required with keyfile")


def _to_ssl(value: Any) -> Any:
    return build(SslOptions, value, "ssl") if isinstance(value, Mapping) else value


def _is_ssl(value: Any) -> bool:
    return value is None or isinstance(value, (bool, SslOptions)) or hasattr(value, "wrap_socket")


@attrs.frozen(kw_only=True)
class ConnectionOptions:
    """
    Where the broker is, and how to log in.
    """

    host: str = option("localhost", non_empty_str, "name or address")
    port: Optional[int] = option(None, optional(_port), "default: 5672, with TLS 5671")
    virtual_host: str = option("/", non_empty_str, "the virtual host")
    username: str = option("guest", any_str, "the user")
    password: str = attrs.field(default="guest", validator=any_str, repr=False, metadata={"doc": "the user's password"})
    ssl: Any = option(
        None,
        rule(_is_ssl, "True, a mapping of cafile, certfile, keyfile and others, or an ssl.SSLContext"),
        "TLS: True, a mapping of files, or an ssl.SSLContext",
        _to_ssl,
    )
    heartbeat: Optional[int] = option(None, optional(_heartbeat), "whole seconds; default: what the broker proposes")
    connection_timeout: float = option(10.0, positive_seconds, "how long one attempt to connect may take, seconds")
    blocked_connection_timeout: Optional[float] = option(
        None, optional(positive_seconds), "give up a connection that the broker blocks for so long, seconds"
    )
    channel_max: Optional[int] = option(None, optional(_channel_max), "the most channels")
    frame_max: Optional[int] = option(None, optional(_frame_max), "the largest frame, bytes")
    client_properties: Mapping[str, Any] = arguments("what the management page shows about this client")


def to_connection(value: Any) -> Any:
    """
    Return one address: a URL as it is, a mapping as :class:`ConnectionOptions`, parameters of pika as they are.
    """
    if isinstance(value, Mapping):
        return build(ConnectionOptions, value, "connection")
    if isinstance(value, str) and not value.startswith(("amqp://", "amqps://")):
        raise mistake("connection", f"expected a URL that begins with amqp:// or amqps://, got: {shown(value)}")
    if not isinstance(value, (str, ConnectionOptions)) and not hasattr(value, "virtual_host"):
        raise mistake("connection", f"{_CONNECTION}, got: {shown(value)}")
    return value


_CONNECTION = "expected an AMQP URL, a mapping, pika.connection.Parameters, or a list of these"


def shown(value: Any) -> str:
    """
    Return *value* for an error text, short and without credentials.
    """
    return safe_repr(mask([value])[0])


def to_connections(value: Any) -> Tuple[Any, ...]:
    """
    Return the addresses of the option ``connection``, one or a list of them.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise mistake("connection", f"{_CONNECTION}, got: {safe_repr(value)}")
    return tuple(to_connection(one) for one in values)
