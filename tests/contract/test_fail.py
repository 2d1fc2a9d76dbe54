"""
Giving up on purpose: ``fail()``, the stacks of a running pipeline, and what long waits on a stage's thread look at.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from typing import Any, Callable, Iterable

import pytest

from broadway_sync import DrainTimeoutError, Message, NotRunningError, PipelineFailedError, Producer, telemetry
from broadway_sync.runtime.stage_thread import current_owner
from tests.helpers import (
    BOUND,
    NEVER,
    Call,
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


class Peculiar(BaseException):
    """
    An exception that ``except Exception`` does not catch.
    """


CAUSE = ValueError("enough is enough")


def gated(gate: Gate) -> Any:
    """
    Return a handler whose ``handle_message`` waits at the gate.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait(message.data)
        return message

    return make_handler(handle_message=handle_message)


def assert_failed(pipeline: Any, cause: BaseException = CAUSE) -> None:
    """
    Wait for the end and check how it is told, each time that somebody asks.
    """
    for _ in range(2):
        with pytest.raises(PipelineFailedError) as caught:
            pipeline.join(BOUND)
        assert caught.value.__cause__ is cause
    assert pipeline.state == "failed"
    assert str(cause) in str(caught.value)
    assert pipeline.name in str(caught.value)


def test_failing(make_pipeline: Any, acks: Any) -> None:
    """
    ``fail`` ends the pipeline in the state ``"failed"``; ``join`` raises from the cause, the name is free.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name).start()
    pipeline.push_messages(acks.messages([1]))
    acks.collect(1)
    pipeline.fail(CAUSE)
    assert_failed(pipeline)
    eventually(lambda: stage_threads(name) == [], "its threads have ended")
    make_pipeline(name=name).start().stop()


def test_text_does_not_speak_of_crashes(make_pipeline: Any) -> None:
    """
    The error says that the pipeline gave up, and nothing of ``max_restarts``, which had no part in it.
    """
    pipeline = make_pipeline().start()
    pipeline.fail(CAUSE)
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert "gave up" in str(caught.value)
    assert "max_restarts" not in str(caught.value)


def test_what_it_holds_is_drained(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    What the pipeline holds is handled and acknowledged, open batches included; nothing new is taken.
    """
    feed = Feed(acks.messages(range(100)))
    pipeline = make_pipeline(
        gated(gate),
        producer={"module": (FeedProducer, {"feed": feed})},
        processors={"default": {"concurrency": 1, "max_demand": 10}},
        batchers={"default": {"batch_size": 1000, "batch_timeout": NEVER}},
    ).start()
    gate.arrived()
    eventually(lambda: feed.taken == 10, "the demand was met")
    pipeline.fail(CAUSE)
    with pytest.raises(NotRunningError):
        pipeline.push_messages(acks.messages(["too late"]))
    calls = [get(feed.calls)[0] for _ in range(3)]
    assert calls == ["new", "init", "prepare_for_draining"]
    gate.open()
    assert_failed(pipeline)
    assert sorted(acks.all_data()) == list(range(10)), "no more demand once it has failed"
    assert get(feed.calls)[0] == "terminate"


