"""
Faults that the library had once, each with the behaviour that it broke.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
import os
import pickle
import signal
import threading
import weakref
from typing import Any, Iterable

import attrs
import pytest

from broadway_sync import (
    ConfigurationError,
    DrainTimeoutError,
    DummyProducer,
    Message,
    NoopAcknowledger,
    Pipeline,
    Producer,
    RateLimitingNotEnabledError,
    TestRef,
    all_running,
    registry,
    telemetry,
)
from broadway_sync.topology.run import Run
from tests.helpers import (
    BOUND,
    NEVER,
    SCALE,
    Batches,
    Call,
    Feed,
    FeedProducer,
    eventually,
    get,
    make_handler,
    run_python,
    unique_name,
)


class Ambiguous:
    """
    Hashable, all with one hash, and comparing two of them raises, as comparing arrays does.
    """

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Ambiguous):
            raise ValueError("the truth value is ambiguous")
        return False


class Unstable:
    """
    Its hash follows an attribute that anybody may change.
    """

    def __init__(self) -> None:
        self.value = 1

    def __hash__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return self is other


def put_own_key(processor: str, message: Message, context: Any) -> Message:
    """
    A ``handle_message`` whose messages carry their batch key.
    """
    return message.put_batch_key(message.data)


def data(messages: Iterable[Message]) -> list[Any]:
    """
    Return what messages carry.
    """
    return [message.data for message in messages]


# Waking producers, and what they emit


class Sleeper(Producer):
    """
    Asks for nothing by itself; three helper threads wait beside its own.
    """

    poll_interval = math.inf

    def __init__(self, asked: Any) -> None:
        self.asked = asked
        self.helpers = [threading.Thread(target=self.help, daemon=True) for _ in range(3)]

    def init(self) -> None:
        for helper in self.helpers:
            helper.start()

    def help(self) -> None:
        """
        Wait again and again, as the thread of a client does.
        """
        while not self.stage.draining:
            self.stage.wait(math.inf)

    def handle_demand(self, demand: int) -> Iterable[Message]:
        self.asked.put(self)
        return ()


def test_every_wake_is_answered(make_pipeline: Any) -> None:
    """
    Each ``wake()`` leads to a ``handle_demand``, also while other threads sit in ``stage.wait()``.
    """
    feed = Feed()  # for its queue
    pipeline = make_pipeline(producer={"module": (Sleeper, {"asked": feed.calls})}).start()
    producer = get(feed.calls)
    for number in range(30):
        producer.stage.wake()
        get(feed.calls, f"a handle_demand after wake() number {number}")
    pipeline.stop()
    for helper in producer.helpers:
        helper.join(BOUND)
        assert not helper.is_alive()


class Crasher(Producer):
    """
    Its first instance crashes with a helper thread in ``stage.wait()``, and joins it in ``terminate``.
    """

    def __init__(self, outcomes: Any) -> None:
        self.outcomes = outcomes
        self.is_first = not outcomes.instances
        outcomes.instances.append(self)

    def handle_demand(self, demand: int) -> Iterable[Message]:
        if self.is_first:
            self.helper = Call(self.stage.wait, NEVER)
            raise ValueError("connection lost")
        return ()

    def terminate(self, reason: Any) -> None:
        if self.is_first:
            self.outcomes.calls.put(self.helper.result())


def test_crash_wakes_those_who_wait(make_pipeline: Any) -> None:
    """
    ``stage.wait()`` of an instance that has crashed comes back, so that ``terminate`` can join its thread.
    """
    outcomes = Feed()
    make_pipeline(producer={"module": (Crasher, {"outcomes": outcomes})}).start()
    assert get(outcomes.calls, "the end of stage.wait()") is True


class Emitter(Producer):
    """
    Emits what the test says.
    """

    buffer_size = 1
    poll_interval = NEVER

    def __init__(self, made: Any) -> None:
        made.put(self)

    def handle_demand(self, demand: int) -> Iterable[Message]:
        return ()


def test_emit_asks_for_the_partition_once(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    An ``emit`` that waits for room calls ``partition_by`` once for each message.
    """
    made, asked = Feed().calls, []

    def partition_by(message: Message) -> int:
        asked.append(message.data)
        return 0

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (Emitter, {"made": made})},
        processors={"default": {"concurrency": 1, "max_demand": 1}},
        partition_by=partition_by,
    ).start()
    producer = get(made)
    producer.stage.emit(acks.messages([0]))
    gate.arrived()
    producer.stage.emit(acks.messages([1]))
    waiting = Call(producer.stage.emit, acks.messages([2]))
    eventually(lambda: asked == [0, 1, 2], "the third emit has looked for its partition")
    gate.open()
    waiting.result()
    assert acks.collect_data(3) == ([0, 1, 2], [])
    assert asked == [0, 1, 2]


