"""
What the tests of several files share: bounded waiting, gates, recording acknowledgers, sources that a test feeds.

Everything here waits on events, queues and conditions. The times below are upper bounds (a test that passes never
waits them out), except ``QUIET``: that is how long a test watches for something that must *not* happen.
"""

from __future__ import annotations

import collections
import itertools
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from typing import Any, Callable, Iterable, NamedTuple

import broadway_sync
from broadway_sync import EndOfStream, Message, Producer

SCALE = float(os.environ.get("BROADWAY_TIME_SCALE", "1"))
"""Stretches every bound below, for machines that are slow or busy."""

BOUND = 10.0 * SCALE
"""Seconds after which a test gives up waiting for something that must happen."""

QUIET = 0.2 * SCALE
"""Seconds during which a test watches that something does not happen."""

NEVER = 3600.0
"""A batch timeout or interval that no test lives to see."""

_numbers = itertools.count()


def unique_name(prefix: str = "pipeline") -> str:
    """
    Return a pipeline name that no other test of this process uses.
    """
    return f"{prefix}_{next(_numbers)}"


def eventually(predicate: Callable[[], Any], what: str, timeout: float = BOUND) -> Any:
    """
    Wait until *predicate* returns something true and return it; fail with *what* if it does not in time.

    Only for states that offer nothing to wait on (``Pipeline.state``, ``Thread.is_alive``).
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {timeout} s: {what}")
        time.sleep(0.002)


def get(source: queue.Queue[Any], what: str = "the next item") -> Any:
    """
    Take the next item from a queue; fail with *what* if none comes in time.
    """
    try:
        return source.get(timeout=BOUND)
    except queue.Empty:
        raise AssertionError(f"nothing came within {BOUND} s, expected {what}") from None


def get_many(source: queue.Queue[Any], count: int, what: str = "items") -> list[Any]:
    """
    Take *count* items from a queue.
    """
    items: list[Any] = []
    for number in range(count):
        items.append(get(source, f"{what}: number {number + 1} of {count}, after {items!r:.300}"))
    return items


def assert_quiet(source: queue.Queue[Any], what: str, seconds: float = QUIET) -> None:
    """
    Fail if anything arrives in the queue within *seconds*.
    """
    try:
        item = source.get(timeout=seconds)
    except queue.Empty:
        return
    raise AssertionError(f"{what}, but {item!r:.300} came")


class Call:
    """
    A function that runs on a thread of its own: ``result()`` waits for it, and raises what it raised.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
        self._function = lambda: function(*args, **kwargs)
        self.thread = threading.Thread(target=self._run, name=f"call of {function!r:.60}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._outcome.put((self._function(), None))
        except BaseException as error:  # handed to the thread that asks for the result
            self._outcome.put((None, error))

    def is_done(self) -> bool:
        """
        Return whether the function has come to its end.
        """
        return not self._outcome.empty()

    def result(self) -> Any:
        """
        Wait for the end of the function; return or raise what it did.
        """
        value, error = get(self._outcome, f"the end of {self.thread.name}")
        self.thread.join(BOUND)
        if error is not None:
            raise error
        return value


class Gate:
    """
    A place where threads wait until the test opens it; it tells the test who came.
    """

    def __init__(self) -> None:
        self._open = threading.Event()
        self._arrivals: queue.Queue[Any] = queue.Queue()

    def wait(self, visitor: Any = None) -> None:
        """
        Report *visitor* and wait for the gate; the bound only keeps a broken test from hanging for ever.
        """
        self._arrivals.put(visitor)
        if not self._open.wait(6 * BOUND):
            raise AssertionError("nobody opened the gate")

    def arrived(self) -> Any:
        """
        Wait for the next visitor and return what it reported.
        """
        return get(self._arrivals, "somebody at the gate")

    def assert_nobody(self, what: str) -> None:
        """
        Fail if anybody else arrives while the test watches.
        """
        assert_quiet(self._arrivals, what)

    def open(self) -> None:
        """
        Let everybody through, now and later.
        """
        self._open.set()


class Ack(NamedTuple):
    """
    One call of ``ack``: the messages themselves, and the thread that made it.
    """

    ref: Any
    successful: list[Message]
    failed: list[Message]
    thread: str

    @property
    def data(self) -> tuple[list[Any], list[Any]]:
        """
        The data of the successful and of the failed messages.
        """
        return [m.data for m in self.successful], [m.data for m in self.failed]


class RecordingAcknowledger:
    """
    An acknowledger that records its calls, in order, and lets a test wait for them.
    """

    def __init__(self) -> None:
        self.acks: list[Ack] = []
        self._queue: queue.Queue[Ack] = queue.Queue()

    def init(self, ref: Any = "ref", data: Any = None) -> tuple[Any, Any, Any]:
        """
        Return the triple of a message.
        """
        return (self, ref, data)

    def ack(self, ack_ref: Any, successful: Iterable[Message], failed: Iterable[Message]) -> None:
        """
        Record one acknowledgement.
        """
        call = Ack(ack_ref, list(successful), list(failed), threading.current_thread().name)
        self.acks.append(call)
        self._queue.put(call)

    def message(self, data: Any, **options: Any) -> Message:
        """
        Return a message that is acknowledged here.
        """
        return Message(data, self.init(), **options)

    def messages(self, data: Iterable[Any], **options: Any) -> list[Message]:
        """
        Return one message for each of *data*.
        """
        return [self.message(item, **options) for item in data]

    def next(self) -> Ack:
        """
        Wait for the next call.
        """
        return get(self._queue, "an acknowledgement")

    def collect(self, count: int) -> tuple[list[Message], list[Message]]:
        """
        Wait until *count* messages are acknowledged; return the successful and the failed ones.
        """
        successful: list[Message] = []
        failed: list[Message] = []
        while len(successful) + len(failed) < count:
            ack = get(self._queue, f"{count} acknowledged messages, got {len(successful)} ok, {len(failed)} failed")
            successful += ack.successful
            failed += ack.failed
        assert len(successful) + len(failed) == count, "more messages were acknowledged than expected"
        return successful, failed

    def collect_data(self, count: int) -> tuple[list[Any], list[Any]]:
        """
        As ``collect``, but return the data.
        """
        successful, failed = self.collect(count)
        return [m.data for m in successful], [m.data for m in failed]

    def all_data(self) -> list[Any]:
        """
        Return the data of every message that was acknowledged so far, in order.
        """
        return [m.data for ack in list(self.acks) for m in ack.successful + ack.failed]

    def assert_nothing(self, what: str) -> None:
        """
        Fail if another acknowledgement comes while the test watches.
        """
        assert_quiet(self._queue, what)


class ConfigurableAcknowledger(RecordingAcknowledger):
    """
    A recording acknowledger whose messages can be configured: the new options become the ack data.
    """

    def configure(self, ack_ref: Any, ack_data: Any, options: Any) -> Any:
        """
        Return what it was called with, as the new ack data.
        """
        return {"ref": ack_ref, "before": ack_data, "options": dict(options)}


def make_handler(**callbacks: Callable[..., Any]) -> Any:
    """
    Return a handler with these callbacks; ``handle_message`` and ``handle_batch`` return what they got unless given.
    """
    defaults: dict[str, Callable[..., Any]] = {
        "handle_message": lambda processor, message, context: message,
        "handle_batch": lambda batcher, messages, batch_info, context: messages,
    }
    return types.SimpleNamespace(**{**defaults, **callbacks})


class Batches:
    """
    A ``handle_batch`` that records the batches as ``(data, batch_info)`` and lets a test wait for them.
    """

    def __init__(self, gate: Gate | None = None) -> None:
        self._gate = gate
        self._queue: queue.Queue[tuple[list[Any], Any]] = queue.Queue()
        self.threads: list[str] = []

    def __call__(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        self.threads.append(threading.current_thread().name)
        self._queue.put(([m.data for m in messages], batch_info))
        if self._gate is not None:
            self._gate.wait([m.data for m in messages])
        return messages

    def next(self) -> tuple[list[Any], Any]:
        """
        Wait for the next batch.
        """
        return get(self._queue, "a batch")

    def next_cut(self) -> tuple[list[Any], str]:
        """
        Wait for the next batch; return its data and what cut it.
        """
        data, batch_info = self.next()
        return data, batch_info.trigger

    def assert_none(self, what: str) -> None:
        """
        Fail if another batch comes while the test watches.
        """
        assert_quiet(self._queue, what)


class Feed:
    """
    What a ``FeedProducer`` hands out, and what happened to it. One feed serves all instances of the producer.

    Items that are exceptions are raised by ``handle_demand``; the rest goes out as it is (messages, or events for
    a transformer). ``close()`` ends the stream after the last item.
    """

    def __init__(self, items: Iterable[Any] = (), *, closed: bool = False) -> None:
        self._mutex = threading.Lock()
        self._items: collections.deque[Any] = collections.deque(items)
        self._closed = closed
        self.instances: list[FeedProducer] = []
        self.demands: queue.Queue[int] = queue.Queue()
        self.calls: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.taken = 0

    def put(self, *items: Any) -> None:
        """
        Add items and wake the producers.
        """
        with self._mutex:
            self._items.extend(items)
        self._wake()

    def close(self) -> None:
        """
        End the stream after what is in it.
        """
        with self._mutex:
            self._closed = True
        self._wake()

    def _wake(self) -> None:
        for instance in list(self.instances):
            if instance.started:
                instance.stage.wake()

    def take(self, demand: int) -> list[Any]:
        """
        Return up to *demand* items; raise the exception that comes next, or ``EndOfStream`` after the last one.
        """
        taken: list[Any] = []
        with self._mutex:
            while self._items and len(taken) < demand:
                if isinstance(self._items[0], BaseException):
                    if taken:
                        break
                    raise self._items.popleft()
                taken.append(self._items.popleft())
            self.taken += len(taken)
            if self._closed and not self._items:
                raise EndOfStream(taken)
        return taken


class FeedProducer(Producer):
    """
    A producer that hands out what a test put into its feed, and records what the runtime does with it.
    """

    poll_interval = 0.02

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.started = False
        feed.instances.append(self)
        feed.calls.put(("new", self))

    def init(self) -> None:
        """
        Record that the stage came up.
        """
        self.started = True
        self.feed.calls.put(("init", self))

    def handle_demand(self, demand: int) -> Iterable[Any]:
        """
        Hand out up to *demand* items.
        """
        self.feed.demands.put(demand)
        return self.feed.take(demand)

    def prepare_for_draining(self) -> Iterable[Any]:
        """
        Record that a stop began.
        """
        self.feed.calls.put(("prepare_for_draining", self))
        return []

    def terminate(self, reason: Any) -> None:
        """
        Record the end.
        """
        self.feed.calls.put(("terminate", self))


class EndlessProducer(Producer):
    """
    A producer of whole numbers without end: exactly as many as are wanted.
    """

    def __init__(self, acknowledger: Any) -> None:
        self.acknowledger = acknowledger
        self.next = 0

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Hand out the next *demand* numbers.
        """
        first, self.next = self.next, self.next + demand
        return [Message(number, self.acknowledger.init()) for number in range(first, self.next)]


def stage_threads(name: str) -> list[threading.Thread]:
    """
    Return the threads that belong to the pipeline *name*.
    """
    return [t for t in threading.enumerate() if t.name.startswith(f"{name}.Broadway.")]


def stage_thread(name: str, stage: str) -> threading.Thread:
    """
    Return the thread of one stage, for example ``Processor_default_0``.
    """
    wanted = f"{name}.Broadway.{stage}"
    found = [t for t in threading.enumerate() if t.name == wanted]
    assert len(found) == 1, f"expected one thread {wanted!r}, there are {[t.name for t in threading.enumerate()]}"
    return found[0]


def run_python(
    source: str, *, timeout: float = 30.0 * SCALE, env: dict[str, str] | None = None, flags: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """
    Run *source* in a fresh interpreter that can import the library; fail if it does not end in time.
    """
    try:
        return subprocess.run(
            [sys.executable, *flags, "-c", source],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=python_env(env),
            cwd=tempfile.gettempdir(),
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"did not end in {timeout} s; output:\n{error.stdout!r}\n{error.stderr!r}") from None


def python_env(extra: dict[str, str] | None = None) -> dict[str, str]:
    """
    Return the environment of a fresh interpreter that imports the same copy of the library as this one.
    """
    here = str(Path(broadway_sync.__file__).resolve().parent.parent)
    paths = [here] + [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(extra or {})}
