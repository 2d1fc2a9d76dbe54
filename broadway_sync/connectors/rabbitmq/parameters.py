"""
Addresses, as options have them, become parameters of pika.
"""

from __future__ import annotations

import copy
import ssl
from typing import Any

from ...errors import ConfigurationError, ConnectorError
from .address import ConnectionOptions, SslOptions


def to_parameters(pika: Any, address: Any, name: str) -> Any:
    """
    Return the parameters of pika for one address, with *name* as the name of the connection unless it has one.

    Args:
        pika: The module.

    Raises:
        ConfigurationError: pika cannot read the URL.
        ConnectorError: A file of the TLS options cannot be used.
    """
    if isinstance(address, str):
        parameters = parse(pika, address)
    elif isinstance(address, ConnectionOptions):
        parameters = _from_options(pika, address)
    else:
        parameters = copy.copy(address)  # the user's: not to be changed
    parameters.client_properties = {"connection_name": name, **(parameters.client_properties or {})}
    return parameters


def parse(pika: Any, url: str) -> Any:
    """
    Return what pika reads in *url*.

    Raises:
        ConfigurationError: It cannot.
    """
    try:
        return pika.URLParameters(url)
    except Exception as error:  # its text may quote a part of the password
        kind = type(error).__name__
    raise ConfigurationError(
        f"producer.module.connection: pika cannot read the URL ({kind}); expected "
        "amqp://user:password@host:port/virtual_host, with special characters quoted as in %2F"
    )


def _from_options(pika: Any, options: ConnectionOptions) -> Any:
    given = {
        "port": options.port,
        "ssl_options": _ssl(pika, options),
        "channel_max": options.channel_max,
        "frame_max": options.frame_max,
    }
    return pika.ConnectionParameters(
        host=options.host,
        virtual_host=options.virtual_host,
        credentials=pika.PlainCredentials(options.username, options.password),
        heartbeat=options.heartbeat,
        socket_timeout=options.connection_timeout,
        stack_timeout=options.connection_timeout,
        blocked_connection_timeout=options.blocked_connection_timeout,
        client_properties=dict(options.client_properties),
        **{key: value for key, value in given.items() if value is not None},
    )


def _ssl(pika: Any, options: ConnectionOptions) -> Any:
    if not options.ssl:
        return None
    context, server_hostname = options.ssl, options.host
    if isinstance(context, SslOptions):
        server_hostname = context.server_hostname or server_hostname
        context = _to_context(context)
    elif context is True:
        context = ssl.create_default_context()
    return pika.SSLOptions(context, server_hostname)


def _require_password() -> str:
    # Called for a key that is encrypted. Without it OpenSSL would ask whoever sits at the terminal, and wait.
    raise ConnectorError("connection.ssl: the key is encrypted, and there is no password")


def _to_context(options: SslOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.cafile)
        if options.certfile is not None:
            password: Any = _require_password if options.password is None else options.password
            context.load_cert_chain(options.certfile, options.keyfile, password)
    except OSError as error:  # which does not say what file it is about
        files = ", ".join(filter(None, (options.cafile, options.certfile, options.keyfile)))
        raise ConnectorError(f"connection.ssl: cannot use {files}: {error}") from error
    context.check_hostname = options.check_hostname
    return context
