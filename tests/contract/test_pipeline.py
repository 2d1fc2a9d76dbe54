"""
The pipeline itself: constructor, lifecycle, ``with``, ``join``, state, names, registry.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
from typing import Any

import pytest

import broadway_sync
from broadway_sync import (
    AlreadyStartedError,
    DummyProducer,
    IterableProducer,
    Message,
    NoopAcknowledger,
    NotRunningError,
    Pipeline,
    PipelineFailedError,
    Producer,
)
from tests.helpers import BOUND, QUIET, Call, eventually, get, make_handler, stage_threads, unique_name


class CrashingProducer(Producer):
    """
    A producer that cannot even start.
    """

    def handle_demand(self, demand: int) -> list[Message]:
        """
        Crash.
        """
        raise RuntimeError("the broker is gone")


def crashing_options() -> dict[str, Any]:
    """
    Return the options of a pipeline that gives up at once.
    """
    return {"producer": {"module": (CrashingProducer, {})}, "max_restarts": 0, "resubscribe_interval": 0}


# The constructor


def test_constructor_starts_nothing(make_pipeline: Any) -> None:
    """
    Making a pipeline starts no thread and registers no name.
    """
    before = set(threading.enumerate())
    pipeline = make_pipeline()
    assert set(threading.enumerate()) <= before
    assert pipeline.state == "new"
    assert broadway_sync.all_running() == []


def test_unknown_keyword_is_a_type_error() -> None:
    """
    An unknown keyword of the constructor is a ``TypeError``, as for every Python function.
    """
    with pytest.raises(TypeError, match="concurrency"):
        Pipeline(
            make_handler(),
            name="x",
            producer={"module": (DummyProducer, {})},
            processors={"default": {}},
            concurrency=3,  # type: ignore[call-arg]
        )


@pytest.mark.parametrize("missing", ["name", "producer", "processors"])
def test_required_options(missing: str) -> None:
    """
    Name, producer and processors have no default.
    """
    options: dict[str, Any] = {
        "name": "x",
        "producer": {"module": (DummyProducer, {})},
        "processors": {"default": {}},
    }
    del options[missing]
    with pytest.raises(TypeError, match=missing):
        Pipeline(make_handler(), **options)


def test_options_are_keywords_only() -> None:
    """
    Only the handler is positional.
    """
    with pytest.raises(TypeError):
        Pipeline(make_handler(), "x", {"module": (DummyProducer, {})}, {"default": {}})  # type: ignore[misc]


def test_defaults(make_pipeline: Any) -> None:
    """
    The options that the table gives a default have it.
    """
    seen: list[Any] = []

    class Peeking(DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            seen.append(options)
            return [], options

    pipeline = Pipeline(
        make_handler(),
        name=unique_name(),
        producer={"module": (Peeking, {})},
        processors={"p": {}},
        batchers={"b": {}, "c": {"batch_size": 7}, "d": {"batch_size": (0, lambda m, a: ("cont", a)), "max_demand": 3}},
    )
    with pipeline:
        (options,) = seen
    assert (options.shutdown, options.max_restarts, options.max_seconds) == (30.0, 3, 5.0)
    assert (options.resubscribe_interval, options.context, options.partition_by) == (0.1, None, None)
    producer = options.producer
    assert (producer.concurrency, producer.transformer, producer.rate_limiting) == (1, None, None)
    processor = options.processors["p"]
    assert processor.concurrency == 2 * (os.cpu_count() or 1)
    assert (processor.max_demand, processor.min_demand) == (10, 5)
    batcher = options.batchers["b"]
    assert (batcher.concurrency, batcher.batch_size, batcher.batch_timeout, batcher.max_demand) == (1, 100, 1.0, 100)
    assert options.batchers["c"].max_demand == 7
    assert options.batchers["d"].max_demand == 3


# start, stop, state


def test_lifecycle(make_pipeline: Any) -> None:
    """
    A pipeline is new, then running, then stopped; ``start`` returns the pipeline and ``stop`` nothing.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name)
    assert pipeline.start() is pipeline
    assert pipeline.state == "running"
    assert pipeline.stop() is None
    assert pipeline.state == "stopped"
    assert stage_threads(name) == []


