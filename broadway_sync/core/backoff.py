"""
How long to wait before the next attempt.
"""

from __future__ import annotations

import random
from typing import Callable, Optional

KINDS = ("rand_exp", "exp", "rand", "stop")

_LEAST = 0.01  # seconds: a minimum of 0 must not become a busy loop


class Backoff:
    """
    The pauses between the attempts of one thing that keeps failing. Not thread-safe.

    * ``"exp"``: minimum, twice that, and so on up to maximum.
    * ``"rand"``: anything between minimum and maximum.
    * ``"rand_exp"``: between the pause before, or a third of maximum if that is less, and three times the pause
      before, so that many who failed together do not come back together; never above maximum.
    * ``"stop"``: no second attempt.

    Follows Broadway's RabbitMQ connector, ``backoff.ex``, but for a minimum of 0, with which that one spins.
    """

    def __init__(
        self, kind: str, minimum: float, maximum: float, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        """
        Args:
            kind: One of :data:`KINDS`.
            minimum, maximum: Seconds, ``minimum <= maximum``; below 0.01 s counts as that.
            uniform: Returns a number between two others.
        """
        self._kind = kind
        self._minimum = max(minimum, _LEAST)
        self._maximum = max(maximum, _LEAST)
        self._uniform = uniform
        self._last: Optional[float] = None

    def next(self) -> Optional[float]:
        """
        Return the seconds to wait before the next attempt, None for never.
        """
        if self._kind == "stop":
            return None
        if self._kind == "rand":
            return self._uniform(self._minimum, self._maximum)
        self._last = self._grow(self._last)
        return self._last

    def reset(self) -> None:
        """
        Begin anew: an attempt has succeeded.
        """
        self._last = None

    def _grow(self, last: Optional[float]) -> float:
        if self._kind == "exp":
            return self._minimum if last is None else min(2 * last, self._maximum)
        last = self._minimum if last is None else last
        lower = max(self._minimum, self._maximum / 3)
        return self._uniform(min(last, lower), min(3 * last, self._maximum))
