"""
What is written of a message, whatever is in it.
"""

from __future__ import annotations

import datetime
import decimal
import json
import pickle
import threading
from typing import Any

import pytest

from broadway_sync import Message, Retry
from broadway_sync.dead_letter.letter import BYTES, JSON, PICKLE, REPR, TEXT, encode
from broadway_sync.dead_letter.text import clean, cut, cut_bytes, origin_text
from tests.dead_letter.support import Unlucky, UnluckyError, letter
from tests.helpers import RecordingAcknowledger


@pytest.mark.parametrize("data", [b"", b"\x00\xff", bytearray(b"x"), memoryview(b"y")])
def test_bytes_stay_as_they_are(data: Any) -> None:
    """
    Nothing is lost, nothing is added.
    """
    assert encode(data) == (bytes(data), BYTES)


def test_bytes_that_are_gone() -> None:
    """
    Of a buffer that was released there is nothing left but that it was one.
    """
    data = memoryview(b"x")
    data.release()
    body, content_type = encode(data)
    assert (body.startswith(b"<released memory at"), content_type) == (True, REPR)


class UnluckyText(str):
    """
    A text that cannot be encoded.
    """

    def encode(self, *args: Any) -> bytes:
        """
        Fail.
        """
        raise RuntimeError("no bytes")


class UnluckyBytes(bytes):
    """
    Bytes that cannot be copied.
    """

    def __bytes__(self) -> bytes:
        raise RuntimeError("no bytes")


@pytest.mark.parametrize("data", [UnluckyText("x"), UnluckyBytes(b"x")], ids=["str", "bytes"])
def test_texts_and_bytes_of_peculiar_classes(data: Any) -> None:
    """
    Go the way of other objects.
    """
    body, content_type = encode(data)
    assert body
    assert content_type in (JSON, PICKLE)


@pytest.mark.parametrize("data", ["", "ünï\x00", "a\nb"])
def test_a_str_is_utf_8(data: str) -> None:
    """
    Whatever characters it has.
    """
    assert encode(data) == (data.encode("utf-8"), TEXT)


@pytest.mark.parametrize("data", [None, 1, 1.5, True, [1, "x"], {"a": {"b": []}}, "\ud800"])
def test_what_json_can_have_is_json(data: Any) -> None:
    """
    It reads back as what it was; half a surrogate pair too, which UTF-8 cannot have.
    """
    body, content_type = encode(data)
    assert content_type == JSON
    assert json.loads(body) == data


@pytest.mark.parametrize(
    "data", [(1, 2), {1: 2}, {"a": (1,)}, float("inf"), {1, 2}, decimal.Decimal("1.10"), datetime.date(2024, 2, 29)]
)
def test_what_json_would_change_is_pickled(data: Any) -> None:
    """
    Lossless is more than readable.
    """
    body, content_type = encode(data)
    assert content_type == PICKLE
    assert pickle.loads(body) == data


def nested(depth: int) -> Any:
    """
    Return a list in a list in a list.
    """
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("data", [threading.Lock(), lambda: 1, Unlucky(), [Unlucky()], nested(100_000)])
def test_of_anything_else_the_repr_is_left(data: Any) -> None:
    """
    Or the excuse for not having one; never an exception.
    """
    body, content_type = encode(data)
    assert content_type == REPR
    assert 0 < len(body) <= 200_000


