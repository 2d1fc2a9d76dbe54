"""
Metadata: what was asked for, and the delivery count wherever the broker gives it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from broadway_sync.connectors.rabbitmq.messages import metadata_reader
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
