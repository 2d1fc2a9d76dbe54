"""
Fixtures for the tests of several connectors.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterator

import pytest

from broadway_sync import telemetry
from tests.helpers import SCALE, unique_name

LONG = 30.0 * SCALE


class Heard:
    """
    Telemetry of some kinds, until the end of the test.
    """

    def __init__(self, *events: tuple[str, ...]) -> None:
        self._changed = threading.Condition()
        self.events: list[tuple[Any, Any, Any]] = []
        self._id = unique_name("heard")
        telemetry.attach_many(self._id, list(events), self._hear)

    def _hear(self, event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        with self._changed:
            self.events.append((event, measurements, metadata))
            self._changed.notify_all()

    def wait_for(self, count: int, where: Callable[[Any], Any] = lambda metadata: True) -> None:
        """
        Wait until events with metadata that satisfy *where* have come *count* times.
        """
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.metadata(where)) >= count, LONG)
        assert enough, self.events

    def metadata(self, where: Callable[[Any], Any] = lambda metadata: True) -> list[Any]:
        """
        Return the metadata that satisfy *where*.
        """
        return [metadata for _, _, metadata in self.events if where(metadata)]

    def close(self) -> None:
        """
        Hear no more.
        """
        telemetry.detach(self._id)


@pytest.fixture
def hear() -> Iterator[Callable[..., Heard]]:
    """
    Return a function that listens to telemetry until the end of the test.
    """
    made: list[Heard] = []

    def hear(*events: tuple[str, ...]) -> Heard:
        made.append(Heard(*events))
        return made[-1]

    yield hear
    for heard in made:
        heard.close()
