"""
What the tests on real servers share.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any, Callable, Iterable, Mapping

import pytest

from broadway_sync import Message
from broadway_sync.connectors.sqs import SQSProducer
from tests.helpers import SCALE, eventually

LONG = 30.0 * SCALE
"""Seconds after which a test gives up on what takes a server some seconds."""

FAST: dict[str, Any] = {"wait_time_seconds": 0, "receive_interval": 0.05, "backoff_min": 0.05, "backoff_max": 0.2}
"""Options that let faults pass quickly."""


class Recorder:
    """
    A handler that records what it handles, in order, after *work* has been done with it (which may raise).
    """

    def __init__(self, work: Callable[[Message], Any] = lambda message: None) -> None:
        self._work = work
        self._mutex = threading.Lock()
        self.order: list[Any] = []
        self.counts: Counter[Any] = Counter()
        self.messages: list[Message] = []

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Record, then work.
        """
        with self._mutex:
            self.order.append(message.data)
            self.counts[message.data] += 1
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

    def wait_for_data(self, data: Iterable[Any]) -> None:
        """
        Wait until everything in *data* has been handled at least once.
        """
        wanted = set(data)
        eventually(lambda: wanted <= set(self.counts.copy()), f"{len(wanted)} messages are handled", LONG)

    def duplicates(self) -> set[Any]:
        """
        Return what has been handled more than once.
        """
        return {data for data, count in self.counts.items() if count > 1}


def module(queue_url: str, server: Any, port: int | None = None, **options: Any) -> tuple[type, Mapping[str, Any]]:
    """
    Return ``producer.module`` for a queue of *server*, perhaps through a proxy at *port*.
    """
    config = {**server.client_options(port), **options.pop("config", {})}
    return (SQSProducer, {"queue_url": queue_url, **FAST, "config": config, **options})


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """
    Return the records of the library that contain *text*.
    """
    messages = [record.getMessage() for record in caplog.records if record.name == "broadway_sync"]
    return [message for message in messages if text in message]


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """
    Return everything that the library has logged as a warning or worse.
    """
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "broadway_sync" and record.levelno >= logging.WARNING
    ]
