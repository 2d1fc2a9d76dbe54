"""
librdkafka's mock cluster: Kafka brokers on real TCP ports inside this process, for errors that no real one would give.

The wheel of ``confluent-kafka`` carries the library; its mock functions are called through ctypes.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, c_char_p, c_int, c_int16, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from tests.brokers.broker import BrokerError, unique
from tests.brokers.ports import HOST

PRODUCE, FETCH, OFFSET_COMMIT, FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT = 0, 1, 8, 10, 11, 12
"""Some keys of requests, for ``fail``."""

CODES = {
    "OFFSET_OUT_OF_RANGE": 1,
    "LEADER_NOT_AVAILABLE": 5,
    "NOT_LEADER_OR_FOLLOWER": 6,
    "REQUEST_TIMED_OUT": 7,
    "COORDINATOR_LOAD_IN_PROGRESS": 14,
    "COORDINATOR_NOT_AVAILABLE": 15,
    "NOT_COORDINATOR": 16,
    "ILLEGAL_GENERATION": 22,
    "UNKNOWN_MEMBER_ID": 25,
    "REBALANCE_IN_PROGRESS": 27,
    "TOPIC_AUTHORIZATION_FAILED": 29,
    "GROUP_AUTHORIZATION_FAILED": 30,
}
"""Kafka's error codes, for ``fail``."""

# Result and arguments of the functions used. A pointer that ctypes takes for an int would be cut to 32 bits.
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "conf_new": (c_void_p, []),
    "conf_set": (c_int, [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t]),
    "new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "destroy": (None, [c_void_p]),
    "mock_cluster_new": (c_void_p, [c_void_p, c_int]),
    "mock_cluster_destroy": (None, [c_void_p]),
    "mock_cluster_bootstraps": (c_char_p, [c_void_p]),
    "mock_group_initial_rebalance_delay_ms": (None, [c_void_p, c_int32]),
    "mock_topic_create": (c_int, [c_void_p, c_char_p, c_int, c_int]),
    "mock_topic_set_error": (None, [c_void_p, c_char_p, c_int]),
    "mock_broker_set_down": (c_int, [c_void_p, c_int32]),
    "mock_broker_set_up": (c_int, [c_void_p, c_int32]),
    "mock_broker_set_rtt": (c_int, [c_void_p, c_int32, c_int]),
    "mock_partition_set_leader": (c_int, [c_void_p, c_char_p, c_int32, c_int32]),
    "mock_push_request_errors_array": (None, [c_void_p, c_int16, c_size_t, POINTER(c_int)]),
    "mock_clear_request_errors": (None, [c_void_p, c_int16]),
}


def _library_file() -> Path | None:
    """
    Return librdkafka of the wheel, None if it is not installed.
    """
    found = importlib.util.find_spec("confluent_kafka")
    if found is None or found.origin is None:
        return None
    package = Path(found.origin).parent
    files = [*package.parent.glob("confluent_kafka.libs/librdkafka*"), *package.glob(".dylibs/librdkafka*")]
    return files[0] if files else None


