"""
The producer interface, the end of a stream, ``emit``, ``wake``, ``wait``, the transformer, and the ready-made ones.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from typing import Any, Callable, Iterable

import attrs
import pytest

import broadway_sync
from broadway_sync import (
    Buffer,
    BufferProducer,
    ConfigurationError,
    DummyProducer,
    EndOfStream,
    IterableProducer,
    Message,
    NotRunningError,
    Producer,
)
from tests.helpers import (
    BOUND,
    NEVER,
    QUIET,
    SCALE,
    Call,
    Feed,
    FeedProducer,
    Gate,
    RecordingAcknowledger,
    assert_quiet,
    eventually,
    get,
    get_many,
    make_handler,
    stage_threads,
)


class Scripted(Producer):
    """
    A producer whose callbacks are functions of the test; whatever happens is recorded on ``events``.
    """

    poll_interval = 0.02

    def __init__(self, **callbacks: Callable[..., Any]) -> None:
        self.callbacks = callbacks
        self.events: queue.Queue[Any] = callbacks.pop("events", None) or queue.Queue()  # type: ignore[assignment]

    def _call(self, name: str, default: Any, *args: Any) -> Any:
        self.events.put((name, threading.current_thread().name, args))
        return self.callbacks[name](self, *args) if name in self.callbacks else default

    def init(self) -> None:
        """
        Run the test's function.
        """
        self._call("init", None)

    def handle_demand(self, demand: int) -> Iterable[Any]:
        """
        Run the test's function.
        """
        result: Iterable[Any] = self._call("handle_demand", [], demand)
        return result

    def prepare_for_draining(self) -> Iterable[Any]:
        """
        Run the test's function.
        """
        result: Iterable[Any] = self._call("prepare_for_draining", [])
        return result

    def terminate(self, reason: Any) -> None:
        """
        Run the test's function.
        """
        self._call("terminate", None, reason)


def once(*results: Any) -> Callable[..., Any]:
    """
    Return a ``handle_demand`` that gives (or raises) these results, one a call, and then nothing.
    """
    remaining = list(results)

    def handle_demand(producer: Any, demand: int) -> Any:
        if not remaining:
            return []
        result = remaining.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    return handle_demand


def stage_events(events: queue.Queue[Any], *names: str) -> Any:
    """
    Wait for the next event with one of these names.
    """
    while True:
        event = get(events, f"one of {names}")
        if event[0] in names:
            return event


# The interface


def test_callbacks_run_on_the_producers_thread(make_pipeline: Any) -> None:
    """
    ``init``, ``handle_demand``, ``prepare_for_draining`` and ``terminate`` run on the producer's own thread.
    """
    events: queue.Queue[Any] = queue.Queue()
    with make_pipeline(name="inv", producer={"module": (Scripted, {"events": events})}):
        seen = [get(events)[:2], get(events)[:2]]
    names = ["init", "handle_demand"]
    assert seen == [(name, "inv.Broadway.Producer_0") for name in names]
    for name in ("prepare_for_draining", "terminate"):
        assert stage_events(events, name)[1] == "inv.Broadway.Producer_0"
    assert events.empty()


def test_stage_attributes(make_pipeline: Any) -> None:
    """
    From ``init`` on ``self.stage`` knows the pipeline, its own name and index, the options, and that nothing drains.
    """
    seen: queue.Queue[Any] = queue.Queue()

    def init(producer: Any) -> None:
        stage = producer.stage
        seen.put((stage.index, stage.name, stage.pipeline_name, stage.options, stage.draining))

    make_pipeline(
        name="inv", producer={"module": lambda: Scripted(init=init), "concurrency": 2}, context="context"
    ).start()
    found = sorted(get_many(seen, 2), key=lambda item: item[0])
    assert [item[:3] for item in found] == [(i, f"inv.Broadway.Producer_{i}", "inv") for i in range(2)]
    assert [item[4] for item in found] == [False, False]
    options = found[0][3]
    assert isinstance(options, broadway_sync.PipelineOptions)
    assert (options.name, options.context, options.producer.concurrency) == ("inv", "context", 2)


def test_one_instance_for_each_index(make_pipeline: Any) -> None:
    """
    ``ProducerClass(**options)`` is called once per index.
    """
    feed = Feed()
    make_pipeline(producer={"module": (FeedProducer, {"feed": feed}), "concurrency": 3}).start()
    for _ in range(3):
        get(feed.demands)
    assert len(feed.instances) == 3
    assert sorted(i.stage.index for i in feed.instances) == [0, 1, 2]


def test_subclass_without_init_methods(make_pipeline: Any, acks: Any) -> None:
    """
    A producer needs ``handle_demand`` and nothing else.
    """

    class Minimal(Producer):
        def __init__(self) -> None:
            self.messages = acks.messages(range(3))

        def handle_demand(self, demand: int) -> Iterable[Message]:
            taken, self.messages = self.messages[:demand], self.messages[demand:]
            return taken

    assert Minimal.poll_interval == 0.1
    with make_pipeline(producer={"module": (Minimal, {})}):
        assert acks.collect_data(3) == ([0, 1, 2], [])


def test_handle_demand_wants_at_least_one(make_pipeline: Any, acks: Any) -> None:
    """
    A producer is asked only while at least one message is wanted.
    """
    feed = Feed(acks.messages(range(50)))
    make_pipeline(
        producer={"module": (FeedProducer, {"feed": feed})}, processors={"default": {"concurrency": 2}}
    ).start()
    acks.collect(50)
    while not feed.demands.empty():
        assert feed.demands.get() >= 1


def test_handle_demand_may_return_a_generator(make_pipeline: Any, acks: Any) -> None:
    """
    Any iterable will do.
    """
    sent: list[int] = []

    def handle_demand(producer: Any, demand: int) -> Any:
        if not sent:
            for number in range(3):
                sent.append(number)
                yield acks.message(number)

    with make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}):
        assert acks.collect_data(3) == ([0, 1, 2], [])


def test_more_than_demanded_is_kept(make_pipeline: Any, acks: Any) -> None:
    """
    A producer may return more than was asked; nothing is dropped and nothing more is asked for until it is used up.
    """
    handle_demand = once(acks.messages(range(2000)))
    with make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}):
        assert acks.collect_data(2000) == (list(range(2000)), [])


def test_more_than_demanded_is_kept_on_stop(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    What a producer returned beyond the demand is processed by a stop, too.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    handle_demand = once(acks.messages(range(200)))
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message), producer={"module": lambda: Scripted(handle_demand=handle_demand)}
    ).start()
    gate.arrived()
    pipeline.request_stop()
    gate.open()
    assert pipeline.join(BOUND)
    assert acks.all_data() == list(range(200))


def test_asked_again_after_poll_interval(make_pipeline: Any) -> None:
    """
    A producer that returned nothing is asked again after ``poll_interval``, not before.
    """
    times: queue.Queue[float] = queue.Queue()

    class Slow(Producer):
        poll_interval = 0.1

        def handle_demand(self, demand: int) -> Iterable[Any]:
            times.put(time.monotonic())
            return []

    make_pipeline(producer={"module": Slow}).start()
    asked = get_many(times, 3)
    assert min(b - a for a, b in zip(asked, asked[1:])) >= 0.095


def test_asked_again_after_a_short_answer(make_pipeline: Any, acks: Any) -> None:
    """
    ``poll_interval`` also holds after an answer that was short of the demand.
    """
    asked: queue.Queue[int] = queue.Queue()
    messages = iter(acks.messages(range(1000)))

    class Slow(Producer):
        poll_interval = NEVER

        def handle_demand(self, demand: int) -> Iterable[Any]:
            asked.put(demand)
            return [next(messages)]

    make_pipeline(producer={"module": Slow}).start()
    assert get(asked) == 10
    assert acks.collect_data(1) == ([0], [])
    assert_quiet(asked, "the producer is to be left alone for its poll interval")


def test_wake_from_anywhere(make_pipeline: Any, acks: Any) -> None:
    """
    ``wake`` makes the runtime ask at once, whatever the poll interval.
    """
    asked: queue.Queue[Any] = queue.Queue()

    class Slow(Producer):
        poll_interval = NEVER

        def handle_demand(self, demand: int) -> Iterable[Any]:
            asked.put(self)
            return []

    make_pipeline(producer={"module": Slow}).start()
    for _ in range(5):
        get(asked).stage.wake()


def test_wake_during_handle_demand_is_not_lost(make_pipeline: Any) -> None:
    """
    A ``wake`` that comes while ``handle_demand`` still runs counts for the next time.
    """
    asked: queue.Queue[Any] = queue.Queue()

    class Slow(Producer):
        poll_interval = NEVER
        count = 0

        def handle_demand(self, demand: int) -> Iterable[Any]:
            self.count += 1
            asked.put(self.count)
            if self.count < 4:
                self.stage.wake()
            return []

    make_pipeline(producer={"module": Slow}).start()
    assert get_many(asked, 4) == [1, 2, 3, 4]
    assert_quiet(asked, "nobody woke it any more")


def test_wait_returns_early_on_wake(make_pipeline: Any) -> None:
    """
    ``stage.wait`` sleeps on the producer's thread until somebody wakes it.
    """
    waits: queue.Queue[Any] = queue.Queue()

    def handle_demand(producer: Any, demand: int) -> Any:
        waits.put(producer)
        producer.stage.wait(NEVER)
        waits.put("woken")
        return []

    pipeline = make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}).start()
    producer = get(waits)
    producer.stage.wake()
    assert get(waits) == "woken"
    pipeline.stop()


def test_wait_returns_early_on_drain(make_pipeline: Any) -> None:
    """
    ``stage.wait`` returns when a stop begins, ``stage.draining`` is true then, and what is returned is still processed.
    """
    acks = RecordingAcknowledger()
    waits: queue.Queue[Any] = queue.Queue()

    def handle_demand(producer: Any, demand: int) -> Any:
        waits.put(producer.stage.draining)
        producer.stage.wait(NEVER)
        waits.put(producer.stage.draining)
        return acks.messages(range(3))

    pipeline = make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}, shutdown=60).start()
    assert get(waits) is False
    pipeline.stop()
    assert get(waits) is True
    assert acks.all_data() == [0, 1, 2]


def test_wait_times_out(make_pipeline: Any) -> None:
    """
    ``stage.wait`` returns after its seconds if nothing happens.
    """
    waits: queue.Queue[float] = queue.Queue()

    def handle_demand(producer: Any, demand: int) -> Any:
        before = time.monotonic()
        producer.stage.wait(0.05)
        waits.put(time.monotonic() - before)
        return []

    make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}).start()
    assert get(waits) >= 0.045


def test_init_that_takes_its_time(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    ``start`` does not wait for ``init``; what is pushed meanwhile is handled, and demand comes after it.
    """
    events: queue.Queue[Any] = queue.Queue()
    pipeline = make_pipeline(
        producer={"module": lambda: Scripted(events=events, init=lambda producer: gate.wait())}
    ).start()
    gate.arrived()
    assert pipeline.state == "running"
    pipeline.push_messages(acks.messages(range(3)))
    assert acks.collect_data(3) == ([0, 1, 2], [])
    assert get(events)[0] == "init"
    assert events.empty()
    gate.open()
    assert get(events)[0] == "handle_demand"


