"""
Connections that are opened when they are needed.
"""

from __future__ import annotations

from typing import Any

import pytest

from broadway_sync.dead_letter.held import Held
from tests.helpers import Call, Gate, run_python


class Counted:
    """
    Something to open.
    """

    def __init__(self) -> None:
        self.opened: list[object] = []
        self.closed: list[object] = []
        self.held = Held(self._open, self.closed.append)

    def _open(self) -> object:
        self.opened.append(object())
        return self.opened[-1]


def test_it_is_opened_at_the_first_look() -> None:
    """
    And not before; closing it opens nothing.
    """
    counted = Counted()
    counted.held.close()
    assert counted.opened == counted.closed == []
    assert counted.held.get() is counted.held.get()
    counted.held.close()
    counted.held.close()
    assert counted.closed == counted.opened
    counted.held.get()
    assert len(counted.opened) == 2


def test_it_is_closed_if_it_is_still_the_one() -> None:
    """
    Two threads may find the same one broken: the next one is not theirs to close.
    """
    counted = Counted()
    first = counted.held.get()
    counted.held.close(first)
    second = counted.held.get()
    counted.held.close(first)
    assert counted.held.get() is second


def test_what_closing_raises_is_dropped() -> None:
    """
    It is closed because it is broken, or not needed any more.
    """
    held = Held(object, lambda client: 1 / 0)
    held.get()
    held.close()
    assert held.get() is held.get()


def test_an_attempt_to_open_that_fails_leaves_nothing(gate: Gate) -> None:
    """
    The next one is a new one; several threads open it once.
    """
    answers: list[Any] = [OSError("down"), "up"]

    def open_client() -> Any:
        gate.wait()
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    held = Held(open_client, lambda client: None)
    gate.open()
    with pytest.raises(OSError, match="down"):
        held.get()
    calls = [Call(held.get) for _ in range(5)]
    assert [call.result() for call in calls] == ["up"] * 5


def test_a_child_of_a_fork_opens_its_own() -> None:
    """
    And leaves that of its parent alone, also where some thread was opening it just then.
    """
    done = run_python("""
import os, threading, broadway_sync
from broadway_sync.dead_letter.held import Held
closed = []
held = Held(lambda: os.getpid(), closed.append)
assert held.get() == os.getpid()
held._lock.acquire()
child = os.fork()
if not child:
    assert held.get() == os.getpid()
    held.close()
    os._exit(0 if closed == [os.getpid()] else 1)
held._lock.release()
print(os.waitpid(child, 0)[1], closed, held.get() == os.getpid())
""")
    assert done.stdout.strip() == "0 [] True", done.stderr