class KafkaMock:
    """
    A cluster of one or more brokers, with the verbs of a real one.

    Topics have to be made with ``topic``; there are no transactions and no admin requests, and a group has two members
    at most. kafka-python 3 needs ``api_version=(2, 3)`` (``client_config`` has it): it cannot read the mock's answer to
    newer ApiVersions requests.

    Args:
        brokers: How many brokers there are; they are numbered from 1.
    """

    name = "librdkafka's mock cluster"
    client_config = {"api_version": (2, 3)}

    def __init__(self, brokers: int = 1) -> None:
        self.host = HOST
        self._brokers = range(1, brokers + 1)
        self._library: Any = None
        self._handle: Any = None
        self._cluster: Any = None

    @classmethod
    def missing(cls) -> str | None:
        """
        The wheel with the library.
        """
        return None if _library_file() else "needs confluent-kafka"

    # ---- the verbs

    def start(self) -> KafkaMock:
        """
        Start the cluster, or bring all its brokers up again.
        """
        if self._cluster is None:
            self._load()
            self._create()
        else:
            self.up(*self._brokers)
        return self

    def stop(self) -> None:
        """
        Take all brokers down; topics, records and offsets are kept.
        """
        self.down(*self._brokers)

    kill = stop

    def restart(self, hard: bool = False) -> None:
        """
        Take all brokers down and up again.
        """
        self.stop()
        self.start()

    def pause(self) -> None:
        """
        Let all brokers answer so late that it is never.
        """
        self.delay(3600)

    def resume(self) -> None:
        """
        Let all brokers answer at once.
        """
        self.delay(0)

    def close(self) -> None:
        """
        End the cluster.
        """
        if self._cluster is not None:
            self._call("mock_cluster_destroy", self._cluster)
            self._call("destroy", self._handle)
        self._cluster = self._handle = None

    def __enter__(self) -> KafkaMock:
        return self.start()

    def __exit__(self, *exc: Any) -> None:
        self.close()

    # ---- what tests ask of it

    @property
    def bootstrap(self) -> str:
        """
        The addresses for clients.
        """
        return str(self._call("mock_cluster_bootstraps", self._cluster).decode())

    def topic(self, partitions: int = 1, replicas: int = 1) -> str:
        """
        Make a topic and return its name.
        """
        name = unique("topic")
        self._check("mock_topic_create", name.encode(), partitions, replicas)
        return name

    def group(self) -> str:
        """
        Return the id of a group that nobody uses.
        """
        return unique("group")

    def down(self, *brokers: int) -> None:
        """
        Take brokers down.
        """
        for broker in brokers:
            self._check("mock_broker_set_down", broker)

    def up(self, *brokers: int) -> None:
        """
        Bring brokers up.
        """
        for broker in brokers:
            self._check("mock_broker_set_up", broker)

    def delay(self, seconds: float) -> None:
        """
        Let every answer of every broker take this long.
        """
        for broker in self._brokers:
            self._check("mock_broker_set_rtt", broker, int(seconds * 1000))

    def set_leader(self, topic: str, partition: int, broker: int) -> None:
        """
        Move a partition to another broker.
        """
        self._check("mock_partition_set_leader", topic.encode(), partition, broker)

    def set_topic_error(self, topic: str, code: str | None) -> None:
        """
        Let metadata requests for the topic fail with a code of ``CODES``; None ends it.
        """
        self._call("mock_topic_set_error", self._cluster, topic.encode(), CODES[code] if code else 0)

    def fail(self, request: int, *codes: str) -> None:
        """
        Let the next requests of a kind fail: the first with the first of these codes of ``CODES``, and so on.
        """
        numbers = [CODES[code] for code in codes]
        array = (c_int * len(numbers))(*numbers)
        self._call("mock_push_request_errors_array", self._cluster, request, len(numbers), array)

    def clear(self, request: int) -> None:
        """
        Forget the failures of a kind of request that did not happen yet.
        """
        self._call("mock_clear_request_errors", self._cluster, request)

    # ---- inside

    def _load(self) -> None:
        self._library = ctypes.CDLL(str(_library_file()))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(self._library, f"rd_kafka_{name}")
            function.restype, function.argtypes = result, arguments

    def _create(self) -> None:
        text = ctypes.create_string_buffer(512)
        config = self._call("conf_new")
        self._call("conf_set", config, b"log_level", b"2", text, len(text))
        self._handle = self._call("new", 0, config, text, len(text))
        if not self._handle:
            raise BrokerError(f"librdkafka: {text.value.decode()}")
        self._cluster = self._call("mock_cluster_new", self._handle, len(self._brokers))
        self._call("mock_group_initial_rebalance_delay_ms", self._cluster, 200)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"rd_kafka_{name}")(*arguments)

    def _check(self, name: str, *arguments: Any) -> None:
        code = self._call(name, self._cluster, *arguments)
        if code:
            raise BrokerError(f"librdkafka: {name}{arguments!r} gave {code}")
