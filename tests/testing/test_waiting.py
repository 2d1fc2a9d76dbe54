"""
Bounded waiting, and gates.
"""

from __future__ import annotations

import pytest

from broadway_sync.testing import Gate, wait_until
from tests.helpers import BOUND, Call


def test_wait_until_returns_what_came() -> None:
    """
    The predicate is asked again until it is true.
    """
    answers = iter([0, None, "", "there"])
    assert wait_until(lambda: next(answers), BOUND, "the answer", pause=0.0) == "there"


def test_wait_until_gives_up() -> None:
    """
    With what was waited for.
    """
    with pytest.raises(AssertionError, match="^not so within 0.01 s: a miracle$"):
        wait_until(lambda: False, 0.01, "a miracle", pause=0.0)


def test_gate_holds_until_it_is_opened() -> None:
    """
    It tells who came, in order, and lets later ones through.
    """
    with Gate() as gate:
        first = Call(gate.wait, 1)
        assert gate.arrived(BOUND) == 1
        second = Call(gate.wait, 2)
        assert gate.arrived(BOUND) == 2
        assert not first.is_done() and not second.is_done()
    first.result()
    second.result()
    gate.wait(3)
    assert gate.arrived(0) == 3


def test_gate_that_nobody_opens_lets_go() -> None:
    """
    A broken test must not hang for ever.
    """
    gate = Gate(timeout=0.01)
    with pytest.raises(AssertionError, match=r"^nobody opened the gate within 0\.01 s$"):
        gate.wait()
    assert gate.arrived(0) is None
    with pytest.raises(AssertionError, match=r"^nobody came to the gate within 0\.01 s$"):
        gate.arrived(0.01)
