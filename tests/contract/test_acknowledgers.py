"""
Acknowledgers: how messages are grouped, when they are acknowledged, and what an acknowledger that raises breaks.
"""

from __future__ import annotations

import queue
import random
import sys
from typing import Any, Iterator

import pytest

from broadway_sync import CallerAcknowledger, Message, NoopAcknowledger, ack_immediately
from tests.helpers import NEVER, Call, RecordingAcknowledger, get, make_handler


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """
    Threads take turns as often as they can.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def odd_ones_fail(processor: str, message: Message, context: Any) -> Message:
    """
    Fail messages with odd numbers.
    """
    return message.fail("odd") if message.data % 2 else message


def test_processors_acknowledge_everything_without_batchers(make_pipeline: Any, acks: Any) -> None:
    """
    Without batchers the processor acknowledges a chunk in one call: successful and failed ones, each in order.
    """
    with make_pipeline(make_handler(handle_message=odd_ones_fail), name="inv") as pipeline:
        pipeline.push_messages(acks.messages(range(5)))
        ack = acks.next()
    assert (ack.ref, *ack.data) == ("ref", [0, 2, 4], [1, 3])
    assert ack.thread == "inv.Broadway.Processor_default_0"
    assert len(acks.acks) == 1


def test_one_call_for_each_reference(make_pipeline: Any) -> None:
    """
    In one step each pair of acknowledger and reference gets exactly one call, with its messages in order.
    """
    first, second = RecordingAcknowledger(), RecordingAcknowledger()
    messages = [Message(n, (first, second)[n % 4 == 3].init("ab"[n % 4 == 2])) for n in range(10)]
    with make_pipeline(processors={"default": {"concurrency": 1, "max_demand": 20, "min_demand": 0}}) as pipeline:
        pipeline.push_messages(messages)
    assert sorted((ack.ref, *ack.data) for ack in first.acks) == [("a", [0, 1, 4, 5, 8, 9], []), ("b", [2, 6], [])]
    assert [(ack.ref, *ack.data) for ack in second.acks] == [("a", [3, 7], [])]


def test_equal_references_are_one_group(make_pipeline: Any, acks: Any) -> None:
    """
    References that are equal, though not the same object, are acknowledged together.
    """
    with make_pipeline() as pipeline:
        pipeline.push_messages(Message(n, acks.init(("channel", int("1000")))) for n in range(4))
    assert [ack.data for ack in acks.acks] == [([0, 1, 2, 3], [])]


def test_batch_processors_acknowledge_each_batch(make_pipeline: Any, acks: Any) -> None:
    """
    With batchers each batch is acknowledged in one call by its batch processor, once it was handled.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        assert len(acks.acks) == len(handled)
        handled.append([m.data for m in messages])
        return messages

    handled: list[Any] = []
    options = {"batchers": {"default": {"batch_size": 2, "batch_timeout": NEVER}}, "name": "inv"}
    with make_pipeline(make_handler(handle_batch=handle_batch), **options) as pipeline:
        pipeline.push_messages(acks.messages(range(5)))
    assert [ack.data for ack in acks.acks] == [([0, 1], []), ([2, 3], []), ([4], [])]
    assert {ack.thread for ack in acks.acks} == {"inv.Broadway.BatchProcessor_default_0"}
    assert handled == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("error", [RuntimeError("no connection"), SystemExit(1)], ids=["Exception", "BaseException"])
@pytest.mark.parametrize("batchers", [{}, {"default": {"batch_size": 4}}], ids=["processor", "batch processor"])
def test_acknowledger_that_raises(make_pipeline: Any, acks: Any, error: BaseException, batchers: Any) -> None:
    """
    One acknowledger that raises keeps no other from its messages, is not called again for these, and stops nothing.
    """
    calls: queue.Queue[Any] = queue.Queue()

    class Broken:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            calls.put(([m.data for m in successful], [m.data for m in failed]))
            raise error

    broken = Broken()
    with make_pipeline(batchers=batchers) as pipeline:
        for _ in range(2):
            pairs = [[Message(n, (broken, "ref", None)), acks.message(n)] for n in range(2)]
            pipeline.push_messages(m for pair in pairs for m in pair)
            assert acks.collect_data(2) == ([0, 1], [])
            assert get(calls) == ([0, 1], [])
        assert pipeline.state == "running"
    assert calls.empty()


