"""
Ordered groups: one item of each group is out at a time.
"""

from __future__ import annotations

import pytest

from broadway_sync.core.ordered_groups import OrderedGroups


@pytest.fixture
def groups() -> OrderedGroups[int]:
    """
    Group "a" with 1 out and 2, 3 held; group "b" with 10 out.
    """
    groups: OrderedGroups[int] = OrderedGroups()
    assert groups.add("a", 1)
    assert not groups.add("a", 2)
    assert not groups.add("a", 3)
    assert groups.add("b", 10)
    return groups


def test_the_next_follows_when_the_first_is_finished(groups: OrderedGroups[int]) -> None:
    """
    In order, until none is left; then the group is free.
    """
    assert groups.held_count == 2
    assert [groups.finish("a"), groups.finish("a"), groups.finish("a")] == [2, 3, None]
    assert groups.held_count == 0
    assert groups.add("a", 4)


def test_release_gives_back_what_is_held_and_frees_the_group(groups: OrderedGroups[int]) -> None:
    """
    Other groups stay as they are.
    """
    assert groups.release("a") == [2, 3]
    assert groups.held_count == 0
    assert groups.add("a", 1)
    assert not groups.add("b", 11)


def test_followers_are_those_that_are_held(groups: OrderedGroups[int]) -> None:
    """
    The one that is out is none.
    """
    assert groups.has_followers("a")
    assert not groups.has_followers("b")
    assert not groups.has_followers("c")


def test_finish_of_a_released_group_finds_nothing(groups: OrderedGroups[int]) -> None:
    """
    A stop releases while messages are out.
    """
    assert groups.release("a") == [2, 3]
    assert groups.finish("a") is None
    assert groups.held_count == 0
