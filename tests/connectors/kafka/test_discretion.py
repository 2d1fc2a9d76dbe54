"""
What of kafka-python's log is left out.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from broadway_sync.connectors.kafka.discretion import keep_secrets


class SaslAuthenticateRequest:
    """
    A request by its name.
    """


@pytest.mark.parametrize(
    ("name", "arguments", "is_shown"),
    [
        ("kafka.conn", ("request", SaslAuthenticateRequest()), False),
        ("kafka.conn", ("proxy", "socks5://user:secret@proxy:1080"), False),
        ("kafka.conn", ("proxy", "socks5://proxy:1080"), True),
        ("kafka.protocol.parser", ("send", b"\0\0\0\x0c\0user\0secret"), False),
        ("kafka.protocol.parser", ("send", b"\0\0\0\x10\0\x24\0\x02\0user\0secret"), False),
        ("kafka.net.connection", ("handshake", object()), True),
    ],
)
def test_records_with_credentials(name: str, arguments: Any, is_shown: bool, caplog: Any) -> None:
    """
    Requests of an authentication are not shown in any shape, nor is a proxy with its password.
    """
    keep_secrets()
    caplog.set_level(logging.DEBUG, name)
    logging.getLogger(name).debug("%s: %r", *arguments)
    assert bool(caplog.records) == is_shown
