"""
Keeps passwords out of kafka-python's log.

At level DEBUG it shows every request, that of the authentication with user and password too. Whoever asks for that
level, of the root logger or with ``--log-level debug``, hardly wants that.
"""

from __future__ import annotations

import logging
from typing import Any

from ...masking import mask

# Those that show requests: of 3.x, and of 2.x. A filter holds for one logger, not for those below it.
_LOGGERS = ("kafka.net.connection", "kafka.protocol.parser", "kafka.conn")


class _Discretion(logging.Filter):
    """
    Drops the records that show an authentication, the URL of a proxy with a password (2.x), or what is sent as it is
    sent: an authentication has no header there by which to tell it, where the brokers are old.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether the record may be shown.
        """
        return not any(map(_is_secret, record.args)) if isinstance(record.args, tuple) else True


def _is_secret(argument: Any) -> bool:
    if isinstance(argument, (bytes, bytearray)):
        return True
    if isinstance(argument, str):
        return bool(mask(argument) != argument)
    return type(argument).__name__.startswith(("SaslAuthenticateRequest", "SaslBytesRequest"))


_DISCRETION = _Discretion()


def keep_secrets() -> None:
    """
    Drop such records from now on; a second call changes nothing.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_DISCRETION)