def test_init_that_never_returns(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A stop waits for ``init`` no longer than ``shutdown``, and what the pipeline was given is acknowledged.
    """
    pipeline = make_pipeline(
        producer={"module": lambda: Scripted(init=lambda producer: gate.wait())}, shutdown=1.0 * SCALE
    ).start()
    gate.arrived()
    pipeline.push_messages(acks.messages(range(3)))
    before = time.monotonic()
    try:
        pipeline.stop()
    except broadway_sync.DrainTimeoutError as error:
        assert "Producer_0" in str(error)
    assert time.monotonic() - before < BOUND
    assert acks.all_data() == [0, 1, 2]
    assert pipeline.state == "stopped"


def test_emit_of_a_crashed_instance(make_pipeline: Any, acks: Any) -> None:
    """
    A client thread of an instance that has crashed meanwhile loses nothing: ``emit`` delivers, or raises.
    """
    feed = Feed()
    pipeline = make_pipeline(
        producer={"module": (FeedProducer, {"feed": feed})}, resubscribe_interval=0.01
    ).start()
    get(feed.demands)
    old = feed.instances[0].stage
    feed.put(RuntimeError("crash"))
    eventually(lambda: len(feed.instances) == 2 and feed.instances[1].started, "a second instance")
    accepted = []
    for number in range(5):
        try:
            old.emit(acks.messages([number]))
        except NotRunningError:
            continue
        accepted.append(number)
    pipeline.stop()
    assert acks.all_data() == accepted


# The end of a stream


def test_end_of_stream(make_pipeline: Any, acks: Any) -> None:
    """
    ``EndOfStream(messages)`` ends the pipeline after its last messages: they are handled, ``terminate`` comes last.
    """
    events: queue.Queue[Any] = queue.Queue()
    handle_demand = once(acks.messages([0, 1]), EndOfStream(acks.messages([2, 3])))

    def terminate(producer: Any, reason: Any) -> None:
        events.put(("acknowledged", sorted(acks.all_data()), ()))

    pipeline = make_pipeline(
        producer={"module": lambda: Scripted(events=events, handle_demand=handle_demand, terminate=terminate)},
        batchers={"default": {"batch_timeout": NEVER}},
    ).start()
    assert pipeline.join(BOUND) is True
    assert stage_events(events, "acknowledged")[1] == [0, 1, 2, 3]
    assert events.empty()
    assert pipeline.state == "stopped"


def test_end_of_stream_is_final(make_pipeline: Any, acks: Any) -> None:
    """
    After ``EndOfStream`` a producer is not asked again, and the pipeline goes on while another producer does.
    """
    first, second = Feed(acks.messages([0]), closed=True), Feed()
    feeds = [first, second]
    pipeline = make_pipeline(
        producer={"module": lambda: FeedProducer(feeds.pop()), "concurrency": 2}, shutdown=BOUND
    ).start()
    assert acks.collect_data(1) == ([0], [])
    get(second.demands)
    second.put(acks.message(1))
    assert acks.collect_data(1) == ([1], [])
    assert first.demands.qsize() == 1
    assert pipeline.state == "running"
    assert pipeline.join(0) is False
    second.close()
    assert pipeline.join(BOUND) is True


def test_natural_end_does_not_prepare_for_draining(make_pipeline: Any) -> None:
    """
    A natural end does not call ``prepare_for_draining``.
    """
    feed = Feed(closed=True)
    assert make_pipeline(producer={"module": (FeedProducer, {"feed": feed})}).start().join(BOUND)
    assert [feed.calls.get(timeout=BOUND)[0] for _ in range(3)] == ["new", "init", "terminate"]
    assert feed.calls.empty()


def test_natural_end_has_no_deadline(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A handler may take longer than ``shutdown`` for the last messages of a stream.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (FeedProducer, {"feed": Feed(acks.messages([1]), closed=True)})},
        shutdown=0.01,
    ).start()
    gate.arrived()
    assert pipeline.join(QUIET) is False
    gate.open()
    assert pipeline.join(BOUND) is True
    assert acks.all_data() == [1]


def test_push_into_an_exhausted_pipeline_is_never_lost(make_pipeline: Any, acks: Any) -> None:
    """
    A push that meets the natural end is either handled or refused.
    """
    for _ in range(20):
        accepted = []
        pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": []})}).start()
        for number in itertools.count():
            try:
                pipeline.push_messages(acks.messages([number]))
            except NotRunningError:
                break
            accepted.append(number)
        assert pipeline.join(BOUND)
        assert sorted(acks.all_data()) == accepted
        acks.acks.clear()


# Stop and terminate


def test_messages_from_prepare_for_draining(make_pipeline: Any, acks: Any) -> None:
    """
    What ``prepare_for_draining`` returns is still processed; ``terminate`` comes after all was acknowledged.
    """
    order: queue.Queue[Any] = queue.Queue()

    def prepare_for_draining(producer: Any) -> Any:
        order.put(("prepare", producer.stage.draining))
        return acks.messages(range(30))

    def terminate(producer: Any, reason: Any) -> None:
        order.put(("terminate", acks.all_data()))

    with make_pipeline(
        producer={"module": lambda: Scripted(prepare_for_draining=prepare_for_draining, terminate=terminate)},
        batchers={"default": {"batch_timeout": NEVER}},
    ):
        pass
    assert get(order) == ("prepare", True)
    assert get(order) == ("terminate", list(range(30)))


def test_no_demand_after_a_stop_began(make_pipeline: Any) -> None:
    """
    Once a stop has begun a producer is asked no more.
    """
    feed = Feed()
    with make_pipeline(producer={"module": (FeedProducer, {"feed": feed})}):
        get(feed.demands)
    names = [feed.calls.get(timeout=BOUND)[0] for _ in range(4)]
    assert names == ["new", "init", "prepare_for_draining", "terminate"]


def test_answer_of_handle_demand_while_a_stop_begins(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    What ``handle_demand`` returns while a stop begins is still processed.
    """
    asked: list[int] = []

    def handle_demand(producer: Any, demand: int) -> Any:
        asked.append(demand)
        gate.wait()
        return acks.messages(range(5))

    pipeline = make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}).start()
    gate.arrived()
    pipeline.request_stop()
    eventually(lambda: pipeline.state == "draining", "draining")
    gate.open()
    assert pipeline.join(BOUND)
    assert acks.all_data() == [0, 1, 2, 3, 4]
    assert len(asked) == 1


