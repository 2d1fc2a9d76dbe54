"""
``runtime/wait_list.py``: waiting without a lock around what changes, and no wake-up is lost.
"""

from __future__ import annotations

import collections
import signal
import threading
from time import monotonic
from typing import Any, Deque, List

import pytest

from broadway_sync.runtime.wait_list import Latch, WaitList

from ..helpers import BOUND, Call, eventually


def locked() -> Any:
    """
    Return what a waiting thread parks: a locked lock.
    """
    ticket = threading.Lock()
    ticket.acquire()
    return ticket


class TestWaiting:
    """
    One waiter.
    """

    def test_what_is_true_already_is_not_waited_for(self) -> None:
        """
        The predicate is asked once, on this thread.
        """
        threads: List[Any] = []

        def predicate() -> bool:
            threads.append(threading.current_thread())
            return True

        assert WaitList().wait_for(predicate) is True
        assert threads == [threading.current_thread()]

    @pytest.mark.parametrize("timeout", [0, -1.0, 0.01])
    def test_it_gives_up_when_the_time_is_over(self, timeout: float) -> None:
        """
        And leaves nothing behind.
        """
        waits = WaitList()
        assert waits.wait_for(lambda: False, timeout) is False
        assert not waits.parked

    def test_what_becomes_true_at_the_last_moment_counts(self) -> None:
        """
        The answer is what the predicate says last, not what the clock says.
        """
        answers = iter([False, True])
        assert WaitList().wait_for(lambda: next(answers), 0) is True

    def test_an_endless_time_is_no_error(self) -> None:
        """
        More than a lock can wait is waited for in portions.
        """
        waits, flag = WaitList(), threading.Event()
        call = Call(waits.wait_for, flag.is_set, float("inf"))
        eventually(lambda: waits.parked, "the thread waits")
        flag.set()
        waits.wake()
        assert call.result() is True

    def test_a_wake_up_for_nothing_is_slept_over(self) -> None:
        """
        The waiter looks, and waits again.
        """
        waits, flag, looks = WaitList(), threading.Event(), []

        def predicate() -> bool:
            looks.append(flag.is_set())
            return looks[-1]

        call = Call(waits.wait_for, predicate)
        eventually(lambda: waits.parked, "the thread waits")
        before = len(looks)
        assert waits.wake() is True
        eventually(lambda: waits.parked and len(looks) > before, "the thread waits again")
        flag.set()
        eventually(waits.wake, "the thread waits again, and is woken")
        assert call.result() is True

    def test_a_predicate_that_raises_leaves_nothing_behind(self) -> None:
        """
        Also when it raises after the waiter has announced itself.
        """
        waits = WaitList()
        looks = iter([False])

        def predicate() -> bool:
            return next(looks)

        with pytest.raises(StopIteration):
            waits.wait_for(predicate)
        assert not waits.parked


class TestWaking:
    """
    Several waiters.
    """

    def test_who_came_last_is_woken_first(self) -> None:
        """
        One wake-up, one thread.
        """
        waits = WaitList()
        first, second = locked(), locked()
        waits.parked.extend([first, second])
        assert waits.wake() is True
        assert (first.locked(), second.locked()) == (True, False)
        assert waits.wake() is True
        assert not first.locked()
        assert waits.wake() is False

    def test_wake_all_wakes_everybody(self) -> None:
        """
        And does nothing when nobody waits.
        """
        waits = WaitList()
        tickets = [locked() for _ in range(5)]
        waits.parked.extend(tickets)
        waits.wake_all()
        assert not any(ticket.locked() for ticket in tickets)
        waits.wake_all()

    def test_a_wake_up_that_came_too_late_goes_to_the_next(self) -> None:
        """
        A waiter that finds its predicate true by itself, and was woken at that moment, passes the wake-up on.
        """
        waits, other = WaitList(), locked()
        waits.parked.append(other)
        looks = []

        def predicate() -> bool:
            looks.append(len(waits.parked))
            if len(looks) == 2:
                assert waits.wake()  # another thread wakes this one, which sees it does not need that
            return len(looks) >= 2

        assert waits.wait_for(predicate) is True
        assert looks == [1, 2, 0]
        assert not other.locked()
        assert not waits.parked

    def test_a_wake_up_that_came_after_the_time_was_over_goes_to_the_next(self) -> None:
        """
        The same for a waiter that gives up, and finds that it has been taken out of the list meanwhile.
        """
        waits, other, mine = WaitList(), locked(), locked()
        waits.parked.append(other)
        waits._retract(mine)
        assert not other.locked()
        assert not waits.parked


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
def test_a_signal_handler_may_wake_its_own_thread() -> None:
    """
    The main thread waits without a limit; a handler that runs on it changes the state and wakes it.
    """
    waits, seen = WaitList(), []

    def handler(*_: Any) -> None:
        seen.append("signal")
        waits.wake_all()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert waits.wait_for(lambda: seen) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
