"""
What no single section promises but all imply: no lock around user code, odd messages, starts that fail, no leaks.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import signal
import threading
import weakref
from typing import Any, Callable, Iterator

import pytest

import broadway_sync
from broadway_sync import (
    Buffer,
    BufferProducer,
    DummyProducer,
    IterableProducer,
    Message,
    NoopAcknowledger,
    telemetry,
)
from tests.helpers import (
    BOUND,
    NEVER,
    Call,
    Feed,
    FeedProducer,
    eventually,
    get,
    make_handler,
    stage_threads,
    unique_name,
)

# User code runs without any lock of the library


class Reentrant:
    """
    User code of every kind that uses the pipeline it runs in, once for each kind.
    """

    def __init__(self, acks: Any) -> None:
        self.acks = acks
        self.pipeline: Any = None
        self.used: list[str] = []
        self.mutex = threading.Lock()

    def use(self, kind: str) -> None:
        """
        Use the pipeline from another thread, while this one waits: a lock held around this call would block it.
        """
        with self.mutex:
            if kind in self.used:
                return
            self.used.append(kind)
        Call(self._use, kind).result()

    def _use(self, kind: str) -> None:
        pipeline = self.pipeline
        pipeline.push_messages([Message(kind, (self, "ref", None))])
        pipeline.topology()
        pipeline.get_rate_limiting()
        pipeline.update_rate_limiting(allowed_messages=50)
        assert pipeline.state == "running"
        assert pipeline.join(0) is False
        assert broadway_sync.get_pipeline(pipeline_name(pipeline)) is pipeline

    def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
        """
        Acknowledge, and use the pipeline.
        """
        self.use("ack")
        self.acks.ack(ack_ref, successful, failed)

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Use the pipeline; raise for half of the messages, so that the log is used.
        """
        self.use("handle_message")
        message.put_batch_key(Key(self, message.data))
        if message.data in ("raises", "transformer"):
            raise ValueError
        return message

    def prepare_messages(self, messages: list[Message], context: Any) -> list[Message]:
        """
        Use the pipeline.
        """
        self.use("prepare_messages")
        return messages

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Use the pipeline.
        """
        self.use("handle_batch")
        return messages

    def handle_failed(self, messages: list[Message], context: Any) -> list[Message]:
        """
        Use the pipeline.
        """
        self.use("handle_failed")
        return messages

    def partition_by(self, message: Message) -> int:
        """
        Use the pipeline.
        """
        self.use("partition_by")
        return 0

    def batch_size(self, message: Message, accumulator: int) -> tuple[str, int]:
        """
        Use the pipeline.
        """
        self.use("batch_size")
        return ("emit" if accumulator == 1 else "cont", accumulator + 1)

    def transformer(self, event: Any) -> Message:
        """
        Use the pipeline.
        """
        self.use("transformer")
        return Message(event, (self, "ref", None))

    def telemetry_handler(self, event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        """
        Use the pipeline.
        """
        self.use(".".join(event[1:]))


class Key:
    """
    A batch key that uses the pipeline when it is hashed and compared.
    """

    def __init__(self, user: Reentrant, value: Any) -> None:
        self.user = user
        self.value = value

    def __hash__(self) -> int:
        self.user.use("hash")
        return 1

    def __eq__(self, other: Any) -> bool:
        self.user.use("eq")
        return isinstance(other, Key) and self.value == other.value


def pipeline_name(pipeline: Any) -> str:
    """
    Return the name of a pipeline.
    """
    name: str = pipeline.producer_names()[0].partition(".Broadway.")[0]
    return name


class UsingLogHandler(logging.Handler):
    """
    A log handler that uses the pipeline.
    """

    def __init__(self, user: Reentrant) -> None:
        super().__init__()
        self.user = user

    def handle(self, record: logging.LogRecord) -> bool:
        """
        Use the pipeline, outside of the handler's own lock.
        """
        self.user.use("log")
        return True


EVENTS = [
    ("broadway", *event, kind)
    for event in (("processor",), ("processor", "message"), ("batcher",), ("batch_processor",), ("handle_failed",))
    for kind in ("start", "stop")
]

KINDS = {
    "ack",
    "handle_message",
    "prepare_messages",
    "handle_batch",
    "handle_failed",
    "partition_by",
    "batch_size",
    "transformer",
    "hash",
    "eq",
    "log",
    *(".".join(event[1:]) for event in EVENTS),
}


def test_no_lock_is_held_around_user_code(make_pipeline: Any, acks: Any) -> None:
    """
    Whatever user code the library calls, another thread can use the pipeline meanwhile: push, inspect, change limits.
    """
    user = Reentrant(acks)
    feed = Feed()
    log_handler = UsingLogHandler(user)
    handler_id = unique_name("handler")
    user.pipeline = make_pipeline(
        user,
        producer={
            "module": (FeedProducer, {"feed": feed}),
            "transformer": user.transformer,
            "rate_limiting": {"allowed_messages": 50, "interval": 0.01},
        },
        batchers={"default": {"batch_size": (0, user.batch_size), "max_demand": 4, "batch_timeout": 0.01}},
        processors={"default": {"concurrency": 2}},
        partition_by=user.partition_by,
        shutdown=2 * BOUND,
    )
    logging.getLogger("broadway_sync").addHandler(log_handler)
    telemetry.attach_many(handler_id, EVENTS, user.telemetry_handler)
    try:
        user.pipeline.start()
        feed.put("raises", *range(10))
        eventually(lambda: len(acks.all_data()) >= 11 + len(KINDS), f"all acknowledged, used: {sorted(user.used)}")
        user.pipeline.stop()
    finally:
        telemetry.detach(handler_id)
        logging.getLogger("broadway_sync").removeHandler(log_handler)
    assert set(user.used) == KINDS
    assert sorted(map(str, acks.all_data())) == sorted(map(str, ["raises", *range(10), *KINDS]))


# Odd messages


def test_message_that_is_pushed_twice(make_pipeline: Any, acks: Any) -> None:
    """
    A message that is in the pipeline twice is acknowledged once, and a stop does not wait for it.
    """
    with make_pipeline(batchers={"default": {"batch_timeout": NEVER}}) as pipeline:
        message = acks.message(1)
        pipeline.push_messages([message, message])
        pipeline.push_messages([message, acks.message(2)])
    assert sorted(acks.all_data()) == [1, 2]


def test_message_that_was_acknowledged_before(make_pipeline: Any, acks: Any) -> None:
    """
    A message that was acknowledged before it came into the pipeline is handled and not acknowledged again.
    """
    handled: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        handled.put(message.data)
        return message

    with make_pipeline(make_handler(handle_message=handle_message), batchers={"default": {}}) as pipeline:
        pipeline.push_messages([acks.message(1).ack_immediately(), acks.message(2)])
    assert [get(handled), get(handled)] == [1, 2]
    assert acks.all_data() == [1, 2]


def test_message_that_is_failed_before(make_pipeline: Any, acks: Any) -> None:
    """
    A message that arrives failed stays failed.
    """
    with make_pipeline(batchers={"default": {}}) as pipeline:
        pipeline.push_messages([acks.message(1).fail("early"), acks.message(2)])
    assert sorted(ack.data for ack in acks.acks) == [([], [1]), ([2], [])]


@pytest.mark.parametrize("batchers", [{}, {"default": {"batch_timeout": NEVER}}], ids=["no batchers", "batchers"])
def test_handle_message_may_return_a_new_message(make_pipeline: Any, acks: Any, batchers: Any) -> None:
    """
    A new message in place of the one that was given goes on in its place, and the pipeline ends.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return Message(message.data * 10, message.acknowledger)

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (IterableProducer, {"iterable": acks.messages(range(12))})},
        batchers=batchers,
    ).start()
    assert pipeline.join(BOUND) is True
    assert sorted(acks.all_data()) == [n * 10 for n in range(12)]