def test_crash_keeps_no_message_alive(make_pipeline: Any, caplog: Any) -> None:
    """
    The messages that a crashed ``handle_demand`` had yielded live no longer than others.
    """
    caplog.set_level(logging.CRITICAL + 1, "broadway_sync")  # pytest keeps records, and with them tracebacks
    refs: list[Any] = []

    class Lazy(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            if refs:
                return
            for number in range(3):
                message = Message(number, NoopAcknowledger.init())
                refs.append(weakref.ref(message))
                yield message
                del message
            raise ValueError("connection lost")

    make_pipeline(producer={"module": (Lazy, {})}).start()
    eventually(lambda: len(refs) == 3 and gc.collect() >= 0 and not any(ref() for ref in refs), "all are gone")


# Keys, refs and values with odd methods


def test_batch_keys_that_cannot_be_compared(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Batch keys whose ``__eq__`` raises against each other cost no message and no thread.
    """
    handler = make_handler(handle_message=put_own_key, handle_batch=Batches(gate))
    pipeline = make_pipeline(handler, batchers={"default": {"batch_size": 1, "concurrency": 2}}).start()
    for _ in range(2):  # the second batch comes while the first one is in hand
        pipeline.push_messages(acks.messages([Ambiguous()]))
        gate.arrived()
    gate.open()
    assert len(acks.collect(2)[0]) == 2
    pipeline.stop()
    assert pipeline.state == "stopped"


def test_batch_key_whose_hash_changes(make_pipeline: Any, acks: Any) -> None:
    """
    A batch is handled at its deadline, whatever its key has become meanwhile.
    """
    key = Unstable()
    pipeline = make_pipeline(
        make_handler(handle_message=put_own_key), batchers={"default": {"batch_timeout": 0.1, "batch_size": 2}}
    ).start()
    other = Unstable()
    other.value = 2
    pipeline.push_messages(acks.messages([key, other, other]))
    assert acks.collect_data(2) == ([other, other], [])  # the batch of `key` is open by now
    key.value = 3
    assert acks.collect_data(1) == ([key], [])
    pipeline.stop()


def test_ack_refs_that_cannot_be_compared(make_pipeline: Any, acks: Any) -> None:
    """
    ``ack_ref`` whose ``__eq__`` raises are refs of their own: each message is acknowledged.
    """
    pipeline = make_pipeline().start()
    pipeline.push_messages([Message(number, acks.init(Ambiguous())) for number in range(3)])
    assert acks.collect_data(3) == ([0, 1, 2], [])
    pipeline.stop()


def test_acknowledger_that_is_no_triple(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    An ``acknowledger`` whose iteration raises is logged, and its neighbours are acknowledged.
    """

    class NoTriple:
        def __iter__(self) -> Any:
            raise KeyError("nothing")

    pipeline = make_pipeline().start()
    pipeline.push_messages([Message(0, NoTriple()), acks.message(1)])  # type: ignore[arg-type]
    assert acks.collect_data(1) == ([1], [])
    pipeline.stop()
    assert "not an (acknowledger, ack_ref, ack_data)" in caplog.text
    assert "died" not in caplog.text


def test_handle_failed_returns_something_ambiguous(make_pipeline: Any, acks: Any) -> None:
    """
    What ``handle_failed`` returned in place of a list is not compared: the messages are acknowledged as failed.
    """

    class Table:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value is ambiguous")

    handler = make_handler(
        handle_message=lambda processor, message, context: message.fail("no"),
        handle_failed=lambda messages, context: Table(),
    )
    pipeline = make_pipeline(handler).start()
    pipeline.push_messages(acks.messages([0]))
    assert acks.collect_data(1) == ([], [0])
    pipeline.stop()


@pytest.mark.parametrize("stage", ["processor", "batcher", "batch_processor"])
def test_telemetry_handler_empties_the_list(make_pipeline: Any, acks: Any, stage: str) -> None:
    """
    A telemetry handler that changes the list in its metadata takes nothing from the stage.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_size": 2}})
    name = unique_name("handler")
    telemetry.attach(
        name, ("broadway", stage, "start"), lambda event, measurements, metadata, config: metadata["messages"].clear()
    )
    try:
        pipeline.start()
        pipeline.push_messages(acks.messages([0, 1]))
        assert acks.collect_data(2) == ([0, 1], [])
        pipeline.stop()
    finally:
        telemetry.detach(name)


# Handlers that change or return what is not theirs


def test_handler_changes_an_earlier_message(make_pipeline: Any, acks: Any) -> None:
    """
    A message put to an unknown batcher by a later call of ``handle_message`` fails alone.
    """
    seen: list[Message] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        for earlier in seen:
            earlier.batcher = "nowhere"
        seen.append(message)
        return message

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message), batchers={"default": {"batch_size": 1}, "other": {}}
    ).start()
    pipeline.push_messages(acks.messages([0, 1]))
    assert acks.collect_data(2) == ([1], [0])
    pipeline.stop()


def test_handler_returns_one_message_for_all(make_pipeline: Any, acks: Any) -> None:
    """
    ``handle_message`` that returns another message of the chunk fails the one that it was given.
    """
    seen: list[Message] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        seen.append(message)
        return seen[0]

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.push_messages(acks.messages([0, 1, 2]))
    assert acks.collect_data(3) == ([0], [1, 2])
    pipeline.stop()


def test_handle_failed_changes_and_raises(make_pipeline: Any, acks: Any) -> None:
    """
    The acknowledger gets the data from before a ``handle_failed`` that raised.
    """

    def handle_failed(messages: list[Message], context: Any) -> Any:
        for message in messages:
            message.data = "changed"
        raise ValueError("nothing to do with them")

    handler = make_handler(
        handle_message=lambda processor, message, context: message.fail("no"), handle_failed=handle_failed
    )
    make_pipeline(handler).start().push_messages(acks.messages(["as it was"]))
    assert acks.collect_data(1) == ([], ["as it was"])


def test_handled_batches_keep_nothing(make_pipeline: Any) -> None:
    """
    The accumulator of a ``batch_size`` function is let go with its batch, not when the batch would have been due.
    """
    refs: list[Any] = []

    def split(message: Message, members: Any) -> Any:
        refs.append(weakref.ref(message))
        return ("emit" if len(members) else "cont"), (*members, message)

    batcher = {"batch_size": ((), split), "batch_timeout": NEVER, "max_demand": 5}
    pipeline = make_pipeline(batchers={"default": batcher}).start()
    pipeline.push_messages([Message(number, NoopAcknowledger.init()) for number in range(8)])
    eventually(lambda: len(refs) == 8 and gc.collect() >= 0 and not any(ref() for ref in refs), "all are gone")


# Starting and stopping


def starting(function: Any) -> Any:
    """
    Return a producer whose ``prepare_for_start`` is *function* of the options.
    """

    class Prepared(DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            return function(options)

    return {"module": (Prepared, {})}


class Child:
    """
    A child of ``prepare_for_start`` that calls a function when it is started.
    """

    def __init__(self, start: Any) -> None:
        self.start = start

    def stop(self) -> None:
        """
        Do nothing.
        """


def test_push_while_it_starts(make_pipeline: Any, acks: Any) -> None:
    """
    What is pushed by a child as it starts is handled once the stages are there.
    """
    child = Child(lambda: pipeline.push_messages(acks.messages([0])))
    pipeline = make_pipeline(producer=starting(lambda options: ([child], options)))
    pipeline.start()
    assert acks.collect_data(1) == ([0], [])


def test_stop_is_requested_while_it_is_prepared(make_pipeline: Any) -> None:
    """
    A ``request_stop`` in ``prepare_for_start`` is kept until there is something to stop; a second start runs.
    """
    wanted = [True]

    def prepare(options: Any) -> Any:
        if wanted:
            wanted.pop()
            pipeline.request_stop()
        return [], options

    pipeline = make_pipeline(producer=starting(prepare))
    pipeline.start()
    assert pipeline.join(BOUND)
    pipeline.start()
    assert pipeline.state == "running"


def test_stop_is_requested_while_children_start(make_pipeline: Any) -> None:
    """
    A ``request_stop`` in the ``start()`` of a child ends the pipeline.
    """
    child = Child(lambda: pipeline.request_stop())
    pipeline = make_pipeline(producer=starting(lambda options: ([child], options)))
    pipeline.start()
    assert pipeline.join(BOUND)


def hang(gate: Any) -> Any:
    """
    Return a handler whose messages wait at *gate*.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    return make_handler(handle_message=handle_message)


def test_body_of_with_raises_and_the_drain_fails(make_pipeline: Any, gate: Any, acks: Any, caplog: Any) -> None:
    """
    The body's exception wins over ``DrainTimeoutError``, which is logged.
    """
    with pytest.raises(KeyError):
        with make_pipeline(hang(gate), shutdown=0.1) as pipeline:
            pipeline.push_messages(acks.messages([0]))
            gate.arrived()
            raise KeyError("body")
    assert "DrainTimeoutError" in caplog.text


def test_interrupted_stop(make_pipeline: Any, gate: Any, acks: Any) -> None:
    """
    After a ``stop()`` that Ctrl-C interrupted the next one says what was left behind, and those after it are quiet.
    """
    pipeline = make_pipeline(hang(gate), shutdown=1.5 * SCALE).start()
    pipeline.push_messages(acks.messages([0]))
    gate.arrived()

    def interrupt() -> None:
        eventually(lambda: pipeline.state == "draining", "the stop has begun")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # not another thread: it waits for a lock

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupting = Call(interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.stop()
            threading.Event().wait(BOUND)  # the signal comes at the latest here
    finally:
        signal.signal(signal.SIGINT, before)
    interrupting.result()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    pipeline.stop()
    pipeline.stop()


def test_only_threads_that_hang_are_named(make_pipeline: Any, gate: Any, acks: Any) -> None:
    """
    ``DrainTimeoutError`` names the thread that hangs, not those that wait for it.
    """
    pipeline = make_pipeline(hang(gate), batchers={"a": {"concurrency": 2}, "default": {"concurrency": 2}}).start()
    pipeline.push_messages(acks.messages([0]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError) as caught:
        pipeline.stop(0.1)
    assert list(caught.value.threads) == [f"{pipeline.name}.Broadway.Processor_default_0"]


def test_numbers_too_large_for_a_float(make_pipeline: Any) -> None:
    """
    Times that no float holds are refused where they are given, and nothing else happens.
    """
    pipeline = make_pipeline().start()
    with pytest.raises(ValueError):
        pipeline.stop(10**400)
    assert pipeline.state == "running"
    with pytest.raises(ConfigurationError, match="^shutdown: "):
        make_pipeline(shutdown=10**400)


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
def test_receive_without_end(make_pipeline: Any, timeout: float) -> None:
    """
    A test's ``receive`` takes any timeout, however long.
    """
    ref: TestRef = make_pipeline().start().test_message("data")
    successful, failed = ref.receive(timeout)
    assert (data(successful), data(failed)) == (["data"], [])


def test_options_of_prepare_for_start_are_answered(make_pipeline: Any) -> None:
    """
    What ``prepare_for_start`` changed is what the pipeline tells of itself.
    """
    limit = {"allowed_messages": 5, "interval": 1}

    def prepare(options: Any) -> Any:
        producer = attrs.evolve(options.producer, concurrency=3, rate_limiting=limit)
        return [], attrs.evolve(options, shutdown=4.0, producer=producer)

    pipeline = make_pipeline(producer=starting(prepare)).start()
    assert len(pipeline.producer_names()) == 3
    assert [stage["concurrency"] for stage in pipeline.topology()["producers"]] == [3]
    assert (pipeline.shutdown, pipeline.get_rate_limiting()) == (4.0, limit)


def test_prepare_for_start_removes_the_limit(make_pipeline: Any) -> None:
    """
    A limit that ``prepare_for_start`` took away is not enabled.
    """

    def prepare(options: Any) -> Any:
        return [], attrs.evolve(options, producer=attrs.evolve(options.producer, rate_limiting=None))

    limited = {**starting(prepare), "rate_limiting": {"allowed_messages": 5, "interval": 1}}
    pipeline = make_pipeline(producer=limited).start()
    with pytest.raises(RateLimitingNotEnabledError):
        pipeline.get_rate_limiting()


def test_prepare_for_start_adds_batchers(make_pipeline: Any) -> None:
    """
    Batchers that ``prepare_for_start`` added need a ``handle_batch``: without it ``start()`` says so.
    """

    class Handler:
        def handle_message(self, processor: str, message: Message, context: Any) -> Message:
            return message

    pipeline = make_pipeline(
        Handler(), producer=starting(lambda options: ([], attrs.evolve(options, batchers={"default": {}})))
    )
    with pytest.raises(ConfigurationError, match="handle_batch"):
        pipeline.start()


# Processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_child_of_a_fork_in_a_producer_ends() -> None:
    """
    A child that ``handle_demand`` forked ends when the callback returns; it produces nothing.
    """
    program = """
import os, queue, signal
from broadway_sync import Pipeline, Producer

children = queue.Queue()

class Forking(Producer):
    is_new = True

    def handle_demand(self, demand):
        if self.is_new:
            self.is_new = False
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # ends a child that goes on
            else:
                children.put(child)
        return ()

class Handler:
    def handle_message(self, processor, message, context):
        return message

with Pipeline(Handler(), name="p", producer={"module": (Forking, {})}, processors={"default": {}}):
    print(os.waitpid(children.get(), 0)[1])
"""
    ended = run_python(program, flags=["-W", "ignore::DeprecationWarning"])
    assert (ended.stdout.split(), ended.stderr) == (["0"], "")


def test_executors_work_in_the_drain_at_exit() -> None:
    """
    The drain at the end of the interpreter runs before ``concurrent.futures`` shuts down, whatever came first.
    """
    program = """
import threading
from broadway_sync import DummyProducer, Message, Pipeline
from concurrent.futures import ThreadPoolExecutor

pool, begun, draining = ThreadPoolExecutor(1), threading.Event(), threading.Event()

class Noticing(DummyProducer):
    def prepare_for_draining(self):
        draining.set()
        return ()

class Handler:
    def handle_message(self, processor, message, context):
        begun.set()
        draining.wait(20)
        message.data = pool.submit(lambda: "by the pool").result()
        return message

class Acknowledger:
    def ack(self, ack_ref, successful, failed):
        print([m.data for m in successful], [str(m.reason) for m in failed], flush=True)

pipeline = Pipeline(Handler(), name="p", producer={"module": (Noticing, {})}, processors={"default": {}})
pipeline.start()
pipeline.push_messages([Message("data", (Acknowledger(), None, None))])
begun.wait()
"""
    ended = run_python(program)
    assert (ended.stdout, ended.stderr) == ("['by the pool'] []\n", "")


# Values


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_acknowledged_messages(duplicate: Any) -> None:
    """
    An acknowledged message can be copied and pickled; the copy is acknowledged, too.
    """
    message = Message({"number": 1}, NoopAcknowledger.init(), metadata={"key": "value"}).ack_immediately()
    double = duplicate(message)
    assert double.is_acknowledged()
    assert (double.data, double.metadata, double.status) == ({"number": 1}, {"key": "value"}, "ok")
    assert not duplicate(Message(1, NoopAcknowledger.init())).is_acknowledged()


def test_long_options_are_masked_quickly(make_pipeline: Any) -> None:
    """
    A pipeline starts at once though there is a long text without a space, such as a certificate, in its options.
    """
    feed = Feed()
    options = {"feed": feed, "certificate": "A" * 30_000}

    class Certified(FeedProducer):
        def __init__(self, feed: Feed, certificate: str) -> None:
            super().__init__(feed)

    pipeline = make_pipeline(producer={"module": (Certified, options)})
    assert Call(pipeline.start).result() is pipeline


def test_interrupt_when_all_threads_are_there(make_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is raised in ``start()`` after the last thread was started ends them all: nobody would have the pipeline.
    """
    started = Run.start

    def interrupted(self: Run) -> None:
        started(self)
        raise KeyboardInterrupt

    pipeline = make_pipeline()
    monkeypatch.setattr(Run, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.start()
    assert (pipeline.state, all_running()) == ("new", [])
    monkeypatch.undo()
    eventually(
        lambda: not [t for t in threading.enumerate() if t.name.startswith(f"{pipeline.name}.")], "no thread left"
    )
    pipeline.start().stop()


def test_interrupt_when_the_name_is_taken(make_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is raised in ``start()`` right after the pipeline was registered frees its name, and changes nothing else.
    """
    register = registry.register

    def interrupted(pipeline: Pipeline) -> None:
        register(pipeline)
        raise KeyboardInterrupt

    pipeline = make_pipeline().start()
    pipeline.stop()
    monkeypatch.setattr(registry, "register", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.start()
    assert (pipeline.state, all_running()) == ("stopped", [])
    monkeypatch.undo()
    pipeline.start().stop()


class Hesitant(Pipeline):
    """
    A thread that has seen that the pipeline is starting is held up right after that, if it is the one chosen.
    """

    hesitates: threading.Thread | None = None

    @property
    def _is_starting(self) -> bool:
        is_starting = bool(self.__dict__.get("is_starting"))
        if is_starting and threading.current_thread() is self.hesitates:
            self.seen.set()
            assert self.go_on.wait(BOUND)
        return is_starting

    @_is_starting.setter
    def _is_starting(self, value: bool) -> None:
        self.__dict__["is_starting"] = value


def test_stop_that_meets_the_end_of_a_start(gate: Any) -> None:
    """
    It stops that pipeline, and not the next one: what was asked of one start was kept for another one.
    """

    class Slow(DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            gate.wait()
            return [], options

    pipeline = Hesitant(
        make_handler(), name=unique_name(), producer={"module": (Slow, {})}, processors={"default": {"concurrency": 1}}
    )
    pipeline.seen, pipeline.go_on = threading.Event(), threading.Event()
    start = Call(pipeline.start)
    gate.arrived()
    begun = threading.Event()
    stop = Call(lambda: begun.wait(BOUND) and pipeline.request_stop())
    pipeline.hesitates = stop.thread
    begun.set()
    assert pipeline.seen.wait(BOUND)
    gate.open()
    start.result()
    pipeline.go_on.set()
    stop.result()
    assert pipeline.join(BOUND)
    pipeline.start()
    assert pipeline.state == "running"
    pipeline.stop()


class Vanishing(Pipeline):
    """
    Its run is there at the first look and not at the second, as when another thread's start fails in between.
    """

    @property
    def _last_run(self) -> Any:
        return self.runs.pop() if self.runs else None

    @_last_run.setter
    def _last_run(self, value: Any) -> None:
        self.runs = [value] if value else []


@pytest.mark.parametrize(
    "use",
    [
        lambda pipeline: pipeline.state,
        lambda pipeline: pipeline.options,
        lambda pipeline: pipeline.statistics(),
        lambda pipeline: pipeline.stacks(),
        lambda pipeline: pipeline.fail(ValueError("no")),
        lambda pipeline: pipeline.request_stop(1.0),
        lambda pipeline: pipeline.stop(1.0),
    ],
    ids=["state", "options", "statistics", "stacks", "fail", "request_stop", "stop"],
)
def test_start_fails_while_the_pipeline_is_looked_at(make_pipeline: Any, use: Any) -> None:
    """
    Whoever looks at it meanwhile meets the one state or the other, and no ``AttributeError``.
    """
    other = make_pipeline().start()
    run = other._run
    other.stop()
    pipeline = Vanishing(
        make_handler(), name=unique_name(), producer={"module": DummyProducer}, processors={"default": {}}
    )
    pipeline._last_run = run
    use(pipeline)
