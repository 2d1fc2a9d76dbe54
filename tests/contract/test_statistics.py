"""
Statistics: what a pipeline says of itself while it is new, idle, busy, restarting, failed and stopped.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from typing import Any, Iterable

import attrs
import pytest

from broadway_sync import EndOfStream, Message, PipelineFailedError, Producer
from tests.helpers import (
    BOUND,
    NEVER,
    Batches,
    EndlessProducer,
    Feed,
    FeedProducer,
    Gate,
    eventually,
    get,
    make_handler,
    stage_threads,
    unique_name,
)

from .test_fork import in_child

KINDS = ("producer", "processor", "batcher", "batch_processor")


def feeding(feed: Feed, **options: Any) -> dict[str, Any]:
    """
    Return the producer options for a feed.
    """
    return {"module": (FeedProducer, {"feed": feed}), **options}


def stages(pipeline: Any, kind: str) -> list[Any]:
    """
    Return the statistics of the stages of one kind.
    """
    return [stage for stage in pipeline.statistics().stages if stage.kind == kind]


def stage(pipeline: Any, kind: str) -> Any:
    """
    Return the statistics of the only stage of one kind.
    """
    (found,) = stages(pipeline, kind)
    return found


def gated(gate: Gate) -> Any:
    """
    Return a handler whose ``handle_message`` waits at the gate.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait(message.data)
        return message

    return make_handler(handle_message=handle_message)


def settled(pipeline: Any, handled: int) -> Any:
    """
    Wait until the pipeline says that so many messages are through and none is in flight; return its statistics.
    """

    def has_settled() -> Any:
        found = pipeline.statistics()
        return found if (found.handled, found.in_flight) == (handled, 0) else None

    return eventually(has_settled, f"{handled} messages are through")


# Not running


def test_new_pipeline(make_pipeline: Any) -> None:
    """
    A pipeline that never started has no stages and no figures.
    """
    name = unique_name()
    found = make_pipeline(name=name).statistics()
    assert (found.name, found.state, found.stages) == (name, "new", ())
    assert (found.in_flight, found.handled, found.restarts, found.uptime, found.idle_for) == (0, 0, 0, 0, 0)


