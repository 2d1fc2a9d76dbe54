"""
How many crashes in which time are too many.
"""

from __future__ import annotations

from collections import deque
from typing import Deque


class RestartIntensity:
    """
    At most *max_restarts* restarts within any *max_seconds*.

    Not thread-safe. Follows Erlang's ``supervisor.erl``: the restart that is one too many is refused.
    """

    def __init__(self, max_restarts: int, max_seconds: float) -> None:
        self._max_restarts = max_restarts
        self._max_seconds = max_seconds
        self._crashes: Deque[float] = deque()

    def allows(self, now: float) -> bool:
        """
        Record a crash at *now* (which must not decrease) and say whether a restart is within the budget.
        """
        crashes = self._crashes
        crashes.append(now)
        while now - crashes[0] > self._max_seconds:
            crashes.popleft()
        return len(crashes) <= self._max_restarts
