"""
Batches: what cuts them (size, timeout, flush, stop), custom batch sizes, and which of them run side by side.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Any

import pytest

from broadway_sync import InvalidReturnError, IterableProducer, Message
from tests.helpers import BOUND, NEVER, QUIET, SCALE, Batches, make_handler


@pytest.fixture
def batches() -> Batches:
    """
    Return a recorder of batches.
    """
    return Batches()


def options(**batcher: Any) -> dict[str, Any]:
    """
    Return the options of the default batcher; its timeout never comes unless given.
    """
    return {"default": {"batch_timeout": NEVER, **batcher}}


# What cuts a batch


def test_size(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    A batch leaves as soon as it has ``batch_size`` messages, in the order of their arrival.
    """
    pipeline = make_pipeline(make_handler(handle_batch=batches), batchers=options(batch_size=3)).start()
    pipeline.push_messages(acks.messages(range(7)))
    assert [batches.next_cut(), batches.next_cut()] == [([0, 1, 2], "size"), ([3, 4, 5], "size")]
    batches.assert_none("an open batch")
    pipeline.push_messages(acks.messages([7, 8]))
    assert batches.next_cut() == ([6, 7, 8], "size")


def test_batch_of_one(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    With a size of one each message is a batch.
    """
    pipeline = make_pipeline(make_handler(handle_batch=batches), batchers=options(batch_size=1)).start()
    pipeline.push_messages(acks.messages(range(3)))
    assert [batches.next_cut() for _ in range(3)] == [([n], "size") for n in range(3)]


def test_timeout(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    An open batch leaves after the timeout, and not before it.
    """
    timeout = 0.1
    pipeline = make_pipeline(make_handler(handle_batch=batches), batchers=options(batch_timeout=timeout)).start()
    for _ in range(2):
        before = time.monotonic()
        pipeline.push_messages(acks.messages(range(3)))
        data, batch_info = batches.next()
        assert time.monotonic() - before >= timeout
        assert (data, batch_info.trigger, batch_info.size) == ([0, 1, 2], "timeout", 3)


def test_timeout_counts_from_the_first_message(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    Later messages do not put the timeout off: under steady traffic a batch still leaves.
    """
    pipeline = make_pipeline(
        make_handler(handle_batch=batches), batchers=options(batch_timeout=0.2 * SCALE, batch_size=10**6)
    ).start()
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.01):
            pipeline.push_messages(acks.messages([0]))

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        assert batches.next()[1].trigger == "timeout"
        assert batches.next()[1].trigger == "timeout"
    finally:
        stop.set()
        thread.join()


def test_timeouts_are_per_key(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    Each key has a batch and a timeout of its own: what arrives for one does not touch the other's.
    """
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data[0]), handle_batch=batches)
    pipeline = make_pipeline(handler, batchers=options(batch_size=3, batch_timeout=0.1)).start()
    pipeline.push_messages(acks.messages(["a1", "b1", "a2", "b2", "a3"]))
    cuts = sorted((info.batch_key, info.trigger, data) for data, info in (batches.next(), batches.next()))
    assert cuts == [("a", "size", ["a1", "a2", "a3"]), ("b", "timeout", ["b1", "b2"])]


