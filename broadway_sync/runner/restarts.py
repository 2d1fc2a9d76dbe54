"""
Whether, and when, a worker that ended is followed by another one.
"""

from __future__ import annotations

import random
import signal
from typing import Callable, Optional

import attrs

from ..core.backoff import Backoff
from .exit_codes import ExitCode

AT_LIMIT = 86
"""Exit code of a worker that left because of ``max_messages`` or ``max_memory``; for its parent alone."""

SIGNALLED = 87
"""Exit code of a worker that drained because somebody signalled it, not its parent; for its parent alone."""

STABLE = 60.0
"""Seconds after which a worker that dies counts as one that had worked: its pauses begin anew."""

QUICK = 0.5
"""Seconds. What leaves sooner, time and again, was not renewed by somebody: it signals itself."""

QUICK_PAUSE = 1.0
"""Seconds until its successor starts."""

MOST = 10
"""How many workers may die one after the other, none of them stable, before their parent gives up."""


@attrs.frozen
class Next:
    """
    What follows the end of a worker.
    """

    pause: Optional[float]
    """Seconds until the next one is started; None: there is none."""
    code: ExitCode
    """How this end counts if no other worker follows."""
    is_hopeless: bool = False
    """Whether all should end: another worker would fare no better."""


class RestartPlan:
    """
    The succession of one worker. Not thread-safe; knows no clock and no process.

    * One whose sources are exhausted has no successor.
    * One that left at a limit, or because it was signalled, has one at once; only if two in a row left as soon as they
      had started there is a pause.
    * One that died, left messages behind or whose pipeline gave up has one after a pause, which grows from about half a
      second to half a minute. After :data:`MOST` of them in a row the parent gives up.
    * One that cannot start when none ever could makes the parent give up at once: that is a mistake, not bad luck.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        # Random: workers that died together, for example with their broker, should not come back together.
        self._backoff = Backoff("rand_exp", 0.5, 30.0, uniform)
        self.deaths = 0
        """How many died in a row."""
        self._was_quick = False

    def ended(self, code: int, lived: float, *, is_stopping: bool, was_ready: bool) -> Next:
        """
        Decide what follows.

        Args:
            code: Exit code, or the negative number of the signal that killed it.
            lived: For how many seconds.
            is_stopping: Whether all workers are being stopped.
            was_ready: Whether any worker ever had its pipelines made.
        """
        verdict = counts_as(code)
        if is_stopping or code == ExitCode.DRAINED:
            return Next(None, verdict)
        if code == ExitCode.CANNOT_START and not was_ready:
            return Next(None, verdict, is_hopeless=True)
        if code in (AT_LIMIT, SIGNALLED):
            self._begin_anew()
            return Next(self._pause_of_renewal(lived), verdict)
        return self._after_death(verdict, lived)

    def _pause_of_renewal(self, lived: float) -> float:
        is_again = self._was_quick and lived < QUICK
        self._was_quick = lived < QUICK
        return QUICK_PAUSE if is_again else 0.0

    def _after_death(self, verdict: ExitCode, lived: float) -> Next:
        if lived >= STABLE:
            self._begin_anew()
        self.deaths += 1
        if self.deaths > MOST:
            return Next(None, verdict if verdict == ExitCode.CANNOT_START else ExitCode.GAVE_UP, is_hopeless=True)
        return Next(self._backoff.next(), verdict)

    def _begin_anew(self) -> None:
        self.deaths = 0
        self._backoff.reset()


def counts_as(code: int) -> ExitCode:
    """
    Return the exit code of the runner that a worker's stands for. One that died left what it had in hand.
    """
    if code in (AT_LIMIT, SIGNALLED):
        return ExitCode.DRAINED
    return ExitCode(code) if code in list(ExitCode) else ExitCode.LEFT_BEHIND


def describe(code: int) -> str:
    """
    Return how a process ended, as text.
    """
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    texts = {
        AT_LIMIT: "left at its limit",
        SIGNALLED: "was drained by a signal",
        ExitCode.DRAINED: "ended in good order",
        ExitCode.LEFT_BEHIND: "left messages behind",
        ExitCode.GAVE_UP: "gave up",
        ExitCode.CANNOT_START: "could not start",
    }
    return texts.get(code, f"ended with exit code {code}")