def test_stopped_pipeline(make_pipeline: Any, acks: Any) -> None:
    """
    A pipeline that has stopped has no stages any more, and still says how many messages it handled.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_size": 2}}).start()
    pipeline.push_messages(acks.messages(range(4)))
    acks.collect(4)
    pipeline.stop()
    found = pipeline.statistics()
    assert (found.state, found.stages, found.in_flight, found.handled) == ("stopped", (), 0, 4)


def test_failed_pipeline(make_pipeline: Any) -> None:
    """
    The same when it gave up.
    """
    pipeline = make_pipeline().start()
    pipeline.fail(ValueError("x"))
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    found = pipeline.statistics()
    assert (found.state, found.stages, found.in_flight) == ("failed", (), 0)


def test_started_again(make_pipeline: Any, acks: Any) -> None:
    """
    Counters begin anew at each start.
    """
    pipeline = make_pipeline().start()
    for round_number in range(2):
        pipeline.push_messages(acks.messages(range(3)))
        acks.collect(3)
        assert settled(pipeline, 3).restarts == 0, round_number
        pipeline.stop()
        pipeline.start()


def test_frozen(make_pipeline: Any) -> None:
    """
    Statistics are values: they do not change, neither by the pipeline nor by who has them.
    """
    pipeline = make_pipeline().start()
    found = pipeline.statistics()
    before = attrs.asdict(found)
    pipeline.test_message(1).receive(BOUND)
    assert attrs.asdict(found) == before
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.handled = 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.stages[0].handled = 1


# Idle


def test_idle_pipeline(make_pipeline: Any) -> None:
    """
    Every stage is there, in the order in which messages pass them, under the name of its thread, and idle.
    """
    name = unique_name()
    pipeline = make_pipeline(
        name=name,
        producer={"module": (FeedProducer, {"feed": Feed()}), "concurrency": 2},
        processors={"main": {"concurrency": 2}},
        batchers={"a": {"concurrency": 2}, "b": {}},
    ).start()
    found = pipeline.statistics()
    assert found.state == "running"
    assert [(s.name[len(name) + len(".Broadway.") :], s.kind, s.key, s.index) for s in found.stages] == [
        ("Producer_0", "producer", None, 0),
        ("Producer_1", "producer", None, 1),
        ("Processor_main_0", "processor", "main", 0),
        ("Processor_main_1", "processor", "main", 1),
        ("Batcher_a", "batcher", "a", None),
        ("Batcher_b", "batcher", "b", None),
        ("BatchProcessor_a_0", "batch_processor", "a", 0),
        ("BatchProcessor_a_1", "batch_processor", "a", 1),
        ("BatchProcessor_b_0", "batch_processor", "b", 0),
    ]
    assert {s.name for s in found.stages} <= {thread.name for thread in stage_threads(name)}
    for idle in found.stages:
        assert (idle.waiting, idle.in_hand, idle.handled, idle.restarts) == (0, 0, 0, 0), idle
        assert (idle.busy_for, idle.age) == (None, None), idle
    assert (found.in_flight, found.handled, found.restarts) == (0, 0, 0)


def test_times_of_an_idle_pipeline(make_pipeline: Any) -> None:
    """
    ``uptime`` and ``idle_for`` grow from the start; a message that is through sets ``idle_for`` back.
    """
    pipeline = make_pipeline().start()
    first = pipeline.statistics()
    assert 0 <= first.idle_for <= first.uptime < BOUND
    later = eventually(
        lambda: (lambda found: found if found.idle_for > first.idle_for + 0.05 else None)(pipeline.statistics()),
        "time passes",
    )
    assert later.uptime > first.uptime + 0.04
    pipeline.test_message(1).receive(BOUND)
    eventually(lambda: pipeline.statistics().idle_for < later.idle_for, "a message was through")
    assert pipeline.statistics().uptime > later.uptime


# Busy


def test_busy_processor(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A processor has its chunk in hand; what else the producer handed over waits there; all of it is in flight.
    """
    feed = Feed(acks.messages(range(30)))
    pipeline = make_pipeline(
        gated(gate), producer=feeding(feed), processors={"default": {"concurrency": 1, "max_demand": 10}}
    ).start()
    gate.arrived()
    eventually(lambda: pipeline.statistics().in_flight == 10, "the demand was met")
    found = pipeline.statistics()
    processor, producer = stage(pipeline, "processor"), stage(pipeline, "producer")
    assert (processor.in_hand, producer.waiting) == (5, 5)
    assert (found.in_flight, found.handled) == (10, 0)
    assert processor.busy_for is not None
    assert processor.age is not None
    assert 0 <= processor.busy_for <= found.uptime + BOUND
    before = processor.busy_for
    eventually(lambda: stage(pipeline, "processor").busy_for > before, "time passes")
    gate.open()
    acks.collect(30)
    settled(pipeline, 30)
    assert stage(pipeline, "processor").handled == 30
    assert stage(pipeline, "producer").handled == 30
    assert (stage(pipeline, "processor").busy_for, stage(pipeline, "processor").age) == (None, None)


def test_open_batch(make_pipeline: Any, acks: Any) -> None:
    """
    What is in an open batch waits at the batcher, and ages there.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_size": 4, "batch_timeout": NEVER}}).start()
    pipeline.push_messages(acks.messages([1, 2, 3]))
    eventually(lambda: stage(pipeline, "batcher").waiting == 3, "three messages wait")
    eventually(lambda: stage(pipeline, "processor").in_hand == 0, "the processor is idle")
    batcher, found = stage(pipeline, "batcher"), pipeline.statistics()
    assert (found.in_flight, found.handled, batcher.handled) == (3, 0, 0)
    assert 0 <= batcher.age <= found.uptime
    eventually(lambda: stage(pipeline, "batcher").age > batcher.age, "time passes")
    pipeline.push_messages(acks.messages([4]))
    acks.collect(4)
    settled(pipeline, 4)
    batcher = stage(pipeline, "batcher")
    assert (batcher.waiting, batcher.age, batcher.handled) == (0, None, 4)


def test_batches_that_wait(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A batch processor has its batch in hand; batches that wait for it are at the batcher, with the age of the oldest.
    """
    pipeline = make_pipeline(
        make_handler(handle_batch=Batches(gate)), batchers={"default": {"batch_size": 2, "batch_timeout": NEVER}}
    ).start()
    pipeline.push_messages(acks.messages(range(4)))
    gate.arrived()
    eventually(lambda: stage(pipeline, "batcher").waiting == 2, "a batch waits")
    batch_processor = stage(pipeline, "batch_processor")
    assert batch_processor.in_hand == 2
    assert batch_processor.busy_for >= 0
    assert batch_processor.age >= batch_processor.busy_for
    assert stage(pipeline, "batcher").age > 0
    assert pipeline.statistics().in_flight >= 4
    gate.open()
    acks.collect(4)
    settled(pipeline, 4)
    assert stage(pipeline, "batch_processor").handled == 4


