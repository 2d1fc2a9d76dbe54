"""
The message of a record.
"""

from __future__ import annotations

import copy
import pickle

import attrs

from broadway_sync import Message, NoopAcknowledger
from broadway_sync.connectors.kafka.messages import RecordMessage
from tests.connectors.kafka.fake import record

PLACE = ("topic", 3)
METADATA = {
    "topic": "topic", "partition": 3, "offset": 7, "key": b"key", "ts": 1_700_000_000_007, "headers": [],
}  # fmt: skip


def make() -> RecordMessage:
    """
    Return the message of a record.
    """
    return RecordMessage(record(PLACE, 7), NoopAcknowledger.init(), PLACE)


def test_it_is_what_a_message_is() -> None:
    """
    It has every field of a message, with the same defaults.
    """
    message = make()
    plain = Message(b"7", NoopAcknowledger.init(), metadata=METADATA, batch_key=PLACE)
    assert message.metadata == METADATA
    for field in attrs.fields(Message):
        assert getattr(message, field.name) == getattr(plain, field.name), field.name
    assert not message.is_acknowledged()
    assert not hasattr(message, "__dict__")


def test_metadata_can_be_changed_and_replaced() -> None:
    """
    Metadata are a dict of the message's own.
    """
    message = make()
    message.metadata["more"] = 1
    assert message.metadata == {**METADATA, "more": 1}
    message.metadata = {"other": 2}
    assert message.metadata == {"other": 2}


def test_copies_and_pickles() -> None:
    """
    A copy has data and metadata; one of a message that was acknowledged is acknowledged.
    """
    for again in (copy.copy(make()), pickle.loads(pickle.dumps(make().put_data(b"7")))):
        assert (again.data, again.metadata, again.batch_key) == (b"7", METADATA, PLACE)
    assert copy.copy(make().ack_immediately()).is_acknowledged()


def test_repr() -> None:
    """
    Its repr shows the metadata.
    """
    assert "'offset': 7" in repr(make())
