"""
What the tests of dead letters share.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional, Sequence

from broadway_sync import Message
from broadway_sync.dead_letter import Letter
from broadway_sync.dead_letter.letter import to_letter
from tests.helpers import RecordingAcknowledger, make_handler


def letter(data: Any = b"body", reason: Any = "reason", **metadata: Any) -> Letter:
    """
    Return the letter of a message that failed.
    """
    message = RecordingAcknowledger().message(data, metadata=metadata).fail(reason)
    return to_letter(message, message.data, "pipeline", "stage")


def failing_handler(handle_failed: Any, fails: Callable[[Any], bool] = lambda data: True, **callbacks: Any) -> Any:
    """
    Return a handler that raises for data for which *fails* says so.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if fails(message.data):
            raise ValueError(f"cannot handle {message.data!r}")
        return message

    return make_handler(**{"handle_message": handle_message, "handle_failed": handle_failed, **callbacks})


class MemoryLetters:
    """
    A writer that keeps letters in memory, and raises what it is told to.
    """

    def __init__(self, *errors: Optional[BaseException]) -> None:
        self._errors = list(errors)
        self._mutex = threading.Lock()
        self.letters: list[Letter] = []
        self.writes = 0
        self.closes = 0

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Keep or raise.
        """
        with self._mutex:
            self.writes += 1
            error = self._errors.pop(0) if self._errors else None
            if error is not None:
                raise error
            self.letters.extend(letters)

    def close(self) -> None:
        """
        Count.
        """
        self.closes += 1

    @property
    def data(self) -> list[Any]:
        """
        The bodies.
        """
        return [each.text for each in self.letters]


class Unlucky:
    """
    Raises whatever is done with it.
    """

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")

    __hash__ = None  # type: ignore[assignment]


class UnluckyError(Exception):
    """
    An exception that cannot be looked at.
    """

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attribute")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    __repr__ = __str__