def test_pipeline_cannot_be_pickled(make_pipeline: Any) -> None:
    """
    A pipeline is made of threads: pickling it is a ``TypeError`` that says so.
    """
    with pytest.raises(TypeError, match="Pipeline"):
        pickle.dumps(make_pipeline())


def test_start_while_running(make_pipeline: Any) -> None:
    """
    Starting a running pipeline again is an ``AlreadyStartedError`` that names it, and does not disturb it.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name).start()
    with pytest.raises(AlreadyStartedError, match=name):
        pipeline.start()
    assert pipeline.state == "running"
    assert pipeline.test_message(1).receive(BOUND)


def test_two_pipelines_of_one_name(make_pipeline: Any) -> None:
    """
    A second pipeline of a running name is refused at start and stays new; the first one goes on.
    """
    name = unique_name()
    first, second = make_pipeline(name=name).start(), make_pipeline(name=name)
    with pytest.raises(AlreadyStartedError, match=name):
        second.start()
    assert second.state == "new"
    assert broadway_sync.get_pipeline(name) is first
    assert first.test_message(1).receive(BOUND)
    first.stop()
    second.start()
    assert broadway_sync.get_pipeline(name) is second


def test_second_start_of_a_name_does_not_prepare(make_pipeline: Any) -> None:
    """
    A start that is refused for its name never calls ``prepare_for_start``.
    """
    calls: list[Any] = []

    class Preparing(DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            calls.append(options.name)
            return [], options

    name = unique_name()
    options = {"name": name, "producer": {"module": (Preparing, {})}}
    make_pipeline(**options).start()
    with pytest.raises(AlreadyStartedError):
        make_pipeline(**options).start()
    assert calls == [name]


def test_concurrent_starts_of_one_name(make_pipeline: Any) -> None:
    """
    Of several pipelines of one name started at the same moment exactly one runs.
    """
    name = unique_name()
    pipelines = [make_pipeline(name=name) for _ in range(6)]
    barrier = threading.Barrier(len(pipelines))

    def start(pipeline: Any) -> bool:
        barrier.wait(BOUND)
        try:
            pipeline.start()
        except AlreadyStartedError:
            return False
        return True

    calls = [Call(start, pipeline) for pipeline in pipelines]
    assert [c.result() for c in calls].count(True) == 1
    assert broadway_sync.all_running() == [name]


def test_restart_of_a_stopped_pipeline(make_pipeline: Any) -> None:
    """
    A stopped pipeline may be started again, as often as one likes, and works.
    """
    pipeline = make_pipeline()
    for number in range(3):
        pipeline.start()
        assert pipeline.state == "running"
        (ok,), failed = pipeline.test_message(number).receive(BOUND)
        assert (ok.data, failed) == (number, [])
        pipeline.stop()


def test_restart_of_an_ended_pipeline(make_pipeline: Any) -> None:
    """
    A pipeline that ended by itself may be started again.
    """
    pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": []})})
    for _ in range(2):
        pipeline.start()
        assert pipeline.join(BOUND) is True
        assert pipeline.state == "stopped"


def test_stop_of_a_new_pipeline(make_pipeline: Any) -> None:
    """
    ``stop`` and ``request_stop`` on a pipeline that never started do nothing.
    """
    pipeline = make_pipeline()
    assert pipeline.stop() is None
    assert pipeline.request_stop() is None
    assert pipeline.state == "new"
    pipeline.start()
    assert pipeline.state == "running"


def test_state_is_draining_during_a_stop(make_pipeline: Any, gate: Any) -> None:
    """
    While a stop waits for a handler the state is ``draining``.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait(message.data)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.test_message(1)
    gate.arrived()
    call = Call(pipeline.stop)
    eventually(lambda: pipeline.state == "draining", "draining")
    assert not call.is_done()
    gate.open()
    call.result()
    assert pipeline.state == "stopped"


def test_state_is_failed_after_giving_up(make_pipeline: Any) -> None:
    """
    A pipeline that gave up is ``failed``, and its name is free.
    """
    pipeline = make_pipeline(**crashing_options()).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    assert pipeline.state == "failed"
    assert broadway_sync.all_running() == []


def test_state_cannot_be_set(make_pipeline: Any) -> None:
    """
    The state is for reading.
    """
    with pytest.raises(AttributeError):
        make_pipeline().state = "running"


# join


