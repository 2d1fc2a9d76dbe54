"""
What a consumer has fetched, handed over, and may commit.
"""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from broadway_sync.connectors.kafka.partitions import Partitions

A, B, C = ("t", 0), ("t", 1), ("t", 2)


def records(*offsets: int, size: int = 1) -> list[Any]:
    """
    Return records with these offsets.
    """
    return [SimpleNamespace(offset=offset, serialized_value_size=size) for offset in offsets]


@pytest.fixture
def held() -> list[Any]:
    """
    Return the partitions that are held, as the placement sees it.
    """
    return []


@pytest.fixture
def partitions(held: list[Any]) -> Partitions:
    """
    Return a consumer's partitions, three at a time in turn.
    """

    def hold(key: Any) -> list[int]:
        held.append(key)
        return [0]

    return Partitions(3, hold, held.remove)


def taken(partitions: Partitions, demand: int) -> list[Any]:
    """
    Take and return key and offsets of each share; the lots are acknowledged at once.
    """
    shares = partitions.take(demand)
    partitions.finish([(lot, [record.offset for record in found]) for _, lot, found in shares])
    return [(key, [record.offset for record in found]) for key, _, found in shares]


def test_in_turn(partitions: Partitions) -> None:
    """
    No partition has more than its turn while another one waits.
    """
    assert partitions.assign([A, B]) == ({}, [A, B])
    assert partitions.add({A: records(*range(10)), B: records(0, 1)}) == 12
    assert taken(partitions, 7) == [(A, [0, 1, 2]), (B, [0, 1]), (A, [3, 4])]
    partitions.add({B: records(2)})
    assert taken(partitions, 100) == [(A, [5, 6, 7]), (B, [2]), (A, [8, 9])]
    assert taken(partitions, 5) == []


def test_records_of_others_are_dropped(partitions: Partitions) -> None:
    """
    Records of partitions that are not ours, or not any more, are not handed over.
    """
    partitions.assign([A])
    assert partitions.add({B: records(1), A: []}) == 0
    assert taken(partitions, 5) == []


def test_what_to_commit(partitions: Partitions) -> None:
    """
    Each partition is committed up to its first unfinished message, once.
    """
    partitions.assign([A, B])
    partitions.add({A: records(5, 9), B: records(0)})
    (_, first, _), (_, second, _) = partitions.take(10)
    assert partitions.to_commit() == {}, "nothing is finished"
    assert partitions.to_commit([A], is_forced=True) == {A: 5}
    partitions.finish([(first, [5])])
    assert partitions.to_commit() == {A: 9}
    partitions.committed({A: 9})
    assert partitions.to_commit() == {}
    partitions.finish([(first, [9]), (second, [0])])
    assert partitions.to_commit() == {A: 10, B: 1}
    assert partitions.unfinished() == 0
    assert partitions.commit_points() == {A: None, B: None}, "for the client to know"
    partitions.add({A: records(12)})
    assert partitions.commit_points() == {A: 12, B: None}
    partitions.take(1)
    partitions.add({A: records(13)})
    assert partitions.commit_points() == {A: 12, B: None}


