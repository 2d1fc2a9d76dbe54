"""
Demand: chunks, the bound on what is in flight, back-pressure from the last stage to the producer, no needless waiting.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, Iterable

import pytest

from broadway_sync import Message, Producer
from tests.helpers import (
    BOUND,
    NEVER,
    QUIET,
    Batches,
    EndlessProducer,
    Feed,
    FeedProducer,
    eventually,
    get_many,
    make_handler,
)

# Chunks


class Chunks:
    """
    A ``prepare_messages`` that records the chunks and waits at a gate on the first one.
    """

    def __init__(self, gate: Any) -> None:
        self.gate = gate
        self.sizes: list[int] = []

    def __call__(self, messages: list[Message], context: Any) -> list[Message]:
        self.sizes.append(len(messages))
        self.gate.wait()
        return messages


CHUNKS = [
    ({}, [5, 5, 5, 5, 3]),
    ({"max_demand": 10, "min_demand": 5}, [5, 5, 5, 5, 3]),
    ({"max_demand": 10, "min_demand": 0}, [10, 10, 3]),
    ({"max_demand": 10, "min_demand": 9}, [1] * 23),
    ({"max_demand": 1}, [1] * 23),
    ({"max_demand": 100}, [23]),
]


@pytest.mark.parametrize(("options", "sizes"), CHUNKS, ids=[str(c[0]) for c in CHUNKS])
def test_chunks_of_pushed_messages(make_pipeline: Any, acks: Any, gate: Any, options: Any, sizes: list[int]) -> None:
    """
    23 messages are handled in chunks of ``max_demand - min_demand``, each acknowledged in one call.
    """
    chunks = Chunks(gate)
    handler = make_handler(prepare_messages=chunks)
    pipeline = make_pipeline(handler, processors={"default": {"concurrency": 1, **options}}).start()
    pipeline.push_messages(acks.messages(["first"]))
    gate.arrived()
    pipeline.push_messages(acks.messages(range(23)))
    gate.open()
    assert acks.collect_data(24) == (["first", *range(23)], [])
    assert chunks.sizes == [1, *sizes]
    assert [len(ack.successful) for ack in acks.acks] == [1, *sizes]


@pytest.mark.parametrize(("options", "sizes"), CHUNKS[1:4], ids=[str(c[0]) for c in CHUNKS[1:4]])
def test_chunks_of_produced_messages(make_pipeline: Any, acks: Any, gate: Any, options: Any, sizes: list[int]) -> None:
    """
    More messages than a producer was asked for are kept, and handled in the same chunks.
    """

    class Generous(Producer):
        sent = False

        def handle_demand(self, demand: int) -> Iterable[Message]:
            if self.sent:
                return []
            self.sent = True
            return acks.messages(range(23))

    chunks = Chunks(gate)
    gate.open()
    make_pipeline(
        make_handler(prepare_messages=chunks),
        producer={"module": Generous},
        processors={"default": {"concurrency": 1, **options}},
    ).start()
    assert acks.collect_data(23) == (list(range(23)), [])
    assert chunks.sizes == sizes


def test_failures_of_a_chunk_are_handled_once(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A chunk is: one ``prepare_messages``, each ``handle_message``, one ``handle_failed``, one acknowledgement.
    """
    order: list[Any] = []

    def prepare_messages(messages: list[Message], context: Any) -> list[Message]:
        order.append("prepare")
        gate.wait()
        return messages

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        order.append(message.data)
        return message.fail("x")

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        order.append("failed")
        return messages

    class Ordered:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            order.append("ack")
            done.put(len(failed))

    done: queue.Queue[int] = queue.Queue()
    ordered = Ordered()
    handler = make_handler(
        prepare_messages=prepare_messages, handle_message=handle_message, handle_failed=handle_failed
    )
    pipeline = make_pipeline(handler, processors={"default": {"concurrency": 1, "max_demand": 4}}).start()
    pipeline.push_messages([Message("first", (ordered, None, None))])
    gate.arrived()
    pipeline.push_messages(Message(n, (ordered, None, None)) for n in range(3))
    gate.open()
    assert get_many(done, 3) == [1, 2, 1]
    chunk_1 = ["prepare", "first", "failed", "ack"]
    assert order == [*chunk_1, "prepare", 0, 1, "failed", "ack", "prepare", 2, "failed", "ack"]


