"""
What dead letters raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from ..errors import BroadwayError

if TYPE_CHECKING:
    from .letter import Letter


class DeadLetterError(BroadwayError):
    """
    Failed messages could not be written anywhere; the reason why the pipeline gave up. They are left to their source.
    """


class TooManyFailuresError(BroadwayError):
    """
    More messages failed than :class:`~broadway_sync.dead_letter.DeadLetter` was told to take; the reason why the
    pipeline gave up.
    """


class PartlyWrittenError(BroadwayError):
    """
    For writers to raise: some letters were accepted, and ``left`` were not. ``__cause__`` says why.
    """

    def __init__(self, text: str, left: Sequence[Letter]) -> None:
        super().__init__(text)
        self.left = list(left)


class LetterRefusedError(PartlyWrittenError):
    """
    For writers to raise: the same, and there is no point in trying again.
    """
