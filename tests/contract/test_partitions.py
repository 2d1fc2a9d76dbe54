"""
Partitions: order within one, the stage that handles it, its batches, and partition functions that go wrong.
"""

from __future__ import annotations

import collections
import json
import threading
from typing import Any

import pytest

from broadway_sync import IterableProducer, Message, partition_key
from tests.helpers import BOUND, NEVER, Batches, Feed, FeedProducer, eventually, make_handler, run_python


class Seen:
    """
    Records which thread handled which data, in order.
    """

    def __init__(self) -> None:
        self.by_thread: dict[str, list[Any]] = collections.defaultdict(list)
        self.batches: list[tuple[str, Any, list[Any]]] = []
        self.mutex = threading.Lock()

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Record a message.
        """
        with self.mutex:
            self.by_thread[threading.current_thread().name.rpartition(".")[2]].append(message.data)
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Record a batch.
        """
        with self.mutex:
            name = threading.current_thread().name.rpartition(".")[2]
            self.batches.append((name, batch_info, [m.data for m in messages]))
        return messages


def test_the_remainder_picks_the_processor(make_pipeline: Any, acks: Any) -> None:
    """
    Messages of one partition are handled in order by the processor with the index of the remainder.
    """
    seen = Seen()
    with make_pipeline(
        seen, processors={"default": {"concurrency": 3, "max_demand": 2, "partition_by": lambda m: m.data}}
    ) as pipeline:
        pipeline.push_messages(acks.messages(range(100)))
    assert seen.by_thread == {f"Processor_default_{i}": list(range(i, 100, 3)) for i in range(3)}
    assert sorted(acks.all_data()) == list(range(100))


def test_order_of_produced_messages(make_pipeline: Any, acks: Any) -> None:
    """
    What a producer emitted is handled in that order within each partition, and batched in that order.
    """
    seen = Seen()
    pipeline = make_pipeline(
        seen,
        producer={"module": (IterableProducer, {"iterable": acks.messages(range(500))})},
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"concurrency": 3, "batch_size": 5, "batch_timeout": NEVER}},
        partition_by=lambda m: m.data % 7,
    ).start()
    assert pipeline.join(BOUND)
    for index in range(4):
        expected = [n for n in range(500) if n % 7 % 4 == index]
        assert seen.by_thread[f"Processor_default_{index}"] == expected
    for partition in range(7):
        batched = [n for _, info, data in seen.batches for n in data if n % 7 == partition]
        assert batched == [n for n in range(500) if n % 7 == partition]
    for name, info, data in seen.batches:
        assert {n % 7 % 3 for n in data} == {info.partition}
        assert name == f"BatchProcessor_default_{info.partition}"


def test_batches_of_partitions_with_one_remainder_are_shared(make_pipeline: Any, acks: Any) -> None:
    """
    Messages whose partitions have the same remainder share a batch, and ``BatchInfo.partition`` is the remainder.
    """
    batches = Batches()
    pipeline = make_pipeline(
        make_handler(handle_batch=batches),
        batchers={
            "default": {
                "concurrency": 2,
                "batch_size": 3,
                "batch_timeout": NEVER,
                "partition_by": lambda m: m.data,
            }
        },
    ).start()
    pipeline.push_messages(acks.messages([1, 3, 2, 5, 4, 6]))
    got = sorted((info.partition, info.trigger, data) for data, info in (batches.next(), batches.next()))
    assert got == [(0, "size", [2, 4, 6]), (1, "size", [1, 3, 5])]