@pytest.mark.parametrize("batchers", [{}, {"default": {"batch_timeout": NEVER}}], ids=["no batchers", "batchers"])
def test_handle_message_that_returns_another_message(make_pipeline: Any, acks: Any, batchers: Any) -> None:
    """
    Returning the message of an earlier call acknowledges none twice, loses none, and the pipeline ends.
    """
    first: list[Message] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        first.append(message)
        return first[0]

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (IterableProducer, {"iterable": acks.messages(range(12))})},
        batchers=batchers,
    ).start()
    assert pipeline.join(BOUND) is True
    assert len(acks.all_data()) == len(set(acks.all_data()))


def test_acknowledger_replaced_by_a_callback(make_pipeline: Any, acks: Any) -> None:
    """
    A callback may give a message another acknowledger.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message.acknowledger = acks.init("new")
        return message

    with make_pipeline(make_handler(handle_message=handle_message), batchers={"default": {}}) as pipeline:
        pipeline.push_messages([Message(1, NoopAcknowledger.init())])
    assert [(ack.ref, *ack.data) for ack in acks.acks] == [("new", [1], [])]


def test_data_that_cannot_be_shown_or_compared(make_pipeline: Any, acks: Any) -> None:
    """
    The library neither shows nor compares nor hashes nor copies what a message carries.
    """

    class Private:
        def _refuse(self, *args: Any) -> Any:
            raise AssertionError("this is nobody's business")

        __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __copy__ = __deepcopy__ = _refuse

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.metadata["n"] % 2:
            raise ValueError
        return message

    handler = make_handler(handle_message=handle_message, handle_failed=lambda messages, c: messages)
    with make_pipeline(handler, batchers={"default": {}}, context=Private()) as pipeline:
        pipeline.push_messages(acks.message(Private(), metadata={"n": n}) for n in range(6))
    assert len(acks.all_data()) == 6


def test_failures_are_acknowledged_before_successes_go_on(make_pipeline: Any, acks: Any) -> None:
    """
    The failed messages of a chunk are acknowledged before its successful ones reach their batcher.
    """
    order: list[Any] = []

    class Ordered:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            order.append(("ack", len(successful), len(failed)))

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        order.append("batch")
        return messages

    handler = make_handler(
        handle_message=lambda p, m, c: m.fail("x") if m.data % 2 else m, handle_batch=handle_batch
    )
    with make_pipeline(handler, batchers={"default": {"batch_size": 2, "batch_timeout": NEVER}}) as pipeline:
        ordered = Ordered()
        pipeline.push_messages(Message(n, (ordered, None, None)) for n in range(3))
    assert order[0] == ("ack", 0, 1)
    assert "batch" in order[1:]


# Starts and stops that are interrupted


def test_threads_that_cannot_be_started(make_pipeline: Any, monkeypatch: Any) -> None:
    """
    When the system refuses a thread, ``start`` raises, whatever thread it is; nothing runs on and the name is free.
    """
    name = unique_name()
    pipeline = make_pipeline(
        name=name, processors={"default": {"concurrency": 2}}, batchers={"default": {"concurrency": 2}}
    )
    original = threading.Thread.start
    with pipeline:
        count = len(stage_threads(name))
    for allowed in range(count):
        started: list[Any] = []

        def start(thread: Any, started: list[Any] = started, allowed: int = allowed) -> None:
            if ".Broadway." in thread.name:
                if len(started) >= allowed:
                    raise RuntimeError("can't start new thread")
                started.append(thread)
            original(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pipeline.start()
        eventually(lambda: stage_threads(name) == [], "no thread left")
        assert broadway_sync.all_running() == []
        assert pipeline.state != "running"
    with pipeline:
        assert pipeline.test_message(1).receive(BOUND)


class Interrupted(Exception):
    """
    What the signal handler of a test raises.
    """


@pytest.fixture
def interrupt() -> Any:
    """
    Return a function that raises ``Interrupted`` on the main thread.
    """

    def handler(number: int, frame: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_interrupted_stop(make_pipeline: Any, acks: Any, gate: Any, interrupt: Callable[[], None]) -> None:
    """
    A ``stop`` that Ctrl-C interrupts goes on in the background; another one waits for it.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message), shutdown=6 * BOUND).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()

    def when_draining() -> None:
        eventually(lambda: pipeline.state == "draining", "draining")
        interrupt()

    call = Call(when_draining)
    with pytest.raises(Interrupted):
        pipeline.stop()
    call.result()
    assert pipeline.state == "draining"
    gate.open()
    pipeline.stop()
    assert pipeline.state == "stopped"
    assert acks.all_data() == [1]


