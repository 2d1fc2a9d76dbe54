"""
Looking at the frames of threads that run.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import Iterator


@contextmanager
def no_collection() -> Iterator[None]:
    """
    Keep the garbage collector away while frames of running threads are looked at.

    Frame objects are made for that. If this starts a collection, another thread may have its turn in the middle, and
    the interpreter crashes, or never goes on (at least CPython 3.11).
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()
