"""
Pipelines that processes of the tests run.
"""

from __future__ import annotations

import itertools
import sys
import threading
from typing import Any, Iterator

from django.apps import apps

from broadway_sync import IterableProducer, Message, NoopAcknowledger, Pipeline, Producer


def orders() -> Any:
    """
    Return the model; this module is also imported before the project is set up.
    """
    return apps.get_model("shop", "Order")


def say(text: str) -> None:
    """
    Print a line that a test waits for.
    """
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class StoreOrders:
    """
    One row for each batch of one; says so.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Nothing to do.
        """
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Store the batch.
        """
        order = orders()
        order.objects.bulk_create([order(email=message.data, amount=1) for message in messages])
        say("stored")
        return messages


def messages() -> Iterator[Message]:
    """
    Messages without end.
    """
    for number in itertools.count():
        yield Message(f"{number}@example.com", NoopAcknowledger.init())


def slow() -> Pipeline:
    """
    A pipeline that stores rows until it is stopped, ten a second.
    """
    return Pipeline(
        StoreOrders(),
        name="slow",
        producer={
            "module": (IterableProducer, {"iterable": messages()}),
            "rate_limiting": {"allowed_messages": 1, "interval": 0.1},
        },
        processors={"default": {"concurrency": 1, "max_demand": 1}},
        batchers={"default": {"batch_size": 1}},
    )


class Stuck:
    """
    A handler that never comes back.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Wait for ever, after a query.
        """
        say(f"stuck with {orders().objects.count()}")
        threading.Event().wait()
        return message


def stuck() -> Pipeline:
    """
    A pipeline that cannot be drained.
    """
    return Pipeline(
        Stuck(),
        name="stuck",
        producer={"module": (IterableProducer, {"iterable": messages()})},
        processors={"default": {"concurrency": 1, "max_demand": 1}},
    )


class CrashingProducer(Producer):
    """
    Never gets anything.
    """

    def handle_demand(self, demand: int) -> list[Message]:
        """
        Crash.
        """
        raise OSError("the source is gone")


def crashing() -> Pipeline:
    """
    A pipeline that gives up.
    """
    return Pipeline(
        StoreOrders(),
        name="crashing",
        producer={"module": (CrashingProducer, {})},
        processors={"default": {"concurrency": 1}},
        batchers={"default": {}},
        max_restarts=0,
        resubscribe_interval=0.0,
    )
