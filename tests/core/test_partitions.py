"""
``core/partitions.py``: which stage a message belongs to. No thread.
"""

from __future__ import annotations

import enum
from typing import Any, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadway_sync import InvalidReturnError, Message, NoopAcknowledger
from broadway_sync.core.partitions import split


def messages(*data: Any) -> List[Message]:
    """
    Return a message for each of *data*.
    """
    return [Message(item, NoopAcknowledger.init()) for item in data]


class Shard(enum.IntEnum):
    """
    An int by another name.
    """

    THIRD = 3


def test_the_remainder_by_the_concurrency_picks_the_partition() -> None:
    """
    The messages of a partition keep their order.
    """
    partitions, rejected = split(messages(0, 5, 1, 4, 3), lambda m: m.data, 4)
    assert {key: [m.data for m in members] for key, members in partitions.items()} == {0: [0, 4], 1: [5, 1], 3: [3]}
    assert rejected == []


@pytest.mark.parametrize("value", [7, Shard.THIRD, 10**30 + 1])
def test_every_int_from_zero_is_a_partition(value: int) -> None:
    """
    Subclasses of int and huge ones too.
    """
    partitions, rejected = split(messages(value), lambda m: m.data, 2)
    assert list(partitions) == [1]
    assert rejected == []


@pytest.mark.parametrize("value", [-1, True, False, 1.0, "1", None, (1,)])
def test_what_is_no_int_from_zero_is_no_partition(value: Any) -> None:
    """
    The message is set aside with the reason; the message itself is not touched, the others are placed.
    """
    (first, wrong, last) = messages(1, value, 2)
    partitions, ((rejected, error),) = split([first, wrong, last], lambda m: m.data, 1)
    assert partitions == {0: [first, last]}
    assert rejected is wrong
    assert isinstance(error, InvalidReturnError)
    assert str(error) == f"partition_by must return an int >= 0, got: {value!r}"
    assert (wrong.status, wrong.reason) == ("ok", None)


@pytest.mark.parametrize("raised", [LookupError("no key"), KeyboardInterrupt(), SystemExit(1)])
def test_what_partition_by_raises_is_the_reason(raised: BaseException) -> None:
    """
    Whatever it is.
    """

    def partition_by(message: Message) -> int:
        raise raised

    (message,) = messages(1)
    partitions, rejected = split([message], partition_by, 3)
    assert partitions == {}
    assert rejected == [(message, raised)]


@given(data=st.lists(st.integers(-5, 50)), concurrency=st.integers(1, 7))
def test_every_message_is_placed_or_rejected_once(data: List[int], concurrency: int) -> None:
    """
    In order, and each where the remainder says.
    """
    given_messages = messages(*data)
    partitions, rejected = split(given_messages, lambda m: m.data, concurrency)
    for partition, members in partitions.items():
        expected = [m for m in given_messages if m.data >= 0 and m.data % concurrency == partition]
        assert members == expected != []
    assert [m for m, _ in rejected] == [m for m in given_messages if m.data < 0]
    assert sum(map(len, partitions.values())) + len(rejected) == len(data)
