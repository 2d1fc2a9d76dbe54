"""
Looking at the frames of threads that run.
"""

from __future__ import annotations

import gc
import os
import threading
from contextlib import contextmanager
from typing import Iterator

# Held while frames are looked at: whoever is through first would let the collector loose on the others. Reentrant, as
# a signal handler may look, too.
_lock = threading.RLock()
# Whether the collector is off because of this module.
_is_off = False


@contextmanager
def no_collection() -> Iterator[None]:
    """
    Keep the garbage collector away while frames of running threads are looked at. One thread at a time.

    Frame objects are made for that. If this starts a collection, another thread may have its turn in the middle, and
    the interpreter crashes, or never goes on (at least CPython 3.11).
    """
    global _is_off
    with _lock:
        is_enabled = gc.isenabled()
        _is_off = _is_off or is_enabled
        gc.disable()
        try:
            yield
        finally:
            if is_enabled:
                gc.enable()
                _is_off = False


def _after_fork() -> None:
    """
    In a child: the thread that was looking is not there, and would have let the collector go on.
    """
    global _lock, _is_off
    _lock = threading.RLock()
    if _is_off:
        gc.enable()
        _is_off = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
