"""
The seam: what kafka-python is given, and what is made of its errors.
"""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from broadway_sync import ConfigurationError, ConnectorError
from broadway_sync.connectors.common.options import build
from broadway_sync.connectors.kafka.client import Client, GroupError, Listener, NoPositionError, UnavailableError
from broadway_sync.connectors.kafka.failures import RefusedError
from broadway_sync.connectors.kafka.options import KafkaOptions
from tests.helpers import python_env

kafka = pytest.importorskip("kafka", reason="needs kafka-python (the extra kafka)")


def make(**given: Any) -> Client:
    """
    Return a client that connects to nothing.
    """
    options = {"hosts": "localhost:1", "group_id": "group", "topics": ["topic"], **given}
    return Client(build(KafkaOptions, options), "name", 3)


class Consumer:
    """
    A ``KafkaConsumer`` whose methods raise what a test wants, and note how they were called.
    """

    def __init__(self, error: Any = None, owned: Any = ()) -> None:
        self.error = error
        self.owned = {kafka.TopicPartition(*key) for key in owned}
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            if self.error is not None:
                raise self.error
            return {}

        return method

    def assignment(self) -> Any:
        """
        Return what the test says.
        """
        return self.owned

    def commit(self, offsets: Any, timeout_ms: Any = None) -> None:
        """
        Note the offsets.
        """
        self.calls.append(("commit", offsets, timeout_ms))
        if self.error is not None:
            raise self.error


def with_consumer(consumer: Any, **given: Any) -> Client:
    """
    Return a client that has *consumer*.
    """
    client = make(**given)
    client._consumer = consumer
    return client


def error(name: str, *args: Any) -> Any:
    """
    Return an error of kafka-python by name, wherever this version has it.
    """
    from kafka.consumer import fetcher

    cls = getattr(kafka.errors, name, None) or getattr(fetcher, name)
    return cls(*args)


def test_configuration() -> None:
    """
    Options arrive under the client's names, in milliseconds; what would lose messages is switched off.
    """
    config = make(
        client_config={"client_id_prefix": "p-", "request_timeout": 50, "extra_config": {"client_rack": "r"}}
        if "client_rack" in kafka.KafkaConsumer.DEFAULT_CONFIG
        else {"client_id_prefix": "p-", "request_timeout": 50},
        group_config={"session_timeout_seconds": 7, "heartbeat_rate_seconds": 0.5, "group_instance_id": "static"},
        fetch_config={"max_bytes": 1000, "max_wait_time": 0.25, "isolation_level": "read_uncommitted"},
    )._config
    expected = {
        "bootstrap_servers": ["localhost:1"], "group_id": "group", "client_id": "p-name", "enable_auto_commit": False,
        "auto_offset_reset": "none", "session_timeout_ms": 7000, "heartbeat_interval_ms": 500,
        "max_poll_interval_ms": 30_000, "request_timeout_ms": 50_000, "max_partition_fetch_bytes": 1000,
        "fetch_max_wait_ms": 250, "isolation_level": "read_uncommitted", "group_instance_id": "static-3",
        "security_protocol": "PLAINTEXT",
    }  # fmt: skip
    assert {name: config.get(name) for name in expected} == expected
    assert "value_deserializer" not in config
    assert set(config) <= set(kafka.KafkaConsumer.DEFAULT_CONFIG)


@pytest.mark.parametrize(
    ("client_config", "expected"),
    [
        ({"ssl": True}, {"security_protocol": "SSL"}),
        (
            {"ssl": {"cafile": "ca", "password": "p"}},
            {"security_protocol": "SSL", "ssl_cafile": "ca", "ssl_password": "p"},
        ),
        ({"sasl": ("plain", "u", "p")}, {"security_protocol": "SASL_PLAINTEXT", "sasl_plain_username": "u"}),
        (
            {"sasl": ("scram_sha_512", "u", "p"), "ssl": True},
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512"},
        ),
        ({"sasl": {"mechanism": "GSSAPI", "kerberos_service_name": "k"}}, {"sasl_kerberos_service_name": "k"}),
    ],
)
def test_security(client_config: Any, expected: Any) -> None:
    """
    TLS and SASL decide the protocol.
    """
    config = make(client_config=client_config)._config
    assert {name: config.get(name) for name in expected} == expected


