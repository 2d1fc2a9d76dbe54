"""
Which stage handles the messages of a partition.
"""

from __future__ import annotations

from broadway_sync.connectors.kafka.assignments import Assignments, Placement


def test_spread() -> None:
    """
    New partitions go to the index that has the fewest, to and fro.
    """
    assignments = Assignments(4)
    assert [assignments.place(key) for key in "abcdef"] == [0, 1, 2, 3, 3, 2]
    assert [assignments.place(key) for key in "ghi"] == [1, 0, 0]


def test_a_partition_stays() -> None:
    """
    A partition that is placed again keeps its index, also when it was away.
    """
    assignments = Assignments(3)
    before = {key: assignments.place(key) for key in "abc"}
    assert {key: assignments.place(key) for key in "cba"} == before
    assignments.release("a")
    assignments.release("b")
    assert assignments.place("d") == before["a"], "which has the fewest"
    assert assignments.place("b") == before["b"]
    assert assignments.place("a") == before["a"]


def test_unknown_is_not_released() -> None:
    """
    Releasing what is not held changes nothing.
    """
    assignments = Assignments(2)
    assignments.release("a")
    assert [assignments.place(key) for key in "ab"] == [0, 1]


def test_placement_of_all_stages() -> None:
    """
    Every stage has its own indexes; a partition counts until the last holder has let go.
    """
    placement = Placement([1, 2])
    assert placement.hold("a") == [0, 0]
    assert placement.hold("b") == [0, 1]
    assert placement.hold("a") == [0, 0]
    placement.release("a")
    assert placement.hold("c") == [0, 1], "a still counts"
    placement.release("a")
    assert placement.hold("d") == [0, 0]
    assert placement.hold("a") == [0, 0]
