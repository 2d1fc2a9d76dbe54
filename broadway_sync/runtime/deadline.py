"""
One limit across several waits.
"""

from __future__ import annotations

from time import monotonic
from typing import Optional


class Deadline:
    """
    A point in monotonic time, or none.
    """

    def __init__(self, seconds: Optional[float]) -> None:
        self._at = None if seconds is None else monotonic() + seconds

    def remaining(self) -> Optional[float]:
        """
        Return the seconds that are left, at least 0; None without a limit.
        """
        return None if self._at is None else max(0.0, self._at - monotonic())

    def is_over(self) -> bool:
        """
        Whether the time has run out.
        """
        return self._at is not None and monotonic() >= self._at

    def tighten(self, seconds: float) -> None:
        """
        Move the point to *seconds* from now, if that is earlier.
        """
        at = monotonic() + seconds
        self._at = at if self._at is None else min(at, self._at)
