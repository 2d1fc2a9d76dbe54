"""
What the tests of the Kafka connector share: a handler that remembers, pipelines on a topic, conditions to wait for.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from typing import Any, Callable, Iterator

from broadway_sync import Message, Pipeline
from broadway_sync.connectors.kafka import KafkaProducer
from tests.helpers import BOUND, SCALE, eventually, unique_name

FAST_GROUP = {"session_timeout_seconds": 4.0 * SCALE, "heartbeat_rate_seconds": 0.3, "rejoin_delay_seconds": 0.1}
"""Settings under which a rebalance is noticed soon, and a member that was killed is missed soon."""

LONG = 4 * BOUND
"""Seconds for what takes a broker's restart or a session timeout."""


class Seen:
    """
    A handler that remembers what it saw; ``fails(message)`` says which messages raise, ``gate`` stops it.
    """

    def __init__(self, fails: Callable[[Message], bool] = lambda message: False, gate: Any = None) -> None:
        self._fails = fails
        self.gate = gate
        self._lock = threading.Lock()
        self.values: list[bytes] = []
        self.failed: list[bytes] = []
        self.where: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
        self.offsets: dict[tuple[str, int], list[int]] = collections.defaultdict(list)
        self.batches: list[tuple[Any, list[int]]] = []
        self.batched_on: dict[tuple[str, int], set[str]] = collections.defaultdict(set)

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Remember value, place and offset.
        """
        key = (message.metadata["topic"], message.metadata["partition"])
        with self._lock:
            self.values.append(message.data)
            self.where[key].add(threading.current_thread().name)
            self.offsets[key].append(message.metadata["offset"])
        if self.gate is not None:
            self.gate.wait(message.data)
        if self._fails(message):
            raise ValueError("as the test wants it")
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Remember the batch.
        """
        with self._lock:
            self.batches.append((batch_info.batch_key, [message.metadata["offset"] for message in messages]))
            self.batched_on[batch_info.batch_key].add(threading.current_thread().name)
        return messages

    def handle_failed(self, messages: list[Message], context: Any) -> list[Message]:
        """
        Remember what failed.
        """
        with self._lock:
            self.failed += [message.data for message in messages]
        return messages

    def duplicates(self) -> list[bytes]:
        """
        Return the values that came more than once.
        """
        return [value for value, count in collections.Counter(self.values).items() if count > 1]

    def wait_for(self, count: int, timeout: float = LONG) -> None:
        """
        Wait until *count* different values have come.
        """
        eventually(lambda: len(self.values) >= count and len(set(self.values)) >= count, f"{count} values", timeout)


@contextlib.contextmanager
def consuming(
    hosts: Any,
    topic: Any,
    group: str,
    handler: Any,
    *,
    concurrency: int = 1,
    processors: Any = None,
    batchers: Any = None,
    shutdown: float = 20.0,
    **options: Any,
) -> Iterator[Pipeline]:
    """
    Run a pipeline on a topic (or several, in a list).
    """
    topics = [topic] if isinstance(topic, str) else topic
    given = {
        "group_config": FAST_GROUP,
        "fetch_config": {"max_wait_time": 0.1},
        "backoff_min": 0.1,
        "backoff_max": 0.5,
        **options,
    }
    pipeline = Pipeline(
        handler,
        name=unique_name("kafka"),
        producer={
            "module": (KafkaProducer, {"hosts": hosts, "topics": topics, "group_id": group, **given}),
            "concurrency": concurrency,
        },
        processors={"default": processors or {"concurrency": 2}},
        batchers=batchers,
        shutdown=shutdown * SCALE,
    )
    with pipeline:
        yield pipeline


def values(count: int, first: int = 0) -> list[bytes]:
    """
    Return values that are all different.
    """
    return [b"%d" % number for number in range(first, first + count)]


def wait_until_committed(kafka: Any, group: str, topic: str, timeout: float = LONG) -> None:
    """
    Wait until the group has committed the end of every partition that has records.
    """
    ends = {number: end for number, end in kafka.end_offsets(topic).items() if end}

    def is_committed() -> bool:
        committed = kafka.committed(group, topic)
        return all(committed[number] == end for number, end in ends.items())

    eventually(is_committed, f"committed offsets at {ends}", timeout)


def produce_to(mock: Any, topic: str, items: list[bytes]) -> None:
    """
    Send records to the first partition of a topic of a mock cluster.
    """
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=mock.bootstrap, **mock.client_config)
    try:
        for future in [producer.send(topic, item, partition=0) for item in items]:
            future.get(timeout=BOUND)
    finally:
        producer.close()


def committed_in(mock: Any, group: str, topic: str) -> Any:
    """
    Return what a group has committed in the first partition of a topic of a mock cluster.
    """
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=mock.bootstrap, group_id=group, enable_auto_commit=False, **mock.client_config
    )
    try:
        return consumer.committed(TopicPartition(topic, 0))
    finally:
        consumer.close()
