"""
``core/batch_dispatcher.py``: which batch processor gets which batch. No thread, no clock.
"""

from __future__ import annotations

from typing import Any, Dict, Hashable, List, Optional, Tuple

from hypothesis import given, settings
from hypothesis import strategies as st

from broadway_sync.core.batch_accumulator import Batch
from broadway_sync.core.batch_dispatcher import BatchDispatcher, chain


def batch(key: Hashable = "default", partition: Optional[int] = None) -> Batch:
    """
    Return a batch with what the dispatcher looks at.
    """
    return Batch(key, partition, 0.0, None)


def assigned(dispatcher: BatchDispatcher) -> Dict[int, Batch]:
    """
    Return what may be handled now, by the index of the batch processor.
    """
    pairs = list(dispatcher.assign())
    assert len({index for index, _ in pairs}) == len(pairs), "a batch processor was given two batches"
    return dict(pairs)


def offer(dispatcher: BatchDispatcher, *batches: Batch) -> List[Batch]:
    """
    Offer batches and return them.
    """
    for each in batches:
        dispatcher.offer(each)
    return list(batches)


class TestAnyProcessor:
    """
    Without partitions.
    """

    def test_batches_of_the_default_key_go_to_any_idle_processor_in_their_order(self) -> None:
        """
        Two processors take the first two batches, whoever is idle again takes the next.
        """
        dispatcher = BatchDispatcher(2, is_partitioned=False)
        first, second, third = offer(dispatcher, batch(), batch(), batch())
        assert assigned(dispatcher) == {0: first, 1: second}
        assert assigned(dispatcher) == {}
        dispatcher.finish(1, second)
        assert assigned(dispatcher) == {1: third}

    def test_the_processor_last_at_work_is_taken_first(self) -> None:
        """
        Its data is warm, and the others' threads may sleep on.
        """
        dispatcher = BatchDispatcher(3, is_partitioned=False)
        batches = offer(dispatcher, batch(), batch(), batch())
        assert assigned(dispatcher) == dict(enumerate(batches))
        dispatcher.finish(0, batches[0])
        dispatcher.finish(2, batches[2])
        (later,) = offer(dispatcher, batch())
        assert assigned(dispatcher) == {2: later}

    def test_an_explicit_key_is_handled_once_at_a_time(self) -> None:
        """
        Its next batch waits although a processor is idle; a batch of another key overtakes it.
        """
        dispatcher = BatchDispatcher(2, is_partitioned=False)
        first, second, other = offer(dispatcher, batch("k"), batch("k"), batch("other"))
        assert assigned(dispatcher) == {0: first, 1: other}
        dispatcher.finish(1, other)
        assert assigned(dispatcher) == {}
        dispatcher.finish(0, first)
        assert assigned(dispatcher) == {0: second}

    def test_default_batches_are_not_serialized_with_explicit_ones(self) -> None:
        """
        The default key never blocks anything.
        """
        dispatcher = BatchDispatcher(3, is_partitioned=False)
        a, b, c, d = offer(dispatcher, batch("k"), batch("k"), batch(), batch())
        assert assigned(dispatcher) == {0: a, 1: c, 2: d}
        dispatcher.finish(0, a)
        assert assigned(dispatcher) == {0: b}

    def test_it_is_idle_when_nothing_waits_and_nothing_is_handled(self) -> None:
        """
        A blocked batch counts: the one before it is still being handled.
        """
        dispatcher = BatchDispatcher(2, is_partitioned=False)
        assert dispatcher.is_idle
        first, second = offer(dispatcher, batch("k"), batch("k"))
        assert not dispatcher.is_idle
        assigned(dispatcher)
        assert not dispatcher.is_idle
        dispatcher.finish(0, first)
        assert not dispatcher.is_idle
        assigned(dispatcher)
        dispatcher.finish(0, second)
        assert dispatcher.is_idle

    def test_finished_keys_are_forgotten(self) -> None:
        """
        However many keys pass through, the dispatcher remembers those that are unfinished.
        """
        dispatcher = BatchDispatcher(1, is_partitioned=False)
        for number in range(1000):
            (each,) = offer(dispatcher, batch(number))
            assert assigned(dispatcher) == {0: each}
            dispatcher.finish(0, each)
        assert dispatcher._youngest == {}


    def test_a_key_that_cannot_be_compared_is_equal_to_none(self) -> None:
        """
        Its batches are handled as those of the default key are, and leave nothing behind.
        """

        class Broken:
            def __hash__(self) -> int:
                raise LookupError("no hash")

        dispatcher, key = BatchDispatcher(2, is_partitioned=False), Broken()
        first, second = offer(dispatcher, batch(key), batch(key))
        assert assigned(dispatcher) == {0: first, 1: second}
        dispatcher.finish(0, first)
        dispatcher.finish(1, second)
        assert dispatcher.is_idle

    def test_a_key_that_breaks_while_its_batch_is_handled_is_forgotten(self) -> None:
        """
        Other keys are remembered as they were.
        """

        class Breaks:
            is_broken = False

            def __hash__(self) -> int:
                if self.is_broken:
                    raise LookupError("no hash")
                return 1

        dispatcher, key = BatchDispatcher(2, is_partitioned=False), Breaks()
        first, other, later = offer(dispatcher, batch(key), batch("k"), batch("k"))
        assert assigned(dispatcher) == {0: first, 1: other}
        key.is_broken = True
        dispatcher.finish(0, first)
        assert assigned(dispatcher) == {}
        dispatcher.finish(1, other)
        assert list(assigned(dispatcher).values()) == [later]


