"""
``topology/batcher_stage.py`` and the batch processors' end of it. Steps run on the thread of the test, except where
threads are what is tested.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, Callable, List, Optional

import pytest

from broadway_sync import BatchInfo, InvalidReturnError, Message
from broadway_sync.core.batch_accumulator import Batch
from broadway_sync.topology.batch_processor_stage import BatchProcessorStage
from broadway_sync.topology.batcher_stage import BatcherStage

from ..helpers import BOUND, NEVER, Call, Gate, RecordingAcknowledger, eventually, make_handler
from .support import data, make_settings, messages


def make_batcher(
    handler: Any = None, processors: int = 1, on_room: Callable[[], None] = lambda: None, **options: Any
) -> BatcherStage:
    """
    Return a batcher with batches of two, one batch processor, and no timeout.
    """
    options = {"batch_size": 2, "batch_timeout": NEVER, **options}
    settings = make_settings(handler, processors={"p": {"concurrency": processors}}, batchers={"b": options})
    return BatcherStage("b", "the batcher", settings, on_room)


def take(batcher: BatcherStage, index: int = 0) -> Optional[Batch]:
    """
    Return what batch processor *index* would get now, None also when it would wait.
    """
    try:
        return batcher.inboxes[index].get_nowait()
    except queue.Empty:
        return None


def taken(batcher: BatcherStage, index: int = 0) -> Batch:
    """
    Return the batch that batch processor *index* gets now.
    """
    batch = take(batcher, index)
    assert batch is not None, "there is no batch"
    return batch


class TestHandingOut:
    """
    From processors to batch processors.
    """

    def test_a_full_batch_goes_to_an_idle_batch_processor_at_once(self, acks: RecordingAcknowledger) -> None:
        """
        On the thread that fills it; the next one waits until that one is finished.
        """
        batcher = make_batcher()
        batcher.add(messages(acks, 5), None)
        first = taken(batcher)
        assert (data(first.messages), take(batcher)) == ([0, 1], None)
        batcher.finished(0, first)
        second = taken(batcher)
        assert data(second.messages) == [2, 3]
        assert first.messages == []

    def test_a_due_batch_is_handed_out_by_the_batchers_thread(self, acks: RecordingAcknowledger) -> None:
        """
        And goes on filling while it waits for a batch processor.
        """
        batcher = make_batcher(batch_size=100, batch_timeout=0.01)
        thread = Call(batcher.run)
        batcher.add(messages(acks, 1), None)
        first = batcher.inboxes[0].get(timeout=BOUND)
        assert first is not None
        assert (data(first.messages), first.trigger) == ([0], "timeout")
        batcher.add(messages(acks, 1), None)
        eventually(lambda: batcher._accumulator.waiting == 1, "the second batch is due")
        batcher.add(messages(acks, 3)[1:], None)
        batcher.finished(0, first)
        assert data(taken(batcher).messages) == [0, 1, 2]
        batcher.abandon()
        thread.result()

    def test_messages_without_a_partition_are_failed_by_the_processor(self, acks: RecordingAcknowledger) -> None:
        """
        The others are added partition by partition.
        """
        batcher = make_batcher(concurrency=2, partition_by=lambda message: message.data - 1)
        failed: List[Message] = []
        parts = [(partition, data(members)) for partition, members in batcher.split(messages(acks, 5), failed)]
        assert parts == [(0, [1, 3]), (1, [2, 4])]
        ((message, reason),) = [(m.data, m.reason) for m in failed]
        assert (message, type(reason)) == (0, InvalidReturnError)

    def test_what_cannot_be_batched_is_settled_by_whoever_comes_by(self, acks: RecordingAcknowledger) -> None:
        """
        ``handle_failed`` sees it, and it is acknowledged as failed.
        """
        seen: List[Any] = []
        handler = make_handler(handle_failed=lambda members, context: seen.append(data(members)) or members)
        batcher = make_batcher(handler)
        members = messages(acks, 3)
        members[1].batch_key = []  # type: ignore[assignment]
        batcher.add(members, None)
        assert (seen, acks.next().data) == ([[1]], ([], [1]))
        assert data(taken(batcher).messages) == [0, 2]


class TestGate:
    """
    Back-pressure towards the processors.
    """

    def test_it_shuts_when_too_much_waits_and_opens_at_half_of_that(self, acks: RecordingAcknowledger) -> None:
        """
        With 2 processors and a max_demand of 4 the limit is 8 messages; open batches do not count.
        """
        batcher = make_batcher(processors=2, max_demand=4)
        batcher.add(messages(acks, 2 + 6), None)
        running = taken(batcher)
        assert (batcher._accumulator.waiting, batcher.is_full) == (6, False)
        batcher.add(messages(acks, 3), None)
        assert (batcher._accumulator.waiting, batcher.is_full) == (8, True)
        seen = []
        while batcher._accumulator.waiting:
            batcher.finished(0, running)
            running = taken(batcher)
            seen.append((batcher._accumulator.waiting, batcher.is_full))
        assert seen == [(6, True), (4, False), (2, False), (0, False)]

    def test_it_says_when_it_opens(self, acks: RecordingAcknowledger) -> None:
        """
        Once, and when it is open already.
        """
        seen: List[bool] = []
        batcher = make_batcher(max_demand=2, on_room=lambda: seen.append(batcher.is_full))
        batcher.add(messages(acks, 6), None)
        running = taken(batcher)
        assert (batcher.is_full, seen) == (True, [])
        batcher.finished(0, running)
        batcher.finished(0, taken(batcher))
        batcher.finished(0, taken(batcher))
        assert seen == [False]

    def test_batch_processors_that_are_idle_let_more_wait(self, acks: RecordingAcknowledger) -> None:
        """
        One slow key does not stop the others: what waits for it waits beside an idle batch processor.
        """
        batcher = make_batcher(concurrency=2, max_demand=2)
        batcher.add(messages(acks, 2 + 2, batch_key="slow"), None)
        taken(batcher)
        assert (batcher._accumulator.waiting, batcher.is_full) == (2, False)
        batcher.add(messages(acks, 2, batch_key="quick"), None)
        assert data(taken(batcher, 1).messages) == [0, 1]
        assert (batcher._accumulator.waiting, batcher.is_full) == (2, True)


class TestSlowStep:
    """
    A ``batch_size`` function that does not come back: whoever runs it holds up the batcher, and nobody runs wild.
    """

    @pytest.fixture
    def gate(self) -> Any:
        """
        The function waits here for the message 1.
        """
        return Gate()

    def make(self, gate: Gate, **options: Any) -> BatcherStage:
        """
        Return a batcher whose function hangs at the message 1 until the gate is open.
        """

        def function(message: Message, accumulator: Any) -> Any:
            if message.data == 1:
                gate.wait(1)
            return ("cont", accumulator)

        return make_batcher(batch_size=(0, function), max_demand=10, **options)

    def test_the_batchers_thread_does_not_spin(self, gate: Gate, acks: RecordingAcknowledger) -> None:
        """
        It asks once for what is due, and waits until its turn has come.
        """
        batcher = self.make(gate, batch_timeout=0.01)
        slow = Call(batcher.add, messages(acks, 2), None)
        gate.arrived()
        batcher._deadline = 0.0  # a batch is due
        thread = Call(batcher.run)
        eventually(lambda: batcher._timer.parked, "the thread waits")
        assert len(batcher._serial.pending) == 1
        gate.open()
        slow.result()
        batch = batcher.inboxes[0].get(timeout=BOUND)
        assert batch is not None
        assert data(batch.messages) == [0, 1]
        batcher.abandon()
        thread.result()

    def test_processors_do_not_run_away_from_it(self, gate: Gate, acks: RecordingAcknowledger) -> None:
        """
        Each leaves a step or two and then waits, until the steps have been run.
        """
        batcher = self.make(gate, processors=2)
        slow = Call(batcher.add, messages(acks, 2), None)
        gate.arrived()
        most = 2
        for _ in range(most):
            batcher.add(messages(acks, 1), None)
        waiting = Call(batcher.add, messages(acks, 1), None)
        eventually(lambda: batcher._turns.parked, "the processor waits")
        assert (len(batcher._serial.pending), waiting.is_done()) == (most + 1, False)
        gate.open()
        slow.result()
        waiting.result()
        assert sum(len(b.messages) for b in batcher._accumulator.unfinished()) == 5

    def test_batches_leave_while_steps_are_waiting(self, gate: Gate, acks: RecordingAcknowledger) -> None:
        """
        After each step, not when there is none left: a batcher that is never idle still hands out.
        """
        batcher = make_batcher(batch_size=2)
        inside, go_on = threading.Event(), threading.Event()

        def hang(*_: Any) -> None:
            inside.set()
            assert go_on.wait(BOUND)

        def look(*_: Any) -> None:
            assert take(batcher) is not None, "the batch has not left"

        runner = Call(batcher._serial.post, hang, None, None)
        assert inside.wait(BOUND)
        batcher.add(messages(acks, 2), None)
        batcher._serial.post(look, None, None)
        go_on.set()
        runner.result()

    def test_given_up_it_counts_what_is_left_everywhere(self, gate: Gate, acks: RecordingAcknowledger) -> None:
        """
        In batches and in steps that nobody has run; a step that hangs is not waited for, and what waits before the gate
        goes on.
        """
        batcher = self.make(gate)
        batcher.add(messages(acks, 1), None)
        slow = Call(batcher.add, messages(acks, 2)[1:], None)
        gate.arrived()
        batcher.add(messages(acks, 1), None)
        waiting = Call(batcher.add, messages(acks, 4)[2:], None)
        eventually(lambda: batcher._turns.parked, "the processor waits")
        assert batcher.abandon() == 1 + 1 + 2
        waiting.result()
        gate.open()
        slow.result()
        acks.assert_nothing("what was given up is not acknowledged")


class TestEnd:
    """
    The end of a batcher.
    """

    def test_it_flushes_and_ends_when_its_last_batch_is_finished(self, acks: RecordingAcknowledger) -> None:
        """
        Its batch processors get None then, and its thread ends.
        """
        batcher = make_batcher(concurrency=2, batch_size=10)
        thread = Call(batcher.run)
        for key in "ab":
            batcher.add(messages(acks, 2, batch_key=key), None)
        batcher.close()
        first, second = taken(batcher, 0), taken(batcher, 1)
        assert [first.trigger, second.trigger] == ["flush", "flush"]
        batcher.finished(1, second)
        assert (take(batcher, 0), batcher.inboxes[0].empty()) == (None, True)
        batcher.finished(0, first)
        assert [inbox.get_nowait() for inbox in batcher.inboxes] == [None, None]
        thread.result()

    def test_with_nothing_in_it_it_ends_at_once(self) -> None:
        """
        While its thread waits for the first message.
        """
        batcher = make_batcher()
        thread = Call(batcher.run)
        eventually(lambda: batcher._timer.parked, "the thread waits")
        batcher.close()
        thread.result()
        assert batcher.inboxes[0].get_nowait() is None


class TestBatchProcessor:
    """
    Who takes the batches.
    """

    def make(self, batcher: BatcherStage) -> BatchProcessorStage:
        """
        Return the first batch processor of a batcher.
        """
        return BatchProcessorStage(0, "the batch processor", batcher._settings, batcher)

    def test_it_handles_batches_until_there_are_no_more(self, acks: RecordingAcknowledger) -> None:
        """
        Each is acknowledged before the next one comes; the callback learns what batch it is.
        """
        infos: List[Any] = []
        handler = make_handler(handle_batch=lambda key, members, info, context: infos.append(info) or members)
        batcher = make_batcher(handler)
        call = Call(self.make(batcher).run)
        batcher.add(messages(acks, 5), None)
        assert [acks.next().data, acks.next().data] == [([0, 1], []), ([2, 3], [])]
        batcher.close()
        assert acks.next().data == ([4], [])
        call.result()
        assert infos == [
            BatchInfo(batcher="b", batch_key="default", partition=None, size=size, trigger=trigger)
            for size, trigger in ((2, "size"), (2, "size"), (1, "flush"))
        ]

    def test_given_up_in_a_callback_it_acknowledges_nothing(self, acks: RecordingAcknowledger) -> None:
        """
        It counts what it has in hand, the batches behind it of the same key, and ends when the callback returns.
        """
        gate = Gate()

        def handle_batch(batcher: str, members: Any, info: Any, context: Any) -> Any:
            gate.wait(data(members))
            return members

        batcher = make_batcher(make_handler(handle_batch=handle_batch))
        stage = self.make(batcher)
        call = Call(stage.run)
        batcher.add(messages(acks, 4, batch_key="k"), None)
        assert gate.arrived() == [0, 1]
        assert stage.abandon() == 4
        gate.open()
        call.result()
        acks.assert_nothing("it was given up")

    def test_given_up_while_it_waits_it_ends(self) -> None:
        """
        With nothing to count.
        """
        stage = self.make(make_batcher())
        call = Call(stage.run)
        assert stage.abandon() == 0
        call.result()

    def test_who_takes_the_place_of_a_thread_that_died_writes_off_its_batch(
        self, acks: RecordingAcknowledger, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Its messages are left to their source, the batcher goes on, and it is said so.
        """
        batcher = make_batcher()
        stage = self.make(batcher)
        batcher.add(messages(acks, 4), None)
        assert len(taken(batcher).messages) == 2  # the thread that took it is no more
        call = Call(stage.run)
        assert acks.next().data == ([2, 3], [])
        batcher.close()
        call.result()
        assert "a thread died with 2 messages in hand" in caplog.text
