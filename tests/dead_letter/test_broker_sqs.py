"""
Letters in a queue of two servers that speak SQS.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Iterator

import pytest

from broadway_sync import ConfigurationError, PipelineFailedError
from broadway_sync.dead_letter import DeadLetter, LetterRefusedError, PartlyWrittenError, SQSLetters, sqs
from tests.connectors.recorder import LONG
from tests.connectors.sqs.support import module
from tests.dead_letter.support import MemoryLetters, closing, failing_handler, is_odd, letter
from tests.helpers import Call, eventually

pytest.importorskip("boto3")


@pytest.fixture(params=["elasticmq", "ministack"])
def server(request: Any) -> Any:
    """
    Return a server.
    """
    return request.getfixturevalue(request.param)


@pytest.fixture
def writer(server: Any) -> Iterator[Any]:
    """
    Return a function that makes a writer to a queue; all are closed at the end.
    """
    with closing(lambda url, **arguments: SQSLetters(url, **{**server.client_options(), **arguments})) as writer:
        yield writer


def attributes(message: Any) -> dict[str, str]:
    """
    Return the attributes of a message that are text.
    """
    return {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}


def test_every_failed_message_is_in_the_other_queue_once(make_pipeline: Any, server: Any, writer: Any) -> None:
    """
    One of a hundred fails; nothing is lost, and the queue is empty.
    """
    queue, dead = server.queue(VisibilityTimeout=30), server.queue()
    data = [str(number) for number in range(400)]
    server.send(queue, data)
    handler = failing_handler(DeadLetter(writer(dead)), is_odd)
    with make_pipeline(handler, producer={"module": module(queue, server)}, processors={"default": {"concurrency": 4}}):
        eventually(lambda: server.counts(queue) == (0, 0, 0), "the queue is empty", LONG)
    found = server.take(dead)
    assert sorted(message["Body"] for message in found) == sorted(filter(is_odd, data))
    origin = json.loads(attributes(found[0])["broadway-origin"])
    assert origin["message_id"]
    assert origin["approximate_receive_count"] == 1


def test_a_letter_that_nobody_takes_leaves_its_message_in_the_queue(make_pipeline: Any, server: Any) -> None:
    """
    Its lease is not extended any more, and it is visible again when that is over; the pipeline does not wait for it.
    """
    queue = server.queue(VisibilityTimeout=2)
    server.send(queue, ["x"])
    handler = failing_handler(DeadLetter(MemoryLetters(OSError("full")), patience=0))
    pipeline = make_pipeline(handler, producer={"module": module(queue, server)}).start()
    with pytest.raises(PipelineFailedError, match="full"):
        pipeline.join(LONG)
    (message,) = eventually(lambda: server.take(queue), "it comes again", LONG)
    assert message["Body"] == "x"


def test_a_letter_is_a_message_with_attributes(server: Any, writer: Any) -> None:
    """
    Text as it is, anything else as base64; SQS takes no empty body.
    """
    dead = server.queue()
    bodies = {b"text": "text", "ünï": "ünï", b"\x00\xff": "AP8=", b"": " ", "a\x00": "YQA="}
    writer(dead).write([letter(data, f"reason {number}", topic="a\x00") for number, data in enumerate(bodies)])
    found = sorted(server.take(dead), key=lambda message: attributes(message)["broadway-reason"])
    assert [message["Body"] for message in found] == list(bodies.values())
    for message, data in zip(found, bodies):
        values = attributes(message)
        if values.get("broadway-encoding") == "base64":
            encoded = data.encode() if isinstance(data, str) else data
            assert base64.b64decode(message["Body"]) == encoded
        assert json.loads(values["broadway-origin"]) == {"topic": "a\\x00"}
    assert ["broadway-encoding" in attributes(message) for message in found] == [False, False, True, True, True]


def test_large_letters_go_in_requests_of_their_own(server: Any, writer: Any) -> None:
    """
    The service takes so many bytes at a time, and ten messages.
    """
    dead = server.queue()
    try:
        raise ValueError("日" * 10_000)
    except ValueError as error:
        letters = [letter(f"{number} " + "x" * 60_000, error) for number in range(25)]
    writer(dead).write(letters)
    assert len(server.take(dead)) == 25


def test_a_letter_that_is_too_large_is_refused(server: Any, writer: Any) -> None:
    """
    It, and nothing else; trying again would change nothing.
    """
    dead = server.queue()
    letters = [letter("small"), letter("x" * 262_000), letter("small too")]
    with pytest.raises(LetterRefusedError, match="2 of 3 letters were accepted: 26.* bytes with attributes") as caught:
        writer(dead).write(letters)
    assert caught.value.left == [letters[1]]
    assert sorted(message["Body"] for message in server.take(dead)) == ["small", "small too"]


def test_a_queue_that_is_not_there(server: Any, writer: Any) -> None:
    """
    Is an error that may pass: somebody may create it.
    """
    letters = [letter(str(number)) for number in range(3)]
    with pytest.raises(PartlyWrittenError, match="0 of 3 letters were accepted") as caught:
        writer(server.queue() + "-not").write(letters)
    assert caught.value.left == letters
    assert not isinstance(caught.value, LetterRefusedError)


def test_a_fifo_queue_keeps_groups_and_knows_copies(server: Any, writer: Any) -> None:
    """
    The group is that of the message, or the pipeline's name; what was written already is written once.
    """
    dead = server.queue(fifo=True, ContentBasedDeduplication="false")
    letters = [
        letter("a", message_id="1", attributes={"message_group_id": "g"}),
        letter("b", message_id="2", attributes={"message_group_id": "g"}),
        letter("c", message_id="3"),
    ]
    for _ in range(2):
        writer(dead).write(letters)
    found = []
    for _ in range(5):
        found += server.take(dead)
    groups = sorted((message["Body"], message["Attributes"]["MessageGroupId"]) for message in found)
    assert groups == [("a", "g"), ("b", "g"), ("c", "pipeline")]


def test_messages_without_an_id_are_no_copies_of_each_other(server: Any, writer: Any, monkeypatch: Any) -> None:
    """
    Though a message that failed before had the same data, and the place in memory that this one has now.
    """
    monkeypatch.setattr(sqs, "id", lambda message: 1, raising=False)
    dead = server.queue(fifo=True, ContentBasedDeduplication="false")
    each, letters = writer(dead), [letter("ping"), letter("ping")]
    for one in letters:
        each.write([one])
    each.write(letters[:1])
    found = []
    for _ in range(5):
        found += server.take(dead)
    assert [message["Body"] for message in found] == ["ping", "ping"]


def test_entries_that_were_refused_are_left(server: Any, writer: Any, monkeypatch: Any) -> None:
    """
    An answer that succeeded may say that of some of its entries: for good if it is the sender's fault.
    """
    dead = server.queue()
    for is_final, kind in ((True, LetterRefusedError), (False, PartlyWrittenError)):
        each, letters = writer(dead), [letter(str(number)) for number in range(12)]
        client = each._held.get()
        answer = {"Failed": [{"Id": "1", "SenderFault": is_final, "Code": "Odd", "Message": "no"}]}
        monkeypatch.setattr(client, "send_message_batch", lambda answer=answer, **request: answer)
        with pytest.raises(PartlyWrittenError, match="10 of 12 letters were accepted: Odd: no") as caught:
            each.write(letters)
        assert type(caught.value) is kind
        assert caught.value.left == [letters[1], letters[11]]


def test_several_threads_share_a_client(server: Any, writer: Any) -> None:
    """
    Clients of boto3 are made for that.
    """
    dead = server.queue()
    each = writer(dead)

    def write(thread: int) -> None:
        for number in range(5):
            each.write([letter(f"{thread} {number} {part}") for part in range(3)])

    for call in [Call(write, thread) for thread in range(4)]:
        call.result()
    found = sorted(message["Body"] for message in server.take(dead))
    assert found == sorted(f"{t} {n} {part}" for t in range(4) for n in range(5) for part in range(3))


def test_a_server_that_is_away_is_an_error(server: Any, writer: Any, make_proxy: Any) -> None:
    """
    And the same client reaches it when it is back.
    """
    dead, proxy = server.queue(), make_proxy(server.port)
    each = writer(dead.replace(str(server.port), str(proxy.port)), endpoint_url=server.url_of(proxy.port))
    proxy.refuse()
    with pytest.raises(PartlyWrittenError, match="Could not connect"):
        each.write([letter("x")])
    proxy.accept()
    each.write([letter("x")])
    assert len(server.take(dead)) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"queue_url": ""}, "queue_url: expected the address of a queue, got: ''"),
        ({"queue_url": "u", "session": 3}, "session: expected a function that returns a boto3.Session, got: 3"),
    ],
)
def test_a_mistake_is_named(arguments: Any, text: str) -> None:
    """
    Before there is anything to write.
    """
    with pytest.raises(ConfigurationError) as caught:
        SQSLetters(**arguments)
    assert str(caught.value) == text
