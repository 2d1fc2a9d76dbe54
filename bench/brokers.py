"""
The brokers that the scenarios of connectors run on: those of the tests, each started when a case first needs it.
"""

from __future__ import annotations

import importlib
from typing import Any, Dict

# Not imported here: a run without these scenarios needs none of what they need.
CLASSES = {
    "rabbitmq": ("tests.brokers.rabbitmq", "RabbitMQ"),
    "kafka": ("tests.brokers.kafka", "Kafka"),
    "ministack": ("tests.brokers.ministack", "MiniStack"),
    "pubsub": ("tests.brokers.pubsub", "PubSub"),
}

started: Dict[str, Any] = {}
"""The brokers that run, by the names above."""


class MissingBrokerError(Exception):
    """
    This broker cannot be started here; the text says what it needs.
    """


def get(name: str) -> Any:
    """
    Return the broker *name*, started.

    Raises:
        MissingBrokerError: It cannot be started here.
    """
    if name not in started:
        module, class_name = CLASSES[name]
        broker_class = getattr(importlib.import_module(module), class_name)
        missing = broker_class.missing()
        if missing:
            raise MissingBrokerError(missing)
        started[name] = broker_class().start()
    return started[name]


def close_all() -> None:
    """
    Stop all that run.
    """
    while started:
        started.popitem()[1].close()