class TestPartitions:
    """
    With partitions.
    """

    def test_a_partition_has_its_own_processor(self) -> None:
        """
        The batch of partition 1 goes to processor 1, and waits for it while processor 0 is idle.
        """
        dispatcher = BatchDispatcher(2, is_partitioned=True)
        first, second = offer(dispatcher, batch(partition=1), batch(partition=1))
        assert assigned(dispatcher) == {1: first}
        assert assigned(dispatcher) == {}
        dispatcher.finish(1, first)
        assert assigned(dispatcher) == {1: second}

    def test_a_key_is_handled_once_at_a_time_across_partitions(self) -> None:
        """
        What comes behind the blocked batch in its partition waits too: partitions are strictly in order.
        """
        dispatcher = BatchDispatcher(2, is_partitioned=True)
        first, blocked, behind = offer(dispatcher, batch("k", 0), batch("k", 1), batch("other", 1))
        assert assigned(dispatcher) == {0: first}
        dispatcher.finish(0, first)
        assert assigned(dispatcher) == {1: blocked}
        dispatcher.finish(1, blocked)
        assert assigned(dispatcher) == {1: behind}
        dispatcher.finish(1, behind)
        assert dispatcher.is_idle


def test_waiting_names_every_batch_that_waits() -> None:
    """
    Those in a queue and those that they block; of what is being handled, chain() tells what it blocks.
    """
    dispatcher = BatchDispatcher(1, is_partitioned=False)
    handled, second, third, default = offer(dispatcher, batch("k"), batch("k"), batch("k"), batch())
    other, after = offer(dispatcher, batch("other"), batch("other"))
    assigned(dispatcher)
    assert list(dispatcher.waiting()) == [default, other, after]
    assert list(chain(handled)) == [handled, second, third]
    assert list(chain(None)) == []


class Play:
    """
    Offers and finishes in a random order, with what must hold after each step.
    """

    def __init__(self, concurrency: int, is_partitioned: bool) -> None:
        self.dispatcher = BatchDispatcher(concurrency, is_partitioned=is_partitioned)
        self.concurrency = concurrency
        self.is_partitioned = is_partitioned
        self.offered: List[Batch] = []
        self.started: List[Tuple[int, Batch]] = []
        self.running: Dict[int, Batch] = {}

    def offer(self, key: Hashable, partition: int) -> None:
        each = batch(key, partition % self.concurrency if self.is_partitioned else None)
        self.offered.append(each)
        self.dispatcher.offer(each)
        self.assign()

    def finish(self, which: int) -> None:
        if self.running:
            index = sorted(self.running)[which % len(self.running)]
            self.dispatcher.finish(index, self.running.pop(index))
            self.assign()

    def assign(self) -> None:
        for index, each in self.dispatcher.assign():
            assert index not in self.running, "the batch processor is at work"
            self.running[index] = each
            self.started.append((index, each))
        self.check()

    def check(self) -> None:
        handled = [b.key for b in self.running.values() if not b.is_default]
        assert len(handled) == len(set(handled)), "one explicit key twice at a time"
        started = {id(b) for _, b in self.started}
        waiting = [b for b in self.offered if id(b) not in started]
        assert self.dispatcher.is_idle == (not waiting and not self.running)
        named = {id(b) for b in self.dispatcher.waiting()}
        named |= {id(b) for each in self.running.values() for b in chain(each)}
        assert named == {id(b) for b in waiting} | {id(b) for b in self.running.values()}
        assert self.running or not waiting, "nothing runs, and nothing that waits may run: it has locked up"
        self.check_no_one_is_idle_in_vain(waiting)

    def check_no_one_is_idle_in_vain(self, waiting: List[Batch]) -> None:
        unfinished = waiting + list(self.running.values())
        free = set(range(self.concurrency)) - set(self.running)
        seen: set[Any] = set()
        for each in waiting:
            older = [b for b in self.offered[: self.offered.index(each)] if b in unfinished]
            is_blocked = not each.is_default and any(b.key == each.key for b in older)
            first = each.partition not in seen
            seen.add(each.partition)
            if self.is_partitioned:
                assert not (first and not is_blocked and each.partition in free)
            else:
                assert is_blocked or not free


scripts = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from(["default", "a", "b", "c", 1, True]), st.integers(0, 7)),
        st.tuples(st.just("finish"), st.integers(0, 7)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(concurrency=st.integers(1, 4), is_partitioned=st.booleans(), script=scripts)
def test_every_batch_is_handled_once_in_order_and_nothing_locks_up(
    concurrency: int, is_partitioned: bool, script: List[Tuple[Any, ...]]
) -> None:
    """
    Whatever is offered and in whatever order batches are finished: no explicit key twice at a time, order per key and
    per partition, nobody idle while a batch could be handled, and in the end everything has been handled.
    """
    play = Play(concurrency, is_partitioned)
    for name, *arguments in script:
        getattr(play, name)(*arguments)
    while play.running:
        play.finish(0)
    assert play.dispatcher.is_idle
    started = [b for _, b in play.started]
    assert sorted(map(id, started)) == sorted(map(id, play.offered))
    for key in {b.key for b in play.offered if not b.is_default}:
        assert [b for b in started if b.key == key] == [b for b in play.offered if b.key == key]
    if is_partitioned:
        assert all(index == b.partition for index, b in play.started)
        for partition in range(concurrency):
            mine = [b for b in play.offered if b.partition == partition]
            assert [b for b in started if b.partition == partition] == mine
