"""
``runtime/serial.py``: steps that run one at a time, on whichever thread is there.
"""

from __future__ import annotations

import threading
from typing import Any, List, Tuple

import pytest

from broadway_sync.runtime.serial import Serial

from ..helpers import BOUND, Call


class Book:
    """
    What steps write down.
    """

    def __init__(self) -> None:
        self.entries: List[Any] = []
        self.serial = Serial()

    def write(self, first: Any, second: Any) -> None:
        self.entries.append((first, second, threading.current_thread()))


def test_the_poster_runs_its_step_if_nobody_is_at_it() -> None:
    """
    On its own thread, before post() returns.
    """
    book = Book()
    book.serial.post(book.write, 1, "one")
    assert book.entries == [(1, "one", threading.current_thread())]
    assert not book.serial.pending


def test_while_somebody_is_at_it_the_poster_leaves_its_step_to_them() -> None:
    """
    It does not wait, and its step is run by the other thread.
    """
    book, inside, go_on = Book(), threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        inside.set()
        assert go_on.wait(BOUND)

    runner = Call(book.serial.post, slow, None, None)
    assert inside.wait(BOUND)
    book.serial.post(book.write, 1, None)
    book.serial.post(book.write, 2, None)
    assert (book.entries, len(book.serial.pending)) == ([], 2)
    go_on.set()
    runner.result()
    assert book.entries == [(1, None, runner.thread), (2, None, runner.thread)]


def test_a_step_may_post_steps() -> None:
    """
    They run after it, not inside it.
    """
    book = Book()

    def outer(*_: Any) -> None:
        book.serial.post(book.write, "inner", None)
        book.entries.append("outer")

    book.serial.post(outer, None, None)
    assert book.entries == ["outer", ("inner", None, threading.current_thread())]


def test_a_step_that_comes_at_the_last_moment_is_not_left_behind() -> None:
    """
    The runner has found nothing more to run, but has not given up the right yet: the poster's try fails, and the runner
    looks again.
    """
    book = Book()
    real = book.serial._lock

    class Late:
        """
        The lock, and a poster who comes just before it is released.
        """

        def acquire(self, blocking: bool) -> bool:
            return real.acquire(blocking)

        def release(self) -> None:
            if len(book.entries) == 1:
                book.serial.post(book.write, "late", None)
            real.release()

    book.serial._lock = Late()  # type: ignore[assignment]
    book.serial.post(book.write, "first", None)
    assert [entry[0] for entry in book.entries] == ["first", "late"]


def test_a_step_that_raises_does_not_keep_the_right_to_run() -> None:
    """
    It raises at the thread that ran it; what comes later runs.
    """
    book = Book()

    def wrong(*_: Any) -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        book.serial.post(wrong, None, None)
    book.serial.post(book.write, 1, None)
    assert [entry[0] for entry in book.entries] == [1]


class TestInspect:
    """
    A look from outside.
    """

    def test_it_waits_for_the_step_that_runs(self) -> None:
        """
        What it sees is not half done.
        """
        book, inside, go_on = Book(), threading.Event(), threading.Event()

        def slow(*_: Any) -> None:
            book.entries.append("begun")
            inside.set()
            assert go_on.wait(BOUND)
            book.entries.append("done")

        runner = Call(book.serial.post, slow, None, None)
        assert inside.wait(BOUND)
        looking = Call(book.serial.inspect, lambda: list(book.entries), BOUND)
        assert not looking.is_done()
        go_on.set()
        assert looking.result() == ["begun", "done"]
        runner.result()

    def test_it_looks_anyhow_when_the_time_is_over(self) -> None:
        """
        A step that hangs must not stop a stop; the step goes on as if nothing had been.
        """
        book, inside, go_on = Book(), threading.Event(), threading.Event()

        def hangs(*_: Any) -> None:
            inside.set()
            assert go_on.wait(BOUND)

        runner = Call(book.serial.post, hangs, None, None)
        assert inside.wait(BOUND)
        assert book.serial.inspect(lambda: "seen", 0.01) == "seen"
        go_on.set()
        runner.result()
        assert book.serial.inspect(lambda: "free", 0.01) == "free"

    def test_what_look_raises_does_not_keep_the_right_to_run(self) -> None:
        """
        Steps go on after it.
        """
        book = Book()
        with pytest.raises(ZeroDivisionError):
            book.serial.inspect(lambda: 1 // 0, BOUND)
        book.serial.post(book.write, 1, None)
        assert len(book.entries) == 1


def test_steps_of_many_threads_run_one_at_a_time_each_thread_in_its_order() -> None:
    """
    Every step once: no step is left behind when all have posted, and what is not guarded by anything else adds up.
    """
    threads, each = 6, 3000
    state = {"count": 0, "inside": 0}
    seen: List[Tuple[int, int]] = []
    overlaps: List[int] = []

    def step(thread: int, number: int) -> None:
        state["inside"] += 1
        if state["inside"] != 1:
            overlaps.append(number)
        count = state["count"]
        seen.append((thread, number))
        state["count"] = count + 1
        state["inside"] -= 1

    serial = Serial()

    def post_all(thread: int) -> None:
        for number in range(each):
            serial.post(step, thread, number)

    for call in [Call(post_all, thread) for thread in range(threads)]:
        call.result()
    assert overlaps == []
    assert not serial.pending
    assert state == {"count": threads * each, "inside": 0}
    for thread in range(threads):
        assert [number for who, number in seen if who == thread] == list(range(each))
