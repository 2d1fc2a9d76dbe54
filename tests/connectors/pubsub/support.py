"""
What the tests of PubSubProducer share.
"""

from __future__ import annotations

import collections
import logging
import threading
from typing import Any, Callable, Iterable

import pytest

from broadway_sync import Message
from tests.brokers.pubsub import PubSub
from tests.helpers import SCALE

LONG = 30.0 * SCALE
"""Seconds after which a test gives up on what takes the emulator some seconds."""

LEASE = 2
"""Seconds: the emulator takes acknowledgement deadlines below ten, Google's service does not."""

QUICK: dict[str, Any] = {"receive_timeout": 1.5, "receive_interval": 0.05, "backoff_min": 0.05, "backoff_max": 0.3}
"""Options with which faults pass quickly. The emulator answers an empty pull a second before the time is over."""


class Recorder:
    """
    A handler that records what it handles, in order, and then does *work* with it (which may raise).
    """

    def __init__(self, work: Callable[[Message], Any] = lambda message: None) -> None:
        self._work = work
        self._changed = threading.Condition()
        self.order: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.messages: list[Message] = []

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Record, then work.
        """
        text = message.data.decode()
        with self._changed:
            self.order.append(text)
            self.counts[text] += 1
            self.messages.append(message)
            self._changed.notify_all()
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
        with self._changed:
            assert self._changed.wait_for(predicate, timeout), f"handled so far: {self.order!r:.2000}"

    def wait_for_data(self, data: Iterable[str]) -> None:
        """
        Wait until everything in *data* has been handled at least once.
        """
        wanted = set(data)
        self.wait_for(lambda: wanted <= set(self.counts))

    def duplicates(self) -> set[str]:
        """
        Return what has been handled more than once.
        """
        return {data for data, count in self.counts.items() if count > 1}


def failures(caplog: pytest.LogCaptureFixture, text: str = "") -> list[str]:
    """
    Return the warnings and errors of the library that contain *text*.
    """
    records = [record for record in caplog.records if record.name == "broadway_sync"]
    messages = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    return [message for message in messages if text in message]


def numbers(count: int, start: int = 0) -> list[str]:
    """
    Return the data of *count* messages.
    """
    return [str(number) for number in range(start, start + count)]


def is_empty(pubsub: PubSub, subscription: str) -> bool:
    """
    Whether nothing is left that could be delivered now; what is leased does not count.
    """
    left = pubsub.pull(subscription, 10)
    if left:
        with pubsub.subscriber() as subscriber:
            ack_ids = [received.ack_id for received in left]
            subscriber.modify_ack_deadline(subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=0)
    return not left
