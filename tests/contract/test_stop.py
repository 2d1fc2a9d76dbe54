"""
Stop: the drain and its one deadline, who may call it and when, and what happens to what is left behind.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import signal
import sys
import threading
import time
from typing import Any, Callable, Iterable

import pytest

import broadway_sync
from broadway_sync import (
    DrainTimeoutError,
    DummyProducer,
    IterableProducer,
    Message,
    NotRunningError,
    Producer,
    telemetry,
)
from broadway_sync.runtime import supervisor
from broadway_sync.runtime.deadline import Deadline
from broadway_sync.telemetry.events import TOPOLOGY_RESTART
from tests.helpers import (
    BOUND,
    NEVER,
    QUIET,
    SCALE,
    Call,
    EndlessProducer,
    Feed,
    FeedProducer,
    eventually,
    get,
    make_handler,
    stage_thread,
    stage_threads,
    unique_name,
)

# The drain


@pytest.mark.parametrize("batchers", [{}, {"default": {"batch_timeout": NEVER}}], ids=["no batchers", "batchers"])
def test_everything_is_acknowledged(make_pipeline: Any, acks: Any, batchers: Any) -> None:
    """
    When ``stop`` returns, all that was pushed before it is acknowledged.
    """
    pipeline = make_pipeline(processors={"default": {"concurrency": 4}}, batchers=batchers).start()
    pipeline.push_messages(acks.messages(range(500)))
    pipeline.stop()
    assert sorted(acks.all_data()) == list(range(500))


def test_endless_producer(make_pipeline: Any, acks: Any) -> None:
    """
    A stop under full load acknowledges exactly what was handed out.
    """
    for _ in range(10):
        producers: list[EndlessProducer] = []

        def module(producers: list[EndlessProducer] = producers) -> Producer:
            producers.append(EndlessProducer(acks))
            return producers[-1]

        pipeline = make_pipeline(
            producer={"module": module, "concurrency": 2},
            processors={"default": {"concurrency": 3}},
            batchers={"default": {"concurrency": 2, "batch_size": 7, "batch_timeout": NEVER}},
        ).start()
        eventually(lambda: len(acks.acks) > 5, "some batches")
        pipeline.stop()
        given = [n for p in producers for n in range(p.next)]
        assert sorted(acks.all_data()) == sorted(given)
        acks.acks.clear()


def test_stop_right_after_start(make_pipeline: Any) -> None:
    """
    A stop may come at any moment after the start.
    """
    for _ in range(30):
        pipeline = make_pipeline(batchers={"default": {}}).start()
        pipeline.stop()
        assert pipeline.state == "stopped"
        assert pipeline.join(0) is True


@pytest.mark.parametrize("end", [lambda p: p.stop(), lambda p: (p.request_stop(), p.join(BOUND))], ids=["stop", "join"])
def test_no_thread_is_left(make_pipeline: Any, end: Any) -> None:
    """
    Whoever looks when ``stop`` or ``join`` has returned finds none: those that only had to end were waited for.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        pipeline = make_pipeline(processors={"default": {"concurrency": 4}}, batchers={"default": {"concurrency": 2}})
        for _ in range(100):
            pipeline.start()
            end(pipeline)
            assert stage_threads(pipeline.name) == []
    finally:
        sys.setswitchinterval(interval)


def test_stop_is_prompt(make_pipeline: Any) -> None:
    """
    An idle pipeline stops at once, whatever its timeouts and intervals.
    """

    class Slow(DummyProducer):
        poll_interval = NEVER

    pipeline = make_pipeline(
        producer={"module": Slow}, batchers={"default": {"batch_timeout": NEVER}}, shutdown=NEVER
    ).start()
    before = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - before < BOUND / 2


