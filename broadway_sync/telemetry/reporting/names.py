"""
Names that every metrics system takes, from whatever names pipelines, stages and exceptions have.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import lru_cache

LONGEST = 80
"""Characters of one part of a name."""

_ODD = re.compile(r"[^A-Za-z0-9_-]")
_REPEATED = re.compile(r"__+")


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """
    Return *text* with ASCII letters, digits, ``_`` and ``-`` only.

    Accents are taken off, whatever else does not fit becomes ``_``. If that would leave too little to tell two names
    apart (letters that have no ASCII form, or a name that is too long) a checksum of the name is added.
    """
    plain = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    cleaned = _REPEATED.sub("_", _ODD.sub("_", plain)).strip("_")
    if cleaned and len(cleaned) <= LONGEST and plain.isascii():
        return cleaned
    checksum = f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
    return "_".join(part for part in (cleaned[: LONGEST - 9], checksum) if part)


def valid(text: str) -> str:
    """
    Return *text* as UTF-8 can have it: one lone surrogate would spoil a whole page or request.
    """
    return text.encode("utf-8", "replace").decode("utf-8")