def test_age_is_that_of_the_oldest(make_pipeline: Any, acks: Any) -> None:
    """
    Of several open batches the oldest gives the age.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_batch_key(message.data)

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message), batchers={"default": {"batch_timeout": NEVER}}
    ).start()
    pipeline.push_messages(acks.messages(["old"]))
    old = eventually(lambda: stage(pipeline, "batcher").age, "an open batch")
    eventually(lambda: stage(pipeline, "batcher").age > old + 0.05, "time passes")
    pipeline.push_messages(acks.messages(["young"]))
    eventually(lambda: stage(pipeline, "batcher").waiting == 2, "two open batches")
    assert stage(pipeline, "batcher").age > old + 0.05


def test_held_back_by_the_rate_limit(make_pipeline: Any, acks: Any) -> None:
    """
    What the rate limit holds back is in flight and waits at the producer.
    """
    feed = Feed(acks.messages(range(8)))
    pipeline = make_pipeline(
        producer=feeding(feed, rate_limiting={"allowed_messages": 3, "interval": NEVER}),
        processors={"default": {"concurrency": 1, "max_demand": 8}},
        shutdown=0.2,
    ).start()
    acks.collect(3)
    eventually(lambda: stage(pipeline, "producer").waiting == 5, "five messages wait")
    eventually(lambda: pipeline.statistics().handled == 3, "three messages are through")
    assert pipeline.statistics().in_flight == 5


def test_partitions(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    With partitions, what waits for a processor that is busy waits at the producer; the other processor goes on.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == 0:
            gate.wait()
        return message

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        partition_by=lambda message: message.data,
        processors={"default": {"concurrency": 2, "max_demand": 2, "min_demand": 1}},
        batchers={"default": {"concurrency": 2, "batch_size": 2, "batch_timeout": NEVER}},
    ).start()
    pipeline.push_messages(acks.messages([0, 1, 2, 3, 4]))
    gate.arrived()
    assert sorted(acks.collect_data(2)[0]) == [1, 3]
    eventually(lambda: stage(pipeline, "batcher").handled == 2, "the batch of the second partition")
    eventually(lambda: pipeline.statistics().in_flight == 3, "the first partition is in flight")
    in_hand = {s.name.split("_")[-1]: s.in_hand for s in stages(pipeline, "processor")}
    assert in_hand["1"] == 0
    assert in_hand["0"] >= 1
    gate.open()
    eventually(lambda: stage(pipeline, "batcher").waiting == 1, "the odd one waits in an open batch")
    pipeline.stop()
    assert pipeline.statistics().handled == 5


def test_messages_that_were_emitted(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    What a producer emits from a thread of its own counts as what it returns.
    """
    made: queue.Queue[Producer] = queue.Queue()

    class Emitting(Producer):
        poll_interval = NEVER

        def init(self) -> None:
            made.put(self)

        def handle_demand(self, demand: int) -> Iterable[Message]:
            return []

    pipeline = make_pipeline(gated(gate), producer={"module": Emitting}).start()
    get(made).stage.emit(acks.messages([1, 2, 3]))
    gate.arrived()
    assert pipeline.statistics().in_flight == 3
    gate.open()
    acks.collect(3)
    settled(pipeline, 3)
    assert stage(pipeline, "producer").handled == 3


