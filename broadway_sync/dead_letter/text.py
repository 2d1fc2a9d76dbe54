"""
Texts of letters: safe to store anywhere, and never longer than they may be.
"""

from __future__ import annotations

import json
import re
import traceback
from datetime import date
from typing import Any, Dict, Mapping, Optional

from ..log import safe_repr

LONGEST_REASON = 1000
LONGEST_TRACEBACK = 8000
LONGEST_ORIGIN = 8000
"""Characters."""

# What XML (and so SQS), PostgreSQL or UTF-8 do not take.
_ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_DEEPEST = 6
# Of no use once the message is acknowledged.
_PASSING = ("receipt_handle", "delivery_tag")


def clean(text: str) -> str:
    """
    Return *text* with what some systems refuse written as ``\\x00``.
    """
    return _ODD.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def cut(text: str, limit: int) -> str:
    """
    Return *text*, without its middle if it is longer than *limit*: of a traceback both ends matter.
    """
    if len(text) <= limit:
        return text
    mark = "\n[...]\n"
    head = max(0, limit - len(mark)) // 2
    tail = max(0, limit - len(mark) - head)
    return f"{text[:head]}{mark}{text[len(text) - tail :]}"[:limit]


def cut_bytes(text: str, limit: int) -> str:
    """
    Return *text*, without its middle if it takes more than *limit* bytes.
    """
    longest = limit
    while len(text.encode("utf-8", "replace")) > limit:
        text = cut(text, longest)
        longest -= max(1, longest // 8)
    return text


def describe_reason(reason: Any) -> str:
    """
    Return why a message failed: the text of ``fail``, or the last line of a traceback.
    """
    if isinstance(reason, BaseException):
        text = "".join(traceback.format_exception_only(type(reason), reason)).strip()
    else:
        text = reason if isinstance(reason, str) else safe_repr(reason)
    return cut(clean(text), LONGEST_REASON)


def describe_traceback(reason: Any) -> str:
    """
    Return the traceback of an exception, nothing for any other reason.
    """
    if not isinstance(reason, BaseException):
        return ""
    # limit: the innermost frames of each exception in the chain; a recursion has a thousand of them.
    trace = traceback.TracebackException(type(reason), reason, reason.__traceback__, limit=-50)
    return cut(clean("".join(trace.format()).strip()), LONGEST_TRACEBACK)


def to_origin(metadata: Mapping[Any, Any]) -> Dict[str, Any]:
    """
    Return the metadata of a message as JSON can have them.
    """
    return {_key(name): _plain(value, _DEEPEST) for name, value in metadata.items() if name not in _PASSING}


def origin_text(origin: Mapping[str, Any], limit: int = LONGEST_ORIGIN, size: Any = len) -> str:
    """
    Return *origin* as JSON of at most *limit*; if that is too long without its largest entries, and ``"cut": true``.
    """
    text = json.dumps(origin)
    kept = dict(origin)
    for name in sorted(origin, key=lambda each: len(json.dumps(origin[each])), reverse=True):
        if size(text) <= limit:
            return text
        del kept[name]
        text = json.dumps({**kept, "cut": True})
    return text


def _plain(value: Any, depth: int) -> Any:
    """
    Return *value* as JSON can have it; bytes as text where they are text, else as ``{"base16": ...}``.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else hex(value)  # Python refuses to write thousands of digits
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)  # JSON has neither infinity nor NaN
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, (bytes, bytearray)):
        return _of_bytes(bytes(value))
    if isinstance(value, date):
        return value.isoformat()
    if depth and isinstance(value, Mapping):
        return {_key(name): _plain(each, depth - 1) for name, each in value.items()}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each, depth - 1) for each in value]
    return clean(safe_repr(value))


def _of_bytes(value: bytes) -> Any:
    try:
        text: Optional[str] = value.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    return text if text is not None and clean(text) == text else {"base16": value.hex()}


def _key(name: Any) -> str:
    return clean(name if isinstance(name, str) else safe_repr(name))