def test_join_of_a_new_pipeline(make_pipeline: Any) -> None:
    """
    ``join`` on a pipeline that never started is a ``NotRunningError``.
    """
    with pytest.raises(NotRunningError):
        make_pipeline().join(0)


def test_join_times_out(make_pipeline: Any) -> None:
    """
    ``join`` returns False when the pipeline still runs after the timeout.
    """
    pipeline = make_pipeline().start()
    assert pipeline.join(0) is False
    assert pipeline.join(0.01) is False
    assert pipeline.join(timeout=0.01) is False


def test_join_after_a_stop(make_pipeline: Any) -> None:
    """
    ``join`` returns True once the pipeline was stopped, at once and as often as one asks.
    """
    pipeline = make_pipeline().start()
    pipeline.stop()
    assert pipeline.join() is True
    assert pipeline.join(0) is True


def test_join_waits_for_a_stop_elsewhere(make_pipeline: Any) -> None:
    """
    Several threads in ``join`` all return True when another thread stops the pipeline.
    """
    pipeline = make_pipeline().start()
    calls = [Call(pipeline.join) for _ in range(3)]
    pipeline.stop()
    assert [c.result() for c in calls] == [True, True, True]


def test_join_waits_for_every_acknowledgement(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A pipeline whose producers are exhausted has ended only when everything is acknowledged.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        gate.wait()
        return messages

    pipeline = make_pipeline(
        make_handler(handle_batch=handle_batch),
        producer={"module": (IterableProducer, {"iterable": acks.messages(range(7))})},
        batchers={"default": {"batch_size": 3}},
    ).start()
    gate.arrived()
    assert pipeline.join(QUIET) is False
    gate.open()
    assert pipeline.join(BOUND) is True
    assert sorted(acks.all_data()) == list(range(7))
    assert pipeline.state == "stopped"


def test_ended_pipeline_leaves_nothing(make_pipeline: Any) -> None:
    """
    After a natural end, without any ``stop``, threads and name are gone when ``join`` returns.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name, producer={"module": (IterableProducer, {"iterable": []})}).start()
    assert pipeline.join(BOUND) is True
    assert stage_threads(name) == []
    assert broadway_sync.all_running() == []


def test_join_raises_the_failure_every_time(make_pipeline: Any) -> None:
    """
    ``join`` on a pipeline that gave up raises from the cause, as often as one asks.
    """
    pipeline = make_pipeline(**crashing_options()).start()
    for _ in range(2):
        with pytest.raises(PipelineFailedError) as caught:
            pipeline.join(BOUND)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert str(caught.value.__cause__) == "the broker is gone"


def test_join_with_a_huge_timeout(make_pipeline: Any) -> None:
    """
    A timeout beyond what the platform can wait for is no error.
    """
    pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": []})}).start()
    assert pipeline.join(1e12) is True


# with


def test_with_starts_and_stops(make_pipeline: Any) -> None:
    """
    ``with`` yields the running pipeline and stops it at the end.
    """
    pipeline = make_pipeline()
    with pipeline as entered:
        assert entered is pipeline
        assert pipeline.state == "running"
    assert pipeline.state == "stopped"


def test_with_drains(make_pipeline: Any, acks: Any) -> None:
    """
    What was pushed inside ``with`` is acknowledged when the block is left.
    """
    with make_pipeline(batchers={"default": {"batch_timeout": 3600}}) as pipeline:
        pipeline.push_messages(acks.messages(range(23)))
    assert sorted(acks.all_data()) == list(range(23))


def test_with_lets_the_exception_of_its_body_through(make_pipeline: Any) -> None:
    """
    An exception in the body stops the pipeline and goes on.
    """
    pipeline = make_pipeline()
    with pytest.raises(ZeroDivisionError), pipeline:
        raise ZeroDivisionError
    assert pipeline.state == "stopped"


def test_with_raises_the_failure(make_pipeline: Any) -> None:
    """
    A pipeline that gave up inside ``with`` raises at its end.
    """
    with pytest.raises(PipelineFailedError) as caught, make_pipeline(**crashing_options()) as pipeline:
        eventually(lambda: pipeline.state == "failed", "failed")
    assert str(caught.value.__cause__) == "the broker is gone"


def test_exception_of_the_body_wins_over_the_failure(make_pipeline: Any) -> None:
    """
    When both the body and the pipeline failed, the caller sees what the body raised.
    """
    with pytest.raises(ZeroDivisionError), make_pipeline(**crashing_options()) as pipeline:
        eventually(lambda: pipeline.state == "failed", "failed")
        raise ZeroDivisionError


def test_failure_seen_by_join_in_with_is_one_error(make_pipeline: Any) -> None:
    """
    ``join`` inside ``with`` raises the failure, and leaving the block does not hide it.
    """
    with pytest.raises(PipelineFailedError) as caught, make_pipeline(**crashing_options()) as pipeline:
        pipeline.join(BOUND)
    assert str(caught.value.__cause__) == "the broker is gone"


def test_exception_of_the_body_wins_over_a_drain_timeout(make_pipeline: Any, gate: Any) -> None:
    """
    When the body raised and the stop timed out too, the caller sees what the body raised.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    with pytest.raises(ZeroDivisionError), make_pipeline(
        make_handler(handle_message=handle_message), shutdown=0.1
    ) as pipeline:
        pipeline.test_message(1)
        gate.arrived()
        raise ZeroDivisionError


def test_stop_inside_with(make_pipeline: Any) -> None:
    """
    A stop inside the block makes the one at its end a no-op.
    """
    with make_pipeline() as pipeline:
        pipeline.stop()
    assert pipeline.state == "stopped"


# Names and registry


FULL = {
    "producer": {"module": (DummyProducer, {}), "concurrency": 2},
    "processors": {"work": {"concurrency": 3}},
    "batchers": {"zeta": {"concurrency": 2}, "alpha": {}},
}


def test_topology_and_producer_names_at_any_time(make_pipeline: Any) -> None:
    """
    Topology and producer names answer on a pipeline that is new, running or stopped, always the same.
    """
    pipeline = make_pipeline(name="inv", **FULL)
    topology = {
        "producers": [{"name": "inv.Broadway.Producer", "concurrency": 2}],
        "processors": [{"name": "inv.Broadway.Processor_work", "processor_key": "work", "concurrency": 3}],
        "batchers": [
            {
                "batcher_name": "inv.Broadway.Batcher_zeta",
                "batcher_key": "zeta",
                "name": "inv.Broadway.BatchProcessor_zeta",
                "concurrency": 2,
            },
            {
                "batcher_name": "inv.Broadway.Batcher_alpha",
                "batcher_key": "alpha",
                "name": "inv.Broadway.BatchProcessor_alpha",
                "concurrency": 1,
            },
        ],
    }
    names = ["inv.Broadway.Producer_0", "inv.Broadway.Producer_1"]
    for change in (lambda: None, pipeline.start, pipeline.stop):
        change()
        assert pipeline.topology() == topology
        assert pipeline.producer_names() == names


def test_topology_without_batchers(make_pipeline: Any) -> None:
    """
    A pipeline without batchers lists none.
    """
    assert make_pipeline().topology()["batchers"] == []


def test_thread_names(make_pipeline: Any) -> None:
    """
    Every stage runs on a daemon thread with the name of the contract; other threads of the library are prefixed too.
    """
    before = set(threading.enumerate())
    make_pipeline(name="inv", **FULL).start()
    new = [t for t in threading.enumerate() if t not in before]
    names = {t.name for t in new}
    expected = {
        *(f"inv.Broadway.Producer_{i}" for i in range(2)),
        *(f"inv.Broadway.Processor_work_{i}" for i in range(3)),
        *(f"inv.Broadway.BatchProcessor_zeta_{i}" for i in range(2)),
        "inv.Broadway.BatchProcessor_alpha_0",
        "inv.Broadway.Batcher_zeta",
        "inv.Broadway.Batcher_alpha",
    }
    assert expected <= names
    assert [n for n in names if not n.startswith("inv.Broadway.")] == []
    assert all(t.daemon for t in new)


def test_callbacks_run_on_the_thread_of_their_stage(make_pipeline: Any) -> None:
    """
    ``handle_message`` runs on its processor's thread and ``handle_batch`` on its batch processor's.
    """
    threads: queue.Queue[str] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        threads.put(threading.current_thread().name)
        return message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        threads.put(threading.current_thread().name)
        return messages

    handler = make_handler(handle_message=handle_message, handle_batch=handle_batch)
    pipeline = make_pipeline(handler, name="inv", batchers={"default": {}}).start()
    pipeline.test_message(1).receive(BOUND)
    assert [get(threads), get(threads)] == ["inv.Broadway.Processor_default_0", "inv.Broadway.BatchProcessor_default_0"]


def test_registry(make_pipeline: Any) -> None:
    """
    ``all_running`` and ``get_pipeline`` know exactly the running pipelines.
    """
    first, second = make_pipeline(name="first"), make_pipeline(name="second")
    with pytest.raises(NotRunningError, match="first"):
        broadway_sync.get_pipeline("first")
    first.start()
    second.start()
    assert sorted(broadway_sync.all_running()) == ["first", "second"]
    assert broadway_sync.get_pipeline("first") is first
    assert broadway_sync.get_pipeline("second") is second
    first.stop()
    assert broadway_sync.all_running() == ["second"]
    with pytest.raises(NotRunningError, match="first"):
        broadway_sync.get_pipeline("first")


def test_pipelines_do_not_share_anything(make_pipeline: Any, acks: Any) -> None:
    """
    Two pipelines side by side each handle their own messages with their own context.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_data((context, message.data))

    handler = make_handler(handle_message=handle_message)
    with make_pipeline(handler, context="a") as a, make_pipeline(handler, context="b") as b:
        a.push_messages(acks.messages([1]))
        b.push_messages(acks.messages([2]))
    assert sorted(acks.all_data()) == [("a", 1), ("b", 2)]


CALLS = {
    "push_messages": lambda p: p.push_messages([Message(1, NoopAcknowledger.init())]),
    "push_messages of nothing": lambda p: p.push_messages([]),
    "test_message": lambda p: p.test_message(1),
    "test_batch": lambda p: p.test_batch([1]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_that_need_a_running_pipeline(make_pipeline: Any, call: Any) -> None:
    """
    Pushing into a pipeline that is new, stopped or failed is a ``NotRunningError`` that names it.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name)
    with pytest.raises(NotRunningError, match=name):
        call(pipeline)
    pipeline.start()
    call(pipeline)
    pipeline.stop()
    with pytest.raises(NotRunningError, match=name):
        call(pipeline)
    failed = make_pipeline(name=name, **crashing_options()).start()
    with pytest.raises(PipelineFailedError):
        failed.join(BOUND)
    with pytest.raises(NotRunningError, match=name):
        call(failed)


