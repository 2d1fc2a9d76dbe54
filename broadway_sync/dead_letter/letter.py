"""
What is written of a failed message.
"""

from __future__ import annotations

import base64
import json
import pickle
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import attrs

from ..log import safe_repr
from ..message import Message
from .text import LONGEST_ORIGIN, clean, cut_bytes, describe_reason, describe_traceback, origin_text, to_origin

BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
PICKLE = "application/x-python-pickle"
REPR = "text/x-python-repr; charset=utf-8"

_LONGEST_REPR = 100_000
PREFIX = "broadway-"
"""How the names of headers and attributes begin."""


@attrs.frozen(kw_only=True)
class Letter:
    """
    A failed message, ready to be stored.
    """

    body: bytes
    """The data; see :attr:`content_type`."""
    content_type: str
    """``application/octet-stream``: the data were bytes, as they are. ``text/plain``: a str. ``application/json``: JSON
    that reads back as what it was. ``application/x-python-pickle``: any other object. ``text/x-python-repr``: an object
    that cannot be pickled; all that is left of it is its ``repr``."""
    reason: str
    """What ``Message.fail`` got, or type and text of the exception."""
    traceback: str
    """Of the exception, shortened in the middle; empty after ``Message.fail``."""
    attempts: int
    """How often the callback that failed was called, see :class:`broadway_sync.Retry`."""
    pipeline: str
    """Name of the pipeline."""
    stage: str
    """Name of the thread of the stage where the message failed."""
    origin: Mapping[str, Any]
    """The message's metadata, as JSON can have them: topic, partition and offset, message id, headers, and so on."""
    failed_at: datetime
    """When, in UTC."""
    message: Message = attrs.field(eq=False, repr=False)
    """The message itself, for functions that write letters of their own making."""

    @property
    def text(self) -> Optional[str]:
        """
        The body as text, None if it is not text that can be stored anywhere.
        """
        try:
            text = self.body.decode("utf-8")
        except UnicodeDecodeError:
            return None
        return text if clean(text) == text else None

    def headers(self, most_bytes: Optional[int] = None) -> Dict[str, str]:
        """
        Return everything but the body, by names that begin with ``broadway-``; nothing empty.

        Args:
            most_bytes: Longer values are cut to so many bytes.
        """
        limit = LONGEST_ORIGIN if most_bytes is None else most_bytes
        values = {
            "reason": self.reason,
            "traceback": self.traceback,
            "attempts": str(self.attempts),
            "pipeline": self.pipeline,
            "stage": self.stage,
            "origin": origin_text(self.origin, limit),
            "failed-at": self.failed_at.isoformat(),
            "content-type": self.content_type,
        }
        return {
            PREFIX + name: value if most_bytes is None else cut_bytes(value, most_bytes)
            for name, value in values.items()
            if value
        }

    def as_dict(self) -> Dict[str, Any]:
        """
        Return everything as JSON can have it. The body is ``body``, or if it is no text ``body_base64``.
        """
        text = self.text
        body = {"body_base64": base64.b64encode(self.body).decode("ascii")} if text is None else {"body": text}
        return {
            "failed_at": self.failed_at.isoformat(),
            "pipeline": self.pipeline,
            "stage": self.stage,
            "reason": self.reason,
            "traceback": self.traceback,
            "attempts": self.attempts,
            "origin": dict(self.origin),
            "content_type": self.content_type,
            **body,
        }


def to_letter(message: Message, data: Any, pipeline: str, stage: str) -> Letter:
    """
    Return the letter of a failed message.

    Args:
        data: What its body is to be; the message's own data, or what they were made from.
    """
    body, content_type = encode(data)
    return Letter(
        body=body,
        content_type=content_type,
        reason=_or_excuse(describe_reason, message.reason),
        traceback=_or_excuse(describe_traceback, message.reason),
        attempts=_attempts(message.reason),
        pipeline=clean(pipeline),
        stage=clean(stage),
        origin=_origin(message),
        failed_at=datetime.now(timezone.utc),
        message=message,
    )


def _or_excuse(describe: Callable[[Any], str], reason: Any) -> str:
    """
    Return ``describe(reason)``; a letter must be written also where a user's object raises when it is looked at.
    """
    try:
        return describe(reason)
    except Exception as error:
        return f"<{type(reason).__name__}, looking at it raised {type(error).__name__}>"


def _attempts(reason: Any) -> int:
    try:
        attempts = getattr(reason, "broadway_attempts", 1)
    except Exception:  # see above
        return 1
    return attempts if isinstance(attempts, int) else 1


def _origin(message: Message) -> Dict[str, Any]:
    try:
        return to_origin(message.metadata)
    except Exception as error:
        return {"unreadable": f"looking at the metadata raised {type(error).__name__}"}


def encode(data: Any) -> Tuple[bytes, str]:
    """
    Return *data* as bytes, and what they are. Never raises: what nothing else can be done with becomes its ``repr``.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        with suppress(Exception):  # a memoryview that was released, a class of somebody's own
            return bytes(data), BYTES
    if isinstance(data, str):
        with suppress(Exception):  # half a surrogate pair, which JSON can have; a class of somebody's own
            return data.encode("utf-8"), TEXT
    for convert, content_type in ((_to_json, JSON), (_to_pickle, PICKLE)):
        try:
            return convert(data), content_type
        except Exception:  # recursion, memory, and whatever a user's object does when it is looked at
            continue
    return _to_repr(data).encode("utf-8", "backslashreplace"), REPR


def _to_json(data: Any) -> bytes:
    text = json.dumps(data, allow_nan=False)
    if json.loads(text) != data:
        raise ValueError("tuples, keys that are no str: JSON would make something else of it")
    return text.encode("utf-8")


def _to_pickle(data: Any) -> bytes:
    return pickle.dumps(data, protocol=4)


def _to_repr(data: Any) -> str:
    try:
        return repr(data)[:_LONGEST_REPR]
    except Exception:
        return safe_repr(data)