# What a producer is asked for


class Watched(Producer):
    """
    A producer without end that checks, whenever it is asked, how much would be in flight at once.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Hand out exactly what is wanted.
        """
        return self.ledger.give(demand)


class Ledger:
    """
    Counts what was given out and what was handled; *limit* is what may be under way.
    """

    def __init__(self, acknowledger: Any, limit: int, stop_after: int) -> None:
        self.acknowledger = acknowledger
        self.limit = limit
        self.stop_after = stop_after
        self.given = 0
        self.handled = 0
        self.most = 0
        self.demands: list[int] = []
        self.mutex = threading.Lock()

    def give(self, demand: int) -> list[Message]:
        """
        Return *demand* messages, note how many are under way with them.
        """
        with self.mutex:
            self.demands.append(demand)
            if self.given >= self.stop_after:
                return []
            first, self.given = self.given, self.given + demand
            self.most = max(self.most, self.given - self.handled)
            return [self.acknowledger.message(n) for n in range(first, self.given)]

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Count a message as handled.
        """
        with self.mutex:
            self.handled += 1
        return message


@pytest.mark.parametrize("batchers", [{}, {"default": {"batch_size": 3}}], ids=["no batchers", "batchers"])
@pytest.mark.parametrize(("concurrency", "max_demand"), [(1, 1), (1, 10), (3, 4), (4, 2)])
def test_demand_is_bounded(
    make_pipeline: Any, acks: Any, concurrency: int, max_demand: int, batchers: Any
) -> None:
    """
    From each producer at most ``concurrency x max_demand`` messages are demanded and not yet handled.
    """
    ledger = Ledger(acks, concurrency * max_demand, 500)
    with make_pipeline(
        make_handler(handle_message=ledger.handle_message),
        producer={"module": (Watched, {"ledger": ledger})},
        processors={"default": {"concurrency": concurrency, "max_demand": max_demand}},
        batchers=batchers,
    ):
        eventually(lambda: ledger.given >= 500, "500 messages given out")
    assert ledger.most <= ledger.limit
    assert min(ledger.demands) >= 1
    assert sorted(acks.all_data()) == list(range(ledger.given))


def test_all_demand_arrives(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    While all processors are busy, a producer has been asked for all of ``concurrency x max_demand``, and for no more.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait(message.data)
        return message

    feed = Feed(acks.messages(range(100)))
    make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (FeedProducer, {"feed": feed}), "concurrency": 1},
        processors={"default": {"concurrency": 2, "max_demand": 10}},
    ).start()
    gate.arrived()
    gate.arrived()
    eventually(lambda: feed.taken == 20, "20 messages taken")
    gate.assert_nobody("both processors are busy")
    assert feed.taken == 20


def test_each_producer_is_asked(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    The bound holds for each producer by itself: two of them hand out twice as much.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait(message.data)
        return message

    ledgers = [Ledger(acks, 4, 10**6), Ledger(acks, 4, 10**6)]
    unused = list(ledgers)
    make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": lambda: Watched(unused.pop()), "concurrency": 2},
        processors={"default": {"concurrency": 1, "max_demand": 4}},
    ).start()
    gate.arrived()
    eventually(lambda: [ledger.given for ledger in ledgers] == [4, 4], "both producers handed out 4")
    gate.assert_nobody("the processor is busy")
    assert [ledger.given for ledger in ledgers] == [4, 4]


def test_slow_message_holds_up_only_its_chunk(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    While one processor is stuck the other one takes every other chunk: nothing else waits.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == 0:
            gate.wait()
        return message

    feed = Feed(acks.messages(range(100)))
    make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (FeedProducer, {"feed": feed})},
        processors={"default": {"concurrency": 2, "max_demand": 10}},
    ).start()
    gate.arrived()
    ok, _ = acks.collect_data(95)
    assert sorted(ok) == list(range(5, 100))
    gate.open()
    assert acks.collect_data(5) == ([0, 1, 2, 3, 4], [])


def test_pushed_messages_do_not_wait_behind_a_slow_one(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    With chunks of one message, pushed messages that arrived together do not wait for each other.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data < 3:
            gate.wait()
        return message

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message), processors={"default": {"concurrency": 4, "max_demand": 1}}
    ).start()
    pipeline.push_messages(acks.messages(range(50)))
    for _ in range(3):
        gate.arrived()
    ok, _ = acks.collect_data(47)
    assert ok == list(range(3, 50))


# Back-pressure


def quiescent(count: Any) -> int:
    """
    Wait until *count()* stays the same while the test watches; return it.
    """
    event = threading.Event()
    last = -1
    for _ in range(int(BOUND / QUIET)):
        now: int = count()
        if now == last:
            return now
        last = now
        event.wait(QUIET)
    raise AssertionError(f"still growing: {last}")


@pytest.mark.parametrize(("concurrency", "batch_size"), [(1, 2), (2, 10), (3, 1)])
def test_blocked_batch_processors_stop_the_producer(
    make_pipeline: Any, acks: Any, gate: Any, concurrency: int, batch_size: int
) -> None:
    """
    While all batch processors are busy the batcher stops the processors, and these stop a producer without end.
    """
    processors, max_demand = 2, 4
    batches = Batches(gate)
    handled: list[int] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        handled.append(message.data)
        return message

    producer = EndlessProducer(acks)
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message, handle_batch=batches),
        producer={"module": lambda: producer},
        processors={"default": {"concurrency": processors, "max_demand": max_demand}},
        batchers={"default": {"concurrency": concurrency, "batch_size": batch_size, "batch_timeout": NEVER}},
    ).start()
    for _ in range(concurrency):
        gate.arrived()
    given = quiescent(lambda: producer.next)
    busy = concurrency * batch_size
    demanded = processors * max_demand
    # The batcher demands batch_size from each processor; what it holds beyond that is one batch that waits.
    assert given <= busy + demanded + processors * max(batch_size, max_demand) + 2 * batch_size
    assert acks.acks == []
    pipeline.request_stop()
    gate.open()
    assert pipeline.join(BOUND)
    assert sorted(acks.all_data()) == list(range(producer.next))


def test_one_blocked_batcher_is_bounded(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A batcher that is stuck cannot pile up messages without bound while the other one is free.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_batcher("slow" if message.data % 2 else "fast")

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        if batcher == "slow":
            gate.wait()
        return messages

    producer = EndlessProducer(acks)
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message, handle_batch=handle_batch),
        producer={"module": lambda: producer},
        processors={"default": {"concurrency": 1, "max_demand": 4}},
        batchers={"slow": {"batch_size": 2}, "fast": {"batch_size": 2}},
    ).start()
    gate.arrived()
    assert quiescent(lambda: producer.next) < 100
    gate.open()
    at_least = producer.next + 50
    eventually(lambda: producer.next > at_least, "the pipeline goes on")
    pipeline.stop()
    assert sorted(acks.all_data()) == list(range(producer.next))


def test_slow_processors_stop_the_producer(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    With every processor stuck a producer without end hands out what was demanded, and waits.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    producer = EndlessProducer(acks)
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": lambda: producer},
        processors={"default": {"concurrency": 3, "max_demand": 2}},
    ).start()
    for _ in range(3):
        gate.arrived()
    assert quiescent(lambda: producer.next) == 6
    pipeline.request_stop()
    gate.open()
    assert pipeline.join(BOUND)
    assert sorted(acks.all_data()) == list(range(producer.next))


def test_messages_that_all_fail_keep_the_demand_going(make_pipeline: Any, acks: Any) -> None:
    """
    Failed messages count as handled: the producer is asked on.
    """
    feed = Feed(acks.messages(range(200)), closed=True)
    pipeline = make_pipeline(
        make_handler(handle_message=lambda p, m, c: m.fail("x")),
        producer={"module": (FeedProducer, {"feed": feed})},
        batchers={"default": {}},
    ).start()
    assert pipeline.join(BOUND)
    assert acks.all_data() == list(range(200))


def test_wake_ups_are_not_lost(make_pipeline: Any, acks: Any) -> None:
    """
    Many single messages through many threads all get through, each soon after it was pushed.
    """
    pipeline = make_pipeline(
        producer={"module": (FeedProducer, {"feed": Feed()}), "concurrency": 2},
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"concurrency": 3, "batch_size": 1}},
    ).start()
    for number in range(300):
        pipeline.push_messages(acks.messages([number]))
        if number % 3 == 0:
            acks.next()
    eventually(lambda: len(acks.all_data()) == 300, "all 300 acknowledged")
    assert sorted(acks.all_data()) == list(range(300))