def test_it_returns_at_once(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    ``fail`` does not wait for what is in hand; until that is done the pipeline is draining.
    """
    pipeline = make_pipeline(gated(gate)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    pipeline.fail(CAUSE)
    assert pipeline.state == "draining"
    assert pipeline.join(0.05) is False
    gate.open()
    assert_failed(pipeline)
    assert acks.collect_data(1) == ([1], [])


def test_with_statement(make_pipeline: Any) -> None:
    """
    ``with`` raises, too.
    """
    pipeline = make_pipeline()
    with pytest.raises(PipelineFailedError) as caught, pipeline:
        pipeline.fail(CAUSE)
    assert caught.value.__cause__ is CAUSE
    assert pipeline.state == "failed"


def in_handle_message(fail: Callable[[], None]) -> dict[str, Any]:
    """
    Return the options of a pipeline that fails in ``handle_message``.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        fail()
        return message

    return {"handler": make_handler(handle_message=handle_message)}


def in_handle_batch(fail: Callable[[], None]) -> dict[str, Any]:
    """
    Return the options of a pipeline that fails in ``handle_batch``.
    """

    def handle_batch(batcher: str, messages: Any, info: Any, context: Any) -> Any:
        fail()
        return messages

    return {"handler": make_handler(handle_batch=handle_batch), "batchers": {"default": {"batch_size": 1}}}


def in_handle_failed(fail: Callable[[], None]) -> dict[str, Any]:
    """
    Return the options of a pipeline that fails in ``handle_failed``.
    """

    def handle_failed(messages: Any, context: Any) -> Any:
        fail()
        return messages

    handler = make_handler(
        handle_message=lambda processor, message, context: message.fail("no"), handle_failed=handle_failed
    )
    return {"handler": handler}


def in_a_hook(fail: Callable[[], None]) -> dict[str, Any]:
    """
    Return the options of a pipeline that fails in an ``around`` hook.
    """

    def hook(call: Any, messages: Any) -> Any:
        fail()
        return call()

    return {"around": hook}


def in_telemetry(fail: Callable[[], None]) -> dict[str, Any]:
    """
    Return the options of a pipeline that fails in a handler of telemetry.
    """
    telemetry.attach(unique_name("handler"), ("broadway", "processor", "stop"), lambda *args: fail())
    return {}


PLACES = [in_handle_message, in_handle_batch, in_handle_failed, in_a_hook, in_telemetry]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_from_inside(make_pipeline: Any, acks: Any, place: Any) -> None:
    """
    It may be called from the pipeline's own threads, where it returns as well; the message in hand is acknowledged.
    """
    returned: queue.Queue[None] = queue.Queue()

    def fail() -> None:
        pipeline.fail(CAUSE)
        returned.put(None)

    pipeline = make_pipeline(**place(fail)).start()
    pipeline.push_messages(acks.messages([1]))
    get(returned, "the return of fail()")
    assert_failed(pipeline)
    assert acks.all_data() == [1]


def test_from_a_producer(make_pipeline: Any, acks: Any) -> None:
    """
    Also from the producer, which then hands over its last messages.
    """

    class GivingUp(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            pipeline.fail(CAUSE)
            return acks.messages([1, 2])

    pipeline = make_pipeline(producer={"module": GivingUp}).start()
    assert_failed(pipeline)
    assert acks.collect_data(2) == ([1, 2], [])


def test_while_it_starts(make_pipeline: Any) -> None:
    """
    A producer may give up before ``start`` has returned, with the pipeline or with the owner of its thread.
    """

    class GivingUp(Producer):
        def init(self) -> None:
            current_owner().fail(CAUSE)

        def handle_demand(self, demand: int) -> Iterable[Message]:
            return []

    pipeline = make_pipeline(producer={"module": GivingUp, "concurrency": 2}).start()
    assert_failed(pipeline)


def test_first_cause_counts(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Of several causes the first is told.
    """
    pipeline = make_pipeline(gated(gate)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    pipeline.fail(CAUSE)
    pipeline.fail(KeyError("second"))
    gate.open()
    assert_failed(pipeline)
    pipeline.fail(KeyError("after the end"))
    assert_failed(pipeline)


@pytest.mark.parametrize(
    "cause", [Peculiar("x"), SystemExit("x"), KeyboardInterrupt("x")], ids=lambda e: type(e).__name__
)
def test_causes_of_all_kinds(make_pipeline: Any, cause: BaseException) -> None:
    """
    Any exception may be the cause.
    """
    pipeline = make_pipeline().start()
    pipeline.fail(cause)
    assert_failed(pipeline, cause)


@pytest.mark.parametrize("cause", [None, "text", ValueError], ids=repr)
def test_what_is_no_cause(make_pipeline: Any, cause: Any) -> None:
    """
    What is no exception is refused, and the pipeline goes on.
    """
    pipeline = make_pipeline().start()
    with pytest.raises(TypeError):
        pipeline.fail(cause)
    assert pipeline.state == "running"
    assert pipeline.test_message(1).receive(BOUND)


def test_when_not_running(make_pipeline: Any) -> None:
    """
    A pipeline that does not run cannot fail: new it stays new, stopped it stays stopped, and it can be started.
    """
    pipeline = make_pipeline()
    pipeline.fail(CAUSE)
    assert pipeline.state == "new"
    pipeline.start()
    assert pipeline.test_message(1).receive(BOUND)
    pipeline.stop()
    pipeline.fail(CAUSE)
    assert pipeline.state == "stopped"
    assert pipeline.join(0.0) is True


def test_failing_while_it_stops(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A failure that comes while a stop drains is not lost: whoever joins hears of it.
    """
    pipeline = make_pipeline(gated(gate)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    pipeline.request_stop()
    pipeline.fail(CAUSE)
    gate.open()
    assert_failed(pipeline)
    assert acks.collect_data(1) == ([1], [])


def test_stopping_while_it_fails(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A ``stop`` of a pipeline that fails waits for its end and returns; the state stays ``"failed"``.
    """
    pipeline = make_pipeline(gated(gate)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    pipeline.fail(CAUSE)
    stopping = Call(pipeline.stop)
    gate.open()
    stopping.result()
    assert_failed(pipeline)
    pipeline.stop()
    assert pipeline.state == "failed"


def test_failing_past_a_hung_callback(make_pipeline: Any, acks: Any, gate: Any, caplog: Any) -> None:
    """
    The drain has ``shutdown`` seconds here, too: what hangs is given up and logged, and ``join`` raises all the same.
    """
    pipeline = make_pipeline(gated(gate), shutdown=0.1).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    pipeline.fail(CAUSE)
    assert_failed(pipeline)
    assert "1 messages were left behind" in caplog.text
    gate.open()
    acks.assert_nothing("what was left behind is not acknowledged")


def test_failing_while_it_restarts(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A restart under way becomes the end.
    """

    class Crashing(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            raise ConnectionError("crash")

    pipeline = make_pipeline(
        gated(gate), producer={"module": Crashing}, resubscribe_interval=0.0, max_restarts=1000, max_seconds=NEVER
    ).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()  # the restart waits for this one
    pipeline.fail(CAUSE)
    gate.open()
    assert_failed(pipeline)
    assert acks.all_data() == [1]


def test_started_again(make_pipeline: Any) -> None:
    """
    A pipeline that was failed can be started again, and has forgotten it.
    """
    pipeline = make_pipeline().start()
    pipeline.fail(CAUSE)
    assert_failed(pipeline)
    with pipeline:
        assert pipeline.state == "running"
        assert pipeline.test_message(1).receive(BOUND)
    assert pipeline.state == "stopped"
    assert pipeline.join(0.0) is True


def test_under_load_from_many_threads(make_pipeline: Any, acks: Any) -> None:
    """
    Many threads that give up at once, at full work: one end, and every message that was taken is acknowledged once.
    """
    causes = [ValueError(number) for number in range(8)]
    pipeline = make_pipeline(
        producer={"module": (EndlessProducer, {"acknowledger": acks})},
        processors={"default": {"concurrency": 3}},
        batchers={"default": {"concurrency": 2, "batch_size": 7, "batch_timeout": 0.05}},
    ).start()
    eventually(lambda: len(acks.acks) > 20, "work")
    threads = [threading.Thread(target=pipeline.fail, args=(cause,)) for cause in causes]
    for thread in threads:
        thread.start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    for thread in threads:
        thread.join(BOUND)
    assert caught.value.__cause__ in causes
    done = sorted(acks.all_data())
    assert done == list(range(len(done)))


# Stacks


def test_stacks(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    ``stacks`` shows where each thread of the pipeline is, the stages among them, and nobody else's threads.
    """

    def a_function_to_look_for() -> None:
        gate.wait()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        a_function_to_look_for()
        return message

    name = unique_name()
    other = make_pipeline().start()
    pipeline = make_pipeline(make_handler(handle_message=handle_message), name=name, batchers={"default": {}}).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    stacks = pipeline.stacks()
    assert {stage.name for stage in pipeline.statistics().stages} <= set(stacks)
    assert all(thread.startswith(f"{name}.Broadway.") for thread in stacks)
    assert "a_function_to_look_for" in stacks[f"{name}.Broadway.Processor_default_0"]
    assert [thread for thread, text in stacks.items() if "a_function_to_look_for" in text] == [
        f"{name}.Broadway.Processor_default_0"
    ]
    assert all("File " in text for text in stacks.values())
    other.stop()


def test_stacks_when_not_running(make_pipeline: Any) -> None:
    """
    Without threads there are none.
    """
    pipeline = make_pipeline()
    assert pipeline.stacks() == {}
    pipeline.start()
    assert pipeline.stacks() != {}
    pipeline.stop()
    assert pipeline.stacks() == {}


def test_stacks_from_a_callback(make_pipeline: Any) -> None:
    """
    A callback finds itself among them.
    """
    found: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        found.put((threading.current_thread().name, pipeline.stacks()))
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.test_message(1).receive(BOUND)
    name, stacks = get(found)
    assert "found.put" in stacks[name]


# The owner of a thread


def test_owner_elsewhere() -> None:
    """
    A thread that is no stage's has no owner.
    """
    assert current_owner() is None


def test_owner_fails_its_pipeline(make_pipeline: Any) -> None:
    """
    On a stage's thread the owner knows the pipeline's name, and may fail it.
    """
    names: queue.Queue[str] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        names.put(current_owner().name)
        current_owner().fail(CAUSE)
        return message

    name = unique_name()
    pipeline = make_pipeline(make_handler(handle_message=handle_message), name=name).start()
    pipeline.test_message(1).receive(BOUND)
    assert get(names) == name
    assert_failed(pipeline)


def test_waiting_on_a_stage(make_pipeline: Any) -> None:
    """
    ``wait_abandoned`` waits its time and says False while nobody has given the thread up; a graceful stop does not.
    """
    waited: queue.Queue[Any] = queue.Queue()
    begun = threading.Event()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        started = time.monotonic()
        begun.set()
        waited.put((current_owner().wait_abandoned(0.2), time.monotonic() - started))
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    reference = pipeline.test_message(1)
    assert begun.wait(BOUND)
    pipeline.stop()
    successful, _ = reference.receive(BOUND)
    assert len(successful) == 1
    was_abandoned, seconds = get(waited)
    assert not was_abandoned
    assert seconds >= 0.19


@pytest.mark.parametrize("callback", ["handle_message", "handle_batch"])
def test_wait_that_is_given_up(make_pipeline: Any, acks: Any, callback: str) -> None:
    """
    A stop that ran out of time wakes whoever waits; from then on every wait returns at once.
    """
    waiting = threading.Event()
    waited: queue.Queue[Any] = queue.Queue()

    def wait(first: Any, second: Any, *rest: Any) -> Any:
        waiting.set()
        try:
            waited.put([current_owner().wait_abandoned(seconds) for seconds in (6 * BOUND, 6 * BOUND, 0.0)])
        except BaseException:  # shown by the test
            waited.put(traceback.format_exc())
        return second

    options: Any = {"batchers": {"default": {"batch_size": 1}}} if callback == "handle_batch" else {}
    pipeline = make_pipeline(make_handler(**{callback: wait}), **options).start()
    pipeline.push_messages(acks.messages([1]))
    assert waiting.wait(BOUND)
    with pytest.raises(DrainTimeoutError) as caught:
        pipeline.stop(timeout=0.05)
    assert caught.value.left_behind == 1
    assert get(waited) == [True, True, True]
    eventually(lambda: stage_threads(pipeline.name) == [], "the thread has ended")
    acks.assert_nothing("what was left behind is not acknowledged")