def test_pushed_messages_count(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Messages that were pushed, and those of tests, are in flight as well.
    """
    pipeline = make_pipeline(gated(gate)).start()
    pipeline.push_messages(acks.messages([1, 2]))
    reference = pipeline.test_batch([3, 4])
    gate.arrived()
    assert eventually(lambda: pipeline.statistics().in_flight == 4, "four messages in flight")
    gate.open()
    reference.collect(2, BOUND)
    settled(pipeline, 4)


def test_failed_messages_count(make_pipeline: Any, acks: Any) -> None:
    """
    A message that failed is through like any other, in the processor or in its batch.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data % 3 == 0:
            raise ValueError("x")
        return message.fail("y") if message.data % 3 == 1 else message

    def handle_batch(batcher: str, messages: Any, info: Any, context: Any) -> Any:
        raise ValueError("no batch")

    handler = make_handler(handle_message=handle_message, handle_batch=handle_batch)
    pipeline = make_pipeline(handler, batchers={"default": {"batch_size": 2}}).start()
    pipeline.push_messages(acks.messages(range(12)))
    assert len(acks.collect(12)[1]) == 12
    settled(pipeline, 12)
    assert [stage(pipeline, kind).handled for kind in KINDS[1:]] == [12, 4, 4]


def test_messages_that_a_batch_size_function_fails(make_pipeline: Any, acks: Any) -> None:
    """
    Messages on which ``batch_size`` raises are through, and in no batch.
    """

    def cut(message: Message, count: int) -> Any:
        if message.data == "bad":
            raise ValueError("x")
        return ("emit", 0) if count == 1 else ("cont", count + 1)

    options = {"batch_size": (0, cut), "max_demand": 10, "batch_timeout": NEVER}
    pipeline = make_pipeline(batchers={"default": options}).start()
    pipeline.push_messages(acks.messages([1, "bad", 2, "bad", "bad"]))
    assert acks.collect_data(5)[1] == ["bad"] * 3
    settled(pipeline, 5)
    assert stage(pipeline, "batcher").waiting == 0


def test_counts_add_up(make_pipeline: Any, acks: Any) -> None:
    """
    With many stages at work the sums are those of the messages, once all are through.
    """
    count = 1000

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_batcher("ab"[message.data % 2]) if message.data % 5 else message.fail("every fifth")

    feed = Feed(acks.messages(range(count)))
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (FeedProducer, {"feed": feed}), "concurrency": 2},
        processors={"default": {"concurrency": 3}},
        batchers={"a": {"concurrency": 2, "batch_size": 7, "batch_timeout": 0.05}, "b": {"batch_timeout": 0.05}},
    ).start()
    assert len(acks.collect(count)[0]) == count * 4 // 5
    settled(pipeline, count)
    sums = {kind: sum(s.handled for s in stages(pipeline, kind)) for kind in KINDS}
    batched = count * 4 // 5
    assert sums == {"producer": count, "processor": count, "batcher": batched, "batch_processor": batched}