def test_ssl_context() -> None:
    """
    A context is handed on.
    """
    context = ssl.create_default_context()
    assert make(client_config={"ssl": context})._config["ssl_context"] is context


def test_password_from_a_file(tmp_path: Any) -> None:
    """
    User and password may stand in a file; one that has neither is named.
    """
    path = tmp_path / "password"
    path.write_text("user\npass word\n")
    config = make(client_config={"sasl": ("plain", str(path))})._config
    assert (config["sasl_plain_username"], config["sasl_plain_password"]) == ("user", "pass word")
    path.write_text("user")
    with pytest.raises(ConnectorError, match="must have two lines"):
        make(client_config={"sasl": ("plain", str(path))})
    path.unlink()
    with pytest.raises(ConnectorError, match=rf"cannot read {path}: FileNotFoundError"):
        make(client_config={"sasl": ("plain", str(path))})


@pytest.mark.parametrize("seconds", [40, 540, 3600])
def test_requests_may_take_long(seconds: float) -> None:
    """
    The client refuses a request that may take longer than it keeps an idle connection.
    """
    config = make(client_config={"request_timeout": seconds})._config
    assert config["fetch_max_wait_ms"] < config["request_timeout_ms"] < config["connections_max_idle_ms"]
    assert config["connections_max_idle_ms"] >= 540_000


def test_unknown_argument() -> None:
    """
    An argument that this version of kafka-python does not have is named.
    """
    with pytest.raises(ConfigurationError, match="does not know 'no_such_thing'"):
        make(client_config={"extra_config": {"no_such_thing": 1}})


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (("CommitFailedError",), GroupError),
        (("RebalanceInProgressError",), GroupError),
        (("UnknownMemberIdError",), GroupError),
        (("IllegalGenerationError",), GroupError),
        (("KafkaTimeoutError",), UnavailableError),
        (("KafkaConnectionError",), UnavailableError),
        (("NodeNotReadyError",), UnavailableError),
        (("GroupAuthorizationFailedError",), None),
    ],
)
def test_errors(raised: Any, expected: Any) -> None:
    """
    Errors are sorted by what to do about them; others come as they are.
    """
    given = error(*raised)
    client = with_consumer(Consumer(given, [("t", 0)]))
    for call in (lambda: client.poll(0.1, 10), lambda: client.commit({("t", 0): 1}, 1.0)):
        with pytest.raises(expected or type(given)):
            call()


@pytest.mark.parametrize("shape", ["set", "one", "list"])
def test_no_offset(shape: str) -> None:
    """
    Partitions without an offset are found in the error, in whichever way it names them.
    """
    partitions = [kafka.TopicPartition("t", 0), kafka.TopicPartition("t", 1)]
    argument = {"set": set(partitions), "one": partitions[0], "list": partitions}[shape]
    client = with_consumer(Consumer(error("NoOffsetForPartitionError", argument)))
    with pytest.raises(NoPositionError) as caught:
        client.poll(0.1, 10)
    assert not caught.value.is_out_of_range
    assert caught.value.keys == {tuple(key): None for key in (partitions[:1] if shape == "one" else partitions)}


def test_out_of_range() -> None:
    """
    An offset out of range is told from one that is not there.
    """
    partition = kafka.TopicPartition("t", 0)
    client = with_consumer(Consumer(error("OffsetOutOfRangeError", {partition: 17})))
    with pytest.raises(NoPositionError) as caught:
        client.poll(0.1, 10)
    assert (caught.value.keys, caught.value.is_out_of_range) == ({("t", 0): None}, True)


@pytest.mark.skipif(not hasattr(kafka.errors, "LogTruncationError"), reason="needs kafka-python 3")
def test_log_truncation() -> None:
    """
    After a truncation it goes on where the logs agree, if that is known.
    """
    at = kafka.OffsetAndMetadata(12, "", 1)
    found = {kafka.TopicPartition("t", 0): at, kafka.TopicPartition("t", 1): None}
    client = with_consumer(Consumer(error("LogTruncationError", found)))
    with pytest.raises(NoPositionError) as caught:
        client.poll(0.1, 10)
    assert (caught.value.keys, caught.value.is_out_of_range) == ({("t", 0): 12, ("t", 1): None}, True)


