"""
The yardstick does all the work that it is said to do.
"""

from __future__ import annotations

from typing import Any, List, Tuple

import pytest

from bench.limit import Batches, Limit, acknowledge
from broadway_sync import BatchInfo, Message


class Recorder:
    """
    A handler and an acknowledger that remember what they were called with.
    """

    def __init__(self) -> None:
        self.handled: List[int] = []
        self.batches: List[Tuple[BatchInfo, List[int]]] = []
        self.acks: List[Tuple[str, List[int], List[int]]] = []

    def handle_message(self, processor: str, message: Message, context: Any) -> Any:
        self.handled.append(message.data)
        message.batch_key = message.data % context if context else "default"
        return message

    def handle_batch(self, batcher: str, messages: List[Message], batch_info: BatchInfo, context: Any) -> List[Message]:
        self.batches.append((batch_info, numbers(messages)))
        return messages

    def ack(self, ack_ref: str, successful: List[Message], failed: List[Message]) -> None:
        self.acks.append((ack_ref, numbers(successful), numbers(failed)))


def numbers(messages: List[Message]) -> List[int]:
    return [message.data for message in messages]


def run(recorder: Recorder, messages: int, **options: Any) -> Recorder:
    Limit(recorder, options.pop("context", None), **options).run(messages, (recorder, "ref", None))
    return recorder


def test_without_a_batcher_each_chunk_is_acknowledged() -> None:
    """
    The last chunk is as long as what is left.
    """
    recorder = run(Recorder(), 7, chunk=3)
    assert recorder.handled == list(range(7))
    assert recorder.acks == [("ref", [0, 1, 2], []), ("ref", [3, 4, 5], []), ("ref", [6], [])]
    assert recorder.batches == []


def test_batches_are_cut_by_size_and_flushed_at_the_end() -> None:
    recorder = run(Recorder(), 25, chunk=4, batch_size=10)
    assert [members for _, members in recorder.batches] == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert [(info.size, info.trigger) for info, _ in recorder.batches] == [(10, "size"), (10, "size"), (5, "flush")]
    assert [successful for _, successful, _ in recorder.acks] == [members for _, members in recorder.batches]


def test_each_batch_key_has_its_own_batches() -> None:
    recorder = run(Recorder(), 12, context=3, chunk=5, batch_size=2)
    assert sum(len(members) for _, members in recorder.batches) == 12
    for info, members in recorder.batches:
        assert {number % 3 for number in members} == {info.batch_key}
        assert len(members) == info.size == 2


def test_a_batch_that_is_due_is_cut_by_time() -> None:
    """
    With no timeout at all every chunk finds the batch of its own first message due.
    """
    recorder = run(Recorder(), 6, chunk=3, batch_size=100, batch_timeout=0)
    assert [(info.trigger, members) for info, members in recorder.batches] == [
        ("timeout", [0, 1, 2]),
        ("timeout", [3, 4, 5]),
    ]


def test_partitions_have_their_own_batches() -> None:
    recorder = run(Recorder(), 40, chunk=10, batch_size=5, partition_by=lambda message: message.data, partitions=4)
    assert sorted(recorder.handled) == list(range(40))
    assert sorted(number for _, members in recorder.batches for number in members) == list(range(40))
    for info, members in recorder.batches:
        assert {number % 4 for number in members} == {info.partition}


def test_a_chunk_of_somebody_else_is_split_by_partition_too() -> None:
    """
    The floor makes its chunks on a thread of their own.
    """
    recorder = Recorder()
    limit = Limit(recorder, chunk=4, batch_size=5, partition_by=lambda message: message.data, partitions=2)
    limit.step([Message(number, (recorder, "ref", None)) for number in range(4)])
    limit.flush()
    assert [(info.partition, members) for info, members in recorder.batches] == [(0, [0, 2]), (1, [1, 3])]


def test_partitions_without_a_batcher_are_acknowledged() -> None:
    recorder = run(Recorder(), 8, chunk=4, partition_by=lambda message: message.data, partitions=2)
    assert recorder.acks == [("ref", [0, 2], []), ("ref", [1, 3], []), ("ref", [4, 6], []), ("ref", [5, 7], [])]


class Careless(Recorder):
    """
    Fails, raises, forgets to return and names a batcher that is not there, each for one message.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Any:
        number = message.data
        if number == 1:
            raise ValueError("one")
        if number == 2:
            return None
        if number == 3:
            message.batcher = "nowhere"
        return message.fail("four") if number == 4 else message


@pytest.mark.parametrize("batch_size", [None, 100])
@pytest.mark.parametrize("partition_by", [None, lambda message: 0])
def test_failed_messages_are_acknowledged_as_failed(batch_size: Any, partition_by: Any) -> None:
    """
    Whatever went wrong with a message; the others go on.
    """
    recorder = run(Careless(), 6, chunk=6, batch_size=batch_size, partition_by=partition_by)
    assert sorted(number for _, _, failed in recorder.acks for number in failed) == [1, 2, 3, 4]
    assert sorted(number for _, successful, _ in recorder.acks for number in successful) == [0, 5]


def test_a_batch_whose_handler_raises_is_failed() -> None:
    class Raising(Recorder):
        def handle_batch(self, *arguments: Any) -> List[Message]:
            raise ValueError("no database")

    recorder = run(Raising(), 3, chunk=3, batch_size=3)
    assert recorder.acks == [("ref", [], [0, 1, 2])]


def test_a_batch_is_split_by_status() -> None:
    class Partly(Recorder):
        def handle_batch(self, batcher: str, messages: List[Message], *arguments: Any) -> List[Message]:
            messages[1].fail("this one")
            return messages

    recorder = run(Partly(), 3, chunk=3, batch_size=3)
    assert recorder.acks == [("ref", [0, 2], [1])]


def test_acknowledgements_are_grouped_by_acknowledger_and_ref() -> None:
    """
    One call for each, in the order of the first message, also when they alternate.
    """
    one, two = Recorder(), Recorder()
    triples = [(one, "a", 0), (two, "a", 1), (one, "a", 2), (one, "b", 3)]
    acknowledge([Message(number, triple) for number, triple in enumerate(triples)], [Message(4, (two, "a", 4))])
    assert one.acks == [("a", [0, 2], []), ("b", [3], [])]
    assert two.acks == [("a", [1], [4])]


def test_deadlines_do_not_keep_messages_alive() -> None:
    """
    What was cut by size leaves nothing behind in the queue of deadlines.
    """
    batches = Batches(2, 3600.0, None, lambda messages, info: None)
    for number in range(1000):
        batches.add([Message(number, (None, None, None))])
    assert not batches.open
    assert len(batches.deadlines) <= 1