# Stages that outlive their pipeline


def test_stage_after_the_end(make_pipeline: Any) -> None:
    """
    The stage of a producer that has ended can be woken and waited on without harm.
    """
    feed = Feed()
    with make_pipeline(producer={"module": (FeedProducer, {"feed": feed})}):
        get(feed.demands)
    stage = feed.instances[0].stage
    assert stage.draining is True
    stage.wake()
    stage.wait(6 * BOUND)


def test_buffer_in_two_pipelines(make_pipeline: Any, acks: Any) -> None:
    """
    Two pipelines on one buffer share what is pushed: each message is handled once.
    """
    buffer = Buffer(maxsize=10)
    options = {"producer": {"module": (BufferProducer, {"buffer": buffer})}}
    pipelines = [make_pipeline(**options).start() for _ in range(2)]
    for number in range(100):
        buffer.push(number, acknowledger=acks.init())
    buffer.close()
    assert [p.join(BOUND) for p in pipelines] == [True, True]
    assert sorted(acks.all_data()) == list(range(100))


# Nothing is kept


class Payload:
    """
    Something that a weak reference can watch.
    """


def run_payloads(pipeline: Any, count: int) -> list[Any]:
    """
    Send payloads through a pipeline, wait for all of them, and return weak references to them.
    """
    done: queue.Queue[Any] = queue.Queue()

    class Counting:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            done.put(len(successful) + len(failed))

    payloads = [Payload() for _ in range(count)]
    references = [weakref.ref(p) for p in payloads]
    pipeline.push_messages(Message(p, (Counting(), "ref", None)) for p in payloads)
    handled = 0
    while handled < count:
        handled += get(done)
    return references


