"""
What the tests of dead letters share.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Iterator, Optional, Sequence

from broadway_sync import Message
from broadway_sync.dead_letter import Letter
from broadway_sync.dead_letter.letter import to_letter
from tests.helpers import Call, RecordingAcknowledger, make_handler


def letter(data: Any = b"body", reason: Any = "reason", **metadata: Any) -> Letter:
    """
    Return the letter of a message that failed.
    """
    message = RecordingAcknowledger().message(data, metadata=metadata).fail(reason)
    return to_letter(message, message.data, "pipeline", "stage")


def is_odd(data: Any) -> bool:
    """
    One of a hundred.
    """
    return bool(data.endswith("00" if isinstance(data, str) else b"00"))


@contextlib.contextmanager
def closing(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """
    Give a function that makes writers, as *make* does; all are closed at the end.
    """
    with contextlib.ExitStack() as stack:

        def writer(*args: Any, **kwargs: Any) -> Any:
            made = make(*args, **kwargs)
            stack.callback(made.close)
            return made

        yield writer


def write_on_threads(writer: Any, threads: int, lots: int) -> list[str]:
    """
    Write *lots* of three letters on each of several threads at a time; return all bodies, sorted.
    """

    def write(thread: int) -> None:
        for number in range(lots):
            writer.write([letter(f"{thread} {number} {part}") for part in range(3)])

    for call in [Call(write, thread) for thread in range(threads)]:
        call.result()
    return sorted(f"{t} {n} {part}" for t in range(threads) for n in range(lots) for part in range(3))


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
