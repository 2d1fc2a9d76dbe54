"""
Leases: what is extended when, and what is lost.
"""

from __future__ import annotations

import pytest

from broadway_sync.core.leases import Leases


@pytest.fixture
def leases() -> Leases:
    """
    Leases of 10 s, kept for 100 s.
    """
    return Leases(10.0, 100.0)


def test_nothing_is_due_without_leases(leases: Leases) -> None:
    """
    Nor is there a time to wait for.
    """
    assert leases.next_due() is None
    assert leases.take_due(1000.0) == ([], [])


def test_a_lease_falls_due_when_half_of_it_is_over(leases: Leases) -> None:
    """
    And not before.
    """
    leases.add("a", 0.0)
    assert leases.next_due() == 5.0
    assert leases.take_due(4.9) == ([], [])
    assert leases.take_due(5.0) == (["a"], [])


def test_no_lease_falls_due_sooner_than_the_interval(leases: Leases) -> None:
    """
    So who waits that long needs no word of a new one.
    """
    leases.add("a", 3.0)
    assert leases.next_due() == 3.0 + leases.interval


def test_an_extended_lease_falls_due_as_a_new_one(leases: Leases) -> None:
    """
    Counted from when the request began.
    """
    leases.add("a", 0.0)
    leases.take_due(6.0)
    leases.extended(["a"], 6.0)
    assert leases.next_due() == 11.0
    assert leases.take_due(11.0) == (["a"], [])


def test_what_could_not_be_extended_is_tried_again_soon(leases: Leases) -> None:
    """
    After a tenth of the lease, until it has expired.
    """
    leases.add("a", 0.0)
    tried = []
    while leases.next_due() is not None:
        now = leases.next_due()
        assert now is not None
        to_extend, lost = leases.take_due(now)
        tried.append((now, to_extend, lost))
    assert [now for now, _, _ in tried] == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert tried[-1] == (10.0, [], ["a"])
    assert len(leases) == 0


def test_a_message_held_for_too_long_is_extended_no_more(leases: Leases) -> None:
    """
    It is lost when its last lease has expired, and may be acknowledged until then.
    """
    leases.add("a", 0.0)
    extended_at, lost_at = [], None
    while lost_at is None:
        now = leases.next_due()
        assert now is not None
        to_extend, lost = leases.take_due(now)
        leases.extended(to_extend, now)
        extended_at += [now] * len(to_extend)
        lost_at = now if lost else None
    assert extended_at == [5.0 * n for n in range(1, 20)]
    assert lost_at == 105.0


def test_removed_leases_are_forgotten(leases: Leases) -> None:
    """
    Whether they are fresh or being extended; unknown handles are passed over.
    """
    leases.add("a", 0.0)
    leases.add("b", 2.0)
    assert leases.take_due(5.0) == (["a"], [])
    assert leases.remove(["a", "b", "c"]) == 2
    leases.extended(["a"], 5.0)
    assert len(leases) == 0
    assert leases.next_due() is None


def test_what_was_to_be_extended_may_be_removed_meanwhile(leases: Leases) -> None:
    """
    Then it is known no more, while the others are.
    """
    leases.add_all(["a", "b", "c"], 0.0)
    to_extend, _ = leases.take_due(5.0)
    leases.remove(["b"])
    assert leases.known(to_extend) == ["a", "c"]


def test_due_in_order_of_time(leases: Leases) -> None:
    """
    Fresh ones and retries alike.
    """
    leases.add("a", 0.0)
    leases.add("b", 1.0)
    assert leases.take_due(5.0) == (["a"], [])
    assert leases.next_due() == 6.0
    assert leases.take_due(6.0) == (["b", "a"], [])