def test_what_is_not_ours_is_passed_over() -> None:
    """
    Pausing, resuming and seeking partitions that are gone would be an error of the client.
    """
    consumer = Consumer(owned=[("t", 0)])
    client = with_consumer(consumer)
    client.pause({("t", 0), ("t", 1)})
    client.resume({("t", 1)})
    client.seek(("t", 1), 5)
    client.seek(("t", 0), 5)
    client.reset([("t", 1)])
    client.reset([("t", 0)])
    assert client.highwater(("t", 1)) is None
    assert client.position(("t", 1)) is None
    ours = kafka.TopicPartition("t", 0)
    assert consumer.calls == [
        ("pause", (ours,), {}), ("resume", (), {}), ("seek", (ours, 5), {}), ("seek_to_beginning", (ours,), {}),
    ]  # fmt: skip


def test_offsets_of_a_commit() -> None:
    """
    A commit has the client's own types, and a timeout.
    """
    consumer = Consumer()
    client = with_consumer(consumer)
    client.commit({}, 1.0)
    client.commit({("t", 0): 7}, 1.5)
    ((_, offsets, timeout),) = consumer.calls
    assert timeout == 1500
    assert [(tuple(key), at.offset, at.metadata) for key, at in offsets.items()] == [(("t", 0), 7, "")]


def test_reset_to_a_time() -> None:
    """
    By time: where there is a record as new, and else the end.
    """

    class Timed(Consumer):
        def offsets_for_times(self, times: Any) -> Any:
            assert set(times.values()) == {1000}
            return {kafka.TopicPartition("t", 0): SimpleNamespace(offset=3), kafka.TopicPartition("t", 1): None}

    consumer = Timed(owned=[("t", 0), ("t", 1)])
    with_consumer(consumer, offset_reset_policy=("timestamp", 1000)).reset([("t", 0), ("t", 1)])
    assert [(name, args) for name, args, _ in consumer.calls] == [
        ("seek", (kafka.TopicPartition("t", 0), 3)), ("seek_to_end", (kafka.TopicPartition("t", 1),)),
    ]  # fmt: skip


def test_reason_of_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What the client only logs while it connects is in the error; a refusal weighs more than a lost connection.
    """
    client = make(client_config={"sasl": ("plain", "u", "p")})

    def refuse(**config: Any) -> None:
        log = logging.getLogger("kafka.somewhere")
        for name in ("KafkaConnectionError", "SaslAuthenticationFailedError", "KafkaConnectionError"):
            log.error("Connection lost: %s", error(name, "as the test wants it"))
        raise error("KafkaTimeoutError", "no bootstrap")

    monkeypatch.setattr(client._kafka, "KafkaConsumer", refuse)
    with pytest.raises(RefusedError) as caught:  # and not the class of brokers that cannot be reached: it is news
        client.connect(Listener(lambda keys: iter(()), lambda keys: None, lambda keys: None), lambda: False)
    assert "no bootstrap" in str(caught.value) and "SaslAuthenticationFailedError" in str(caught.value)
    assert "Ear" not in [type(handler).__name__ for handler in logging.getLogger("kafka").handlers]


def test_listener_that_raises() -> None:
    """
    What the listener raises comes out of ``poll``, and not into the client, which would never join again.
    """

    def fail(keys: Any) -> Any:
        raise ValueError("as the test wants it")

    client = with_consumer(Consumer())
    client._guard(fail, [kafka.TopicPartition("t", 0)])
    with pytest.raises(ValueError, match="as the test wants it"):
        client.poll(0.1, 10)


def test_close_raises_nothing() -> None:
    """
    A client that cannot say goodbye is closed all the same, twice if need be.
    """
    client = with_consumer(Consumer(error("KafkaTimeoutError")))
    client.close(1.0)
    client.close(1.0)


def test_without_kafka_python() -> None:
    """
    Where kafka-python is not installed the pipeline's constructor says what to install; importing the connector works.
    """
    code = """
import sys
sys.modules["kafka"] = None
from broadway_sync import ConfigurationError, Pipeline
from broadway_sync.connectors.kafka import KafkaProducer
class Handler:
    def handle_message(self, processor, message, context):
        return message
options = {"hosts": "h", "group_id": "g", "topics": ["t"]}
try:
    Pipeline(Handler(), name="n", producer={"module": (KafkaProducer, options)}, processors={"default": {}})
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=python_env(None)
    )
    assert done.stdout == 'the Kafka connector needs kafka-python: pip install "broadway_sync[kafka]"\n', done.stderr
