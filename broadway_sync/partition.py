"""
A hash to partition by.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any


def partition_key(value: Any) -> int:
    """
    Return an int >= 0 that is the same for equal values in every process, run and version of Python.

    Meant for ``partition_by``: ``lambda message: partition_key(message.metadata["user"])``. Python's own ``hash``
    of a str differs from process to process.

    Args:
        value: A str, bytes, int, bool, float, None, or a tuple of such. Values of different types
            differ (``1``, ``"1"`` and ``1.0`` are three keys).

    Raises:
        TypeError: Any other type, whose text could differ from run to run.
    """
    return int.from_bytes(blake2b(_encode(value), digest_size=8).digest(), "big") >> 1


def _encode(value: Any) -> bytes:
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray)):
        return b"b" + bytes(value)
    if value is None or isinstance(value, (bool, int, float)):
        return f"{type(value).__name__} {value!r}".encode()
    if isinstance(value, tuple):
        parts = [_encode(part) for part in value]
        return b"t" + b"".join(b"%d:%s" % (len(part), part) for part in parts)
    raise TypeError(
        f"partition_key() expects a str, bytes, number, None or a tuple of such, got: {type(value).__name__}"
    )