def test_new_batch_gets_its_full_timeout(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    The timeout of a batch that left by size does not cut the next one of its key.
    """
    timeout = 4 * QUIET
    pipeline = make_pipeline(
        make_handler(handle_batch=batches), batchers=options(batch_size=2, batch_timeout=timeout)
    ).start()
    pipeline.push_messages(acks.messages([0]))
    batches.assert_none("the first batch is open")  # a part of its timeout passes
    before = time.monotonic()
    pipeline.push_messages(acks.messages([1, 2]))
    assert batches.next_cut() == ([0, 1], "size")
    assert batches.next_cut() == ([2], "timeout")
    assert time.monotonic() - before >= timeout


def test_flush_mode(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    A message in flush mode sends its batch off at once, with all that is pending for its key and nothing else.
    """
    handler = make_handler(
        handle_message=lambda p, m, c: m.put_batch_key(m.data[0]), handle_batch=batches
    )
    pipeline = make_pipeline(handler, batchers=options(batch_size=100)).start()
    pipeline.push_messages(acks.messages(["a1", "b1", "a2"]))
    batches.assert_none("open batches")
    pipeline.push_messages(acks.messages(["a3"], batch_mode="flush"))
    assert batches.next_cut() == (["a1", "a2", "a3"], "flush")
    batches.assert_none("the other key's batch is still open")


def test_flush_mode_of_a_lone_message(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    With nothing pending a message in flush mode is a batch of one.
    """
    pipeline = make_pipeline(make_handler(handle_batch=batches), batchers=options()).start()
    pipeline.push_messages(acks.messages([1], batch_mode="flush"))
    assert batches.next_cut() == ([1], "flush")


def test_flush_mode_put_by_a_callback(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    ``put_batch_mode`` in ``handle_message`` counts.
    """
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_mode("flush"), handle_batch=batches)
    pipeline = make_pipeline(handler, batchers=options()).start()
    pipeline.push_messages(acks.messages([1]))
    assert batches.next_cut() == ([1], "flush")


def test_flush_message_that_fills_its_batch(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    A message in flush mode that fills its batch gives the trigger ``size``.
    """
    pipeline = make_pipeline(make_handler(handle_batch=batches), batchers=options(batch_size=3)).start()
    pipeline.push_messages(acks.messages([0, 1]))
    pipeline.push_messages(acks.messages([2], batch_mode="flush"))
    assert batches.next_cut() == ([0, 1, 2], "size")
    batches.assert_none("nothing is pending")


def test_stop_flushes(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    A stop flushes the open batches of every key and batcher.
    """
    handler = make_handler(
        handle_message=lambda p, m, c: m.put_batcher(m.data[0]).put_batch_key(m.data[1]), handle_batch=batches
    )
    data = ["xa1", "ya1", "xb1", "xa2", "yb1"]
    with make_pipeline(handler, batchers={"x": {"batch_timeout": NEVER}, "y": {"batch_timeout": NEVER}}) as pipeline:
        pipeline.push_messages(acks.messages(data))
    cuts = sorted(batches.next_cut() for _ in range(4))
    assert cuts == [(["xa1", "xa2"], "flush"), (["xb1"], "flush"), (["ya1"], "flush"), (["yb1"], "flush")]
    assert sorted(acks.all_data()) == sorted(data)


def test_natural_end_flushes(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    When all producers are exhausted open batches are flushed, without waiting for their timeout.
    """
    pipeline = make_pipeline(
        make_handler(handle_batch=batches),
        producer={"module": (IterableProducer, {"iterable": acks.messages(range(5))})},
        batchers=options(batch_size=3),
    ).start()
    assert pipeline.join(BOUND)
    assert [batches.next_cut(), batches.next_cut()] == [([0, 1, 2], "size"), ([3, 4], "flush")]


def test_batchers_are_independent(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    Each batcher has its own size, and its batches name it.
    """
    handler = make_handler(
        handle_message=lambda p, m, c: m.put_batcher("odd" if m.data % 2 else "even"), handle_batch=batches
    )
    pipeline = make_pipeline(
        handler,
        batchers={"odd": {"batch_size": 2, "batch_timeout": NEVER}, "even": {"batch_size": 3, "batch_timeout": NEVER}},
    ).start()
    pipeline.push_messages(acks.messages(range(6)))
    got = sorted((info.batcher, info.size, data) for data, info in (batches.next(), batches.next()))
    assert got == [("even", 3, [0, 2, 4]), ("odd", 2, [1, 3])]


def test_batch_size_is_never_exceeded(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    However messages arrive, no batch is larger than ``batch_size`` and its info tells its true size.
    """
    pipeline = make_pipeline(
        make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data % 3), handle_batch=batches),
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"batch_size": 4, "batch_timeout": 0.001, "concurrency": 3}},
    )
    with pipeline:
        pipeline.push_messages(acks.messages(range(400)))
    count = 0
    while count < 400:
        data, info = batches.next()
        assert info.size == len(data) <= 4
        assert {n % 3 for n in data} == {info.batch_key}
        count += len(data)
    assert sorted(acks.all_data()) == list(range(400))


def test_many_keys(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    Thousands of open batches are held side by side, and each of them leaves on its own.
    """
    count = 5000
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data), handle_batch=batches)
    with make_pipeline(
        handler, batchers={"default": {"batch_timeout": NEVER, "max_demand": count * 2}}, shutdown=30
    ) as pipeline:
        pipeline.push_messages(acks.messages(range(count)))
    assert sorted(data[0] for data, _ in [batches.next() for _ in range(count)]) == list(range(count))


def test_huge_timeouts(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    Timeouts beyond what the platform can wait for just never come.
    """
    with make_pipeline(
        make_handler(handle_batch=batches), batchers=options(batch_timeout=1e15, batch_size=2), shutdown=1e15
    ) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
        assert batches.next_cut() == ([0, 1], "size")
    assert batches.next_cut() == ([2], "flush")


# Due batches while batch processors are busy


@pytest.mark.parametrize("key", ["default", "mine"])
def test_due_batch_goes_on_filling(make_pipeline: Any, acks: Any, gate: Any, key: str) -> None:
    """
    A batch that is due while the batch processor is busy goes on filling, and leaves as one when it is free.
    """
    timeout = 0.02
    batches = Batches(gate)
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(key), handle_batch=batches)
    pipeline = make_pipeline(handler, batchers=options(batch_timeout=timeout)).start()
    pipeline.push_messages(acks.messages([0]))
    assert batches.next_cut() == ([0], "timeout")
    gate.arrived()
    pause = threading.Event()
    for number in range(1, 7):
        pipeline.push_messages(acks.messages([number]))
        pause.wait(2 * timeout)  # each of them alone would be due by now
    batches.assert_none("the only batch processor is busy")
    gate.open()
    assert batches.next_cut() == ([1, 2, 3, 4, 5, 6], "timeout")


def test_due_batch_is_not_held_up_by_another_key(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A due batch leaves while a batch processor is free, whatever the batch of another key does.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        if batch_info.batch_key == "slow":
            gate.wait()
        return messages

    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data), handle_batch=handle_batch)
    pipeline = make_pipeline(handler, batchers=options(batch_timeout=0.02, concurrency=2)).start()
    pipeline.push_messages(acks.messages(["slow"]))
    gate.arrived()
    pipeline.push_messages(acks.messages(["slow", "fast"]))
    assert acks.collect_data(1) == (["fast"], [])


# Which batches run side by side


def test_default_key_is_spread(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Batches under the default key run on all batch processors at once.
    """
    batches = Batches(gate)
    pipeline = make_pipeline(
        make_handler(handle_batch=batches), batchers=options(batch_size=2, concurrency=3)
    ).start()
    pipeline.push_messages(acks.messages(range(6)))
    assert sorted(gate.arrived() for _ in range(3)) == [[0, 1], [2, 3], [4, 5]]
    assert len(set(batches.threads)) == 3


def test_putting_the_default_key_changes_nothing(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    ``put_batch_key("default")`` is the default key, spread like it.
    """
    handler = make_handler(
        handle_message=lambda p, m, c: m.put_batch_key("default") if m.data % 2 else m, handle_batch=Batches(gate)
    )
    pipeline = make_pipeline(handler, batchers=options(batch_size=2, concurrency=2)).start()
    pipeline.push_messages(acks.messages(range(4)))
    assert sorted(gate.arrived() for _ in range(2)) == [[0, 1], [2, 3]]


def test_explicit_key_is_serial(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A batch of an explicit key waits while another one of its key is handled; other keys pass it.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        if batch_info.batch_key == "k":
            gate.wait([m.data for m in messages])
        return messages

    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data[0]), handle_batch=handle_batch)
    pipeline = make_pipeline(handler, batchers=options(batch_size=2, concurrency=4)).start()
    pipeline.push_messages(acks.messages(["k1", "k2", "k3", "k4"]))
    assert gate.arrived() == ["k1", "k2"]
    pipeline.push_messages(acks.messages(["j1", "j2", "i1", "i2"]))
    assert sorted(acks.collect_data(4)[0]) == ["i1", "i2", "j1", "j2"]
    gate.assert_nobody("the first batch of the key is still being handled")
    gate.open()
    assert acks.collect_data(4) == (["k1", "k2", "k3", "k4"], [])


def test_explicit_keys_are_handled_in_order(make_pipeline: Any, acks: Any) -> None:
    """
    Batches of one explicit key never overlap and come in the order in which they were cut, however many threads work.
    """
    running: collections.Counter[Any] = collections.Counter()
    seen: dict[Any, list[int]] = collections.defaultdict(list)
    overlaps: list[Any] = []
    mutex = threading.Lock()

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        with mutex:
            running[batch_info.batch_key] += 1
            if running[batch_info.batch_key] > 1:
                overlaps.append(batch_info)
            seen[batch_info.batch_key] += [m.data for m in messages]
        for _ in range(100):  # lets other threads in
            pass
        with mutex:
            running[batch_info.batch_key] -= 1
        return messages

    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data % 3), handle_batch=handle_batch)
    with make_pipeline(handler, batchers=options(batch_size=3, concurrency=5)) as pipeline:
        for start in range(0, 900, 30):
            pipeline.push_messages(acks.messages(range(start, start + 30)))
    assert overlaps == []
    assert dict(seen) == {k: list(range(k, 900, 3)) for k in range(3)}


def test_explicit_key_is_serial_in_each_batcher(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    The same key in two batchers is two keys.
    """
    batches = Batches(gate)
    handler = make_handler(
        handle_message=lambda p, m, c: m.put_batch_key("k").put_batcher(m.data), handle_batch=batches
    )
    pipeline = make_pipeline(handler, batchers={"a": {"batch_size": 1}, "b": {"batch_size": 1}}).start()
    pipeline.push_messages(acks.messages(["a", "b"]))
    assert sorted([gate.arrived(), gate.arrived()]) == [["a"], ["b"]]


def test_keys_are_equal_when_python_says_so(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    ``1``, ``1.0`` and ``True`` are one key, as in any dict.
    """
    keys = [1, 1.0, True]
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(keys[m.data]), handle_batch=batches)
    pipeline = make_pipeline(handler, batchers=options(batch_size=3)).start()
    pipeline.push_messages(acks.messages(range(3)))
    data, info = batches.next()
    assert (data, info.batch_key) == ([0, 1, 2], 1)


def test_none_is_a_key_like_any_other(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    None is a hashable key, other than the default one.
    """
    handler = make_handler(
        handle_message=lambda p, m, c: m.put_batch_key(None) if m.data % 2 else m, handle_batch=batches
    )
    pipeline = make_pipeline(handler, batchers=options(batch_size=2)).start()
    pipeline.push_messages(acks.messages(range(4)))
    got = sorted((str(info.batch_key), data) for data, info in (batches.next(), batches.next()))
    assert got == [("None", [1, 3]), ("default", [0, 2])]


# Custom batch sizes


def weigh(message: Message, accumulator: int) -> tuple[str, int]:
    """
    Cut a batch once its messages weigh 10.
    """
    total = accumulator + message.data
    return ("emit", 999) if total >= 10 else ("cont", total)


def test_batch_size_function(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    The function decides; each batch starts from the initial accumulator, whatever came with ``emit``.
    """
    pipeline = make_pipeline(
        make_handler(handle_batch=batches), batchers=options(batch_size=(0, weigh), max_demand=10)
    ).start()
    pipeline.push_messages(acks.messages([4, 4, 4, 9, 1, 10, 3]))
    cuts = [batches.next_cut() for _ in range(3)]
    assert cuts == [([4, 4, 4], "size"), ([9, 1], "size"), ([10], "size")]
    pipeline.stop()
    assert batches.next_cut() == ([3], "flush")


def test_batch_size_function_is_per_key(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    Each key has an accumulator of its own.
    """
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key("ab"[m.data > 5]), handle_batch=batches)
    pipeline = make_pipeline(handler, batchers=options(batch_size=(0, weigh), max_demand=10)).start()
    pipeline.push_messages(acks.messages([5, 7, 1, 8, 4]))
    assert [batches.next()[0], batches.next()[0]] == [[7, 8], [5, 1, 4]]


def test_batch_size_function_sees_what_was_made_of_the_message(
    make_pipeline: Any, acks: Any, batches: Batches
) -> None:
    """
    The function gets the message as ``handle_message`` returned it.
    """
    handler = make_handler(handle_message=lambda p, m, c: m.update_data(lambda d: d * 10), handle_batch=batches)
    pipeline = make_pipeline(handler, batchers=options(batch_size=(0, weigh), max_demand=10)).start()
    pipeline.push_messages(acks.messages([1]))
    assert batches.next_cut() == ([10], "size")


def collect(message: Message, accumulator: Any) -> tuple[str, Any]:
    """
    Count in a mutable accumulator, in place.
    """
    inner = accumulator["items"] if isinstance(accumulator, dict) else accumulator
    inner.append(message.data)
    return ("emit" if len(inner) == 2 else "cont", accumulator)


@pytest.mark.parametrize("initial", [[], {"items": []}], ids=["flat", "nested"])
def test_mutable_accumulator(make_pipeline: Any, acks: Any, batches: Batches, initial: Any) -> None:
    """
    A mutable initial accumulator is copied for each batch: nothing leaks from one into the next, or to another key.
    """
    handler = make_handler(handle_message=lambda p, m, c: m.put_batch_key(m.data % 2), handle_batch=batches)
    pipeline = make_pipeline(handler, batchers=options(batch_size=(initial, collect), max_demand=10)).start()
    pipeline.push_messages(acks.messages(range(8)))
    assert sorted(batches.next()[0] for _ in range(4)) == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert initial in ([], {"items": []})


@pytest.mark.parametrize("bad", ["raise", "exit", None, ("stop", 1), ("emit",), 5, "emit"], ids=repr)
def test_batch_size_function_goes_wrong(make_pipeline: Any, acks: Any, batches: Batches, bad: Any) -> None:
    """
    A function that raises, or returns neither emit nor cont, fails that message; the batch it would join goes on.
    """
    error = ValueError("no size")

    def size(message: Message, accumulator: int) -> Any:
        if message.data != 2:
            return ("emit", 0) if accumulator == 2 else ("cont", accumulator + 1)
        if bad == "raise":
            raise error
        if bad == "exit":
            raise SystemExit(1)
        return bad

    failed_calls: list[Any] = []

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        failed_calls.append([m.data for m in messages])
        return messages

    handler = make_handler(handle_batch=batches, handle_failed=handle_failed)
    pipeline = make_pipeline(handler, batchers=options(batch_size=(0, size), max_demand=10)).start()
    pipeline.push_messages(acks.messages(range(4)))
    assert batches.next_cut() == ([0, 1, 3], "size")
    ok, failed = acks.collect(4)
    assert sorted(m.data for m in ok) == [0, 1, 3]
    (message,) = failed
    assert (message.data, message.status) == (2, "error")
    if bad == "raise":
        assert message.reason is error
    elif bad != "exit":
        assert type(message.reason) is InvalidReturnError
    assert failed_calls == [[2]]
    assert pipeline.state == "running"


def test_batch_size_function_with_timeout(make_pipeline: Any, acks: Any, batches: Batches) -> None:
    """
    After a timeout the accumulator starts anew, too.
    """
    pipeline = make_pipeline(
        make_handler(handle_batch=batches), batchers=options(batch_size=(0, weigh), max_demand=10, batch_timeout=0.05)
    ).start()
    pipeline.push_messages(acks.messages([9]))
    assert batches.next_cut() == ([9], "timeout")
    pipeline.push_messages(acks.messages([9]))
    assert batches.next_cut() == ([9], "timeout")
