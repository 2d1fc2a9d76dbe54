"""
What the tests on a real RabbitMQ share: options with short pauses, and a handler that counts.
"""

from __future__ import annotations

import collections
import logging
import threading
from typing import Any, Callable, Dict, Iterable, List, Optional

from broadway_sync import Message
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from tests.helpers import BOUND, eventually

QUICK = {"backoff_min": 0.05, "backoff_max": 0.2}
"""Back-off for tests that wait for a reconnect."""


def producer(url: str, queue: str, *, concurrency: int = 1, **options: Any) -> Dict[str, Any]:
    """
    Return the option ``producer`` of a pipeline.
    """
    given = {"queue": queue, "connection": url, "on_failure": "reject", **QUICK, **options}
    return {"module": (RabbitMQProducer, given), "concurrency": concurrency}


def bodies(count: int, first: int = 0) -> List[bytes]:
    """
    Return *count* bodies, each another one.
    """
    return [b"%d" % number for number in range(first, first + count)]


class Seen:
    """
    A handler that counts how often it saw each body, and lets a test wait for that.

    Args:
        then: Called with each message, after it was counted; what it raises fails the message.
    """

    def __init__(self, then: Optional[Callable[[Message], Any]] = None) -> None:
        self._then = then
        self._changed = threading.Condition()
        self.messages: List[Message] = []
        self.times: Dict[bytes, int] = collections.Counter()

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Count the message.
        """
        with self._changed:
            self.times[message.data] += 1
            self.messages.append(message)
            self._changed.notify_all()
        if self._then is not None:
            self._then(message)
        return message

    def wait(self, wanted: Iterable[bytes], timeout: float = BOUND) -> None:
        """
        Wait until each of these bodies was seen.
        """
        wanted = set(wanted)
        with self._changed:
            is_done = self._changed.wait_for(lambda: wanted <= self.times.keys(), timeout)
        missing = wanted - set(self.times)
        assert is_done, f"{len(missing)} of {len(wanted)} not seen in {timeout} s: {sorted(missing)[:10]}"

    def wait_for_count(self, count: int, timeout: float = BOUND) -> None:
        """
        Wait until so many messages were handled, whichever they were.
        """
        with self._changed:
            is_done = self._changed.wait_for(lambda: len(self.messages) >= count, timeout)
        assert is_done, f"only {len(self.messages)} of {count} in {timeout} s"

    def duplicates(self) -> int:
        """
        Return how many messages were handled more than once, counted with each repetition.
        """
        return sum(times - 1 for times in self.times.values())


def wait_until_empty(rabbitmq: Any, queue: str) -> None:
    """
    Wait until no message of the queue is ready, or with a consumer. It takes a second; see also :func:`assert_settled`.
    """
    eventually(lambda: rabbitmq.ready_count(queue) == 0, f"queue {queue} has no message ready")
    eventually(lambda: rabbitmq.counts(queue) == (0, 0), f"queue {queue} has no message unacknowledged")


def assert_settled(rabbitmq: Any, queue: str) -> None:
    """
    Fail if the broker has a message that was not acknowledged: after the end of the pipeline it is ready again.
    """
    eventually(lambda: rabbitmq.consumer_count(queue) == 0, f"queue {queue} has no consumer")
    assert rabbitmq.ready_count(queue) == 0


def wait_until_consuming(rabbitmq: Any, queue: str, consumers: int = 1) -> None:
    """
    Wait until the queue has so many consumers.
    """
    eventually(lambda: rabbitmq.consumer_count(queue) == consumers, f"queue {queue} has {consumers} consumers")


def texts(caplog: Any, level: int = logging.WARNING, name: str = "broadway_sync") -> List[str]:
    """
    Return what *name* has logged, from *level* up.
    """
    return [r.getMessage() for r in caplog.records if r.name.split(".")[0] == name and r.levelno >= level]