def test_handling_goes_on_after_an_acknowledger_raised_for_failures(make_pipeline: Any, acks: Any) -> None:
    """
    When acknowledging the failed messages of a chunk raises, its successful ones still reach their batcher.
    """

    class Broken(RecordingAcknowledger):
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            super().ack(ack_ref, successful, failed)
            if failed:
                raise RuntimeError("no connection")

    broken = Broken()
    with make_pipeline(make_handler(handle_message=odd_ones_fail), batchers={"default": {}}) as pipeline:
        pipeline.push_messages(broken.messages(range(4)))
    assert sorted(broken.all_data()) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(50))
def test_runs_of_messages_that_are_alike(seed: int) -> None:
    """
    Messages that share their triple are grouped as if each had its own, also those beside them that are acknowledged
    already or have no triple at all.
    """
    dice = random.Random(seed)
    everybody = first, second = RecordingAcknowledger(), RecordingAcknowledger()
    wrong = [(first, "a"), None]
    triples = [first.init("a"), first.init("a"), first.init("b"), second.init("a"), second.init(["a list"]), *wrong]
    runs = [[dice.choice(triples)] * dice.choice([1, 3, 20]) for _ in range(6)]
    messages = [Message(None, triple) for run in runs for triple in run]
    failed = [message.fail("why") for message in messages if dice.random() < dice.choice([0, 0.1, 0.5])]
    early = ack_immediately(message for message in messages if dice.random() < 0.05)
    for acks in everybody:
        acks.acks.clear()

    ack_immediately(messages)
    expected: dict[Any, tuple[Any, list[Message], list[Message]]] = {}
    for message in sorted(messages, key=failed.__contains__):
        if message not in early and message.acknowledger not in wrong:
            acks, ref, _ = message.acknowledger
            group = expected.setdefault((acks, str(ref)), (ref, [], []))
            group[1 + (message in failed)].append(message)
    for acks in everybody:
        calls = [group for (owner, _), group in expected.items() if owner is acks]
        assert [(ack.ref, ack.successful, ack.failed) for ack in acks.acks] == calls


@pytest.mark.usefixtures("frequent_switches")
def test_threads_that_acknowledge_the_same_messages(acks: Any) -> None:
    """
    Each message is acknowledged by one of them, messages that share their triple too.
    """
    messages = [Message(number, triple) for triple in [acks.init()] for number in range(2000)]
    calls = [Call(ack_immediately, part) for part in (messages, messages[::-1], messages[500:1500], messages)]
    for call in calls:
        call.result()
    assert sorted(acks.all_data()) == list(range(2000))