def test_a_signal_that_raises_ends_the_wait() -> None:
    """
    As KeyboardInterrupt does; nothing is left behind.
    """

    class Interrupt(BaseException):
        pass

    def handler(*_: Any) -> None:
        raise Interrupt

    waits = WaitList()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupt):
            waits.wait_for(lambda: False, BOUND)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not waits.parked


class Pool:
    """
    Tokens that threads put and take, one wake-up a token and none while nobody waits: a lost wake-up stops it.
    """

    def __init__(self) -> None:
        self.tokens: Deque[Any] = collections.deque()
        self.waits = WaitList()
        self.taken: Deque[Any] = collections.deque()

    def put(self, tokens: Any) -> None:
        for token in tokens:
            self.tokens.append(token)
            if self.waits.parked:
                self.waits.wake()

    def take_all(self) -> None:
        """
        Take tokens until there comes None.
        """
        while True:
            try:
                token = self.tokens.popleft()
            except IndexError:
                self.waits.wait_for(lambda: self.tokens)
                continue
            if self.tokens and self.waits.parked:
                self.waits.wake()
            if token is None:
                return
            self.taken.append(token)


@pytest.mark.parametrize(("putters", "takers"), [(1, 1), (4, 1), (1, 4), (4, 4)])
def test_no_wake_up_is_lost_under_contention(putters: int, takers: int) -> None:
    """
    Every token is taken once, and every thread comes to its end.
    """
    pool, each = Pool(), 2000
    taking = [Call(pool.take_all) for _ in range(takers)]
    putting = [Call(pool.put, range(n * each, (n + 1) * each)) for n in range(putters)]
    for call in putting:
        call.result()
    pool.put([None] * takers)
    for call in taking:
        call.result()
    assert sorted(pool.taken) == list(range(putters * each))
    assert not pool.waits.parked


def test_threads_that_hand_a_ball_to_and_fro_never_drop_it() -> None:
    """
    Each waits for the other's move: the shortest way to lose a wake-up.
    """
    waits, moves = [WaitList(), WaitList()], [0]

    def play(side: int) -> None:
        for _ in range(3000):
            waits[side].wait_for(lambda: moves[0] % 2 == side)
            moves[0] += 1
            waits[1 - side].wake_all()

    calls = [Call(play, 0), Call(play, 1)]
    for call in calls:
        call.result()
    assert moves == [6000]


class TestLatch:
    """
    A door that opens once.
    """

    def test_it_is_closed_until_it_is_opened_and_then_for_good_open(self) -> None:
        """
        Opening it twice changes nothing.
        """
        latch = Latch()
        assert (latch.is_open, latch.wait(0)) == (False, False)
        latch.open()
        latch.open()
        assert (latch.is_open, latch.wait(), latch.wait(0)) == (True, True, True)

    def test_it_lets_everybody_through(self) -> None:
        """
        Those that wait, and those that are just coming.
        """
        for _ in range(50):
            latch = Latch()
            calls = [Call(latch.wait, BOUND) for _ in range(4)]
            latch.open()
            assert [call.result() for call in calls] == [True] * 4

    def test_the_main_thread_looks_up_for_signals_that_another_thread_got(self) -> None:
        """
        They do not interrupt its wait, and their handlers run on it alone.
        """
        latch = Latch()

        def send() -> None:
            eventually(lambda: latch._waiters.parked, "the main thread waits")
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, lambda number, frame: latch.open())
        try:
            since, call = monotonic(), Call(send)
            assert latch.wait(BOUND)
            assert monotonic() - since < BOUND / 2
            call.result()
        finally:
            signal.signal(signal.SIGUSR1, before)
