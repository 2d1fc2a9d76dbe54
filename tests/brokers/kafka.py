"""
Apache Kafka itself, one node without ZooKeeper, from the jars that ``make brokers`` fetches.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import socket
import struct
import subprocess
import time
import uuid
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, Mapping

from tests.brokers.broker import JARS, POLL_INTERVAL, READY_BOUND, Broker, BrokerError, java, java_missing, unique
from tests.brokers.ports import HOST
from tests.brokers.process import SCALE

# ApiVersions, version 0, correlation id 1, client id "ready": the one request that needs nothing before it.
API_VERSIONS = struct.pack(">hhih5s", 18, 0, 1, 5, b"ready")


class Kafka(Broker):
    """
    One node; topics, records and committed offsets survive ``stop()`` and ``kill()``.

    It listens at three addresses: ``bootstrap``; ``sasl_bootstrap``, for the user ``tester`` with the password
    ``correct`` (SASL/PLAIN without TLS); and ``proxied_port``, which clients are told to reach at ``proxy_port``:
    ``make_proxy(kafka.proxied_port, listen=kafka.proxy_port)`` puts a proxy there. (A client takes a broker's address
    from the broker: a proxy at any other port would only see its first connection.)

    Args:
        version: ``"3.9"`` or ``"4.1"``.
        config: Lines of server.properties.
    """

    name = "Kafka"
    user = "tester"
    password = "correct"

    def __init__(self, version: str = "3.9", config: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.version = version
        self.host = HOST
        self.port, self._controller_port, self.sasl_port = (self.reserve() for _ in range(3))
        self.proxied_port, self.proxy_port = self.reserve(), self.reserve()
        self._config = dict(config or {})
        self._is_formatted = False

    @classmethod
    def missing(cls, version: str = "3.9") -> str | None:
        """
        Java, the jars, and the client that the helpers here use.
        """
        if not list(JARS.glob(f"kafka-{version}/kafka_*.jar")):
            return f"needs Kafka {version} in {JARS}/kafka-{version} (make brokers)"
        if importlib.util.find_spec("kafka") is None:
            return "needs kafka-python (the extra kafka)"
        return java_missing()

    @property
    def bootstrap(self) -> str:
        """
        The address for clients.
        """
        return f"{HOST}:{self.port}"

    @property
    def proxy_bootstrap(self) -> str:
        """
        The address for clients that go through the proxy at ``proxy_port``.
        """
        return f"{HOST}:{self.proxy_port}"

    @property
    def sasl_bootstrap(self) -> str:
        """
        The address for clients that authenticate.
        """
        return f"{HOST}:{self.sasl_port}"

    # ---- how it runs

    def command(self) -> list[str]:
        """
        The server.
        """
        return [*self._java(), "kafka.Kafka", str(self.folder / "server.properties")]

    def _java(self) -> list[str]:
        return [*java("384m"), "-cp", str(JARS / f"kafka-{self.version}" / "*")]

    def prepare(self) -> None:
        """
        Write the configuration; format the data folder before the first start.
        """
        lines = [f"{key}={value}\n" for key, value in {**self._settings(), **self._config}.items()]
        (self.folder / "server.properties").write_text("".join(lines))
        if not self._is_formatted:
            self._format()
            self._is_formatted = True

    def _settings(self) -> dict[str, object]:
        clients = f"PLAINTEXT://{HOST}:{self.port},SASL://{HOST}:{self.sasl_port}"
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{clients},PROXIED://{HOST}:{self.proxied_port},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"{clients},PROXIED://{HOST}:{self.proxy_port}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": f'{login} required user_{self.user}="{self.password}";',
            "log.dirs": self.folder / "data",
            # For one node.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            # For tests: short sessions, no wait for more members, no gigabytes of empty indexes.
            "auto.create.topics.enable": "false",
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 2000,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 500,
            "log.cleaner.backoff.ms": 200,
            "log.index.size.max.bytes": 1048576,
        }

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]
        done = subprocess.run(
            [*self._java(), "kafka.tools.StorageTool", "format", "-t", f"A{cluster[1:]}", "-c", "server.properties"],
            cwd=str(self.folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_BOUND,
        )  # fmt: skip
        if done.returncode:
            raise BrokerError(f"Kafka's storage tool: {done.stdout}{done.stderr}")

    def is_ready(self) -> bool:
        """
        Whether it answers ApiVersions without an error; it opens its ports when it has left recovery.
        """
        with socket.create_connection((HOST, self.port), 2 * SCALE) as connection:
            connection.sendall(struct.pack(">i", len(API_VERSIONS)) + API_VERSIONS)
            answer = connection.recv(10)
        return answer[8:] == b"\x00\x00"

    # ---- what tests ask of it

    @contextmanager
    def admin(self) -> Iterator[Any]:
        """
        Yield an admin client, closed at the end.
        """
        from kafka import KafkaAdminClient

        client = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            yield client
        finally:
            client.close()

    def topic(self, partitions: int = 1, **config: object) -> str:
        """
        Make a topic and return its name when every partition has a leader.

        *config* has Kafka's topic settings with ``_`` for ``.``: ``topic(cleanup_policy="compact")``.
        """
        name = unique("topic")
        configs = {key.replace("_", "."): str(value) for key, value in config.items()}
        with self.admin() as admin:
            _create_topic(admin, name, partitions, configs)
        with self.consumer() as consumer:
            deadline = time.monotonic() + READY_BOUND
            while len(consumer.partitions_for_topic(name) or ()) < partitions:
                if time.monotonic() > deadline:
                    raise BrokerError(f"the topic {name} has no leaders after {READY_BOUND} s")
                time.sleep(POLL_INTERVAL)
        return name

    def delete_topic(self, topic: str) -> None:
        """
        Delete the topic.
        """
        with self.admin() as admin:
            admin.delete_topics([topic])

    def group(self) -> str:
        """
        Return the id of a group that nobody uses.
        """
        return unique("group")

    @contextmanager
    def producer(self, **config: Any) -> Iterator[Any]:
        """
        Yield a ``KafkaProducer``, flushed and closed at the end; *config* as for the client.
        """
        from kafka import KafkaProducer

        client = KafkaProducer(**{"bootstrap_servers": self.bootstrap, "acks": "all", "linger_ms": 5, **config})
        try:
            yield client
            client.flush(timeout=READY_BOUND)
        finally:
            client.close(timeout=READY_BOUND)

    @contextmanager
    def consumer(self, **config: Any) -> Iterator[Any]:
        """
        Yield a ``KafkaConsumer`` without a group that starts at the oldest record; *config* as for the client.
        """
        from kafka import KafkaConsumer

        defaults = {"bootstrap_servers": self.bootstrap, "auto_offset_reset": "earliest", "enable_auto_commit": False}
        client = KafkaConsumer(**{**defaults, **config})
        try:
            yield client
        finally:
            client.close()

    def produce(self, topic: str, values: Iterable[bytes | str], partition: int | None = None) -> None:
        """
        Send records and return when the broker has them all.

        Args:
            topic: The topic.
            values: The value of each record, or ``(key, value)``.
            partition: The partition; by the key, or in turn, if None.
        """
        with self.producer() as producer:
            futures = []
            for item in values:
                key, value = item if isinstance(item, tuple) else (None, item)
                futures.append(producer.send(topic, _bytes(value), key=_bytes(key), partition=partition))
            for future in futures:
                future.get(timeout=READY_BOUND)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """
        Return by partition the offset of the next record.
        """
        from kafka import TopicPartition

        with self.consumer() as consumer:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            return {key.partition: offset for key, offset in consumer.end_offsets(partitions).items()}

    def committed(self, group: str, topic: str) -> dict[int, int | None]:
        """
        Return by partition the committed offset of the group, None where it committed nothing.
        """
        from kafka import TopicPartition

        # Commits nothing and does not join: a member that only asks.
        with self.consumer(group_id=group) as consumer:
            numbers = consumer.partitions_for_topic(topic) or ()
            return {number: consumer.committed(TopicPartition(topic, number)) for number in sorted(numbers)}

    def values(self, topic: str) -> list[bytes]:
        """
        Return the values of all records of the topic, in order within each partition.
        """
        from kafka import TopicPartition

        found: list[bytes] = []
        with self.consumer() as consumer:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            deadline = time.monotonic() + READY_BOUND
            while any(consumer.position(key) < end for key, end in ends.items()):
                if time.monotonic() > deadline:
                    raise BrokerError(f"read {len(found)} of {ends} in {READY_BOUND} s")
                for records in consumer.poll(timeout_ms=200).values():
                    found += [record.value for record in records]
        return found


def _create_topic(admin: Any, name: str, partitions: int, configs: dict[str, str]) -> None:
    """
    Make a topic with either generation of the client: 3.x takes a dict, and 2.x only objects that 3.x deprecates.
    """
    import kafka

    if int(kafka.__version__.split(".")[0]) >= 3:
        options = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        admin.create_topics({name: options})
    else:
        from kafka.admin import NewTopic

        admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def chosen_version() -> str:
    """
    Return the version that the fixture ``kafka`` uses: 3.9, unless ``BROADWAY_KAFKA`` names another.
    """
    return os.environ.get("BROADWAY_KAFKA", "3.9")
