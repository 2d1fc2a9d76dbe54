"""
The message of a delivery. Its metadata: what was asked for, and the delivery count wherever the broker gives it.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from broadway_sync import Message, NoopAcknowledger
from broadway_sync.connectors.rabbitmq.acknowledger import ACKNOWLEDGER, Choice
from broadway_sync.connectors.rabbitmq.messages import DeliveryMessage, ack_data_of, metadata_reader
from broadway_sync.connectors.rabbitmq.options import FROM_METHOD, FROM_PROPERTIES, METADATA_KEYS

METHOD = SimpleNamespace(**{key: f"method {key}" for key in FROM_METHOD})


def properties(**values: Any) -> Any:
    """
    Return properties that have a value of their own for each key but those given.
    """
    return SimpleNamespace(**{**{key: f"property {key}" for key in FROM_PROPERTIES}, "headers": None, **values})


def test_nothing_was_asked_for() -> None:
    """
    Without keys there is no dict at all.
    """
    assert metadata_reader(())(METHOD, properties(headers={"a": 1})) is None


@pytest.mark.parametrize("keys", [(), ("type",)], ids=["no keys", "a key"])
def test_delivery_count(keys: Any) -> None:
    """
    The count of a quorum queue comes whether it was asked for or not; other queues have none.
    """
    read = metadata_reader(keys)
    counted = read(METHOD, properties(headers={"x-delivery-count": 2}))
    assert counted is not None and counted["delivery_count"] == 2
    assert "delivery_count" not in (read(METHOD, properties()) or {})


def test_every_key() -> None:
    """
    Every documented key reads the field of its name, some of the delivery, some of the properties.
    """
    found = metadata_reader(METADATA_KEYS)(METHOD, properties(delivery_mode=2))
    expected = {key: f"method {key}" for key in FROM_METHOD}
    expected.update({key: f"property {key}" for key in FROM_PROPERTIES})
    assert found == {**expected, "headers": None, "persistent": True}


def test_only_what_was_asked_for() -> None:
    """
    There is nothing else in the metadata.
    """
    assert metadata_reader(["routing_key", "persistent"])(METHOD, properties(delivery_mode=1)) == {
        "routing_key": "method routing_key",
        "persistent": False,
    }


SESSION: Any = SimpleNamespace(acknowledger=ACKNOWLEDGER, choice=Choice("ack", "reject"))
ACK_DATA = (7, True, SESSION.choice)


def make(metadata: Any = None) -> DeliveryMessage:
    """
    Return the message of a delivery.
    """
    return DeliveryMessage(SESSION, 7, True, b"body", metadata)


def test_it_is_what_a_message_is() -> None:
    """
    It has every field of a message, with the same defaults.
    """
    message = make()
    plain = Message(b"body", (ACKNOWLEDGER, SESSION, ACK_DATA))
    for field in attrs.fields(Message):
        assert getattr(message, field.name) == getattr(plain, field.name), field.name
    assert message.metadata == {} and make({"a": 1}).metadata == {"a": 1}
    assert not message.is_acknowledged()
    assert not hasattr(message, "__dict__")
    assert repr(message).startswith("DeliveryMessage(data=b'body'")


def test_acknowledger_can_be_replaced() -> None:
    """
    By ``configure_ack``, or as a whole: then what was put there counts.
    """
    message = make()
    assert ack_data_of(message) == ACK_DATA
    message.configure_ack(on_failure="ack")
    assert message.acknowledger == (ACKNOWLEDGER, SESSION, (7, True, Choice("ack", "ack")))
    assert ack_data_of(message) == message.acknowledger[2]
    message.acknowledger = NoopAcknowledger.init()
    assert message.acknowledger == NoopAcknowledger.init()
    assert ack_data_of(make()) == ACK_DATA


def test_copy() -> None:
    """
    A copy is acknowledged as its original would be.
    """
    again = copy.copy(make({"a": 1}))
    assert (again.data, again.metadata, again.acknowledger) == (b"body", {"a": 1}, (ACKNOWLEDGER, SESSION, ACK_DATA))
    assert ack_data_of(again) == ACK_DATA
