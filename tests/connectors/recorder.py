"""
The handler of the tests on brokers.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Callable, Iterable

from broadway_sync import Message
from tests.helpers import SCALE, eventually

LONG = 30.0 * SCALE
"""Seconds after which a test gives up on what takes a broker some seconds."""


class Recorder:
    """
    A handler that records what it handles, as text, in order, and then does *work* with it (which may raise).
    """

    def __init__(self, work: Callable[[Message], Any] = lambda message: None) -> None:
        self._work = work
        self._mutex = threading.Lock()
        self.order: list[str] = []
        self.counts: Counter[str] = Counter()
        self.messages: list[Message] = []

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Record, then work.
        """
        text = message.data.decode() if isinstance(message.data, bytes) else message.data
        with self._mutex:
            self.order.append(text)
            self.counts[text] += 1
            self.messages.append(message)
        self._work(message)
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Nothing more.
        """
        return messages

    def wait_for(self, predicate: Callable[[], Any], timeout: float = LONG) -> None:
        """
        Wait until *predicate* is true of what was handled.
        """
        eventually(predicate, "handling", timeout)

    def wait_for_data(self, data: Iterable[str]) -> None:
        """
        Wait until everything in *data* has been handled at least once.
        """
        wanted = set(data)
        self.wait_for(lambda: wanted <= set(self.counts.copy()))

    def duplicates(self) -> set[str]:
        """
        Return what has been handled more than once.
        """
        return {data for data, count in self.counts.items() if count > 1}
