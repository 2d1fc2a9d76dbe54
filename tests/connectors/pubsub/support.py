"""
What the tests of PubSubProducer share.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.brokers.pubsub import PubSub

LEASE = 2
"""Seconds: the emulator takes acknowledgement deadlines below ten, Google's service does not."""

QUICK: dict[str, Any] = {"receive_timeout": 1.5, "receive_interval": 0.05, "backoff_min": 0.05, "backoff_max": 0.3}
"""Options with which faults pass quickly. The emulator answers an empty pull a second before the time is over."""


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