def test_limits(partitions: Partitions) -> None:
    """
    A partition is full at its part of the limit, and has room again at half of that.
    """
    partitions.assign([A, B])
    limit, _ = partitions.limits()
    partitions.add({A: records(*range(limit)), B: records(*range(limit // 2 + 1))})
    assert (partitions.full(set()), partitions.full({A, B})) == ({A}, {A, B})
    assert (partitions.has_room(), partitions.has_room(set())) == (False, True)
    assert (partitions.has_room({A}), partitions.has_room({B})) == (True, False), "B is full for those who paused it"
    partitions.take(3)
    partitions.take(3)
    assert (partitions.full(set()), partitions.full({A, B}), partitions.has_room()) == (set(), {A}, True)


def test_the_limit_is_shared(partitions: Partitions) -> None:
    """
    The more partitions, the less may wait of each, but never less than a hundred.
    """
    limits = []
    for count in (1, 4, 1000):
        partitions.assign([("t", number) for number in range(count)])
        limits.append(partitions.limits())
    mib = 1024 * 1024
    assert limits == [(8000, 32 * mib), (2000, 8 * mib), (100, mib)]


def test_large_records(partitions: Partitions) -> None:
    """
    Large records count by their size.
    """
    partitions.assign([A])
    _, size = partitions.limits()
    partitions.add({A: records(0, 1, size=size // 2)})
    assert (partitions.full(set()), partitions.has_room(set())) == ({A}, False)
    partitions.take(1)
    assert (partitions.full({A}), partitions.has_room()) == (set(), True)
    partitions.revoke([A])
    partitions.assign([A])
    assert partitions.full({A}) == set()


def test_back_at_once(partitions: Partitions, held: list[Any]) -> None:
    """
    A partition that is revoked and comes back at once goes on after what was handed over, with what is unfinished.
    """
    partitions.assign([A, B])
    partitions.add({A: records(*range(10)), B: records(*range(10))})
    (_, lot, _), _ = partitions.take(6)
    partitions.revoke([A, B])
    assert partitions.keys() == []
    assert taken(partitions, 10) == [], "what waited was dropped"
    assert partitions.add({A: records(10)}) == 0
    partitions.finish([(lot, [0])])
    assert partitions.to_commit([A, B]) == {A: 1}
    assert partitions.assign([A, C]) == ({A: 3}, [C])
    assert held == [A, C]
    partitions.finish([(lot, [1, 2])])
    assert partitions.to_commit() == {A: 3}
    partitions.add({A: records(3)})
    assert taken(partitions, 10) == [(A, [3])]


def test_back_at_once_before_anything_was_handed_over(partitions: Partitions) -> None:
    """
    What was fetched, and dropped by the revoke, is fetched again; where nothing was fetched the client knows best.
    """
    partitions.assign([A, B])
    partitions.add({A: records(7, 8)})
    partitions.revoke([A, B])
    assert partitions.assign([A, B]) == ({A: 7}, [])


def test_back_later(partitions: Partitions) -> None:
    """
    A partition that was with others begins anew: acknowledgements of the old assignment change nothing.
    """
    partitions.assign([A])
    partitions.add({A: records(0, 1)})
    ((_, lot, _),) = partitions.take(2)
    partitions.revoke([A])
    assert partitions.assign([]) == ({}, [])
    assert partitions.assign([A]) == ({}, [A])
    partitions.add({A: records(5)})
    ((_, new, _),) = partitions.take(1)
    partitions.finish([(lot, [0, 1])])
    assert partitions.to_commit() == {}
    partitions.finish([(new, [5])])
    assert partitions.to_commit() == {A: 6}


def test_lost_once_and_twice(partitions: Partitions) -> None:
    """
    Messages that vanish are delivered again, once; the second time they count as finished.
    """
    partitions.assign([A])
    partitions.add({A: records(0, 1, 2)})
    partitions.take(2)
    gc.collect()
    (loss,) = partitions.find_lost()
    assert loss == (A, [0, 1], False)
    assert partitions.rewind(A) == 0
    partitions.add({A: records(0, 1, 2)})
    partitions.take(2)
    gc.collect()
    (loss,) = partitions.find_lost()
    assert loss == (A, [0, 1], True)
    assert partitions.find_lost() == []
    assert partitions.to_commit() == {A: 2}
    assert taken(partitions, 5) == [(A, [2])]


def test_restart(partitions: Partitions) -> None:
    """
    Where the offset is out of range nothing is known any more.
    """
    partitions.assign([A])
    partitions.add({A: records(5)})
    partitions.restart(A)
    partitions.restart(B)
    assert partitions.rewind(B) is None
    assert taken(partitions, 5) == []
    assert partitions.commit_points() == {A: None}


def test_give_up_all(partitions: Partitions, held: list[Any]) -> None:
    """
    In the end nothing is held.
    """
    partitions.assign([A, B])
    partitions.revoke([A])
    partitions.give_up_all()
    assert (held, partitions.keys(), partitions.unfinished([A, B])) == ([], [], 0)


def test_drop_waiting(partitions: Partitions) -> None:
    """
    A stop forgets what was not handed over, and keeps what was.
    """
    partitions.assign([A])
    partitions.add({A: records(0, 1)})
    ((_, lot, _),) = partitions.take(1)
    partitions.drop_waiting()
    assert taken(partitions, 5) == []
    partitions.finish([(lot, [0])])
    assert partitions.to_commit() == {A: 1}