def test_batch_keys_are_kept_apart_within_a_partition(make_pipeline: Any, acks: Any) -> None:
    """
    A batch has one batch key and one partition.
    """
    batches = Batches()
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data[0]), handle_batch=batches)
    pipeline = make_pipeline(
        handler,
        batchers={"default": {"concurrency": 2, "batch_size": 2, "batch_timeout": NEVER}},
        partition_by=lambda m: int(m.data[1]),
    ).start()
    pipeline.push_messages(acks.messages(["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]))
    got = sorted((info.batch_key, info.partition, data) for data, info in [batches.next() for _ in range(4)])
    assert got == [("a", 0, ["a0", "a2"]), ("a", 1, ["a1", "a3"]), ("b", 0, ["b0", "b2"]), ("b", 1, ["b1", "b3"])]


def test_batches_of_a_partition_are_serial(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    While one batch of a partition is handled the next one waits, and other partitions go on.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        if batch_info.partition == 0:
            gate.wait([m.data for m in messages])
        return messages

    pipeline = make_pipeline(
        make_handler(handle_batch=handle_batch),
        batchers={
            "default": {"concurrency": 2, "batch_size": 1, "batch_timeout": NEVER, "partition_by": lambda m: m.data}
        },
    ).start()
    pipeline.push_messages(acks.messages([0, 2]))
    assert gate.arrived() == [0]
    pipeline.push_messages(acks.messages([1]))
    assert acks.collect_data(1) == ([1], [])
    gate.assert_nobody("the first batch of the partition is still being handled")
    gate.open()
    assert acks.collect_data(2) == ([0, 2], [])


def test_without_partitions_a_batch_has_none(make_pipeline: Any, acks: Any) -> None:
    """
    Partitioning the processors alone gives the batches no partition.
    """
    batches = Batches()
    pipeline = make_pipeline(
        make_handler(handle_batch=batches),
        processors={"default": {"concurrency": 2, "partition_by": lambda m: m.data}},
        batchers={"default": {"batch_size": 1}},
    ).start()
    pipeline.push_messages(acks.messages([1]))
    assert batches.next()[1].partition is None


def test_explicit_partition_by_wins(make_pipeline: Any, acks: Any) -> None:
    """
    Processors and batchers inherit ``partition_by`` from the pipeline unless they set their own.
    """
    seen = Seen()
    with make_pipeline(
        seen,
        partition_by=lambda m: 1,
        processors={"default": {"concurrency": 2}},
        batchers={"default": {"concurrency": 3, "batch_size": 1, "partition_by": lambda m: 2}},
    ) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    assert seen.by_thread == {"Processor_default_1": [0, 1, 2, 3]}
    assert {(name, info.partition) for name, info, _ in seen.batches} == {("BatchProcessor_default_2", 2)}


def test_failed_message_does_not_stop_its_partition(make_pipeline: Any, acks: Any) -> None:
    """
    A failure in a partition fails that message, and the next one follows.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == 1:
            raise ValueError
        return message

    with make_pipeline(make_handler(handle_message=handle_message), partition_by=lambda m: 0) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
    assert acks.acks[0].data == ([0, 2], [1])


def test_blocked_partition_keeps_its_order(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A stuck partition delays others at most, and reorders nothing.
    """
    seen = Seen()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == 0:
            gate.wait()
        return seen.handle_message(processor, message, context)

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        processors={"default": {"concurrency": 2, "max_demand": 4, "partition_by": lambda m: m.data}},
    ).start()
    pipeline.push_messages(acks.messages(range(60)))
    gate.arrived()
    assert acks.collect_data(2)[0] == [1, 3]
    gate.open()
    acks.collect(58)
    assert seen.by_thread == {f"Processor_default_{i}": list(range(i, 60, 2)) for i in range(2)}


def test_order_survives_crashes_and_restarts(make_pipeline: Any, acks: Any) -> None:
    """
    Crashes of the producer and restarts of the whole pipeline reorder no partition, lose and repeat no message.
    """
    count, parts = 600, 5
    items: list[Any] = []
    for start in range(0, count, 20):
        items += [*acks.messages(range(start, start + 20)), RuntimeError(f"crash after {start + 20}")]
    feed = Feed(items)
    handled: dict[int, list[int]] = collections.defaultdict(list)
    batched: dict[int, list[int]] = collections.defaultdict(list)

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        handled[message.data % parts].append(message.data)
        return message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        for message in messages:
            batched[message.data % parts].append(message.data)
        return messages

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message, handle_batch=handle_batch),
        producer={"module": (FeedProducer, {"feed": feed})},
        processors={"default": {"concurrency": 3}},
        batchers={"default": {"concurrency": 2, "batch_size": 7, "batch_timeout": 0.01}},
        partition_by=lambda m: m.data % parts,
        resubscribe_interval=0,
        max_restarts=10**6,
    ).start()
    eventually(lambda: len(acks.all_data()) == count, "all acknowledged")
    feed.close()
    assert pipeline.join(BOUND)
    expected = {part: list(range(part, count, parts)) for part in range(parts)}
    assert dict(handled) == expected
    assert dict(batched) == expected
    assert sorted(acks.all_data()) == list(range(count))
    assert len(feed.instances) == count // 20 + 1


# Functions that go wrong


BAD: dict[str, Any] = {
    "negative": -1,
    "bool": True,
    "float": 1.0,
    "text": "1",
    "none": None,
    "raises": ValueError("no partition"),
    "exits": SystemExit(1),
}


def bad_for_two(bad: Any) -> Any:
    """
    Return a partition function that returns or raises *bad* for the number 2.
    """

    def partition_by(message: Message) -> Any:
        if message.data != 2:
            return message.data
        if isinstance(bad, BaseException):
            raise bad
        return bad

    return partition_by


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("stage", ["processors", "batchers", "both"])
@pytest.mark.parametrize("source", ["pushed", "produced"])
def test_bad_partition(make_pipeline: Any, acks: Any, bad: Any, stage: str, source: str) -> None:
    """
    What is not an int >= 0, or raises, fails that message alone: ``handle_failed`` sees it, the others go on.
    """
    failed_calls: list[Any] = []

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        failed_calls.append([(m.data, m.status) for m in messages])
        return messages

    options: dict[str, Any] = {
        "processors": {"default": {"concurrency": 2}},
        "batchers": {"default": {"concurrency": 2, "batch_timeout": NEVER}},
    }
    if stage == "both":
        options["partition_by"] = bad_for_two(bad)
    else:
        options[stage]["default"]["partition_by"] = bad_for_two(bad)
    if source == "produced":
        options["producer"] = {"module": (IterableProducer, {"iterable": acks.messages(range(5))})}
    pipeline = make_pipeline(make_handler(handle_failed=handle_failed), **options).start()
    if source == "pushed":
        pipeline.push_messages(acks.messages(range(5)))
        pipeline.stop()
    else:
        assert pipeline.join(BOUND)
    ok = sorted(m.data for ack in acks.acks for m in ack.successful)
    failed = [m for ack in acks.acks for m in ack.failed]
    assert (ok, [m.data for m in failed]) == ([0, 1, 3, 4], [2])
    assert failed_calls == [[(2, "error")]]
    if isinstance(bad, BaseException):
        assert failed[0].reason is bad
    else:
        assert repr(bad) in str(failed[0].reason)


def test_huge_partition(make_pipeline: Any, acks: Any) -> None:
    """
    Any int >= 0 will do.
    """
    with make_pipeline(partition_by=lambda m: 10**40 + m.data, processors={"default": {"concurrency": 2}}) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
    assert sorted(acks.all_data()) == [0, 1, 2]


def test_subclass_of_int(make_pipeline: Any, acks: Any) -> None:
    """
    A subclass of int, for example of an enumeration, is an int.
    """
    import enum

    class Shard(enum.IntEnum):
        EAST = 0
        WEST = 1

    seen = Seen()
    with make_pipeline(seen, partition_by=lambda m: Shard.WEST, processors={"default": {"concurrency": 2}}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
    assert seen.by_thread == {"Processor_default_1": [1]}


# partition_key


VALUES = ["", "user-1", "größe", b"bytes", 0, 1, -5, 10**30, 1.5, None, True, ("a", 1), ("a", ("b", 2))]


def test_partition_key_is_an_int_for_partition_by() -> None:
    """
    ``partition_key`` gives an int >= 0 for the usual keys, the same whenever it is asked.
    """
    for value in VALUES:
        key = partition_key(value)
        assert type(key) is int
        assert key >= 0
        assert partition_key(value) == key


def test_partition_key_spreads() -> None:
    """
    Different keys spread over the partitions.
    """
    counts = collections.Counter(partition_key(f"user-{n}") % 4 for n in range(400))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 50


@pytest.mark.parametrize("seed", ["0", "1", "12345"])
def test_partition_key_is_stable_across_processes(seed: str) -> None:
    """
    Another process, with another seed for ``hash``, computes the same.
    """
    source = f"import json, broadway_sync; print(json.dumps([broadway_sync.partition_key(v) for v in {VALUES!r}]))"
    done = run_python(source, env={"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [partition_key(v) for v in VALUES]


def test_partition_key_in_a_pipeline(make_pipeline: Any, acks: Any) -> None:
    """
    ``partition_by=lambda m: partition_key(...)`` keeps the order of each key.
    """
    seen = Seen()
    with make_pipeline(
        seen,
        processors={"default": {"concurrency": 3}},
        partition_by=lambda m: partition_key(m.data[0]),
    ) as pipeline:
        data = [("abcdef"[n % 6], n) for n in range(120)]
        pipeline.push_messages(acks.messages(data))
    handled = [item for items in seen.by_thread.values() for item in items]
    for key in "abcdef":
        assert [n for k, n in handled if k == key] == [n for k, n in data if k == key]
    assert sorted(acks.all_data()) == sorted(data)