@pytest.mark.parametrize("outcome", ["ok", "raise", "fail"])
def test_handled_messages_are_let_go(make_pipeline: Any, outcome: str) -> None:
    """
    A pipeline that idles keeps none of the messages that it has acknowledged, but for the last few of each stage.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if outcome == "raise":
            raise ValueError
        return message.fail("x") if outcome == "fail" else message

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message), batchers={"default": {"batch_size": 5, "batch_timeout": 0.01}}
    )
    with pipeline, _quiet_log():
        references = run_payloads(pipeline, 500)
        gc.collect()
        assert sum(r() is not None for r in references) <= 20


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """
    Keep pytest's log capture, which keeps every exception, out of the measurement.
    """
    logger, handler = logging.getLogger("broadway_sync"), logging.NullHandler()
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def test_stopped_pipelines_are_let_go(make_pipeline: Any) -> None:
    """
    Nothing in the library refers to a pipeline that was stopped, nor to its handler.
    """

    class Watched:
        def handle_message(self, processor: str, message: Message, context: Any) -> Message:
            return message

    handler = Watched()
    pipeline = broadway_sync.Pipeline(
        handler,
        name=unique_name(),
        producer={"module": (DummyProducer, {})},
        processors={"default": {"concurrency": 2}},
    )
    with pipeline:
        assert pipeline.test_message(1).receive(BOUND)
    references = [weakref.ref(handler), weakref.ref(pipeline)]
    del handler, pipeline
    gc.collect()
    assert [r() for r in references] == [None, None]


def test_many_pipelines_one_after_the_other(make_pipeline: Any) -> None:
    """
    Starting and stopping again and again leaves no thread and no name behind.
    """
    before = set(threading.enumerate())
    pipeline = make_pipeline(batchers={"default": {}})
    for number in range(50):
        with pipeline:
            assert pipeline.test_message(number).receive(BOUND)
    assert set(threading.enumerate()) <= before
    assert broadway_sync.all_running() == []
