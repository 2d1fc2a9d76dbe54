"""
Credentials do not leave in telemetry, logs or texts.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Dict, Mapping, Tuple

MASK = "******"
_WORDS = (
    r"passw(?:or)?d|passphrase|passcode|pwd|secret|token|credential|authorization|signature"
    r"|api_?key|access_?key|private_?key|account_?key|shared_?key|sas_?key"
)
_SECRET_NAME = re.compile(rf"{_WORDS}|^pass$|^key$|^auth$|^sasl$", re.IGNORECASE)
# scheme://user:password@host; the last @ counts, as passwords may contain one. Also without the scheme.
_URL_PASSWORD = re.compile(r"(\w:/{1,2}[^\s:/@]*|(?<![^\s\"'])[^\s:/@\"']+(?=:[^/])):[^\s]*@")
# The same where the whole value is one address: then white space is no end of the password, clients take it too.
_ADDRESS = re.compile(r"\A(\s*\w[\w+.-]*:/{1,2}[^:/@]*):.*@", re.DOTALL)
# password=..., also quoted, in query strings, DSNs and JAAS configurations, in JSON and the repr of a dict (a query
# string may contain one), and "Authorization: Bearer ...". A backslash may escape a quote, or be the password's last.
_ASSIGNMENT = re.compile(
    rf"""((?:{_WORDS})\w{{0,40}}(?:["']|%2[27])?\s*(?:[=:]|%3[AD])\s*)"""
    r"""(b?"[^"\\]*(?:\\[\s\S][^"\\]*)*"|b?'[^'\\]*(?:\\[\s\S][^'\\]*)*'"""
    r"""|b?"[^"]*"|b?'[^']*'|Bearer \S+|Basic \S+|[^\s&;,"']+)""",
    re.IGNORECASE,
)


def mask(value: Any) -> Any:
    """
    Return a copy of *value* in which passwords, keys and tokens are masked.

    Looked for by name in mappings and pairs, at any depth of mappings, lists, tuples and sets, and inside str and
    bytes. Of an object that is none of these, nor a number, None, a class or a function, only the type is shown: its
    ``repr`` may say anything. So it is for a container inside itself.
    """
    return _mask(value, ())


def _mask(value: Any, outer: Tuple[int, ...]) -> Any:
    """
    Return *value* masked; *outer* are the ids of the containers that it is in.
    """
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and id(value) not in outer:
        outer = (*outer, id(value))
        return _mask_mapping(value, outer) if isinstance(value, Mapping) else _mask_items(value, outer)
    if isinstance(value, str):
        if outer:  # an option, no text that only begins with an address
            value = _ADDRESS.sub(rf"\1:{MASK}@", value)
        return _ASSIGNMENT.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", value))
    if isinstance(value, (bytes, bytearray)):
        return mask(bytes(value).decode("latin-1")).encode("latin-1")
    if value is None or isinstance(value, (bool, int, float, type)) or hasattr(value, "__code__"):
        return value
    return f"<{type(value).__name__}>"


def mask_module(module: Any) -> Any:
    """
    Return the option ``producer.module`` without credentials: those among its options, or of a ``functools.partial``.
    """
    if isinstance(module, tuple):
        return (module[0], mask(module[1]))
    return mask_module(module.func) if isinstance(module, functools.partial) else module


def _mask_mapping(values: Mapping[Any, Any], outer: Tuple[int, ...]) -> Dict[Any, Any]:
    return {key: MASK if _is_secret(key) and item is not None else _mask(item, outer) for key, item in values.items()}


def _mask_items(items: Any, outer: Tuple[int, ...]) -> Any:
    if len(items) == 2 and isinstance(items, (list, tuple)) and _is_secret(items[0]):  # a pair, as headers come
        masked = [items[0], MASK]
    else:
        masked = [_mask(item, outer) for item in items]
    kind: Any = next(kind for kind in (list, set, frozenset, tuple) if isinstance(items, kind))
    return kind(masked)


def _is_secret(key: Any) -> bool:
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    return isinstance(key, str) and bool(_SECRET_NAME.search(key))