class Unhashable(RecordingAcknowledger):
    """
    An acknowledger as a plain dataclass would be: comparable and for that not hashable.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: Any) -> bool:
        return self is other


@pytest.mark.parametrize("batchers", [{}, {"default": {}}], ids=["processor", "batch processor"])
def test_unhashable_acknowledger(make_pipeline: Any, batchers: Any) -> None:
    """
    Any object with ``ack`` is an acknowledger, hashable or not.
    """
    acks = Unhashable()
    with make_pipeline(batchers=batchers) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
    assert acks.all_data() == [0, 1, 2]


def test_unhashable_reference(make_pipeline: Any, acks: Any) -> None:
    """
    A reference that cannot be hashed loses no message.
    """
    with make_pipeline() as pipeline:
        pipeline.push_messages(Message(n, acks.init(["channel", n % 2])) for n in range(4))
    assert sorted(acks.all_data()) == [0, 1, 2, 3]


def test_acknowledger_without_ack(make_pipeline: Any, acks: Any) -> None:
    """
    What is no acknowledger breaks nothing but its own message.
    """
    with make_pipeline() as pipeline:
        pipeline.push_messages([Message(0, (object(), "ref", None)), Message(1, None), acks.message(2)])
        pipeline.push_messages([acks.message(3)])
    assert acks.all_data() == [2, 3]


def test_slow_acknowledger_loses_nothing(make_pipeline: Any, gate: Any) -> None:
    """
    A stop waits for an acknowledger that takes its time.
    """

    class Slow(RecordingAcknowledger):
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            gate.wait()
            super().ack(ack_ref, successful, failed)

    acks = Slow()
    pipeline = make_pipeline().start()
    pipeline.push_messages(acks.messages(range(3)))
    gate.arrived()
    assert pipeline.join(0) is False
    pipeline.request_stop()
    gate.open()
    assert pipeline.join(10) is True
    assert acks.all_data() == [0, 1, 2]


def test_every_message_is_acknowledged_once(make_pipeline: Any, acks: Any) -> None:
    """
    Through a busy topology with failures each message is acknowledged exactly once.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data % 7 == 0:
            raise ValueError
        return message.put_batcher("ab"[message.data % 2]).put_batch_key(message.data % 5)

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        if batch_info.batch_key == 3:
            raise ValueError
        return [m.fail("x") if m.data % 11 == 0 else m for m in messages]

    handler = make_handler(handle_message=handle_message, handle_batch=handle_batch)
    options = {
        "processors": {"default": {"concurrency": 4}},
        "batchers": {"a": {"concurrency": 2, "batch_size": 4}, "b": {"concurrency": 3, "batch_size": 7}},
    }
    with make_pipeline(handler, **options) as pipeline:
        for start in range(0, 1000, 50):
            pipeline.push_messages(acks.messages(range(start, start + 50)))
    assert sorted(acks.all_data()) == list(range(1000))


# The ready-made ones


def test_noop_acknowledger(make_pipeline: Any, acks: Any) -> None:
    """
    ``NoopAcknowledger`` acknowledges nothing anywhere.
    """
    acknowledger = NoopAcknowledger.init()
    assert len(acknowledger) == 3
    with make_pipeline() as pipeline:
        pipeline.push_messages([Message(1, acknowledger), acks.message(2)])
        assert acks.collect_data(1) == ([2], [])


def test_caller_acknowledger(make_pipeline: Any) -> None:
    """
    ``CallerAcknowledger`` puts what was acknowledged on the caller's queue.
    """
    calls: queue.Queue[Any] = queue.Queue()
    messages = [Message(n, CallerAcknowledger.init(calls, "mine")) for n in range(4)]
    with make_pipeline(make_handler(handle_message=odd_ones_fail)) as pipeline:
        pipeline.push_messages(messages)
        kind, ref, successful, failed = get(calls)
    assert (kind, ref) == ("ack", "mine")
    assert (list(successful), list(failed)) == (messages[::2], messages[1::2])
    assert calls.empty()


def test_caller_acknowledger_of_several_references(make_pipeline: Any) -> None:
    """
    References on one queue are kept apart.
    """
    calls: queue.Queue[Any] = queue.Queue()
    with make_pipeline() as pipeline:
        pipeline.push_messages(Message(n, CallerAcknowledger.init(calls, n % 2)) for n in range(4))
        got = sorted((ref, [m.data for m in ok]) for _, ref, ok, _ in (get(calls), get(calls)))
    assert got == [(0, [0, 2]), (1, [1, 3])]


def test_caller_acknowledgers_on_different_queues(make_pipeline: Any) -> None:
    """
    Equal references on different queues are different.
    """
    first: queue.Queue[Any] = queue.Queue()
    second: queue.Queue[Any] = queue.Queue()
    with make_pipeline() as pipeline:
        pipeline.push_messages(Message(n, CallerAcknowledger.init((first, second)[n % 2], "r")) for n in range(4))
        assert [m.data for m in get(first)[2]] == [0, 2]
        assert [m.data for m in get(second)[2]] == [1, 3]


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("index", [0, 2])
def test_a_message_without_an_acknowledger_stops_nobody(acks: Any, caplog: Any, count: int, index: int) -> None:
    """
    Somebody has deleted it: that is logged, and the others are acknowledged.
    """
    messages = [Message(number, triple) for triple in [acks.init()] for number in range(count)]
    del messages[index].acknowledger
    ack_immediately(messages)
    assert acks.next().data == ([number for number in range(count) if number != index], [])
    (record,) = caplog.records
    assert "not an (acknowledger, ack_ref, ack_data)" in record.getMessage()
