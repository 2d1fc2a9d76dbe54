"""
Credentials do not leave in telemetry.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

MASK = "******"

_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase|code)?$|passw|secret|token|credential|authorization|api_?key|access_?key|private_?key"
    r"|account_?key|shared_?key|sas_?key|signature|^key$|^auth$|^pwd$",
    re.IGNORECASE,
)
# The password of scheme://user:password@host (the last @ counts, passwords may contain one), and of ?password=...
_URL_PASSWORD = re.compile(r"(\w://[^\s:/@]*):[^\s]*@")
_QUERY_PASSWORD = re.compile(r"([?&;](?:\w*(?:passw\w*|secret|token|api_?key|access_?key)\w*)=)[^&;\s]*", re.IGNORECASE)


def mask(value: Any) -> Any:
    """
    Return a copy of *value* in which passwords, keys and tokens are masked.

    Looked for by name in mappings, at any depth of mappings, lists and tuples, and inside URLs. Other objects are
    returned as they are.
    """
    if isinstance(value, Mapping):
        return {key: MASK if _is_secret(key, item) else mask(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(mask(item) for item in value)
    if isinstance(value, str):
        return _QUERY_PASSWORD.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", value))
    return value


def _is_secret(key: Any, value: Any) -> bool:
    return isinstance(key, str) and bool(_SECRET_NAME.search(key)) and value is not None
