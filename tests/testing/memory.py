"""
A broker in memory with leases and connections, and a connector for it: what the contract suite itself is tested on.

The broker is strict, as RabbitMQ is: acknowledging what is not outstanding closes the connection.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from broadway_sync import ConfigurationError, Message, Producer

PASSWORD = "s3cret-in-memory"
LOGGER = "off_broadway_memory"
logger = logging.getLogger(LOGGER)
OPTIONS = {"broker", "password", "on_failure", "prefetch"}
ACTIONS = ("ack", "requeue")


class ConnectionLost(Exception):
    """
    The connection is gone.
    """


class Item:
    """
    One message in the broker.
    """

    def __init__(self, data: str) -> None:
        self.data = data
        self.expires = 0.0


class Connection:
    """
    One connection: what it holds comes back when it is lost.
    """

    def __init__(self) -> None:
        self.outstanding: Dict[int, Item] = {}
        self.is_open = True


class Broker:
    """
    One queue. Thread-safe.
    """

    def __init__(self, lease: float = 0.6) -> None:
        self.lease = lease
        self.is_up = True
        self.is_passing = threading.Event()
        self.is_passing.set()
        self.is_strict = True
        self.acknowledgements = 0
        self._lock = threading.Lock()
        self._waiting: Deque[Item] = deque()
        self._connections: Set[Connection] = set()
        self._tags = itertools.count(1)

    def publish(self, data: Iterable[str]) -> None:
        with self._lock:
            self._waiting.extend(Item(item) for item in data)

    def remaining(self) -> int:
        with self._lock:
            return len(self._waiting) + sum(len(each.outstanding) for each in self._connections)

    def connect(self, password: str) -> Connection:
        with self._lock:
            if not self.is_up:
                raise ConnectionLost("connection refused")
            if password != PASSWORD:
                raise ConnectionLost("access refused")
            connection = Connection()
            self._connections.add(connection)
            return connection

    def receive(self, connection: Connection, count: int) -> List[Tuple[int, str]]:
        self.is_passing.wait()
        with self._lock:
            self._check(connection)
            self._expire()
            received = []
            while self._waiting and len(received) < count:
                item, tag = self._waiting.popleft(), next(self._tags)
                item.expires = time.monotonic() + self.lease
                connection.outstanding[tag] = item
                received.append((tag, item.data))
            return received

    def settle(self, connection: Connection, tag: int, action: str) -> None:
        self.is_passing.wait()
        with self._lock:
            self._check(connection)
            self.acknowledgements += action == "ack"
            item = connection.outstanding.pop(tag, None)
            if item is None and self.is_strict:
                self._close(connection)
                raise ConnectionLost(f"unknown tag {tag}")
            if item is not None and action == "requeue":
                self._waiting.append(item)

    def extend(self, connection: Connection) -> None:
        self.is_passing.wait()
        with self._lock:
            self._check(connection)
            for item in connection.outstanding.values():
                item.expires = time.monotonic() + self.lease

    def close(self, connection: Connection) -> None:
        with self._lock:
            self._close(connection)

    def cut(self) -> None:
        with self._lock:
            for connection in list(self._connections):
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        connection.is_open = False
        self._connections.discard(connection)
        self._waiting.extendleft(reversed(list(connection.outstanding.values())))
        connection.outstanding.clear()

    def _check(self, connection: Connection) -> None:
        if not connection.is_open:
            raise ConnectionLost("connection reset")

    def _expire(self) -> None:
        now = time.monotonic()
        for connection in self._connections:
            for tag in [tag for tag, item in connection.outstanding.items() if item.expires < now]:
                self._waiting.append(connection.outstanding.pop(tag))


class MemoryAcknowledger:
    """
    The ack_ref is the producer's connection; the ack_data ``(tag, on_failure)``.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        for message in successful:
            self.settle(ack_ref, message.acknowledger[2][0], "ack")
        for message in failed:
            tag, on_failure = message.acknowledger[2]
            self.settle(ack_ref, tag, on_failure)

    def settle(self, connection: Connection, tag: int, action: str) -> None:
        try:
            self.broker.settle(connection, tag, action)
        except ConnectionLost:  # delivered again
            logger.info("an acknowledgement came too late")

    def configure(self, ack_ref: Any, ack_data: Any, options: Mapping[str, Any]) -> Any:
        tag, on_failure = ack_data
        for name, value in options.items():
            if name != "on_failure" or value not in ACTIONS:
                raise ConfigurationError(f"{name}: expected on_failure, one of {ACTIONS}, got: {value!r}")
            on_failure = value
        return (tag, on_failure)


class MemoryProducer(Producer):
    """
    Receives on a thread of its own, ahead of demand, as many as ``prefetch``.
    """

    poll_interval = 0.01

    def __init__(self, broker: Broker, password: str, on_failure: str = "requeue", prefetch: int = 20) -> None:
        self.broker = broker
        self.password = password
        self.on_failure = on_failure
        self.prefetch = prefetch
        self.acknowledger = MemoryAcknowledger(broker)
        self.received: queue.Queue[Tuple[Connection, int, str]] = queue.Queue()
        self.connection: Optional[Connection] = None
        self.is_down = False
        self.is_receiving = True
        self.is_over = threading.Event()
        self.threads: List[threading.Thread] = []

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, value in options.items():
            if name not in OPTIONS:
                raise ConfigurationError(f"{name}: unknown option, valid options are: {sorted(OPTIONS)}")
            if name == "on_failure" and value not in ACTIONS:
                raise ConfigurationError(f"on_failure: expected one of {ACTIONS}, got: {value!r}")
        return options

    def init(self) -> None:
        for role, body in (("Receiver", self.receive_all), ("Leases", self.extend_all)):
            thread = threading.Thread(target=body, name=f"{self.stage.name}.{role}", daemon=True)
            self.threads.append(thread)
            thread.start()

    def handle_demand(self, demand: int) -> List[Message]:
        messages: List[Message] = []
        while len(messages) < demand and not self.received.empty():
            connection, tag, data = self.received.get()
            if connection.is_open:
                messages.append(Message(data, (self.acknowledger, connection, (tag, self.on_failure))))
        return messages

    def prepare_for_draining(self) -> List[Message]:
        self.is_receiving = False
        self.threads[0].join()
        self.hand_back()
        return []

    def terminate(self, reason: Any) -> None:
        self.is_receiving = False
        self.is_over.set()
        for thread in self.threads:
            thread.join()
        if self.connection is not None:
            self.broker.close(self.connection)

    def hand_back(self) -> None:
        while not self.received.empty():
            connection, tag, _ = self.received.get()
            self.acknowledger.settle(connection, tag, "requeue")

    def receive_all(self) -> None:
        while self.is_receiving and not self.stage.draining:
            try:
                if self.connection is None:
                    self.connection = self.connect()
                    self.is_down = False
                self.receive(self.connection)
            except ConnectionLost as error:
                self.connection = None
                self.report(error)
            self.is_over.wait(0.005)

    def connect(self) -> Connection:
        return self.broker.connect(self.password)

    def report(self, error: Exception) -> None:
        if not self.is_down:
            logger.warning("no connection: %s", error)
        self.is_down = True

    def receive(self, connection: Connection) -> None:
        for tag, data in self.broker.receive(connection, self.prefetch - self.received.qsize()):
            self.received.put((connection, tag, data))
        self.stage.wake()

    def extend_all(self) -> None:
        while not self.is_over.wait(self.broker.lease / 5):
            try:
                if self.connection is not None:
                    self.broker.extend(self.connection)
            except ConnectionLost:  # the other thread sees it too
                pass
