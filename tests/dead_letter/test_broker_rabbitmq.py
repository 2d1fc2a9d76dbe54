"""
Letters in a queue of a real RabbitMQ.
"""

from __future__ import annotations

import json
import logging
import runpy
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from broadway_sync import ConfigurationError, Message, PipelineFailedError
from broadway_sync.dead_letter import (
    DeadLetter,
    DeadLetterError,
    LetterRefusedError,
    PartlyWrittenError,
    RabbitMQLetters,
)
from tests.connectors.rabbitmq.support import bodies, producer
from tests.dead_letter.support import closing, failing_handler, is_odd, letter, write_on_threads
from tests.helpers import BOUND, Call, eventually, run_python

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "dead_letters" / "rabbitmq.py"


@pytest.fixture(autouse=True)
def pika_keeps_quiet(caplog: Any) -> None:
    """
    It logs what it raises.
    """
    caplog.set_level(logging.CRITICAL, "pika")


@pytest.fixture
def write(rabbitmq: Any) -> Any:
    """
    Return a function that writes letters to a queue through a writer that is closed at the end.
    """
    with closing(RabbitMQLetters) as writer:
        yield lambda *letters, **options: writer(**{"connection": rabbitmq.url, **options}).write(letters)


# A pipeline


def test_every_failed_message_is_in_the_other_queue_once(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    One of a hundred fails; nothing is lost, and the queue is empty.
    """
    queue, dead = rabbitmq.queue(), rabbitmq.queue()
    rabbitmq.publish(queue, bodies(3000))
    dead_letter = DeadLetter(RabbitMQLetters(dead, connection=rabbitmq.url))
    done: list[bytes] = []

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        done.extend(message.data for message in messages)
        return messages

    pipeline = make_pipeline(
        failing_handler(dead_letter, is_odd, handle_batch=handle_batch),
        producer=producer(rabbitmq.url, queue, on_failure="reject_and_requeue"),
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"batch_size": 20, "batch_timeout": 0.05}},
    )
    wanted = [body for body in bodies(3000) if is_odd(body)]
    with pipeline:
        eventually(lambda: len(done) == 3000 - len(wanted), "all others are done", 6 * BOUND)
        eventually(lambda: rabbitmq.ready_count(dead) == len(wanted), "all letters are there")
    assert sorted(body for body, _, _ in rabbitmq.take(dead)) == sorted(wanted)
    assert rabbitmq.counts(queue) == (0, 0)


def test_a_letter_that_nobody_takes_leaves_its_message_in_the_queue(make_pipeline: Any, rabbitmq: Any) -> None:
    """
    The queue of the dead letters was deleted, say; the pipeline gives up, and another one finds all messages.
    """
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, bodies(10))
    dead_letter = DeadLetter(RabbitMQLetters("there-is-none", connection=rabbitmq.url), patience=0.5)
    pipeline = make_pipeline(
        failing_handler(dead_letter, lambda body: body == b"7"), producer=producer(rabbitmq.url, queue)
    ).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, DeadLetterError)
    assert "UnroutableError" in str(caught.value.__cause__)
    assert b"7" in [body for body, _, _ in rabbitmq.take(queue)]


def test_a_broker_that_comes_back_gets_the_letter(make_pipeline: Any, make_proxy: Any, rabbitmq: Any) -> None:
    """
    While it is away the stage waits; the message is neither lost nor acknowledged.
    """
    queue, dead = rabbitmq.queue(), rabbitmq.queue()
    proxy = make_proxy(rabbitmq.port)
    dead_letter = DeadLetter(RabbitMQLetters(dead, connection=rabbitmq.url_of(proxy.port)))
    proxy.refuse()
    rabbitmq.publish(queue, [b"x"])
    failed = threading.Event()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        failed.set()
        raise ValueError

    handler = failing_handler(dead_letter, handle_message=handle_message)
    with make_pipeline(handler, producer=producer(rabbitmq.url, queue)):
        assert failed.wait(BOUND)
        assert rabbitmq.ready_count(dead) == 0
        proxy.accept()
        eventually(lambda: rabbitmq.ready_count(dead) == 1, "the letter is there")
    assert rabbitmq.counts(queue) == (0, 0)
    eventually(lambda: proxy.connections == 0, "the connection is closed with the pipeline")


WRITES_AND_HANGS = """
import sys, threading
from broadway_sync import Pipeline
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from broadway_sync.dead_letter import DeadLetter, RabbitMQLetters
url, queue, dead = sys.argv[1:]
writer = RabbitMQLetters(dead, connection=url)
def write(letters):
    writer.write(letters)
    print("written", flush=True)
    threading.Event().wait()
class Handler:
    handle_failed = DeadLetter(write)
    def handle_message(self, processor, message, context):
        return message.fail("no")
producer = {"module": (RabbitMQProducer, {"queue": queue, "connection": url, "on_failure": "reject"})}
Pipeline(Handler(), name="killed", producer=producer, processors={"default": {"concurrency": 1}}).start().join()
"""


def test_a_kill_between_letter_and_acknowledgement_makes_a_copy_at_most(
    make_pipeline: Any, rabbitmq: Any, spawn: Any
) -> None:
    """
    The broker delivers the message again, and it fails again.
    """
    queue, dead = rabbitmq.queue(), rabbitmq.queue()
    rabbitmq.publish(queue, bodies(5))
    process = spawn(WRITES_AND_HANGS, rabbitmq.url, queue, dead)
    process.wait_for("written")
    process.kill()
    process.wait()
    dead_letter = DeadLetter(RabbitMQLetters(dead, connection=rabbitmq.url))
    with make_pipeline(failing_handler(dead_letter), producer=producer(rabbitmq.url, queue)):
        eventually(lambda: rabbitmq.ready_count(dead) >= 6, "all letters are there")
    found = [body for body, _, _ in rabbitmq.take(dead)]
    assert set(found) == set(bodies(5))
    assert 5 < len(found) <= 10
    assert rabbitmq.counts(queue) == (0, 0)


# The writer


def test_a_letter_is_a_message_with_headers(rabbitmq: Any, write: Any) -> None:
    """
    The body as it was, persistent, everything else in headers.
    """
    dead = rabbitmq.queue()
    write(letter(b"\x00\xff", "no\x00", topic="a"), letter("ü"), queue=dead)
    (first, properties, _), (second, _, _) = rabbitmq.take(dead)
    assert (first, second) == (b"\x00\xff", "ü".encode())
    assert properties.content_type == "application/octet-stream"
    assert properties.delivery_mode == 2
    headers = dict(properties.headers)
    assert headers.pop("broadway-failed-at")
    assert json.loads(headers.pop("broadway-origin")) == {"topic": "a"}
    assert headers == {
        "broadway-reason": "no\\x00",
        "broadway-attempts": "1",
        "broadway-pipeline": "pipeline",
        "broadway-stage": "stage",
        "broadway-content-type": "application/octet-stream",
    }


def test_large_letters_fit(rabbitmq: Any, write: Any) -> None:
    """
    Headers must fit into one frame of the protocol, bodies need not.
    """
    dead = rabbitmq.queue()
    try:
        raise ValueError("日" * 100_000)
    except ValueError as error:
        write(letter(b"x" * 1_000_000, error, **{f"key{number}": "本" * 5000 for number in range(100)}), queue=dead)
    ((body, _, _),) = rabbitmq.take(dead)
    assert len(body) == 1_000_000


def test_an_exchange_will_do(rabbitmq: Any, write: Any) -> None:
    """
    If it has a queue for the letter.
    """
    dead = rabbitmq.queue()
    with rabbitmq.channel() as channel:
        channel.exchange_declare(f"of-{dead}", "topic")
        channel.queue_bind(dead, f"of-{dead}", "invoices.#")
    write(letter(), exchange=f"of-{dead}", routing_key="invoices.dead")
    assert rabbitmq.ready_count(dead) == 1
    with pytest.raises(PartlyWrittenError, match="0 of 1 letters were confirmed: UnroutableError") as caught:
        write(letter(), exchange=f"of-{dead}", routing_key="orders.dead")
    assert not isinstance(caught.value, LetterRefusedError)  # somebody may bind a queue
    assert len(caught.value.left) == 1


def test_a_full_queue_refuses(rabbitmq: Any, write: Any) -> None:
    """
    What was confirmed before is not written again.
    """
    dead = rabbitmq.queue(arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    letters = [letter(str(number)) for number in range(4)]
    with pytest.raises(PartlyWrittenError, match="NackError") as caught:
        write(*letters, queue=dead)
    written = rabbitmq.ready_count(dead)
    assert written >= 2
    assert caught.value.left == letters[written:]


def test_a_letter_that_is_too_large_is_refused(rabbitmq: Any, write: Any) -> None:
    """
    The broker closes the channel; those after it are written on another one.
    """
    dead = rabbitmq.queue()
    rabbitmq.set_env("max_message_size", "1000000")
    try:
        letters = [letter("a"), letter(b"x" * 1_000_001), letter("b"), letter(b"y" * 1_000_001)]
        with pytest.raises(
            LetterRefusedError, match="2 of 4 letters were confirmed: ChannelClosed.*max size"
        ) as caught:
            write(*letters, queue=dead)
    finally:
        rabbitmq.set_env("max_message_size", "134217728")
    assert caught.value.left == letters[1::2]
    assert [body for body, _, _ in rabbitmq.take(dead)] == [b"a", b"b"]


def test_a_broker_that_goes_away_in_the_middle_of_a_lot(monkeypatch: Any) -> None:
    """
    The connection has to be made again after a letter that is too large: what was confirmed before stays so.
    """
    pika = pytest.importorskip("pika")
    too_large = pika.exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED - message size is over max size")
    published = mock.Mock(side_effect=[None, too_large])
    monkeypatch.setattr(RabbitMQLetters, "_open", mock.Mock(side_effect=[mock.Mock(), OSError("refused")]))
    monkeypatch.setattr(RabbitMQLetters, "_publish", published)
    letters = [letter("a"), letter("too large"), letter("b")]
    with pytest.raises(PartlyWrittenError, match="1 of 3 letters were confirmed: OSError: refused") as caught:
        RabbitMQLetters("dead").write(letters)
    assert caught.value.left == letters[1:]


def test_the_example_of_the_manual(rabbitmq: Any, tmp_path: Path) -> None:
    """
    What is no JSON is in the other queue.
    """
    queue = rabbitmq.queue()
    rabbitmq.queue(f"{queue}.dead")
    rabbitmq.publish(queue, [b"{}", b"no"])
    settings = {"AMQP_URL": rabbitmq.url, "QUEUE": queue, "DEAD_FILE": str(tmp_path / "dead.jsonl")}
    with mock.patch.dict("os.environ", settings):
        pipeline = runpy.run_path(str(EXAMPLE))["pipeline"]
    with pipeline:
        eventually(lambda: rabbitmq.ready_count(f"{queue}.dead") == 1, "the letter is there")
    ((body, properties, _),) = rabbitmq.take(f"{queue}.dead")
    assert body == b"no"
    assert properties.headers["broadway-reason"].startswith("json.decoder.JSONDecodeError: Expecting value")
    assert not (tmp_path / "dead.jsonl").exists()


def test_a_connection_that_was_lost_is_made_again(make_proxy: Any, rabbitmq: Any) -> None:
    """
    Once the loss is seen; DeadLetter tries again.
    """
    dead, proxy = rabbitmq.queue(), make_proxy(rabbitmq.port)
    writer = RabbitMQLetters(dead, connection=rabbitmq.url_of(proxy.port))
    dead_letter = DeadLetter(writer)
    dead_letter([letter("a").message])
    proxy.drop()
    dead_letter([letter("b").message])
    assert [body for body, _, _ in rabbitmq.take(dead)] == [b"a", b"b"]
    writer.close()
    eventually(lambda: proxy.connections == 0, "it is closed")


def test_a_connection_that_has_rested_is_not_trusted(make_proxy: Any, rabbitmq: Any, monkeypatch: Any) -> None:
    """
    Nobody has answered the broker's heartbeats meanwhile.
    """
    monkeypatch.setattr("broadway_sync.dead_letter.rabbitmq._LONGEST_REST", 0.0)
    dead, proxy = rabbitmq.queue(), make_proxy(rabbitmq.port)
    writer = RabbitMQLetters(dead, connection=rabbitmq.url_of(proxy.port))
    writer.write([letter("a")])
    proxy.drop()
    writer.write([letter("b")])
    writer.close()
    assert rabbitmq.ready_count(dead) == 2


def test_a_broker_that_hangs_does_not_hang_the_stage(make_proxy: Any, rabbitmq: Any, monkeypatch: Any) -> None:
    """
    Neither while it is to confirm, nor while it is to say good-bye.
    """
    monkeypatch.setattr("broadway_sync.dead_letter.rabbitmq._PATIENCE", 0.3)
    monkeypatch.setattr("broadway_sync.dead_letter.rabbitmq.CLOSE_PATIENCE", 0.3)
    dead, proxy = rabbitmq.queue(), make_proxy(rabbitmq.port)
    writer = RabbitMQLetters(dead, connection=rabbitmq.url_of(proxy.port))
    writer.write([letter("a")])
    proxy.stall()
    try:
        with pytest.raises(PartlyWrittenError, match="the broker did not answer in time"):
            Call(writer.write, [letter("b")]).result()
    finally:
        proxy.resume()
    writer.write([letter("c")])
    proxy.stall()
    try:
        Call(writer.close).result()
    finally:
        proxy.resume()


def test_several_threads_share_a_connection(rabbitmq: Any) -> None:
    """
    Connections of pika are not made for that.
    """
    dead = rabbitmq.queue()
    writer = RabbitMQLetters(dead, connection=rabbitmq.url)
    written = write_on_threads(writer, threads=5, lots=20)
    writer.close()
    assert sorted(body.decode() for body, _, _ in rabbitmq.take(dead)) == written


def test_a_child_of_a_fork_has_a_connection_of_its_own(rabbitmq: Any) -> None:
    """
    Two processes that write to one connection would garble it.
    """
    dead = rabbitmq.queue()
    done = run_python(f"""
import os, warnings
from tests.dead_letter.support import letter
from broadway_sync.dead_letter import RabbitMQLetters
writer = RabbitMQLetters({dead!r}, connection={rabbitmq.url!r})
writer.write([letter("before")])
child = os.fork()
for number in range(20):
    writer.write([letter(f"{{bool(child)}} {{number}}")])
writer.close()
if not child:
    os._exit(0)
print(os.waitpid(child, 0)[1])
""")
    assert done.stdout.strip() == "0", done.stderr
    found = sorted(body.decode() for body, _, _ in rabbitmq.take(dead))
    assert found == sorted(["before", *(f"{who} {number}" for who in (True, False) for number in range(20))])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "queue: expected either a queue or an exchange with a routing_key"),
        ({"queue": "a", "exchange": "b"}, "queue: expected either a queue or an exchange with a routing_key"),
        ({"queue": 3}, "queue: expected a str, got: 3"),
        ({"queue": "a", "connection": 3}, "connection: expected an AMQP URL, a mapping"),
        ({"queue": "a", "connection": {"hots": "x"}}, "connection.hots: unknown option"),
    ],
)
def test_a_mistake_is_named(arguments: Any, text: str) -> None:
    """
    Before there is anything to write.
    """
    pytest.importorskip("pika")
    with pytest.raises(ConfigurationError) as caught:
        RabbitMQLetters(**arguments)
    assert text in str(caught.value)


def test_passwords_are_not_shown(rabbitmq: Any, make_pipeline: Any, caplog: Any) -> None:
    """
    Neither in the error nor in the log.
    """
    writer = RabbitMQLetters("q", connection="amqp://guest:geheim@localhost:1/")
    handler = failing_handler(DeadLetter(writer, patience=0))
    pipeline = make_pipeline(handler).start()
    pipeline.test_message(1)
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert "geheim" not in repr(caught.value.__cause__) + caplog.text


@pytest.mark.parametrize(("name", "module"), [("RabbitMQLetters", "pika"), ("KafkaLetters", "kafka")])
def test_a_missing_client_is_told_at_once(name: str, module: str) -> None:
    """
    With the extra that brings it; the package itself needs none.
    """
    extra = {"pika": "rabbitmq", "kafka": "kafka"}[module]
    done = run_python(f"""
import sys
sys.modules[{module!r}] = None
from broadway_sync import dead_letter
try:
    dead_letter.{name}("q")
except dead_letter.callback.BroadwayError as error:
    print(error)
""")
    assert f"{name} needs {module}" in done.stdout
    assert f"broadway_sync[{extra}]" in done.stdout
