"""
The message of a record.
"""

from __future__ import annotations

import copy
import pickle

import attrs

from broadway_sync import Message, NoopAcknowledger
from broadway_sync.connectors.kafka.messages import RecordMessage, lot_of, offsets_of
from broadway_sync.connectors.kafka.offsets import Tracker
from tests.connectors.kafka.fake import record

PLACE = ("topic", 3)
ACKNOWLEDGER = NoopAcknowledger()
METADATA = {
    "topic": "topic", "partition": 3, "offset": 7, "key": b"key", "ts": 1_700_000_000_007, "headers": [],
}  # fmt: skip


def make() -> RecordMessage:
    """
    Return the message of a record.
    """
    lot = Tracker(PLACE, [1, 2]).deliver([7])
    lot.acknowledger = ACKNOWLEDGER
    return RecordMessage(record(PLACE, 7), lot, PLACE)


def test_it_is_what_a_message_is() -> None:
    """
    It has every field of a message, with the same defaults.
    """
    message = make()
    plain = Message(b"7", message.acknowledger, metadata=METADATA, batch_key=PLACE)
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
    picklable = make().put_data(b"7")
    picklable.acknowledger = NoopAcknowledger.init()  # in place of one that is not
    for again in (copy.copy(make()), pickle.loads(pickle.dumps(picklable))):
        assert (again.data, again.metadata, again.batch_key) == (b"7", METADATA, PLACE)
    assert copy.copy(make().ack_immediately()).is_acknowledged()


def test_repr() -> None:
    """
    Its repr shows the metadata.
    """
    assert "'offset': 7" in repr(make())


def test_acknowledger_can_be_replaced() -> None:
    """
    It is a triple as that of any message; whoever asks for its parts gets those of the one in place.
    """
    message, other = make(), (NoopAcknowledger(), "ref", "data")
    acknowledger, lot, offset = message.acknowledger
    assert (acknowledger, lot.tracker.key, offset) == (ACKNOWLEDGER, PLACE, 7)
    assert (lot_of(message), offsets_of([message])) == (lot, [7])
    message.acknowledger = other
    assert message.acknowledger is other
    assert (lot_of(message), offsets_of([message])) == ("ref", ["data"])
    assert message.metadata == METADATA
    plain = Message(b"7", (acknowledger, lot, 8))
    assert (lot_of(plain), offsets_of([plain, copy.copy(make())])) == (lot, [8, 7])
