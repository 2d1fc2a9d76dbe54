"""
What the exit code of a runner says, and which of several counts.
"""

from __future__ import annotations

import enum
from typing import Iterable


class ExitCode(enum.IntEnum):
    """
    Exit codes of ``broadway-sync run``, from best to worst.
    """

    DRAINED = 0
    """Ended in good order: sources exhausted, or drained after a signal, ``--max-messages`` or ``--max-memory``."""
    LEFT_BEHIND = 1
    """Messages or threads were left behind; their source delivers them again."""
    GAVE_UP = 3
    """A pipeline crashed more often than its budget allows."""
    CANNOT_START = 2
    """Nothing ran: an option, a target or the code that makes a pipeline is wrong."""


_BADNESS = list(ExitCode)


def worst(codes: Iterable[int]) -> ExitCode:
    """
    Return the worst of *codes*, ``DRAINED`` if there are none.
    """
    return max((ExitCode(code) for code in codes), key=_BADNESS.index, default=ExitCode.DRAINED)