def test_a_letter_says_why_where_and_when() -> None:
    """
    Type and text of the exception, traceback, attempts, pipeline, stage, origin.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        raise ConnectionError("refused\x00")

    message = RecordingAcknowledger().message(b"x", metadata={"topic": "a", "offset": 7})
    try:
        Retry(max_attempts=2, backoff=(0, 0)).wrap(handle_message, "handle_message", "p")("default", message, None)
    except ConnectionError as error:
        found = letter(b"x", error, topic="a", offset=7)
    assert found.reason == "ConnectionError: refused\\x00"
    assert found.traceback.startswith("Traceback (most recent call last):")
    assert found.traceback.endswith("ConnectionError: refused\\x00")
    assert "in handle_message" in found.traceback
    assert (found.attempts, found.pipeline, found.stage) == (2, "pipeline", "stage")
    assert found.origin == {"topic": "a", "offset": 7}
    age = datetime.datetime.now(datetime.timezone.utc) - found.failed_at
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("reason", "text"), [("no such invoice", "no such invoice"), (None, "None"), (("a", 1), "('a', 1)")]
)
def test_a_message_that_was_failed_has_no_traceback(reason: Any, text: str) -> None:
    """
    The reason is what fail got.
    """
    found = letter(reason=reason)
    assert (found.reason, found.traceback, found.attempts) == (text, "", 1)
    assert "broadway-traceback" not in found.headers()


def recursion(depth: int) -> None:
    """
    Fail deep down.
    """
    recursion(depth + 1)


def test_texts_have_an_end() -> None:
    """
    However long the error's text or its traceback is; the ends of a traceback are what matters.
    """
    try:
        recursion(0)
    except RecursionError as error:
        error.args = ("x" * 1_000_000,)
        found = letter(reason=error)
    assert len(found.reason) == 1000
    assert len(found.traceback) <= 8000
    assert found.traceback.startswith("Traceback")
    assert found.traceback.endswith("xxx")


@pytest.mark.parametrize("reason", [UnluckyError(), Unlucky(), [Unlucky()]], ids=["error", "object", "list"])
def test_a_reason_that_cannot_be_looked_at(reason: Any) -> None:
    """
    Is described by its type.
    """
    found = letter(reason=reason)
    assert "Unlucky" in found.reason
    assert all(isinstance(value, str) for value in found.headers().values())


def test_the_origin_is_what_json_can_have() -> None:
    """
    Bytes as text where they are text; dates, and whatever a user has put there, as text.
    """
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    found = letter(
        key=b"k",
        raw=b"\xff",
        headers=[("h", b"v")],
        time=datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),
        large=10**5000,
        ratio=float("nan"),
        odd="\x00\ud800",
        cyclic=cyclic,
        unlucky=Unlucky(),
        receipt_handle="AQEB",
    )
    origin = json.loads(json.dumps(found.origin, allow_nan=False))
    assert origin["key"] == "k"
    assert origin["raw"] == {"base16": "ff"}
    assert origin["headers"] == [["h", "v"]]
    assert origin["time"] == "2024-02-29T00:00:00+00:00"
    assert origin["large"].startswith("0x")
    assert origin["ratio"] == "nan"
    assert origin["odd"] == "\\x00\\ud800"
    assert "Unlucky" in origin["unlucky"]
    assert "receipt_handle" not in origin


def test_metadata_that_are_none_do_not_stop_a_letter() -> None:
    """
    A message may have been given anything.
    """
    message = RecordingAcknowledger().message(b"x")
    message.metadata = 3  # type: ignore[assignment]
    from broadway_sync.dead_letter.letter import to_letter

    assert to_letter(message, b"x", "p", "s").origin == {"unreadable": "looking at the metadata raised AttributeError"}


def test_an_origin_is_cut_at_its_largest_entries() -> None:
    """
    What says where the message is stays.
    """
    origin = {"headers": "x" * 5000, "topic": "a", "partition": 3, "more": "y" * 900}
    text = origin_text(origin, 1024)
    assert json.loads(text) == {"topic": "a", "partition": 3, "more": "y" * 900, "cut": True}
    assert json.loads(origin_text(origin, 100)) == {"topic": "a", "partition": 3, "cut": True}
    assert origin_text(origin) == json.dumps(origin)


@pytest.mark.parametrize("text", ["", "short", "x" * 5000, "ü" * 5000, "\n" * 5000, "日本" * 2000])
def test_values_are_cut_to_bytes(text: str) -> None:
    """
    And stay text.
    """
    found = cut_bytes(text, 1024)
    assert len(found.encode("utf-8")) <= 1024
    assert found == text or (found.startswith(text[:100]) and found.endswith(text[-100:]))
    assert len(cut(text, 10)) <= 10


def test_headers_fit() -> None:
    """
    Each of them, into what Pub/Sub takes.
    """
    try:
        raise ValueError("ü" * 5000)
    except ValueError as error:
        found = letter(reason=error, headers="x" * 5000, topic="a").headers(1024)
    assert max(len(value.encode("utf-8")) for value in found.values()) <= 1024
    assert json.loads(found["broadway-origin"]) == {"topic": "a", "cut": True}
    assert len(found) == 8


def test_clean_text_can_be_stored_anywhere() -> None:
    """
    XML, PostgreSQL and UTF-8 have their dislikes.
    """
    assert clean("a\tb\nc\x00\x1b\ud800\uffff") == "a\tb\nc\\x00\\x1b\\ud800\\uffff"


def test_a_letter_as_a_dict() -> None:
    """
    For a line of JSON: the body as text if it is text.
    """
    found = letter(b"text").as_dict()
    assert found["body"] == "text"
    assert json.loads(json.dumps(found)) == found
    assert letter(b"\xff").as_dict()["body_base64"] == "/w=="
