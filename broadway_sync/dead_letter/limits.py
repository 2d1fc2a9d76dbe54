"""
When there are too many failures to go on.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Optional, Tuple

import attrs

from ..statistics import Statistics

Stages = Tuple[str, Optional[str]]
"""Kind and key of the stages that do the same."""


@attrs.frozen
class Limits:
    """
    How many failures are too many; see :class:`DeadLetter`.
    """

    max_ratio: Optional[float]
    window: int
    max_run: Optional[int]

    @property
    def is_set(self) -> bool:
        """
        Whether there is a limit at all.
        """
        return self.max_ratio is not None or self.max_run is not None


class Failures:
    """
    The failures of one run of a pipeline. Not thread-safe.

    Successes are not counted here, which would cost something for each of them: a run counts what its stages are
    through with, by the step, and failures are known here. So a row of failures is seen to be over when the step is,
    in which something succeeded.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # (messages that had been taken from producers at the time, failures). Taken, and not through: failures of
        # processors are through long before the successes of the same chunk, which wait in a batch.
        self._recent: Deque[Tuple[int, int]] = deque()
        self._rows: Dict[Stages, _Row] = {}

    def add(self, statistics: Statistics, stage: str, count: int, generation: int) -> Optional[str]:
        """
        Count failures of *stage*; return what there is too much of, None if all is within limits.

        Args:
            statistics: Of the run, taken just now; other threads may have added later ones before.
            generation: Number of the stages that these are of, or an earlier one: new stages begin to count at nothing.
        """
        return self._ratio(statistics, count) or self._run(statistics, stage, count, generation)

    def _ratio(self, statistics: Statistics, count: int) -> Optional[str]:
        max_ratio, window = self._limits.max_ratio, self._limits.window
        if max_ratio is None:
            return None
        recent = self._recent
        taken = statistics.handled + statistics.in_flight
        recent.append((taken, count))
        while recent[0][0] <= taken - window:
            recent.popleft()
        failed = min(window, sum(each for _, each in recent))
        if failed / window <= max_ratio:  # not a product: 0.29 * 100 is less than 29
            return None
        return f"{failed} of the last {window} messages failed, more than max_ratio={max_ratio} allows"

    def _run(self, statistics: Statistics, stage: str, count: int, generation: int) -> Optional[str]:
        max_run = self._limits.max_run
        if max_run is None:
            return None
        stages, handled = _handled(statistics, stage)
        row = self._rows.setdefault(stages, _Row())
        row.add(generation, handled, count)
        if row.length <= max_run:
            return None
        return f"{row.length} messages failed in a row, more than max_run={max_run} allows"


class _Row:
    """
    Failures of one kind of stages without a success between them.
    """

    def __init__(self) -> None:
        self.length = 0
        self._generation = 0
        self._failed = 0
        self._successful = 0

    def add(self, generation: int, handled: int, count: int) -> None:
        """
        Add *count* failures to the row, or to a new one if there were successes since.

        Args:
            generation: Of the stages, whose counts begin at nothing.
            handled: Messages that these stages are through with, the latest failures not all among them.
        """
        if generation > self._generation:
            self._generation, self._failed, self._successful = generation, 0, 0
        successful = handled - self._failed
        if successful > self._successful:
            self._successful = successful
            self.length = 0
        self._failed += count
        self.length += count


def _handled(statistics: Statistics, stage: str) -> Tuple[Stages, int]:
    """
    Return which stages *stage* is one of, and how many messages they are through with.
    """
    mine = next(((each.kind, each.key) for each in statistics.stages if each.name == stage), ("", None))
    return mine, sum(each.handled for each in statistics.stages if (each.kind, each.key) == mine)