def test_end_of_stream_while_a_stop_begins(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    The last messages of a stream that ends while a stop begins are processed, too.
    """

    def handle_demand(producer: Any, demand: int) -> Any:
        gate.wait()
        raise EndOfStream(acks.messages(range(5)))

    pipeline = make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}).start()
    gate.arrived()
    pipeline.request_stop()
    gate.open()
    assert pipeline.join(BOUND)
    assert acks.all_data() == [0, 1, 2, 3, 4]


def test_producer_that_raises_while_draining(make_pipeline: Any, acks: Any) -> None:
    """
    A producer whose ``prepare_for_draining`` and ``terminate`` raise does not keep the pipeline from ending.
    """

    def broken(producer: Any, *args: Any) -> Any:
        raise RuntimeError("broken")

    pipeline = make_pipeline(
        producer={"module": lambda: Scripted(prepare_for_draining=broken, terminate=broken)}
    ).start()
    pipeline.push_messages(acks.messages(range(12)))
    pipeline.stop()
    assert acks.all_data() == list(range(12))
    assert pipeline.state == "stopped"


# push_messages and a blocked producer


def test_push_passes_a_long_poll(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Pushed messages are handled at once, also while the producer sits in a long poll.
    """

    def handle_demand(producer: Any, demand: int) -> Any:
        gate.wait()
        return []

    pipeline = make_pipeline(producer={"module": lambda: Scripted(handle_demand=handle_demand)}).start()
    gate.arrived()
    pipeline.push_messages(acks.messages(range(20)))
    assert acks.collect_data(20) == (list(range(20)), [])


def test_push_passes_the_transformer(make_pipeline: Any, acks: Any) -> None:
    """
    Pushed messages are not transformed.
    """

    def transformer(event: Any) -> Message:
        raise AssertionError("not for pushed messages")

    pipeline = make_pipeline(producer={"module": DummyProducer, "transformer": transformer}).start()
    pipeline.push_messages(acks.messages([1]))
    assert acks.collect_data(1) == ([1], [])


# emit


def emitting(make_pipeline: Any, handler: Any = None, buffer_size: int = 3, **options: Any) -> tuple[Any, Any]:
    """
    Start a pipeline whose producer does nothing by itself; return it and the producer's stage.
    """
    started: queue.Queue[Any] = queue.Queue()

    class Pushing(Producer):
        poll_interval = NEVER

        def init(self) -> None:
            started.put(self.stage)

        def handle_demand(self, demand: int) -> Iterable[Any]:
            return []

    Pushing.buffer_size = buffer_size
    producer = {"module": Pushing, **options.pop("producer", {})}
    pipeline = make_pipeline(handler, producer=producer, **options).start()
    return pipeline, get(started)


def test_buffer_size_default() -> None:
    """
    The default of ``buffer_size`` is 1000.
    """
    assert Producer.buffer_size == 1000


def test_emit(make_pipeline: Any, acks: Any) -> None:
    """
    Messages emitted by any thread are handled, in order.
    """
    _, stage = emitting(make_pipeline)
    stage.emit(acks.messages([0, 1]))
    Call(stage.emit, acks.messages([2])).result()
    assert acks.collect_data(3) == ([0, 1, 2], [])


def test_emit_blocks_while_the_buffer_is_full(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    ``emit`` blocks while ``buffer_size`` messages wait, and goes on when there is room.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    _, stage = emitting(
        make_pipeline,
        make_handler(handle_message=handle_message),
        processors={"default": {"concurrency": 1, "max_demand": 2}},
    )
    emitted: queue.Queue[int] = queue.Queue()

    def emit_all() -> None:
        for number in range(50):
            stage.emit(acks.messages([number]))
            emitted.put(number)

    call = Call(emit_all)
    gate.arrived()
    count = 0
    while True:
        try:
            emitted.get(timeout=QUIET)
            count += 1
        except queue.Empty:
            break
    # Three wait in the buffer, the processor holds one, and may have been given the other one that it demanded.
    assert count in (4, 5)
    assert not call.is_done()
    gate.open()
    call.result()
    assert acks.collect_data(50) == (list(range(50)), [])


def test_emit_of_more_than_the_buffer_holds(make_pipeline: Any, acks: Any) -> None:
    """
    One ``emit`` may carry more messages than the buffer holds.
    """
    _, stage = emitting(make_pipeline)
    Call(stage.emit, acks.messages(range(100))).result()
    assert acks.collect_data(100) == (list(range(100)), [])


def test_emit_from_many_threads(make_pipeline: Any, acks: Any) -> None:
    """
    Concurrent calls of ``emit`` lose nothing and keep the order of each thread.
    """
    _, stage = emitting(make_pipeline)

    def emit(start: int) -> None:
        for number in range(start, start + 100):
            stage.emit(acks.messages([number]))

    for call in [Call(emit, 100 * n) for n in range(4)]:
        call.result()
    ok, _ = acks.collect_data(400)
    assert sorted(ok) == list(range(400))
    for n in range(4):
        assert [d for d in ok if d // 100 == n] == list(range(100 * n, 100 * n + 100))


def test_emit_while_draining(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Once the stage drains ``emit`` raises ``NotRunningError``; what was accepted before is processed.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline, stage = emitting(make_pipeline, make_handler(handle_message=handle_message))
    stage.emit(acks.messages([1]))
    gate.arrived()
    pipeline.request_stop()
    eventually(lambda: stage.draining, "the stage drains")
    with pytest.raises(NotRunningError):
        stage.emit(acks.messages([2]))
    gate.open()
    assert pipeline.join(BOUND)
    assert acks.all_data() == [1]
    with pytest.raises(NotRunningError):
        stage.emit(acks.messages([3]))


def test_blocked_emit_ends_with_the_drain(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    An ``emit`` that is blocked when the stop begins does not hang: it raises ``NotRunningError``.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline, stage = emitting(make_pipeline, make_handler(handle_message=handle_message), buffer_size=1)
    accepted: list[int] = []

    def emit_all() -> None:
        for number in itertools.count():
            stage.emit(acks.messages([number]))
            accepted.append(number)

    call = Call(emit_all)
    gate.arrived()
    last = -1
    while last != len(accepted):
        last = len(accepted)
        gate.assert_nobody("the processor is busy")
    pipeline.request_stop()
    with pytest.raises(NotRunningError):
        call.result()
    gate.open()
    assert pipeline.join(BOUND)
    assert acks.all_data() == accepted


def test_emit_race_with_stop(make_pipeline: Any, acks: Any) -> None:
    """
    Whatever ``emit`` accepted before it raised is acknowledged.
    """
    for _ in range(20):
        pipeline, stage = emitting(make_pipeline, batchers={"default": {"batch_timeout": NEVER}})
        accepted: list[int] = []

        def emit_all(stage: Any = stage, accepted: list[int] = accepted) -> None:
            for number in itertools.count():
                stage.emit(acks.messages([number]))
                accepted.append(number)

        call = Call(emit_all)
        eventually(lambda accepted=accepted: len(accepted) > 5, "some emitted")
        pipeline.stop()
        with pytest.raises(NotRunningError):
            call.result()
        assert acks.all_data() == accepted
        acks.acks.clear()


@pytest.mark.parametrize("foreign", ["text", None, 5, {"data": 1}], ids=repr)
def test_emit_of_something_else(make_pipeline: Any, acks: Any, foreign: Any) -> None:
    """
    Emitting what is no message, without a transformer, is a ``TypeError`` for the caller and for nobody else.
    """
    pipeline, stage = emitting(make_pipeline)
    with pytest.raises(TypeError, match="Message"):
        stage.emit([acks.message(0), foreign])
    stage.emit([acks.message(1)])
    eventually(lambda: 1 in acks.all_data(), "the good message is handled")
    assert pipeline.state == "running"


def test_emit_with_transformer(make_pipeline: Any, acks: Any) -> None:
    """
    Emitted events pass through the transformer.
    """
    _, stage = emitting(make_pipeline, producer={"transformer": lambda event: acks.message(event * 2)})
    stage.emit([1, 2])
    assert acks.collect_data(2) == ([2, 4], [])


def test_emit_on_the_producers_own_thread(make_pipeline: Any, acks: Any) -> None:
    """
    A producer may emit from its own callbacks.
    """

    def init(producer: Any) -> None:
        producer.stage.emit(acks.messages([0]))

    def handle_demand(producer: Any, demand: int) -> Any:
        if not done:
            done.append(1)
            producer.stage.emit(acks.messages([1, 2]))
            return acks.messages([3])
        return []

    done: list[int] = []
    make_pipeline(producer={"module": lambda: Scripted(init=init, handle_demand=handle_demand)}).start()
    assert acks.collect_data(4) == ([0, 1, 2, 3], [])


# Transformer


def test_transformer(make_pipeline: Any, acks: Any) -> None:
    """
    The transformer runs for each event, also for those of ``prepare_for_draining`` and ``EndOfStream``.
    """
    handle_demand = once(["a"], ["b", "c"])
    pipeline = make_pipeline(
        producer={
            "module": lambda: Scripted(handle_demand=handle_demand, prepare_for_draining=lambda p: ["d"]),
            "transformer": lambda event: acks.message(event.upper()),
        },
    ).start()
    assert acks.collect_data(3) == (["A", "B", "C"], [])
    pipeline.stop()
    assert acks.collect_data(1) == (["D"], [])
    ending = make_pipeline(
        producer={
            "module": lambda: Scripted(handle_demand=once(EndOfStream(["e"]))),
            "transformer": lambda event: acks.message(event.upper()),
        },
    ).start()
    assert ending.join(BOUND)
    assert acks.collect_data(1) == (["E"], [])


def no_message(event: Any) -> Any:
    """
    A transformer that forgets what it is for.
    """
    return acks_message(event) if event != "bad" else None


def acks_message(event: Any) -> Message:
    """
    Return a message with the acknowledger that the event carries.
    """
    data, acknowledger = event
    message: Message = acknowledger.message(data)
    return message


def test_transformer_that_goes_wrong(make_pipeline: Any, acks: Any) -> None:
    """
    A transformer that raises or returns no message is an error of the producer: it restarts, earlier messages stay.
    """

    def raise_for_bad(event: Any) -> Message:
        if event == "bad":
            raise ValueError("not to be transformed")
        return acks_message(event)

    for transformer in (no_message, raise_for_bad):
        feed = Feed([(0, acks)])
        pipeline = make_pipeline(
            producer={"module": (FeedProducer, {"feed": feed}), "transformer": transformer}, resubscribe_interval=0.01
        ).start()
        assert acks.collect_data(1) == ([0], [])
        feed.put("bad")
        eventually(lambda feed=feed: len(feed.instances) == 2, "a second producer")
        feed.put((1, acks))
        assert acks.collect_data(1) == ([1], [])
        assert pipeline.state == "running"
        pipeline.stop()


@pytest.mark.parametrize("foreign", ["text", None, 5, ["nested"]], ids=repr)
def test_producer_of_something_else(make_pipeline: Any, acks: Any, foreign: Any) -> None:
    """
    An event that is no message, without a transformer, crashes the producer, wherever it stands in the answer.
    """
    feed = Feed()
    pipeline = make_pipeline(
        producer={"module": (FeedProducer, {"feed": feed})}, resubscribe_interval=0.01
    ).start()
    eventually(lambda: feed.instances, "a producer")
    feed.put(acks.message(0), foreign)
    eventually(lambda: len(feed.instances) == 2, "a second producer")
    feed.put(acks.message(1))
    eventually(lambda: 1 in acks.all_data(), "the restarted producer works")
    assert pipeline.state == "running"


# prepare_for_start


class Child:
    """
    Something that lives around the producers.
    """

    def __init__(self, name: str, order: list[Any], broken: str = "") -> None:
        self.name = name
        self.order = order
        self.broken = broken

    def start(self) -> None:
        """
        Record the start.
        """
        self.order.append(("start", self.name))
        if self.broken == "start":
            raise ConnectionError(self.name)

    def stop(self) -> None:
        """
        Record the stop.
        """
        self.order.append(("stop", self.name))
        if self.broken == "stop":
            raise ConnectionError(self.name)


def preparing(prepare: Callable[..., Any], order: list[Any]) -> type[Producer]:
    """
    Return a producer class with this ``prepare_for_start``.
    """

    class Preparing(Producer):
        def __init__(self, **options: Any) -> None:
            order.append("new")

        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            order.append("prepare")
            return prepare(handler, options)

        def handle_demand(self, demand: int) -> Iterable[Any]:
            return []

        def terminate(self, reason: Any) -> None:
            order.append("terminate")

    return Preparing


def test_prepare_for_start(make_pipeline: Any) -> None:
    """
    Its children start before the producers and stop after them, in reverse order; again at each start.
    """
    order: list[Any] = []
    threads: list[Any] = []
    handlers: list[Any] = []

    def prepare(handler: Any, options: Any) -> Any:
        threads.append(threading.current_thread())
        handlers.append(handler)
        assert isinstance(options, broadway_sync.PipelineOptions)
        return [Child("a", order), Child("b", order)], options

    handler = make_handler()
    pipeline = make_pipeline(handler, producer={"module": (preparing(prepare, order), {})})
    assert order == []
    expected = ["prepare", ("start", "a"), ("start", "b"), "new", "terminate", ("stop", "b"), ("stop", "a")]
    for _ in range(2):
        pipeline.start()
        eventually(lambda: "new" in order, "the producer is made")
        pipeline.stop()
        assert order == expected
        order.clear()
    assert threads == [threading.current_thread()] * 2
    assert handlers == [handler] * 2


def test_prepare_for_start_may_change_the_options(make_pipeline: Any, acks: Any) -> None:
    """
    The pipeline runs with the options that ``prepare_for_start`` returned.
    """

    def prepare(handler: Any, options: Any) -> Any:
        processors = {k: attrs.evolve(v, concurrency=3) for k, v in options.processors.items()}
        producer = attrs.evolve(options.producer, concurrency=2)
        return [], attrs.evolve(options, context="changed", processors=processors, producer=producer)

    contexts: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        contexts.put(context)
        return message

    order: list[Any] = []
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        name="inv",
        producer={"module": (preparing(prepare, order), {})},
    ).start()
    pipeline.push_messages(acks.messages([1]))
    assert get(contexts) == "changed"
    names = {t.name for t in stage_threads("inv")}
    assert {f"inv.Broadway.Processor_default_{i}" for i in range(3)} <= names
    assert {f"inv.Broadway.Producer_{i}" for i in range(2)} <= names


def test_prepare_for_start_of_a_factory(make_pipeline: Any) -> None:
    """
    A factory that has the attribute is asked, too.
    """
    order: list[Any] = []

    def prepare(handler: Any, options: Any) -> Any:
        order.append("prepare")
        return [Child("a", order)], options

    def factory() -> Producer:
        return DummyProducer()

    factory.prepare_for_start = prepare  # type: ignore[attr-defined]
    with make_pipeline(producer={"module": factory}):
        assert order == ["prepare", ("start", "a")]
    assert order[-1] == ("stop", "a")


def test_prepare_for_start_that_raises(make_pipeline: Any) -> None:
    """
    What it raises leaves ``start``; no thread is left, the name is free, and the pipeline may be started again.
    """
    order: list[Any] = []
    broken = [True]

    def prepare(handler: Any, options: Any) -> Any:
        if broken:
            broken.pop()
            raise ConnectionError("cannot prepare")
        return [], options

    pipeline = make_pipeline(name="inv", producer={"module": (preparing(prepare, order), {})})
    with pytest.raises(ConnectionError, match="cannot prepare"):
        pipeline.start()
    assert stage_threads("inv") == []
    assert broadway_sync.all_running() == []
    pipeline.start()
    assert pipeline.state == "running"


@pytest.mark.parametrize("wrong", [None, 5, [], ([],), ([], {}, 1), ([], None)], ids=repr)
def test_prepare_for_start_that_returns_something_else(make_pipeline: Any, wrong: Any) -> None:
    """
    A wrong return is an error of ``start`` that names ``prepare_for_start``; nothing is left behind.
    """
    pipeline = make_pipeline(name="inv", producer={"module": (preparing(lambda h, o: wrong, []), {})})
    with pytest.raises((broadway_sync.BroadwayError, TypeError, ValueError), match="prepare_for_start"):
        pipeline.start()
    assert stage_threads("inv") == []
    assert broadway_sync.all_running() == []


def test_child_that_does_not_start(make_pipeline: Any) -> None:
    """
    When a child raises at its start, those before it are stopped and ``start`` raises.
    """
    order: list[Any] = []

    def prepare(handler: Any, options: Any) -> Any:
        return [Child("a", order), Child("b", order, "start"), Child("c", order)], options

    pipeline = make_pipeline(name="inv", producer={"module": (preparing(prepare, order), {})})
    with pytest.raises(ConnectionError, match="b"):
        pipeline.start()
    assert [event for event in order if event != ("stop", "b")] == [
        "prepare",
        ("start", "a"),
        ("start", "b"),
        ("stop", "a"),
    ]
    assert stage_threads("inv") == []
    assert broadway_sync.all_running() == []


def test_child_that_does_not_stop(make_pipeline: Any) -> None:
    """
    When a child raises at its stop, the others are stopped all the same.
    """
    order: list[Any] = []

    def prepare(handler: Any, options: Any) -> Any:
        return [Child("a", order), Child("b", order, "stop")], options

    pipeline = make_pipeline(producer={"module": (preparing(prepare, order), {})}).start()
    pipeline.stop()
    assert order[-2:] == [("stop", "b"), ("stop", "a")]
    assert pipeline.state == "stopped"


# IterableProducer


def iterable(items: Any, **options: Any) -> dict[str, Any]:
    """
    Return the options of a pipeline over *items*.
    """
    return {"producer": {"module": (IterableProducer, {"iterable": items}), **options}}


def test_iterable_producer(make_pipeline: Any, acks: Any) -> None:
    """
    It hands out messages from anything iterable and ends the pipeline when that is exhausted.
    """
    for items in (acks.messages(range(23)), iter(acks.messages(range(23))), (acks.message(n) for n in range(23))):
        pipeline = make_pipeline(**iterable(items)).start()
        assert pipeline.join(BOUND)
        assert acks.collect_data(23) == (list(range(23)), [])
        assert pipeline.state == "stopped"


def test_iterable_producer_with_transformer(make_pipeline: Any, acks: Any) -> None:
    """
    With a transformer it hands out any items.
    """
    pipeline = make_pipeline(**iterable(range(23), transformer=acks.message)).start()
    assert pipeline.join(BOUND)
    assert acks.all_data() == list(range(23))


def test_iterable_producer_without_end(make_pipeline: Any, acks: Any) -> None:
    """
    An endless iterable is read only as far as there is demand, and a stop acknowledges all that was read.
    """
    numbers = itertools.count()
    pipeline = make_pipeline(**iterable(numbers, transformer=acks.message)).start()
    eventually(lambda: len(acks.all_data()) > 100, "some messages")
    pipeline.stop()
    assert acks.all_data() == list(range(next(numbers)))


def test_iterable_producer_takes_one_only() -> None:
    """
    A concurrency other than 1 is refused by the constructor.
    """
    with pytest.raises(ConfigurationError, match="concurrency"):
        broadway_sync.Pipeline(
            make_handler(), name="x", processors={"default": {}}, **iterable([1], concurrency=2)
        )


@pytest.mark.parametrize("options", [{}, {"iterable": 5}, {"iterable": [], "size": 1}], ids=repr)
def test_iterable_producer_options(options: Any) -> None:
    """
    What cannot be iterated, a missing or a foreign option is refused by the constructor.
    """
    with pytest.raises(ConfigurationError):
        broadway_sync.Pipeline(
            make_handler(), name="x", producer={"module": (IterableProducer, options)}, processors={"default": {}}
        )


def test_iterable_producer_goes_on_after_a_crash(make_pipeline: Any, acks: Any) -> None:
    """
    After a crash it goes on with its iterator: no item comes twice.
    """
    crashed: list[int] = []

    def transformer(item: int) -> Message:
        if item == 30 and not crashed:
            crashed.append(item)
            raise ValueError("just once")
        return acks.message(item)

    pipeline = make_pipeline(
        **iterable(range(100), transformer=transformer), resubscribe_interval=0.01
    ).start()
    assert pipeline.join(BOUND)
    data = acks.all_data()
    assert crashed == [30]
    assert len(data) == len(set(data))
    assert set(range(20)) <= set(data)
    assert set(range(50, 100)) <= set(data)


def test_iterable_that_raises(make_pipeline: Any, acks: Any) -> None:
    """
    An iterator that raises once crashes its producer; what it gave before is handled, and it is asked on.
    """

    class Flaky:
        def __init__(self) -> None:
            self.next = 0
            self.raised = False

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Message:
            if self.next == 7 and not self.raised:
                self.raised = True
                raise OSError("a bad sector")
            if self.next == 20:
                raise StopIteration
            self.next += 1
            message: Message = acks.message(self.next - 1)
            return message

    pipeline = make_pipeline(**iterable(Flaky()), resubscribe_interval=0.01).start()
    assert pipeline.join(BOUND)
    assert sorted(acks.all_data()) == list(range(20))


# BufferProducer


def buffered(buffer: Buffer, **options: Any) -> dict[str, Any]:
    """
    Return the options of a pipeline behind *buffer*.
    """
    return {"producer": {"module": (BufferProducer, {"buffer": buffer}), **options}}


def test_buffer_producer(make_pipeline: Any, acks: Any) -> None:
    """
    Any thread pushes data with metadata and an acknowledger; ``close`` ends the pipeline once the buffer is empty.
    """
    buffer = Buffer(maxsize=100)
    pipeline = make_pipeline(**buffered(buffer)).start()
    for number in range(250):
        buffer.push(number, metadata={"n": number}, acknowledger=acks.init())
    buffer.close()
    assert pipeline.join(BOUND) is True
    messages = [m for ack in acks.acks for m in ack.successful]
    assert [(m.data, m.metadata) for m in messages] == [(n, {"n": n}) for n in range(250)]


def test_buffer_push_is_handled_at_once(make_pipeline: Any, acks: Any) -> None:
    """
    A push wakes the producer, which never polls.
    """
    assert BufferProducer.poll_interval == math.inf
    buffer = Buffer()
    handled: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        handled.put((message.data, message.metadata))
        return message

    make_pipeline(make_handler(handle_message=handle_message), **buffered(buffer)).start()
    for number in range(50):
        buffer.push(number)
        assert get(handled) == (number, {})


def test_buffer_is_full(make_pipeline: Any, acks: Any) -> None:
    """
    A full buffer blocks the push, also while no pipeline runs; with a timeout it is a ``TimeoutError``.
    """
    buffer = Buffer(maxsize=2)
    buffer.push(0, acknowledger=acks.init())
    buffer.push(1, acknowledger=acks.init(), timeout=0)
    with pytest.raises(TimeoutError):
        buffer.push(2, acknowledger=acks.init(), timeout=0.01)
    with pytest.raises(TimeoutError):
        buffer.push(2, acknowledger=acks.init(), timeout=0)
    call = Call(buffer.push, 3, acknowledger=acks.init())
    assert not call.is_done()
    make_pipeline(**buffered(buffer)).start()
    call.result()
    assert acks.collect_data(3) == ([0, 1, 3], [])


def test_buffer_default_size() -> None:
    """
    A buffer holds 100 unless said otherwise.
    """
    buffer = Buffer()
    for number in range(100):
        buffer.push(number, timeout=0)
    with pytest.raises(TimeoutError):
        buffer.push(100, timeout=0)


def test_buffer_is_closed(make_pipeline: Any, acks: Any) -> None:
    """
    After ``close`` a push is a ``NotRunningError``, a blocked one too; closing twice is nothing.
    """
    buffer = Buffer(maxsize=1)
    buffer.push(0, acknowledger=acks.init())
    call = Call(buffer.push, 1, acknowledger=acks.init())
    buffer.close()
    buffer.close()
    with pytest.raises(NotRunningError):
        call.result()
    with pytest.raises(NotRunningError):
        buffer.push(2)
    pipeline = make_pipeline(**buffered(buffer)).start()
    assert pipeline.join(BOUND)
    assert acks.all_data() == [0]


def test_buffer_serves_several_producers(make_pipeline: Any, acks: Any) -> None:
    """
    Several producers on one buffer hand out each message once, and all end when it is closed.
    """
    buffer = Buffer(maxsize=10)
    pipeline = make_pipeline(**buffered(buffer, concurrency=3), processors={"default": {"concurrency": 2}}).start()
    for number in range(200):
        buffer.push(number, acknowledger=acks.init())
    buffer.close()
    assert pipeline.join(BOUND)
    assert sorted(acks.all_data()) == list(range(200))


def test_buffer_outlives_a_restart_of_the_producer(make_pipeline: Any, acks: Any) -> None:
    """
    What waits in the buffer is not lost when its producer crashes.
    """
    crash = [True]

    def transformer(event: Any) -> Message:
        if crash:
            crash.pop()
            raise ValueError("just once")
        message: Message = event
        return message

    buffer = Buffer(maxsize=500)
    for number in range(300):
        buffer.push(number, acknowledger=acks.init())
    buffer.close()
    pipeline = make_pipeline(**buffered(buffer, transformer=transformer), resubscribe_interval=0.01).start()
    assert pipeline.join(BOUND)
    data = acks.all_data()
    assert len(data) == len(set(data))
    assert set(range(10, 300)) <= set(data)


def test_buffer_outlives_a_stop(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    What was pushed is handled exactly once across a stop and the next start.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    buffer = Buffer(maxsize=500)
    pipeline = make_pipeline(make_handler(handle_message=handle_message), **buffered(buffer)).start()
    for number in range(300):
        buffer.push(number, acknowledger=acks.init())
    gate.arrived()
    pipeline.request_stop()
    gate.open()
    assert pipeline.join(BOUND)
    pipeline.start()
    buffer.close()
    assert pipeline.join(BOUND)
    assert sorted(acks.all_data()) == list(range(300))


def test_dummy_producer_produces_nothing(make_pipeline: Any, gate: Gate) -> None:
    """
    ``DummyProducer`` produces nothing and runs until it is stopped.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait(message)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    gate.assert_nobody("a dummy produces nothing")
    assert pipeline.state == "running"
