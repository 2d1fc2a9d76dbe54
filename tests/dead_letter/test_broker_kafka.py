"""
Letters in a topic of a real Kafka.
"""

from __future__ import annotations

import gc
import json
import logging
import threading
from typing import Any
from unittest import mock

import pytest

from broadway_sync import ConfigurationError, PipelineFailedError
from broadway_sync.connectors.kafka.watch import Watch
from broadway_sync.dead_letter import DeadLetter, DeadLetterError, KafkaLetters, LetterRefusedError, PartlyWrittenError
from broadway_sync.topology.run import Run
from tests.connectors.kafka.support import LONG, consuming, values, wait_until_committed
from tests.dead_letter.support import MemoryLetters, failing_handler, is_odd, letter, write_on_threads
from tests.helpers import eventually, run_python


def records(kafka: Any, topic: str, count: int) -> list[Any]:
    """
    Return the records of a topic with one partition.
    """
    found: list[Any] = []
    with kafka.consumer() as consumer:
        consumer.subscribe([topic])
        eventually(
            lambda: [found.extend(some) for some in consumer.poll(timeout_ms=200).values()] and len(found) >= count,
            f"{count} records",
            LONG,
        )
    return found


def test_every_failed_message_is_in_the_other_topic_once(kafka: Any) -> None:
    """
    One of a hundred fails; nothing is lost, and everything is committed.
    """
    topic, dead, group = kafka.topic(partitions=3), kafka.topic(), kafka.group()
    kafka.produce(topic, values(2000))
    handler = failing_handler(DeadLetter(KafkaLetters(dead, bootstrap_servers=kafka.bootstrap)), is_odd)
    with consuming(kafka.bootstrap, topic, group, handler, batchers={"default": {"batch_timeout": 0.1}}):
        wait_until_committed(kafka, group, topic)
    assert sorted(kafka.values(dead)) == sorted(value for value in values(2000) if is_odd(value))


def test_a_letter_that_nobody_takes_is_not_committed(kafka: Any) -> None:
    """
    Nor is what comes after it; the pipeline gives up, and the next one begins there.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(500))
    writer = MemoryLetters(*[OSError("full")] * 100_000)
    handler = failing_handler(DeadLetter(writer, patience=0), lambda value: value == b"250")
    with pytest.raises(PipelineFailedError) as caught:
        with consuming(kafka.bootstrap, topic, group, handler) as pipeline:
            pipeline.join(LONG)
    assert isinstance(caught.value.__cause__, DeadLetterError)
    assert kafka.committed(group, topic)[0] in range(251)
    writer = MemoryLetters()
    with consuming(kafka.bootstrap, topic, group, failing_handler(DeadLetter(writer), lambda value: value == b"250")):
        wait_until_committed(kafka, group, topic)
    assert writer.data == ["250"]


def test_messages_that_were_left_are_not_taken_for_lost(kafka: Any, monkeypatch: Any, caplog: Any) -> None:
    """
    The connector reads a partition again when messages of it disappear, and commits them when they do so again.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(3))
    runs: list[Any] = []
    looks: list[None] = []
    look, fail = Watch.look_for_lost, Run.fail

    def counting_look(watch: Any, client: Any) -> None:
        look(watch, client)
        looks.append(None)

    monkeypatch.setattr(Watch, "look_for_lost", counting_look)
    # The news travels slowly; and nothing but DeadLetter may keep the messages: tracebacks do.
    monkeypatch.setattr(Run, "fail", lambda run, cause: runs.append(run))
    for logger in ("broadway_sync.dead_letter.callback.log_error", "broadway_sync.topology.processor_stage.log_error"):
        monkeypatch.setattr(logger, lambda *args: None)
    handler = failing_handler(DeadLetter(lambda letters: 1 / 0, patience=0))
    with pytest.raises(PipelineFailedError):
        with consuming(kafka.bootstrap, topic, group, handler) as pipeline:
            eventually(lambda: runs, "letters are not accepted", LONG)
            before = len(looks)
            eventually(lambda: gc.collect() >= 0 and len(looks) > before + 2, "the connector looks", LONG)
            fail(runs[0], OSError())
            pipeline.join(LONG)
    assert "without an acknowledgement" not in caplog.text
    assert kafka.committed(group, topic) == {0: None}


def test_a_letter_is_a_record_with_headers(kafka: Any) -> None:
    """
    The value as it was, the key that the message had, everything else in headers.
    """
    dead = kafka.topic()
    writer = KafkaLetters(dead, bootstrap_servers=kafka.bootstrap)
    try:
        writer.write([letter(b"\x00\xff", "no", topic="a", partition=3, offset=7, key=b"k"), letter(b"")])
    finally:
        writer.close()
    first, second = records(kafka, dead, 2)
    assert (first.value, first.key, second.value, second.key) == (b"\x00\xff", b"k", b"", None)
    headers = {name: value.decode() for name, value in first.headers}
    assert headers["broadway-reason"] == "no"
    assert json.loads(headers["broadway-origin"]) == {"topic": "a", "partition": 3, "offset": 7, "key": "k"}
    assert headers["broadway-content-type"] == "application/octet-stream"


