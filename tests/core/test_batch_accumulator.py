"""
``core/batch_accumulator.py``: messages and a time in, batches out. No thread, no clock.
"""

from __future__ import annotations

import copy
from typing import Any, Hashable, List, NamedTuple, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadway_sync import InvalidReturnError, Message, NoopAcknowledger
from broadway_sync.core.batch_accumulator import CUT, DUE, FEW, OPEN, Batch, BatchAccumulator

TIMEOUT = 10.0


def message(data: Any = None, key: Hashable = "default", mode: str = "bulk") -> Message:
    """
    Return a message with what the accumulator looks at.
    """
    return Message(data, NoopAcknowledger.init(), batch_key=key, batch_mode=mode)


def data(batch: Batch) -> List[Any]:
    """
    Return what the messages of a batch carry.
    """
    return [m.data for m in batch.messages]


def take_ready(accumulator: BatchAccumulator) -> List[Batch]:
    """
    Empty ``ready``, as its owner does.
    """
    ready = list(accumulator.ready)
    accumulator.ready.clear()
    return ready


def describe(batch: Batch) -> Tuple[Any, ...]:
    """
    Return what a batch is, to compare it, also with that of the reference below.
    """
    return (batch.partition, batch.key, batch.state, batch.trigger, [id(m) for m in batch.messages])


def state(accumulator: BatchAccumulator) -> Tuple[Any, ...]:
    """
    Return everything that an accumulator knows, to compare.
    """
    return (
        [(*describe(b), b.deadline, copy.deepcopy(b.accumulator)) for b in accumulator.unfinished()],
        [data(b) for b in accumulator.ready],
        accumulator.open_count,
        accumulator.waiting,
        accumulator.next_deadline(),
    )


