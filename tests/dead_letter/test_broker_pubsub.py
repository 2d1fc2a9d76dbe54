"""
Letters in a topic of Google's Pub/Sub emulator.
"""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest

from broadway_sync import ConfigurationError, PipelineFailedError
from broadway_sync.connectors.pubsub import PubSubProducer
from broadway_sync.dead_letter import DeadLetter, LetterRefusedError, PartlyWrittenError, PubSubLetters
from tests.connectors.pubsub.support import QUICK
from tests.connectors.recorder import LONG
from tests.dead_letter.support import MemoryLetters, closing, failing_handler, is_odd, letter, write_on_threads
from tests.helpers import eventually

pytest.importorskip("google.cloud.pubsub_v1")


@pytest.fixture
def writer(pubsub: Any, monkeypatch: Any) -> Iterator[Any]:
    """
    Return a function that makes a writer to a topic; all are closed at the end.
    """
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.endpoint)
    with closing(PubSubLetters) as writer:
        yield writer


def source(subscription: str) -> dict[str, Any]:
    """
    Return the option ``producer``.
    """
    return {"module": (PubSubProducer, {"subscription": subscription, "max_number_of_messages": 100, **QUICK})}


def test_every_failed_message_is_in_the_other_topic_once(make_pipeline: Any, pubsub: Any, writer: Any) -> None:
    """
    One of a hundred fails; nothing is lost, and the subscription has nothing left.
    """
    topic, dead = pubsub.topic(), pubsub.topic()
    subscription, letters = pubsub.subscription(topic, ack_deadline_seconds=10), pubsub.subscription(dead)
    data = [b"%d" % number for number in range(1000)]
    pubsub.publish(topic, data)
    done: list[bytes] = []

    def fails(given: bytes) -> bool:
        done.append(given)
        return is_odd(given)

    handler = failing_handler(DeadLetter(writer(dead)), fails)
    with make_pipeline(handler, producer=source(subscription), processors={"default": {"concurrency": 4}}):
        eventually(lambda: len(done) >= 1000, "all are handled", LONG)
    found = pubsub.take(letters)
    assert sorted(each.message.data for each in found) == sorted(filter(is_odd, data))
    origin = json.loads(found[0].message.attributes["broadway-origin"])
    assert origin["message_id"]
    assert pubsub.pull(subscription) == []


def test_a_letter_that_nobody_takes_leaves_its_message_to_the_service(
    make_pipeline: Any, pubsub: Any, writer: Any
) -> None:
    """
    Which delivers it again when its lease is over; the pipeline does not wait for it.
    """
    topic = pubsub.topic()
    subscription = pubsub.subscription(topic, ack_deadline_seconds=2)
    pubsub.publish(topic, [b"x"])
    handler = failing_handler(DeadLetter(MemoryLetters(OSError("full")), patience=0))
    pipeline = make_pipeline(handler, producer=source(subscription)).start()
    with pytest.raises(PipelineFailedError, match="full"):
        pipeline.join(LONG)
    (again,) = eventually(lambda: pubsub.take(subscription), "it comes again", LONG)
    assert again.message.data == b"x"


def test_a_letter_is_a_message_with_attributes(pubsub: Any, writer: Any) -> None:
    """
    The data as they were, attributes that fit; an empty body is fine, as there are attributes.
    """
    dead = pubsub.topic()
    subscription = pubsub.subscription(dead)
    try:
        raise ValueError("日" * 10_000)
    except ValueError as error:
        writer(dead).write([letter(b"\x00\xff", error, topic="a", headers="x" * 5000), letter(b"")])
    first, second = sorted((each.message for each in pubsub.take(subscription)), key=lambda m: m.data, reverse=True)
    assert max(len(value.encode()) for value in first.attributes.values()) <= 1024
    assert first.data == b"\x00\xff"
    assert first.attributes["broadway-reason"].startswith("ValueError: 日日")
    assert first.attributes["broadway-traceback"].startswith("Traceback")
    assert json.loads(first.attributes["broadway-origin"]) == {"topic": "a", "cut": True}
    assert (second.data, second.attributes["broadway-reason"]) == (b"", "reason")


def test_many_letters_go_in_several_requests(pubsub: Any, writer: Any, monkeypatch: Any) -> None:
    """
    The service takes a thousand messages at a time, and so many bytes.
    """
    dead = pubsub.topic()
    subscription = pubsub.subscription(dead)
    each, sizes = writer(dead), []
    publish = each._publish
    monkeypatch.setattr(each, "_publish", lambda lot: (sizes.append(len(lot)), publish(lot)))
    each.write([letter(b"%d" % number) for number in range(1500)])
    assert sizes == [976, 524]  # with attributes of the greatest length they would be too large otherwise
    assert len(pubsub.take(subscription)) == 1500
    sizes.clear()
    each.write([letter(b"x" * 4_000_000) for _ in range(3)])
    assert sizes == [2, 1]


def test_a_letter_that_is_too_large_is_refused(pubsub: Any, writer: Any) -> None:
    """
    Trying again would change nothing; the letters beside it are written.
    """
    dead = pubsub.topic()
    subscription = pubsub.subscription(dead)
    letters = [letter(b"small"), letter(b"x" * 10_500_000), letter(b"small too")]
    with pytest.raises(LetterRefusedError, match="2 of 3 letters were accepted: .*Pub/Sub takes") as caught:
        writer(dead).write(letters)
    assert caught.value.left == [letters[1]]
    assert len(pubsub.take(subscription)) == 2


def test_a_topic_that_is_not_there(pubsub: Any, writer: Any) -> None:
    """
    Is an error that may pass: somebody may create it.
    """
    with pytest.raises(PartlyWrittenError, match="0 of 1 letters were accepted: NotFound") as caught:
        writer(f"projects/{pubsub.project}/topics/there-is-none").write([letter()])
    assert not isinstance(caught.value, LetterRefusedError)


def test_several_threads_share_a_client(pubsub: Any, writer: Any) -> None:
    """
    It is made for that.
    """
    dead = pubsub.topic()
    subscription = pubsub.subscription(dead)
    written = write_on_threads(writer(dead), threads=4, lots=5)
    assert sorted(received.message.data.decode() for received in pubsub.take(subscription)) == written


@pytest.mark.parametrize("topic", ["", "invoices", "projects/p/subscriptions/s", 3])
def test_a_mistake_is_named(topic: Any) -> None:
    """
    Before there is anything to write.
    """
    with pytest.raises(ConfigurationError, match='topic: expected "projects/<project>/topics/<topic>", got: '):
        PubSubLetters(topic)