def test_the_password_is_not_logged(kafka: Any, monkeypatch: Any, caplog: Any) -> None:
    """
    The client would do so at level DEBUG.
    """
    for name in ("kafka.net.connection", "kafka.protocol.parser", "kafka.conn"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    caplog.set_level(logging.DEBUG)
    login = {"sasl_mechanism": "PLAIN", "sasl_plain_username": kafka.user, "sasl_plain_password": kafka.password}
    dead = kafka.topic()
    writer = KafkaLetters(dead, bootstrap_servers=kafka.sasl_bootstrap, security_protocol="SASL_PLAINTEXT", **login)
    try:
        writer.write([letter()])
    finally:
        writer.close()
    assert "SaslHandshakeRequest" in caplog.text
    assert f"{kafka.user}\\x00{kafka.password}" not in caplog.text


def test_a_letter_that_is_too_large_is_refused(kafka: Any) -> None:
    """
    By the client or by the topic; those beside it are written, and trying again would change nothing.
    """
    dead = kafka.topic(max_message_bytes=50_000)
    writer = KafkaLetters(dead, bootstrap_servers=kafka.bootstrap)
    try:
        for size in (100_000, 5_000_000):
            small, large = letter(b"small"), letter(b"x" * size)
            with pytest.raises(
                LetterRefusedError, match="1 of 2 letters were acknowledged: MessageSizeTooLarge"
            ) as caught:
                writer.write([small, large])
            assert caught.value.left == [large]
    finally:
        writer.close()
    assert kafka.values(dead) == [b"small", b"small"]


@pytest.mark.parametrize("away", [OSError("no broker"), ([], [OSError("no broker")])], ids=["before", "meanwhile"])
def test_brokers_that_go_away_after_a_letter_that_is_too_large(monkeypatch: Any, away: Any) -> None:
    """
    What was acknowledged stays so, and nobody waits for each of the others.
    """
    errors = pytest.importorskip("kafka.errors")
    letters = [letter(str(number)) for number in range(9)]
    refusal = [errors.MessageSizeTooLargeError()]
    sent = mock.Mock(side_effect=[(letters, 9 * refusal), ([], []), (letters[1:2], refusal), away])
    monkeypatch.setattr(KafkaLetters, "_send_all", sent)
    with pytest.raises(PartlyWrittenError, match="1 of 9 letters were acknowledged") as caught:
        KafkaLetters("dead").write(letters)
    assert not isinstance(caught.value, LetterRefusedError)
    assert caught.value.left == letters[1:]


def test_several_threads_share_a_client(kafka: Any) -> None:
    """
    Which is closed with its thread.
    """
    dead = kafka.topic()
    writer = KafkaLetters(dead, bootstrap_servers=kafka.bootstrap)
    before = set(threading.enumerate())
    written = write_on_threads(writer, threads=4, lots=10)
    writer.close()
    assert sorted(value.decode() for value in kafka.values(dead)) == written
    eventually(lambda: set(threading.enumerate()) <= before, "the client's threads are gone")


AWAY = """
import socket, sys, time
from broadway_sync.dead_letter import KafkaLetters, kafka
from tests.dead_letter.support import letter
kafka.DEFAULTS.update(bootstrap_timeout_ms=300, api_version_auto_timeout_ms=300)
nobody = socket.socket()
nobody.bind(("127.0.0.1", 0))  # and does not listen
writer = KafkaLetters("t", bootstrap_servers="127.0.0.1:%s" % nobody.getsockname()[1])
for attempt in range(2):
    try:
        writer.write([letter()])
    except Exception as error:
        print(type(error).__module__.split(".")[0])
writer.close()
"""


def test_brokers_that_are_away_are_an_error_and_not_a_wait_for_ever() -> None:
    """
    In a process of its own: the client leaves the sockets of refused connections to the garbage collector.
    """
    pytest.importorskip("kafka")
    done = run_python(AWAY)
    assert done.stdout.split() == ["kafka", "kafka"], done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"topic": ""}, "topic: expected a non-empty str, got: ''"),
        ({"topic": "t", "bootstrap_server": "x"}, "bootstrap_server: not an option of kafka.KafkaProducer"),
        ({"topic": "t", "acks": 0}, "acks: not an option of kafka.KafkaProducer that can be set here"),
    ],
)
def test_a_mistake_is_named(arguments: Any, text: str) -> None:
    """
    Before there is anything to write.
    """
    pytest.importorskip("kafka")
    with pytest.raises(ConfigurationError) as caught:
        KafkaLetters(**arguments)
    assert text in str(caught.value)
