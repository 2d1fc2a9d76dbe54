"""
When a process has done enough and leaves, for its supervisor to start afresh.
"""

from __future__ import annotations

import os
import sys
from typing import Optional

import attrs


@attrs.frozen
class Limits:
    """
    ``max_messages`` and ``max_memory``, either of which may be None.
    """

    max_messages: Optional[int]
    max_memory: Optional[int]

    def exceeded(self, handled: int, resident: Optional[int]) -> Optional[str]:
        """
        Return what is past its limit, as text, None if nothing is.

        Args:
            handled: Messages that are through.
            resident: Bytes of memory, None where that is not known.
        """
        if self.max_messages is not None and handled >= self.max_messages:
            return f"{handled} messages were handled, max_messages is {self.max_messages}"
        if self.max_memory is not None and resident is not None and resident > self.max_memory:
            return f"{show_size(resident)} are resident, max_memory is {show_size(self.max_memory)}"
        return None


def resident_memory() -> Optional[int]:
    """
    Return the bytes of memory of this process that are resident; the most that ever were where there is no ``/proc``.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _peak_memory()


def _peak_memory() -> Optional[int]:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def show_size(size: int) -> str:
    """
    Return *size* in MiB, as ``512.0M``.
    """
    return f"{size / 1024**2:.1f}M"