def test_order_of_a_stop(make_pipeline: Any, acks: Any) -> None:
    """
    ``prepare_for_draining`` comes first, then what is held is handled and acknowledged, then ``terminate``.
    """
    order: list[Any] = []

    class Ordered(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            return []

        def prepare_for_draining(self) -> Iterable[Message]:
            order.append("prepare_for_draining")
            return [Message(1, (acknowledger, None, None))]

        def terminate(self, reason: Any) -> None:
            order.append("terminate")

    class Acknowledger:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            order.append("ack")

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        order.append("handle_message")
        return message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        order.append(batch_info.trigger)
        return messages

    acknowledger = Acknowledger()
    with make_pipeline(
        make_handler(handle_message=handle_message, handle_batch=handle_batch),
        producer={"module": Ordered},
        batchers={"default": {"batch_timeout": NEVER}},
    ):
        pass
    assert order == ["prepare_for_draining", "handle_message", "flush", "ack", "terminate"]


def test_push_after_a_stop_began(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Once a stop has begun nothing more can be pushed.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    pipeline.request_stop()
    for call in (lambda: pipeline.push_messages(acks.messages([2])), lambda: pipeline.test_message(3)):
        with pytest.raises(NotRunningError):
            call()
    gate.open()
    assert pipeline.join(BOUND)
    assert acks.all_data() == [1]


def test_push_race_with_stop(make_pipeline: Any, acks: Any) -> None:
    """
    Every push that was accepted is acknowledged, however close to the stop it came.
    """
    for _ in range(20):
        pipeline = make_pipeline(
            producer={"module": (DummyProducer, {}), "concurrency": 2}, batchers={"default": {"batch_timeout": NEVER}}
        ).start()
        accepted: list[int] = []

        def push(pipeline: Any = pipeline, accepted: list[int] = accepted) -> None:
            for number in itertools.count(0, 2):
                pipeline.push_messages(acks.messages([number, number + 1]))
                accepted.extend([number, number + 1])

        call = Call(push)
        eventually(lambda accepted=accepted: len(accepted) > 10, "some accepted")
        pipeline.stop()
        with pytest.raises(NotRunningError):
            call.result()
        assert sorted(acks.all_data()) == accepted
        acks.acks.clear()


# Who may call it, and when


def test_stop_twice(make_pipeline: Any) -> None:
    """
    A second stop does nothing.
    """
    pipeline = make_pipeline().start()
    for _ in range(3):
        assert pipeline.stop() is None


def test_stop_concurrently(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Several threads may stop a pipeline: all return when it has stopped.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    calls = [Call(pipeline.stop) for _ in range(5)]
    eventually(lambda: pipeline.state == "draining", "draining")
    assert not any(c.is_done() for c in calls)
    gate.open()
    for call in calls:
        call.result()
        assert acks.all_data() == [1]
    assert pipeline.state == "stopped"


CALLBACKS = ["prepare_messages", "handle_message", "handle_batch", "handle_failed", "ack", "partition_by", "size"]


@pytest.mark.parametrize("callback", CALLBACKS)
def test_stop_from_a_callback(make_pipeline: Any, callback: str) -> None:
    """
    From a callback ``stop`` only begins the stop and returns; the message of that callback is still acknowledged.
    """
    pipeline: Any = None
    acked: queue.Queue[Any] = queue.Queue()
    states: queue.Queue[Any] = queue.Queue()

    def stop_in(name: str, result: Any) -> Any:
        if name == callback:
            pipeline.stop()
            states.put(pipeline.state)
        return result

    class Acknowledger:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            acked.put(stop_in("ack", [m.data for m in [*successful, *failed]]))

    handler = make_handler(
        prepare_messages=lambda messages, context: stop_in("prepare_messages", messages),
        handle_message=lambda processor, message, context: stop_in("handle_message", message),
        handle_batch=lambda b, messages, i, c: stop_in("handle_batch", [m.fail("x") for m in messages]),
        handle_failed=lambda messages, context: stop_in("handle_failed", messages),
    )
    pipeline = make_pipeline(
        handler,
        batchers={"default": {"batch_size": (0, lambda m, a: stop_in("size", ("emit", a))), "max_demand": 5}},
        partition_by=lambda message: stop_in("partition_by", 0),
        shutdown=60,
    ).start()
    on_this_thread = False
    try:
        pipeline.push_messages([Message(1, (Acknowledger(), None, None))])
    except NotRunningError:
        # Partitions may be computed by the thread that pushes, which is no callback's: the stop comes before the push.
        assert callback == "partition_by"
        on_this_thread = True
    assert pipeline.join(BOUND) is True
    if not on_this_thread:
        assert get(acked) == [1]
        assert get(states) in ("draining", "running")
    assert acked.empty()
    assert pipeline.state == "stopped"


@pytest.mark.parametrize("callback", ["init", "handle_demand", "terminate", "transformer"])
def test_stop_from_a_producer(make_pipeline: Any, acks: Any, callback: str) -> None:
    """
    A producer may stop its own pipeline.
    """
    pipeline: Any = None

    class Stopping(Producer):
        def _stop_in(self, name: str) -> None:
            if name == callback:
                pipeline.stop()

        def init(self) -> None:
            self._stop_in("init")

        def handle_demand(self, demand: int) -> Iterable[Any]:
            self._stop_in("handle_demand")
            return acks.messages([1])

        def terminate(self, reason: Any) -> None:
            self._stop_in("terminate")

    def transformer(message: Message) -> Message:
        if callback == "transformer":
            pipeline.stop()
        return message

    pipeline = make_pipeline(producer={"module": Stopping, "transformer": transformer}, shutdown=60)
    pipeline.start()
    if callback == "terminate":
        acks.next()
        pipeline.request_stop()
    assert pipeline.join(BOUND) is True
    assert set(acks.all_data()) <= {1}
    assert len(acks.all_data()) >= (callback != "init")


def test_join_from_a_callback_does_not_deadlock(make_pipeline: Any) -> None:
    """
    A callback that stops and then joins with a timeout gets its thread back.
    """
    pipeline: Any = None
    joined: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        pipeline.stop()
        try:
            joined.put(pipeline.join(0.01))
        except RuntimeError as error:
            joined.put(error)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.test_message(1)
    result = get(joined)
    assert result is False or isinstance(result, RuntimeError)
    assert pipeline.join(BOUND) is True


def slow_to_prepare(gate: Any) -> Any:
    """
    Return a class of producers whose ``prepare_for_start`` waits at *gate*.
    """

    class Slow(DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            gate.wait()
            return [], options

    return Slow


def test_stop_during_start(make_pipeline: Any, gates: Any) -> None:
    """
    A stop that comes while ``start`` is still at work leaves no running pipeline, no thread and no name.
    """
    gate = gates()
    pipeline = make_pipeline(name="inv", producer={"module": slow_to_prepare(gate)})
    start = Call(pipeline.start)
    gate.arrived()
    stop = Call(pipeline.stop)
    gate.open()
    stop.result()
    assert stage_threads("inv") == []
    assert broadway_sync.all_running() == []
    assert pipeline.state == "stopped"
    start.result()


def test_stop_during_a_start_that_takes_too_long(make_pipeline: Any, gates: Any) -> None:
    """
    A stop whose time is over while ``prepare_for_start`` is at work says so; the pipeline ends all the same.
    """
    gate = gates()
    pipeline = make_pipeline(producer={"module": slow_to_prepare(gate)})
    start = Call(pipeline.start)
    gate.arrived()
    with pytest.raises(DrainTimeoutError, match="it is still in start") as caught:
        pipeline.stop(0.01)
    assert caught.value.left_behind == 0
    gate.open()
    start.result()
    assert pipeline.join(BOUND)


def test_stop_during_a_start_that_fails(make_pipeline: Any, gates: Any) -> None:
    """
    It returns when the start has failed: there is nothing to stop then.
    """
    gate = gates()

    class Slow(DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            gate.wait()
            raise LookupError("no broker")

    pipeline = make_pipeline(producer={"module": Slow})
    start = Call(pipeline.start)
    gate.arrived()
    stop = Call(pipeline.stop)
    gate.open()
    stop.result()
    with pytest.raises(LookupError):
        start.result()
    assert pipeline.state == "new"


def test_stop_inside_of_start(make_pipeline: Any) -> None:
    """
    On the thread that is in ``start`` a stop only begins: it could not end before the start does.
    """
    states: list[str] = []

    class Child:
        def start(self) -> None:
            pipeline.stop()
            states.append(pipeline.state)

        def stop(self) -> None:
            pipeline.stop()

    class Prepared(DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            return [Child()], options

    pipeline = make_pipeline(producer={"module": (Prepared, {})}, shutdown=0.1)
    assert pipeline.start() is pipeline
    assert pipeline.join(BOUND)
    assert (states, pipeline.state) == (["draining"], "stopped")


def test_starts_and_stops_from_many_threads(make_pipeline: Any) -> None:
    """
    Threads that start and stop one pipeline as they like leave it stopped and usable.
    """
    pipeline = make_pipeline(name="inv", batchers={"default": {}})

    def play(seed: int) -> None:
        for number in range(15):
            try:
                if (seed + number) % 2:
                    pipeline.start()
                else:
                    pipeline.stop()
            except (broadway_sync.AlreadyStartedError, NotRunningError):
                pass

    for call in [Call(play, seed) for seed in range(4)]:
        call.result()
    pipeline.stop()
    assert stage_threads("inv") == []
    assert broadway_sync.all_running() == []
    with pipeline:
        assert pipeline.test_message(1).receive(BOUND)


# request_stop and signals


def test_request_stop(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    ``request_stop`` begins the stop and returns at once, as often as one likes.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    for _ in range(3):
        assert pipeline.request_stop() is None
    eventually(lambda: pipeline.state == "draining", "draining")
    gate.open()
    assert pipeline.join(BOUND) is True
    assert acks.all_data() == [1]
    pipeline.request_stop()
    assert pipeline.state == "stopped"


@pytest.mark.usefixtures("crashes_add_up")
@pytest.mark.parametrize("begin", [lambda p: p.request_stop(), lambda p: p.fail(OSError("x"))], ids=["stop", "fail"])
def test_no_demand_once_a_stop_has_begun(make_pipeline: Any, gate: Any, begin: Any) -> None:
    """
    From the call on nobody is asked and ``stage.draining`` is true, however busy the supervisor or the interpreter is.
    """
    crashes = [OSError("crash")] * 3  # two are allowed in a second, the third restarts the pipeline
    demands: queue.Queue[Producer] = queue.Queue()

    class Asked(Producer):
        poll_interval = 0.001

        def handle_demand(self, demand: int) -> Iterable[Message]:
            if crashes:
                raise crashes.pop()
            demands.put(self)
            return []

    # This is told by the supervisor, when everything runs again: so it is busy until the gate opens.
    handler_id = unique_name("handler")
    telemetry.attach(handler_id, TOPOLOGY_RESTART, lambda *arguments: gate.wait())
    pipeline = make_pipeline(producer={"module": (Asked, {})}, resubscribe_interval=0).start()
    gate.arrived()
    producer = get(demands, "a demand")
    begin(pipeline)
    assert producer.stage.draining
    with pytest.raises(NotRunningError):
        producer.stage.emit([])
    while not demands.empty():
        demands.get()
    time.sleep(QUIET)
    assert demands.qsize() <= 1, "it is asked no more, but for the demand that it may have been in"
    telemetry.detach(handler_id)
    gate.open()
    eventually(lambda: pipeline.state in ("stopped", "failed"), "the end")


@pytest.fixture
def on_signal() -> Any:
    """
    Return a function that sets the handler of SIGUSR1 for this test.
    """
    before = signal.getsignal(signal.SIGUSR1)

    def install(function: Any) -> None:
        signal.signal(signal.SIGUSR1, lambda signum, frame: function())

    yield install
    signal.signal(signal.SIGUSR1, before)


def signal_until(condition: Callable[[], Any], begun: threading.Event) -> Call:
    """
    Signal this thread from *begun* until *condition*: a signal just before a wait for a lock is seen after that wait.
    """
    main = threading.get_ident()

    def send() -> bool:
        time.sleep(0.05)
        if not condition():
            signal.pthread_kill(main, signal.SIGUSR1)
        return bool(condition())

    return Call(lambda: (begun.wait(BOUND), eventually(send, "the signal is handled")))


def test_request_stop_from_a_signal_handler(make_pipeline: Any, acks: Any, on_signal: Any) -> None:
    """
    A signal that arrives while the main thread waits in ``join`` ends the pipeline.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_timeout": NEVER}}).start()
    on_signal(pipeline.request_stop)
    pipeline.push_messages(acks.messages(range(10)))
    begun = threading.Event()
    call = signal_until(lambda: pipeline.state != "running", begun)
    begun.set()
    assert pipeline.join(2 * BOUND) is True
    call.result()
    assert sorted(acks.all_data()) == list(range(10))


def test_stop_from_a_signal_handler_during_join(make_pipeline: Any, on_signal: Any) -> None:
    """
    An exception raised by a signal handler leaves ``join``: the main thread can be interrupted.
    """

    class Interrupted(Exception):
        pass

    def interrupt() -> None:
        if not interrupted:
            interrupted.append(True)
            raise Interrupted

    interrupted: list[bool] = []
    pipeline, begun = make_pipeline().start(), threading.Event()
    on_signal(interrupt)
    call = signal_until(lambda: interrupted, begun)
    with pytest.raises(Interrupted):
        begun.set()
        pipeline.join(2 * BOUND)
    call.result()
    assert pipeline.state == "running"


def test_request_stop_interrupts_any_call(make_pipeline: Any, acks: Any, on_signal: Any) -> None:
    """
    Whatever the main thread does in the library when the signal comes, the handler needs no lock that it may hold.
    """
    rounds, signals = 25, []
    for _ in range(rounds):
        pipeline = make_pipeline(batchers={"default": {}})

        def request(pipeline: Any = pipeline) -> None:
            signals.append(1)
            pipeline.request_stop()

        on_signal(request)
        pipeline.start()
        signal.signal(signal.SIGALRM, lambda signum, frame: os.kill(os.getpid(), signal.SIGUSR1))
        signal.setitimer(signal.ITIMER_REAL, 0.003, 0.0005)
        accepted = []
        try:
            for number in itertools.count():
                pipeline.push_messages(acks.messages([number]))
                accepted.append(number)
        except NotRunningError:
            pass
        try:
            assert pipeline.join(BOUND) is True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert sorted(set(acks.all_data()) - set(accepted)) in ([], [len(accepted)])
        assert set(accepted) <= set(acks.all_data())
        acks.acks.clear()
    assert len(signals) >= rounds


# The deadline


class Hanging:
    """
    A handler whose callbacks hang at a gate.
    """

    def __init__(self, gate: Any, where: str) -> None:
        self.gate = gate
        self.where = where
        self.failed: list[Any] = []

    def _hang(self, where: str) -> None:
        if where == self.where:
            self.gate.wait(where)

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Hang, if this is the place.
        """
        self._hang("handle_message")
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Hang, if this is the place.
        """
        self._hang("handle_batch")
        return messages

    def handle_failed(self, messages: list[Message], context: Any) -> list[Message]:
        """
        Record the call.
        """
        self.failed += [m.data for m in messages]
        return messages


PLACES = {"handle_message": "Processor_default_0", "handle_batch": "BatchProcessor_default_0"}


@pytest.mark.parametrize(("where", "stage"), PLACES.items())
@pytest.mark.parametrize("count", [1, 3])
def test_drain_timeout_error(make_pipeline: Any, acks: Any, gate: Any, where: str, stage: str, count: int) -> None:
    """
    The error says how many messages were left behind, and which thread hung where.
    """
    name = unique_name()
    pipeline = make_pipeline(
        Hanging(gate, where), name=name, batchers={"default": {"batch_size": count}}, shutdown=0.1
    ).start()
    pipeline.push_messages(acks.messages(range(count)))
    gate.arrived()
    with pytest.raises(DrainTimeoutError) as caught:
        pipeline.stop()
    text = str(caught.value)
    assert re.search(rf"\b{count} message", text), text
    assert f"{name}.Broadway.{stage}" in text
    assert where in text
    assert "test_stop.py" in text
    assert isinstance(caught.value, TimeoutError)


def test_error_names_only_threads_that_hang(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Threads that ended or could end are not blamed.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == 0:
            gate.wait(threading.current_thread().name)
        return message

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        processors={"default": {"concurrency": 3, "max_demand": 1}},
        shutdown=0.2,
    ).start()
    pipeline.push_messages(acks.messages(range(6)))
    hung = gate.arrived()
    assert sorted(acks.collect_data(5)[0]) == [1, 2, 3, 4, 5]
    with pytest.raises(DrainTimeoutError) as caught:
        pipeline.stop()
    text = str(caught.value)
    assert re.search(r"\b1 message", text), text
    named = set(re.findall(r"Processor_default_\d", text))
    assert named == {hung.rpartition(".")[2]}


def test_one_deadline_for_everything(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    However many stages hang, ``stop`` gives up after ``shutdown``, not after a multiple of it.
    """
    shutdown = 2.0 * SCALE

    class Hung(Producer):
        sent = False

        def handle_demand(self, demand: int) -> Iterable[Message]:
            if self.sent:
                gate.wait("producer")
            self.sent = True
            return acks.messages([1])

        def terminate(self, reason: Any) -> None:
            gate.wait("terminate")

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "second":
            gate.wait("processor")
        return message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        gate.wait("batch processor")
        return messages

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message, handle_batch=handle_batch),
        producer={"module": Hung},
        processors={"default": {"concurrency": 1, "max_demand": 2}},
        batchers={"default": {"batch_size": 1}},
        shutdown=shutdown,
    ).start()
    arrived = {gate.arrived(), gate.arrived()}
    pipeline.push_messages(acks.messages(["second"]))
    arrived.add(gate.arrived())
    assert arrived == {"producer", "processor", "batch processor"}
    before = time.monotonic()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    elapsed = time.monotonic() - before
    assert shutdown * 0.9 <= elapsed < shutdown * 1.9


class Dawdling(Producer):
    """
    A producer whose second demand goes on until a stop has begun, and then *dawdle* has returned; it has one last
    message then.
    """

    poll_interval = 0.0

    def __init__(self, acks: Any, dawdle: Callable[[], Any], is_asked: threading.Event) -> None:
        self.demands = 0
        self.acks = acks
        self.dawdle = dawdle
        self.is_asked = is_asked

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Bring a message at once, and two that take their time.
        """
        self.demands += 1
        if self.demands == 1:
            return self.acks.messages(["early"])
        self.is_asked.set()
        while not self.stage.draining:
            self.stage.wait(BOUND)
        self.dawdle()
        return self.acks.messages(["a", "b"])

    def prepare_for_draining(self) -> Iterable[Message]:
        """
        Bring the last one.
        """
        return self.acks.messages(["last"])


@pytest.mark.parametrize(("shutdown", "is_late"), [(6 * BOUND, False), (4.0 * SCALE, True)], ids=["soon", "late"])
def test_producer_that_comes_back_within_the_time(
    make_pipeline: Any, acks: Any, shutdown: float, is_late: bool
) -> None:
    """
    What it returns is processed, and so is its last message, although open batches did not wait for it for ever.
    """
    batches: queue.Queue[Any] = queue.Queue()
    is_asked = threading.Event()

    def dawdle() -> None:
        if is_late:
            eventually(lambda: not batches.empty(), "the open batch is flushed without it")

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        batches.put(([m.data for m in messages], batch_info.trigger))
        return messages

    pipeline = make_pipeline(
        make_handler(handle_batch=handle_batch),
        producer={"module": (Dawdling, {"acks": acks, "dawdle": dawdle, "is_asked": is_asked})},
        batchers={"default": {"batch_timeout": NEVER}},
        shutdown=shutdown,
    ).start()
    assert is_asked.wait(BOUND)
    pipeline.stop()
    assert acks.all_data() == ["early", "a", "b", "last"]
    together = [(["early", "a", "b", "last"], "flush")]
    apart = [(["early"], "flush"), (["a", "b", "last"], "flush")]
    assert list(batches.queue) == (apart if is_late else together)


def test_producer_that_comes_back_too_late(make_pipeline: Any, acks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What it brings when the stop has gone on without it is left behind, and ``stop`` says so.
    """

    class Drain(supervisor.Drain):
        """
        One that does not wait for producers for most of its time.
        """

        def __init__(self, reason: str, seconds: float, cause: Any) -> None:
            super().__init__(reason, seconds, cause)
            self.flush, self.producers = Deadline(0.0), Deadline(0.0)

    def dawdle() -> None:
        others = [thread for thread in stage_threads(pipeline.name) if "Process" in thread.name]
        eventually(lambda: not any(thread.is_alive() for thread in others), "the stop goes on without the producer")

    monkeypatch.setattr(supervisor, "Drain", Drain)
    is_asked = threading.Event()
    pipeline = make_pipeline(
        producer={"module": (Dawdling, {"acks": acks, "dawdle": dawdle, "is_asked": is_asked})},
        batchers={"default": {"batch_timeout": NEVER}},
        shutdown=6 * BOUND,
    ).start()
    assert is_asked.wait(BOUND)
    with pytest.raises(DrainTimeoutError, match=r"\b2 messages were left behind") as caught:
        pipeline.stop()
    assert (caught.value.left_behind, caught.value.threads) == (2, {})
    assert acks.all_data() == ["early"]


@pytest.mark.parametrize("is_waiting", [True, False])
def test_no_time_and_nothing_to_do(make_pipeline: Any, caplog: Any, is_waiting: bool) -> None:
    """
    A stop without time is no error when nothing is left behind and no thread hangs.
    """
    pipeline = make_pipeline(batchers={"default": {}})
    for _ in range(20):
        pipeline.start()
        if is_waiting:
            assert pipeline.stop(0) is None
        else:
            pipeline.request_stop(0)
        assert pipeline.join(BOUND)
        assert stage_threads(pipeline.name) == []
    assert caplog.records == []


def test_no_time_and_a_producer_that_comes_back(make_pipeline: Any, acks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What it brings a moment after it was given up is left behind, and said so.
    """
    is_asked = threading.Event()

    class Busy(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            is_asked.set()
            eventually(lambda: self.stage._owner.source.is_closed, "it is given up")  # type: ignore[attr-defined]
            return acks.messages(["a", "b"])

    monkeypatch.setattr(supervisor, "hanging", lambda threads: [])  # it is about to return, and does not hang
    monkeypatch.setattr(supervisor, "MOMENT", BOUND)
    pipeline = make_pipeline(producer={"module": (Busy, {})}).start()
    assert is_asked.wait(BOUND)
    with pytest.raises(DrainTimeoutError, match=r"\b2 messages were left behind") as caught:
        pipeline.stop(0)
    assert (caught.value.left_behind, acks.acks) == (2, [])


def test_no_time_and_a_thread_that_hangs(make_pipeline: Any) -> None:
    """
    It is told of, also when it has no message, and hangs where no frame of Python shows it.
    """
    source: Any = queue.SimpleQueue()
    pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": iter(source.get, None)})}).start()
    wait_until_asked(pipeline.name, "Producer_0")
    try:
        with pytest.raises(DrainTimeoutError, match="^.* 0 messages were left behind") as caught:
            pipeline.stop(0.2)
        assert list(caught.value.threads) == [f"{pipeline.name}.Broadway.Producer_0"]
    finally:
        source.put(None)


def wait_until_asked(name: str, stage: str) -> None:
    """
    Wait until a producer is in its ``handle_demand``, which hangs.
    """
    thread = stage_thread(name, stage)
    eventually(lambda: "handle_demand" in supervisor.describe_threads([thread])[thread.name], "it is asked")


def test_no_time_and_a_thread_that_ends_a_moment_later(make_pipeline: Any) -> None:
    """
    It is not told of: a busy machine may take its time to end a thread.
    """
    sources: list[Any] = [queue.SimpleQueue(), queue.SimpleQueue()]

    class Asking(Producer):
        def init(self) -> None:
            self.handle_demand = sources[self.stage.index].get  # type: ignore[method-assign]

    pipeline = make_pipeline(producer={"module": Asking, "concurrency": 2}).start()
    for number in range(2):
        wait_until_asked(pipeline.name, f"Producer_{number}")
    ending = threading.Timer(0.3, sources[1].put, [[]])
    ending.start()
    try:
        with pytest.raises(DrainTimeoutError) as caught:
            pipeline.stop(0)
        assert list(caught.value.threads) == [f"{pipeline.name}.Broadway.Producer_0"]
    finally:
        sources[0].put([])
        ending.join()


def test_timeout_of_stop(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    The timeout given to ``stop`` takes the place of ``shutdown``, shorter or longer.
    """
    pipeline = make_pipeline(Hanging(gate, "handle_message"), shutdown=NEVER).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    before = time.monotonic()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(timeout=0.1)
    assert time.monotonic() - before < BOUND
    patient = make_pipeline(Hanging(gate, "handle_message"), shutdown=0.01).start()
    patient.push_messages(acks.messages([2]))
    gate.arrived()
    call = Call(patient.stop, BOUND)
    eventually(lambda: patient.state == "draining", "draining")
    gate.assert_nobody("the handler still hangs")
    gate.open()
    call.result()
    assert 2 in acks.all_data()


@pytest.mark.parametrize("where", PLACES)
def test_abandoned_messages_are_not_acknowledged(make_pipeline: Any, acks: Any, gate: Any, where: str) -> None:
    """
    Messages left behind are neither acknowledged nor failed, also when the callback returns after all.
    """
    name = unique_name()
    handler = Hanging(gate, where)
    pipeline = make_pipeline(
        handler, name=name, batchers={"default": {"batch_size": 3, "concurrency": 1}}, shutdown=0.1
    ).start()
    pipeline.push_messages(acks.messages(range(9)))
    gate.arrived()
    thread = stage_thread(name, PLACES[where])
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    assert thread.daemon
    assert thread.is_alive()
    gate.open()
    thread.join(BOUND)
    assert not thread.is_alive()
    eventually(lambda: stage_threads(name) == [], "all threads ended")
    assert acks.acks == []
    assert handler.failed == []


def test_abandoned_callback_that_raises(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A callback of an abandoned thread that raises in the end fails nothing any more.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        raise ValueError("too late")

    name = unique_name()
    failed: list[Any] = []
    handler = make_handler(handle_message=handle_message, handle_failed=lambda messages, c: failed.append(1))
    pipeline = make_pipeline(handler, name=name, shutdown=0.1).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    gate.open()
    eventually(lambda: stage_threads(name) == [], "all threads ended")
    assert (acks.acks, failed) == ([], [])


def test_abandoned_callback_that_uses_its_pipeline(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A callback of an abandoned thread that pushes gets ``NotRunningError`` and does no harm.
    """
    pipeline: Any = None
    outcome: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        try:
            outcome.put(pipeline.push_messages(acks.messages([2])))
        except NotRunningError as error:
            outcome.put(error)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message), shutdown=0.1).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    gate.open()
    assert isinstance(get(outcome), NotRunningError)
    assert acks.acks == []


def test_second_stop_after_a_drain_timeout(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A second stop returns quietly, ``join`` too; the state is stopped and the name is free.
    """
    name = unique_name()
    pipeline = make_pipeline(Hanging(gate, "handle_message"), name=name, shutdown=0.1).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    assert pipeline.stop() is None
    assert pipeline.join(0) is True
    assert pipeline.state == "stopped"
    assert broadway_sync.all_running() == []
    with make_pipeline(name=name) as other:
        assert broadway_sync.get_pipeline(name) is other
        assert other.test_message(1).receive(BOUND)


def test_start_after_a_drain_timeout(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    The pipeline itself may be started again beside its abandoned thread, which touches nothing of it.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "old":
            gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message), shutdown=0.1).start()
    pipeline.push_messages(acks.messages(["old"]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    pipeline.start()
    pipeline.push_messages(acks.messages(["new"]))
    assert acks.collect_data(1) == (["new"], [])
    gate.open()
    pipeline.push_messages(acks.messages(["newer"]))
    assert acks.collect_data(1) == (["newer"], [])
    pipeline.stop(BOUND)
    assert acks.all_data() == ["new", "newer"]


def test_drain_timeout_at_the_end_of_with(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Leaving ``with`` raises the error, too.
    """
    with pytest.raises(DrainTimeoutError), make_pipeline(Hanging(gate, "handle_message"), shutdown=0.1) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        gate.arrived()


def test_requested_stop_has_the_deadline_too(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    After ``request_stop`` with a handler that hangs ``join`` returns when ``shutdown`` is over.
    """
    pipeline = make_pipeline(Hanging(gate, "handle_message"), shutdown=0.1).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    pipeline.request_stop()
    assert pipeline.join(BOUND) is True
    assert pipeline.state == "stopped"
    assert acks.acks == []


def test_messages_waiting_behind_a_hung_thread_are_counted(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Messages that wait in earlier stages are left behind, too, and counted.
    """
    pipeline = make_pipeline(Hanging(gate, "handle_message"), shutdown=0.1).start()
    pipeline.push_messages(acks.messages(range(42)))
    gate.arrived()
    with pytest.raises(DrainTimeoutError, match=r"\b42 message"):
        pipeline.stop()
    assert acks.acks == []


def test_terminate_after_the_deadline(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Producers are terminated also when the shutdown time ran out.
    """
    feed = Feed()
    pipeline = make_pipeline(
        Hanging(gate, "handle_message"), producer={"module": (FeedProducer, {"feed": feed})}, shutdown=0.1
    ).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    names = [get(feed.calls)[0] for _ in range(4)]
    assert names == ["new", "init", "prepare_for_draining", "terminate"]


def test_stop_of_a_pipeline_that_ended(make_pipeline: Any) -> None:
    """
    Stopping a pipeline that ended by itself does nothing.
    """
    pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": []})}).start()
    assert pipeline.join(BOUND)
    assert pipeline.stop() is None


def test_stop_while_a_natural_end_drains(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A stop during a natural end puts the deadline on it that this has not by itself.
    """
    pipeline = make_pipeline(
        Hanging(gate, "handle_message"),
        producer={"module": (IterableProducer, {"iterable": acks.messages([1])})},
        shutdown=0.1,
    ).start()
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop()
    assert pipeline.state == "stopped"