def test_handled_never_decreases(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    ``handled`` counts up, also while a processor is between two batchers with what it has in hand.
    """

    def cut(message: Message, accumulator: Any) -> Any:
        gate.wait()
        return "emit", accumulator

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_batcher("ab"[message.data == "for b"])

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        batchers={
            "a": {"batch_size": 4, "batch_timeout": NEVER},
            "b": {"batch_size": (0, cut), "max_demand": 10, "batch_timeout": NEVER},
        },
    ).start()
    pipeline.push_messages(acks.messages([1, 2, 3, 4]))
    acks.collect(4)
    settled(pipeline, 4)
    pipeline.push_messages(acks.messages([5, 6, "for b"]))
    gate.arrived()
    assert pipeline.statistics().handled == 4
    gate.open()
    pipeline.push_messages(acks.messages([7, 8]))
    acks.collect(5)
    settled(pipeline, 9)


def test_asked_all_the_time(make_pipeline: Any, acks: Any) -> None:
    """
    Asked from several threads while the pipeline is at full work: always an answer, no figure below 0, counts go up.
    """
    is_over = threading.Event()
    wrong: list[Any] = []
    asked = itertools.count()

    def ask() -> None:
        before = 0
        while not is_over.is_set():
            found = pipeline.statistics()
            next(asked)
            figures = [found.in_flight, found.handled, found.uptime, found.idle_for, found.restarts]
            for one in found.stages:
                figures += [one.waiting, one.in_hand, one.handled, one.restarts, one.busy_for or 0, one.age or 0]
                if (one.busy_for is None) != (one.in_hand == 0) and one.kind == "batch_processor":
                    wrong.append(one)
            if min(figures) < 0 or found.handled < before:
                wrong.append((before, found))
            before = found.handled

    pipeline = make_pipeline(
        producer={"module": (EndlessProducer, {"acknowledger": acks})},
        processors={"default": {"concurrency": 2}},
        batchers={"default": {"concurrency": 2, "batch_size": 9, "batch_timeout": 0.05}},
    )
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    pipeline.start()
    eventually(lambda: pipeline.statistics().handled > 2000, "two thousand messages", timeout=6 * BOUND)
    pipeline.stop()
    is_over.set()
    for thread in threads:
        thread.join(BOUND)
    assert next(asked) > 10
    assert wrong == []
    assert pipeline.statistics().handled == len(acks.all_data())


def test_asked_from_a_callback(make_pipeline: Any) -> None:
    """
    Callbacks may ask, too; they find themselves at work.
    """
    found: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        found.put(pipeline.statistics())
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.test_message(1).receive(BOUND)
    statistics = get(found)
    assert statistics.in_flight == 1
    assert [s.in_hand for s in statistics.stages if s.kind == "processor"] == [1]


def test_asked_while_it_stops(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    While it drains the stages are still there, with what they have in hand.
    """
    pipeline = make_pipeline(gated(gate)).start()
    pipeline.push_messages(acks.messages([1, 2]))
    gate.arrived()
    pipeline.request_stop()
    eventually(lambda: pipeline.state == "draining", "the stop has begun")
    found = pipeline.statistics()
    assert (found.state, found.in_flight) == ("draining", 2)
    assert stage(pipeline, "processor").in_hand == 2
    gate.open()
    assert pipeline.join(BOUND)
    assert pipeline.statistics().handled == 2


# Restarts


class Crashing(Producer):
    """
    A producer that crashes as often as is left in *crashes*, with one message handed over before each crash.
    """

    def __init__(self, acks: Any, crashes: list[int]) -> None:
        self.acks = acks
        self.crashes = crashes

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Hand over one message and crash.
        """
        if not self.crashes:
            return
        number = self.crashes.pop(0)
        yield self.acks.message(number)
        raise ConnectionError(f"crash {number}")


def test_restarts_of_a_producer(make_pipeline: Any, acks: Any) -> None:
    """
    A producer that was made again says how often; its counters go on, and the pipeline's are not touched.
    """
    pipeline = make_pipeline(
        producer={"module": (Crashing, {"acks": acks, "crashes": [0, 1]})}, resubscribe_interval=0.0
    ).start()
    acks.collect(2)
    eventually(lambda: stage(pipeline, "producer").restarts == 2, "two restarts")
    found = settled(pipeline, 2)
    assert (found.restarts, stage(pipeline, "producer").handled) == (0, 2)


@pytest.mark.usefixtures("crashes_add_up")
def test_restart_of_the_pipeline(make_pipeline: Any, acks: Any) -> None:
    """
    A restart of the whole pipeline is counted, and what was handled before it still counts.
    """
    pipeline = make_pipeline(
        producer={"module": (Crashing, {"acks": acks, "crashes": list(range(4))})},
        batchers={"default": {"batch_size": 1}},
        resubscribe_interval=0.0,
        max_restarts=5,
    ).start()
    acks.collect(4)
    found = settled(pipeline, 4)
    eventually(lambda: pipeline.statistics().restarts == 1, "one restart")
    pipeline.push_messages(acks.messages([10, 11]))
    acks.collect(2)
    again = settled(pipeline, 6)
    assert (again.restarts, again.state) == (1, "running")
    assert again.uptime > found.uptime, "a restart is no start"
    pipeline.stop()
    assert pipeline.statistics().handled == 6


def test_exhausted_producer(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A producer that is exhausted stays among the stages until the end.
    """

    class Finite(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            raise EndOfStream(acks.messages([1, 2, 3]))

    pipeline = make_pipeline(gated(gate), producer={"module": Finite}).start()
    gate.arrived()
    assert stage(pipeline, "producer").handled == 3
    assert pipeline.statistics().in_flight == 3
    gate.open()
    assert pipeline.join(BOUND)
    assert pipeline.statistics().handled == 3


# Fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_a_fork(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    In a child the pipeline is new: no stages, no figures, no hanging; the parent's goes on counting.
    """
    pipeline = make_pipeline(gated(gate)).start()
    pipeline.push_messages(acks.messages([1, 2]))
    gate.arrived()

    def child() -> Any:
        found = pipeline.statistics()
        return [found.state, len(found.stages), found.in_flight, found.handled, len(pipeline.stacks())]

    assert in_child(child) == ["new", 0, 0, 0, 0]
    gate.open()
    acks.collect(2)
    settled(pipeline, 2)
