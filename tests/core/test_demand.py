"""
``core/demand.py``: the credit of a producer. No thread.
"""

from __future__ import annotations

from typing import List, Tuple

from hypothesis import given
from hypothesis import strategies as st

from broadway_sync.core.demand import Demand


def test_unmet_demand_is_the_capacity_less_what_is_outstanding() -> None:
    """
    Credit comes back with each chunk that was handled.
    """
    demand = Demand(10)
    assert (demand.unmet(), demand.outstanding()) == (10, 0)
    demand.add(7)
    assert (demand.unmet(), demand.outstanding()) == (3, 7)
    demand.returned.append(5)
    demand.returned.append(1)
    assert (demand.unmet(), demand.outstanding()) == (9, 1)
    assert list(demand.returned) == []


def test_a_producer_that_gave_too_much_is_asked_for_nothing() -> None:
    """
    Until enough of it is handled: demand is never negative.
    """
    demand = Demand(10)
    demand.add(25)
    assert (demand.unmet(), demand.outstanding()) == (0, 25)
    demand.returned.append(15)
    assert (demand.unmet(), demand.outstanding()) == (0, 10)
    demand.returned.append(1)
    assert (demand.unmet(), demand.outstanding()) == (1, 9)


@given(
    capacity=st.integers(1, 100),
    steps=st.lists(st.tuples(st.sampled_from(["add", "return", "look"]), st.integers(0, 50)), max_size=30),
)
def test_credit_is_neither_lost_nor_made(capacity: int, steps: List[Tuple[str, int]]) -> None:
    """
    ``outstanding == added - returned`` and ``unmet == max(0, capacity - outstanding)``, whenever somebody looks.
    """
    demand = Demand(capacity)
    outstanding = 0
    for kind, count in steps:
        if kind == "add":
            demand.add(count)
            outstanding += count
        elif kind == "return":
            demand.returned.append(min(count, outstanding))
            outstanding -= min(count, outstanding)
        else:
            assert demand.outstanding() == outstanding
            assert demand.unmet() == max(0, capacity - outstanding)
    assert demand.outstanding() == outstanding