class TestSize:
    """
    Batches that are cut because they are full.
    """

    def test_a_batch_is_handed_on_with_the_message_that_fills_it(self) -> None:
        """
        Before that message nothing is ready, after it the batch is, with the trigger ``size``.
        """
        accumulator = BatchAccumulator(3, TIMEOUT)
        accumulator.add([message(1), message(2)], None, 0.0)
        assert take_ready(accumulator) == []
        assert (accumulator.open_count, accumulator.waiting) == (1, 0)

        accumulator.add([message(3)], None, 1.0)
        (batch,) = take_ready(accumulator)
        assert (data(batch), batch.trigger, batch.state, batch.is_default) == ([1, 2, 3], "size", CUT, True)
        assert (accumulator.open_count, accumulator.waiting) == (0, 3)
        assert accumulator.unfinished() == []

    def test_one_call_may_cut_many_batches(self) -> None:
        """
        The messages keep their order within and across the batches, the rest stays open.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        accumulator.add([message(n) for n in range(7)], None, 0.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [[0, 1], [2, 3], [4, 5]]
        assert [data(batch) for batch in accumulator.unfinished()] == [[6]]

    def test_a_batch_of_one(self) -> None:
        """
        With the size 1 nothing ever stays open.
        """
        accumulator = BatchAccumulator(1, TIMEOUT)
        accumulator.add([message(1), message(2, "k")], None, 0.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [[1], [2]]
        assert (accumulator.open_count, accumulator.next_deadline()) == (0, None)

    def test_keys_and_partitions_have_batches_of_their_own(self) -> None:
        """
        Equal keys in different partitions do not share a batch; keys are equal when Python says so.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        accumulator.add([message("a", 1), message("b", "x"), message("c", True)], 0, 0.0)
        accumulator.add([message("d", "x")], 1, 0.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [["a", "c"]]
        assert [(b.partition, b.key, data(b)) for b in accumulator.unfinished()] == [(0, "x", ["b"]), (1, "x", ["d"])]

    def test_only_the_default_key_is_default(self) -> None:
        """
        ``put_batch_key("default")`` is the default key, everything else is explicit.
        """
        accumulator = BatchAccumulator(1, TIMEOUT)
        accumulator.add([message(1, "default"), message(2, "other"), message(3, None)], None, 0.0)
        assert [batch.is_default for batch in take_ready(accumulator)] == [True, False, False]


class TestTimeout:
    """
    Batches that become due.
    """

    def test_the_time_runs_from_the_first_message_of_each_key(self) -> None:
        """
        Later messages do not move the deadline; keys have deadlines of their own.
        """
        accumulator = BatchAccumulator(100, TIMEOUT)
        accumulator.add([message(1, "a")], None, 5.0)
        accumulator.add([message(2, "a"), message(3, "b")], None, 9.0)
        assert accumulator.next_deadline() == 15.0

        accumulator.expire(14.9)
        assert take_ready(accumulator) == []
        accumulator.expire(15.0)
        (batch,) = take_ready(accumulator)
        assert (data(batch), batch.trigger, batch.state) == ([1, 2], "timeout", DUE)
        assert accumulator.next_deadline() == 19.0

    def test_a_late_look_finds_all_that_are_due_in_the_order_of_their_deadlines(self) -> None:
        """
        Nothing is lost when nobody looked for a while.
        """
        accumulator = BatchAccumulator(100, TIMEOUT)
        for now, key in enumerate("abc"):
            accumulator.add([message(key, key)], None, float(now))
        accumulator.expire(1000.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [["a"], ["b"], ["c"]]
        assert accumulator.next_deadline() is None

    def test_a_due_batch_goes_on_filling_until_it_is_taken(self) -> None:
        """
        What arrives before a batch processor takes the batch still travels with it, and counts as waiting.
        """
        accumulator = BatchAccumulator(100, TIMEOUT)
        accumulator.add([message(1)], None, 0.0)
        accumulator.expire(TIMEOUT)
        (batch,) = take_ready(accumulator)
        accumulator.add([message(2)], None, 11.0)
        assert (data(batch), accumulator.waiting, accumulator.open_count) == ([1, 2], 2, 0)
        assert accumulator.next_deadline() is None

        accumulator.close(batch)
        accumulator.add([message(3)], None, 12.0)
        assert (data(batch), batch.trigger, batch.state, accumulator.waiting) == ([1, 2], "timeout", CUT, 0)
        assert [data(b) for b in accumulator.unfinished()] == [[3]]

    def test_a_due_batch_that_fills_up_is_cut_and_not_handed_on_again(self) -> None:
        """
        It was handed on when it became due; now its trigger is ``size`` and the next message opens another batch.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        accumulator.add([message(1)], None, 0.0)
        accumulator.expire(TIMEOUT)
        (batch,) = take_ready(accumulator)
        accumulator.add([message(2), message(3)], None, 11.0)
        assert (data(batch), batch.trigger, batch.state) == ([1, 2], "size", CUT)
        assert (take_ready(accumulator), accumulator.waiting, accumulator.open_count) == ([], 2, 1)
        accumulator.close(batch)
        assert accumulator.waiting == 0

    def test_no_time_at_all(self) -> None:
        """
        A batch timeout of 0 makes each batch due at once.
        """
        accumulator = BatchAccumulator(100, 0.0)
        accumulator.add([message(1)], None, 3.0)
        assert accumulator.next_deadline() == 3.0
        accumulator.expire(3.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [[1]]

    def test_a_batch_that_was_cut_is_passed_over_when_its_time_comes(self) -> None:
        """
        The calendar knows it still, nobody else does.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        accumulator.add([message(1), message(2)], None, 0.0)
        accumulator.add([message(3, "k")], None, 4.0)
        take_ready(accumulator)
        assert accumulator.next_deadline() == 14.0
        accumulator.expire(10.0)
        assert take_ready(accumulator) == []


class TestFlush:
    """
    Messages in flush mode, and the end of the pipeline.
    """

    def test_a_message_in_flush_mode_takes_along_what_is_pending_for_its_key(self) -> None:
        """
        Other keys stay open.
        """
        accumulator = BatchAccumulator(100, TIMEOUT)
        accumulator.add([message(1), message(2, "k"), message(3, mode="flush"), message(4)], None, 0.0)
        (batch,) = take_ready(accumulator)
        assert (data(batch), batch.trigger, batch.state) == ([1, 3], "flush", CUT)
        assert [data(b) for b in accumulator.unfinished()] == [[2], [4]]

    def test_a_message_in_flush_mode_that_fills_its_batch_triggers_by_size(self) -> None:
        """
        As it is decided in the contract.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        accumulator.add([message(1), message(2, mode="flush")], None, 0.0)
        assert [batch.trigger for batch in take_ready(accumulator)] == ["size"]

    def test_a_message_in_flush_mode_cuts_a_due_batch(self) -> None:
        """
        The batch that waits takes the message along and is closed to others.
        """
        accumulator = BatchAccumulator(100, TIMEOUT)
        accumulator.add([message(1)], None, 0.0)
        accumulator.expire(TIMEOUT)
        (batch,) = take_ready(accumulator)
        accumulator.add([message(2, mode="flush"), message(3)], None, 11.0)
        assert (data(batch), batch.trigger, batch.state) == ([1, 2], "flush", CUT)
        assert [data(b) for b in accumulator.unfinished()] == [[3]]

    def test_flush_cuts_all_open_batches_the_oldest_first(self) -> None:
        """
        Due ones were handed on before and keep their trigger.
        """
        accumulator = BatchAccumulator(100, TIMEOUT)
        accumulator.add([message(0, "due")], None, 0.0)
        accumulator.expire(TIMEOUT)
        (due,) = take_ready(accumulator)
        accumulator.add([message(1, "b"), message(2, "a")], 1, 11.0)
        accumulator.add([message(3, "b")], 0, 12.0)
        accumulator.flush()
        ready = take_ready(accumulator)
        assert [(data(b), b.trigger) for b in ready] == [([1], "flush"), ([2], "flush"), ([3], "flush")]
        assert (due.trigger, due.state) == ("timeout", DUE)
        assert (accumulator.open_count, accumulator.waiting, accumulator.next_deadline()) == (0, 4, None)

    def test_flush_with_nothing_open_does_nothing(self) -> None:
        """
        There are no empty batches.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        accumulator.flush()
        assert state(accumulator) == ([], [], 0, 0, None)


def weigh(limit: int) -> Tuple[Any, Any]:
    """
    Return a ``batch_size`` that cuts when the weights (the data) of a batch reach *limit*; its accumulator is a list.
    """

    def function(message: Message, accumulator: List[int]) -> Any:
        if message.data == "raise":
            raise LookupError("no weight")
        if message.data == "wrong":
            return "emit"
        weights = [*accumulator, message.data]
        return ("emit" if sum(weights) >= limit else "cont", weights)

    return ([], function)


class TestFunction:
    """
    Batches whose end a function decides on.
    """

    def test_the_function_ends_the_batch_with_its_message(self) -> None:
        """
        ``emit`` cuts with the trigger ``size``; the next batch starts from the initial accumulator.
        """
        accumulator = BatchAccumulator(weigh(5), TIMEOUT)
        accumulator.add([message(2), message(2), message(2), message(4)], None, 0.0)
        (batch,) = take_ready(accumulator)
        assert (data(batch), batch.trigger) == ([2, 2, 2], "size")
        assert [(data(b), b.accumulator) for b in accumulator.unfinished()] == [([4], [4])]

    def test_each_batch_has_a_copy_of_a_mutable_initial_accumulator(self) -> None:
        """
        A function that changes it in place must not see what other batches put there.
        """
        initial: List[Any] = []

        def function(message: Message, accumulator: List[Any]) -> Any:
            accumulator.append(message.data)
            return ("emit" if len(accumulator) == 2 else "cont", accumulator)

        accumulator = BatchAccumulator((initial, function), TIMEOUT)
        accumulator.add([message(1, "a"), message(2, "b"), message(3, "a"), message(4, "a")], None, 0.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [[1, 3]]
        assert [data(batch) for batch in accumulator.unfinished()] == [[2], [4]]
        assert initial == []

    def test_flush_mode_holds_with_a_function_too(self) -> None:
        """
        The function is asked first: ``emit`` gives the trigger ``size``, ``cont`` leaves it to the mode.
        """
        accumulator = BatchAccumulator(weigh(5), TIMEOUT)
        accumulator.add([message(1, mode="flush"), message(5, mode="flush")], None, 0.0)
        assert [(data(b), b.trigger) for b in take_ready(accumulator)] == [([1], "flush"), ([5], "size")]


class Unhashable:
    """
    A key that cannot be one.
    """

    __hash__ = None  # type: ignore[assignment]


class Quarrelsome:
    """
    A key whose comparison raises.
    """

    def __hash__(self) -> int:
        return hash("default")

    def __eq__(self, other: object) -> bool:
        raise LookupError("cannot compare")


def refused(kind: str) -> Message:
    """
    Return a message that no batch takes.
    """
    wrong = message("wrong" if kind == "wrong return" else "raise")
    if kind == "unhashable key":
        wrong.batch_key = Unhashable()  # type: ignore[assignment]
    elif kind == "key that raises":
        wrong.batch_key = Quarrelsome()
    elif kind == "unknown mode":
        wrong.batch_mode = "later"
    return wrong


class TestRefusal:
    """
    A message that cannot be batched is set aside with its reason, and changes nothing else.
    """

    KINDS = {
        "raise": LookupError,
        "wrong return": InvalidReturnError,
        "unhashable key": TypeError,
        "key that raises": LookupError,
        "unknown mode": InvalidReturnError,
    }

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("before", ["nothing", "an open batch", "a due batch"])
    def test_a_refused_message_changes_nothing(self, kind: str, before: str) -> None:
        """
        Whether its key has no batch, an open one, or one that is due.
        """
        accumulator = BatchAccumulator(weigh(100), TIMEOUT)
        if before != "nothing":
            accumulator.add([message(1)], None, 0.0)
        if before == "a due batch":
            accumulator.expire(TIMEOUT)
        expected = state(accumulator)

        wrong = refused(kind)
        accumulator.add([wrong], None, 11.0)
        assert state(accumulator) == expected
        ((rejected, error),) = accumulator.rejected
        assert rejected is wrong
        assert isinstance(error, self.KINDS[kind])

    def test_the_others_of_the_call_are_batched(self) -> None:
        """
        Before and after the one that is refused.
        """
        accumulator = BatchAccumulator(weigh(100), TIMEOUT)
        accumulator.add([message(1), refused("raise"), message(2), refused("unhashable key"), message(3)], None, 0.0)
        assert [data(batch) for batch in accumulator.unfinished()] == [[1, 2, 3]]
        assert len(accumulator.rejected) == 2

    @pytest.mark.parametrize("index", [0, FEW // 2, FEW])
    def test_a_message_without_a_key_is_rejected_alone(self, index: int) -> None:
        """
        A handler may have deleted it; also where many are added at a time.
        """
        accumulator = BatchAccumulator(FEW, 1.0)
        messages = [message(number) for number in range(FEW + 1)]
        del messages[index].batch_key
        accumulator.add(messages, None, 0.0)
        assert [rejected.data for rejected, _ in accumulator.rejected] == [index]
        assert [data(batch) for batch in take_ready(accumulator)] == [[n for n in range(FEW + 1) if n != index]]

    def test_the_text_says_what_was_expected(self) -> None:
        """
        With the value that came instead.
        """
        accumulator = BatchAccumulator(weigh(100), TIMEOUT)
        accumulator.add([refused("wrong return"), refused("unknown mode")], None, 0.0)
        assert [str(error) for _, error in accumulator.rejected] == [
            'the batch_size function must return ("emit", accumulator) or ("cont", accumulator), got: \'emit\'',
            'batch_mode must be "bulk" or "flush", got: \'later\'',
        ]

    @pytest.mark.parametrize("returned", [None, "emit", ("stop", 1), ("emit",), ("emit", 1, 2), ["emit", 1]])
    def test_what_the_function_must_not_return(self, returned: Any) -> None:
        """
        Only a pair of a known word and anything is an answer.
        """
        accumulator = BatchAccumulator((0, lambda message, accumulator: returned), TIMEOUT)
        accumulator.add([message(1)], None, 0.0)
        assert [type(error) for _, error in accumulator.rejected] == [InvalidReturnError]
        assert state(accumulator) == ([], [], 0, 0, None)

    def test_an_initial_accumulator_that_cannot_be_copied(self) -> None:
        """
        Every message that would open a batch is refused; none is lost.
        """

        class Uncopyable:
            def __deepcopy__(self, memo: Any) -> Any:
                raise LookupError("there is only one")

        accumulator = BatchAccumulator((Uncopyable(), lambda message, accumulator: ("cont", accumulator)), TIMEOUT)
        accumulator.add([message(1), message(2)], None, 0.0)
        assert len(accumulator.rejected) == 2
        assert state(accumulator) == ([], [], 0, 0, None)


class Moody:
    """
    A key that is well until it is told to raise, or to be equal to everything.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.mood = "well"

    def __hash__(self) -> int:
        if self.mood == "raises":
            raise LookupError("no hash")
        if self.mood == "exits after one look":
            self.mood = "exits"
        elif self.mood == "exits":
            raise SystemExit("no hash")
        return 1

    def __eq__(self, other: object) -> bool:
        if self.mood == "raises":
            raise LookupError("cannot compare")
        return self is other or self.mood == "lies"


class TestBrokenKeys:
    """
    Keys that change when they are in use already: nobody else's messages may suffer from it.
    """

    @pytest.mark.parametrize("mood", ["raises", "lies"])
    @pytest.mark.parametrize("way", ["flush", "expire"])
    def test_every_batch_still_leaves_once(self, mood: str, way: str) -> None:
        """
        Those of the broken key, and those of the keys around it, in whatever way they leave.
        """
        accumulator = BatchAccumulator(100, TIMEOUT)
        keys = [Moody(name) for name in "abc"]
        accumulator.add([message(key.name, key) for key in keys], None, 0.0)
        keys[1].mood = mood
        if way == "flush":
            accumulator.flush()
        else:
            accumulator.expire(TIMEOUT)
        left = take_ready(accumulator)
        for batch in left:
            accumulator.close(batch)
        assert [data(batch) for batch in left] == [["a"], ["b"], ["c"]]
        assert (accumulator.waiting, accumulator.open_count, accumulator.next_deadline()) == (0, 0, None)
        assert accumulator.unfinished() == []

    def test_the_neighbours_of_a_broken_key_are_found_again(self) -> None:
        """
        What comes for them goes on filling their batches.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        first, broken, last = (Moody(name) for name in "abc")
        accumulator.add([message(1, first)], None, 0.0)
        accumulator.add([message(2, broken)], None, 1.0)
        accumulator.add([message(3, last)], None, 2.0)
        broken.mood = "raises"
        accumulator.expire(11.0)  # the first two are due, which removes the broken key
        accumulator.add([message(4, last)], None, 11.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [[1], [2], [3, 4]]

    def test_a_message_that_completes_a_batch_is_in_it_or_rejected(self) -> None:
        """
        Not both, when the key begins to raise right then; whatever it raises.
        """
        accumulator = BatchAccumulator(2, TIMEOUT)
        broken = Moody("a")
        accumulator.add([message(1, broken)], None, 0.0)
        broken.mood = "exits after one look"
        accumulator.add([message(2, broken)], None, 0.0)
        assert [data(batch) for batch in take_ready(accumulator)] == [[1, 2]]
        assert (accumulator.open_count, list(accumulator.rejected)) == (0, [])


class TestCalendar:
    """
    What the accumulator remembers stays in proportion to what is open.
    """

    def test_batches_that_are_cut_by_size_do_not_pile_up_in_the_calendar(self) -> None:
        """
        100,000 batches are cut long before they would be due; the calendar keeps a bounded number of them.
        """
        accumulator = BatchAccumulator(1, 3600.0)
        longest = 0
        for number in range(100_000):
            accumulator.add([message(number, number)], None, 0.0)
            longest = max(longest, len(accumulator._calendar))
            accumulator.close(accumulator.ready.pop())
        assert longest <= 2 * 1 + 1000
        assert state(accumulator) == ([], [], 0, 0, None)

    def test_many_open_keys_are_swept_seldom(self) -> None:
        """
        With 20,000 keys open the calendar never exceeds twice their number and a constant.
        """
        accumulator = BatchAccumulator(2, 3600.0)
        accumulator.add([message(n, n) for n in range(20_000)], None, 0.0)
        for number in range(60_000):
            accumulator.add([message(number, "busy"), message(number, "busy")], None, 0.0)
            assert len(accumulator._calendar) <= 2 * (accumulator.open_count + 1) + 1000
        assert accumulator.open_count == 20_000

    def test_a_sweep_loses_no_deadline(self) -> None:
        """
        The batch that stays open while thousands come and go is due when it should be.
        """
        accumulator = BatchAccumulator(1, TIMEOUT)
        accumulator.add([message("size 1 cuts at once")], None, 0.0)
        keeper = BatchAccumulator((0, lambda m, a: ("cont" if m.batch_key == "keep" else "emit", a)), TIMEOUT)
        keeper.add([message(1, "keep")], None, 1.0)
        for number in range(5000):
            keeper.add([message(number)], None, 2.0)
        take_ready(keeper)
        assert keeper.next_deadline() == 11.0
        keeper.expire(11.0)
        assert [data(batch) for batch in take_ready(keeper)] == [[1]]


# A reference: the same rules without any cleverness. One list of batches in the order in which they were opened;
# whatever is asked for is searched for in it.


class ModelBatch:
    """
    What the reference knows of a batch.
    """

    def __init__(self, partition: Optional[int], key: Hashable, deadline: float) -> None:
        self.partition = partition
        self.key = key
        self.deadline = deadline
        self.messages: List[Message] = []
        self.state = OPEN
        self.trigger = "timeout"
        self.is_handed_on = False
        self.is_closed = False

    def describe(self) -> Tuple[Any, ...]:
        """
        Return what is compared with the real batch.
        """
        return (self.partition, self.key, self.state, self.trigger, [id(m) for m in self.messages])


class Model:
    """
    The reference.
    """

    def __init__(self, is_end: Any, timeout: float) -> None:
        self._is_end = is_end
        self._timeout = timeout
        self.batches: List[ModelBatch] = []
        self.handed_on: List[ModelBatch] = []
        self.rejected: List[Message] = []

    def unfinished(self) -> List[ModelBatch]:
        return [b for b in self.batches if b.state in (OPEN, DUE)]

    def waiting(self) -> int:
        return sum(len(b.messages) for b in self.handed_on if not b.is_closed)

    def next_deadline(self) -> Optional[float]:
        return min((b.deadline for b in self.batches if b.state == OPEN), default=None)

    def add(self, message: Message, partition: Optional[int], now: float) -> None:
        if message.data == "raise":
            self.rejected.append(message)
            return
        found = [b for b in self.unfinished() if (b.partition, b.key) == (partition, message.batch_key)]
        if not found:
            found = [ModelBatch(partition, message.batch_key, now + self._timeout)]
            self.batches += found
        (batch,) = found
        batch.messages.append(message)
        if self._is_end(batch.messages):
            self._cut(batch, "size")
        elif message.batch_mode == "flush":
            self._cut(batch, "flush")

    def expire(self, now: float) -> None:
        for batch in self.batches:
            if batch.state == OPEN and batch.deadline <= now:
                batch.state = DUE
                self.hand_on(batch)

    def flush(self) -> None:
        for batch in self.batches:
            if batch.state == OPEN:
                self._cut(batch, "flush")

    def close(self, batch: ModelBatch) -> None:
        batch.state = CUT
        batch.is_closed = True

    def hand_on(self, batch: ModelBatch) -> None:
        if not batch.is_handed_on:
            batch.is_handed_on = True
            self.handed_on.append(batch)

    def _cut(self, batch: ModelBatch, trigger: str) -> None:
        batch.trigger, batch.state = trigger, CUT
        self.hand_on(batch)


class Rule(NamedTuple):
    """
    A ``batch_size``, and the same rule as a function of a batch's messages.
    """

    name: str
    batch_size: Any
    is_end: Any


def _by_size(size: int) -> Rule:
    return Rule(f"size {size}", size, lambda messages: len(messages) >= size)


def _by_weight(limit: int) -> Rule:
    return Rule(f"weight {limit}", weigh(limit), lambda messages: sum(m.data for m in messages) >= limit)


rules = st.one_of(st.integers(1, 5).map(_by_size), st.integers(1, 12).map(_by_weight))
keys = st.sampled_from(["default", "a", "b", 1, 1.0, True, None, ("x", 2)])
modes = st.sampled_from(["bulk"] * 9 + ["flush"])
weights = st.sampled_from([1, 2, 3, 5, "raise"])
members = st.tuples(weights, keys, modes)
mixed = st.lists(members, max_size=8)
# More than FEW that are alike, which are added in lots, and some others.
alike = st.builds(lambda first, count, rest: [first] * count + rest, members, st.integers(FEW, FEW + 6), mixed)
additions, large_additions = (
    st.tuples(st.just("add"), lists, st.sampled_from([None, 0, 1])) for lists in (mixed, alike)
)
operations = st.one_of(
    additions,
    additions,
    large_additions,
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.5, 3.0, 11.0])),
    st.tuples(st.just("expire")),
    st.tuples(st.just("take")),
    st.tuples(st.just("flush")),
)


class Pair:
    """
    The accumulator and the reference, driven in step.
    """

    def __init__(self, rule: Rule) -> None:
        self.is_size = isinstance(rule.batch_size, int)
        self.real = BatchAccumulator(rule.batch_size, TIMEOUT)
        self.model = Model(rule.is_end, TIMEOUT)
        self.now = 0.0
        self.handed_on: List[Batch] = []
        self.open: List[int] = []

    def step(self, operation: Tuple[Any, ...]) -> None:
        getattr(self, "_" + operation[0])(*operation[1:])
        self.open += range(len(self.handed_on), len(self.handed_on) + len(self.real.ready))
        self.handed_on += take_ready(self.real)

    def _add(self, members: List[Tuple[Any, Any, str]], partition: Optional[int]) -> None:
        # A plain size does not look at the data: nothing raises there.
        messages = [message(1 if self.is_size and weight == "raise" else weight, *rest) for weight, *rest in members]
        self.real.add(messages, partition, self.now)
        for each in messages:
            self.model.add(each, partition, self.now)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def _expire(self) -> None:
        self.real.expire(self.now)
        self.model.expire(self.now)

    def _flush(self) -> None:
        self.real.flush()
        self.model.flush()

    def _take(self) -> None:
        if self.open:
            number = self.open.pop(0)
            self.real.close(self.handed_on[number])
            self.model.close(self.model.handed_on[number])

    def check(self) -> None:
        real, model = self.real, self.model
        assert [describe(b) for b in self.handed_on] == [b.describe() for b in model.handed_on]
        assert sorted(map(repr, map(describe, real.unfinished()))) == sorted(
            repr(b.describe()) for b in model.unfinished()
        )
        assert real.open_count == sum(b.state == OPEN for b in model.batches)
        assert real.waiting == model.waiting() == sum(len(self.handed_on[n].messages) for n in self.open)
        assert real.next_deadline() == model.next_deadline()
        assert [m for m, _ in real.rejected] == model.rejected


@settings(max_examples=300, deadline=None)
@given(rule=rules, script=st.lists(operations, max_size=40))
def test_it_does_what_the_reference_does(rule: Rule, script: List[Tuple[Any, ...]]) -> None:
    """
    Whatever is added, expired, flushed and taken, in whatever order: batches, triggers, deadlines and counts agree,
    and ``waiting`` is the number of messages in batches that were handed on and not taken.
    """
    pair = Pair(rule)
    for operation in script:
        pair.step(operation)
        pair.check()


@settings(max_examples=100, deadline=None)
@given(rule=rules, script=st.lists(operations, max_size=40))
def test_every_message_leaves_exactly_once(rule: Rule, script: List[Tuple[Any, ...]]) -> None:
    """
    After a last flush each message is in one batch or rejected, and per key and partition the order is kept.
    """
    pair = Pair(rule)
    for operation in [*script, ("flush",)]:
        pair.step(operation)
    left = [m for batch in pair.handed_on for m in batch.messages] + [m for m, _ in pair.real.rejected]
    assert len({id(m) for m in left}) == len(left)
    assert sorted(map(id, left)) == sorted(
        id(m) for m in [m for b in pair.model.batches for m in b.messages] + pair.model.rejected
    )
    while pair.open:
        pair.step(("take",))
    assert (pair.real.waiting, pair.real.open_count, pair.real.unfinished()) == (0, 0, [])