def test_pushed_messages_are_handled(make_pipeline: Any, acks: Any) -> None:
    """
    Messages that are pushed at once after the start are handled, past the demand.
    """
    pipeline = make_pipeline(producer={"module": (DummyProducer, {}), "concurrency": 3}).start()
    pipeline.push_messages(acks.messages(range(100)))
    ok, failed = acks.collect_data(100)
    assert (sorted(ok), failed) == (list(range(100)), [])


def test_pushing_what_is_no_message(make_pipeline: Any, acks: Any) -> None:
    """
    Pushing anything but messages is an error for the caller, and the pipeline goes on.
    """
    pipeline = make_pipeline().start()
    with pytest.raises(TypeError):
        pipeline.push_messages([acks.message(1), "no message"])
    pipeline.push_messages(acks.messages([2]))
    eventually(lambda: 2 in acks.all_data(), "the good message is acknowledged")
    assert pipeline.state == "running"


def test_push_accepts_any_iterable(make_pipeline: Any, acks: Any) -> None:
    """
    A generator of messages can be pushed.
    """
    pipeline = make_pipeline().start()
    pipeline.push_messages(acks.message(n) for n in range(5))
    assert acks.collect_data(5) == ([0, 1, 2, 3, 4], [])


def test_callbacks_may_use_the_pipeline(make_pipeline: Any, acks: Any) -> None:
    """
    A callback may push, ask for the topology and the registry: no lock of the library is held around it.
    """
    pipeline: Any = None

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        pipeline.topology()
        broadway_sync.all_running()
        assert broadway_sync.get_pipeline(name) is pipeline
        assert pipeline.state == "running"
        if message.data < 3:
            pipeline.push_messages([acks.message(message.data + 1)])
        return message

    name = unique_name()
    pipeline = make_pipeline(make_handler(handle_message=handle_message), name=name).start()
    pipeline.push_messages([acks.message(0)])
    assert acks.collect_data(4) == ([0, 1, 2, 3], [])
