"""
What happens when a callback with a policy raises.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import traceback
from typing import Any

import attrs
import pytest

from broadway_sync import (
    DrainTimeoutError,
    InvalidReturnError,
    IterableProducer,
    Message,
    NoopAcknowledger,
    Retry,
    ack_immediately,
    retry,
    telemetry,
)
from tests.helpers import BOUND, NEVER, Feed, FeedProducer, Gate, eventually, make_handler

AT_ONCE = (0, 0)


class Failing:
    """
    A callback that raises what it is told to, then returns what it was given.
    """

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.calls: list[Any] = []
        self._mutex = threading.Lock()

    def _next(self, call: Any) -> None:
        with self._mutex:
            self.calls.append(call)
            error = self._errors.pop(0) if self._errors else None
        if error is not None:
            raise error

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Count and raise.
        """
        self._next(message.data)
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Count and raise.
        """
        self._next([message.data for message in messages])
        return messages


def call(policy: Retry, function: Any, message: Message, name: str = "handle_message") -> Any:
    """
    Call *function* under *policy*, outside of a pipeline.
    """
    wrapped = policy.wrap(function, name, "test")
    return wrapped("default", message, None) if name == "handle_message" else wrapped([message], None)


def new(data: Any = 1) -> Message:
    """
    Return a message for nobody.
    """
    return Message(data, NoopAcknowledger.init())


# In a pipeline


def test_a_message_that_succeeds_in_the_end_succeeds(make_pipeline: Any, caplog: Any) -> None:
    """
    Nothing fails, nothing is logged as a failure, and the order is kept.
    """
    failing = Failing(ConnectionError("one"), ConnectionError("two"))
    handler = make_handler(handle_message=failing.handle_message, retry=Retry(backoff=AT_ONCE))
    with caplog.at_level(logging.INFO, "broadway_sync"), make_pipeline(handler) as pipeline:
        ref = pipeline.test_batch([1, 2, 3])
        successful, failed = ref.collect(3, BOUND)
    assert [message.data for message in successful] == [1, 2, 3]
    assert failed == []
    assert failing.calls == [1, 1, 1, 2, 3]
    records = [(record.levelname, record.getMessage().split("] ")[1]) for record in caplog.records]
    assert records == [
        ("INFO", "handle_message failed, attempt 1 of 3; the next one follows in 0 s: ConnectionError('one')"),
        ("INFO", "handle_message failed, attempt 2 of 3; the next one follows in 0 s: ConnectionError('two')"),
    ]


def test_after_the_last_attempt_the_message_fails(make_pipeline: Any, caplog: Any) -> None:
    """
    As if there were no policy: one record, the last exception as reason, handle_failed.
    """
    errors = [ConnectionError(number) for number in range(5)]
    failing = Failing(*errors)
    seen: list[Any] = []

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        seen.extend(message.reason for message in messages)
        return messages

    handler = make_handler(
        handle_message=failing.handle_message, handle_failed=handle_failed, retry=Retry(max_attempts=4, backoff=AT_ONCE)
    )
    with make_pipeline(handler) as pipeline:
        _, failed = pipeline.test_message(1).receive(BOUND)
    assert [message.reason for message in failed] == seen == [errors[3]]
    assert errors[3].broadway_attempts == 4
    assert len(failing.calls) == 4
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_batch_is_tried_again_as_a_whole(make_pipeline: Any) -> None:
    """
    With the same messages and the same batch info.
    """
    infos: list[Any] = []
    failing = Failing(ConnectionError(), ConnectionError())

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        infos.append(batch_info)
        given = list(messages)
        messages.clear()  # a list of its own for each attempt
        return failing.handle_batch(batcher, given, batch_info, context)

    handler = make_handler(handle_batch=handle_batch, retry={"handle_batch": Retry(backoff=AT_ONCE)})
    batchers = {"default": {"batch_size": 3, "batch_timeout": NEVER}}
    with make_pipeline(handler, batchers=batchers) as pipeline:
        successful, failed = pipeline.test_batch([1, 2, 3]).collect(3, BOUND)
    assert failing.calls == [[1, 2, 3]] * 3
    assert len(successful) == 3
    assert failed == []
    assert infos == [infos[0]] * 3


@pytest.mark.parametrize("name", ["prepare_messages", "handle_failed"])
def test_the_other_callbacks_can_be_named(make_pipeline: Any, name: str) -> None:
    """
    In the mapping, or by the decorator.
    """
    errors = [ConnectionError()]
    calls: list[list[Any]] = []

    def callback(messages: list[Message], context: Any) -> list[Message]:
        calls.append([message.data for message in messages])
        if errors:
            raise errors.pop()
        return messages

    handler = make_handler(handle_message=lambda processor, message, context: message.fail("no"))
    setattr(handler, name, Retry(backoff=AT_ONCE)(callback))
    with make_pipeline(handler) as pipeline:
        _, failed = pipeline.test_batch([1, 2]).receive(BOUND)
    assert calls == [[1, 2], [1, 2]]
    assert [message.reason for message in failed] == ["no", "no"]


def test_every_attempt_passes_through_the_hooks(make_pipeline: Any) -> None:
    """
    So that each has a connection or an application context of its own.
    """
    entered: list[Any] = []

    def around(call: Any, messages: list[Message]) -> Any:
        entered.append(call.callback)
        return call()

    failing = Failing(ConnectionError(), ConnectionError())
    handler = make_handler(handle_message=failing.handle_message, retry=Retry(backoff=AT_ONCE))
    with make_pipeline(handler, around=around) as pipeline:
        pipeline.test_message(1).receive(BOUND)
    assert entered == ["handle_message"] * 3


def test_telemetry_counts_attempts(make_pipeline: Any) -> None:
    """
    One event for each attempt that another one follows, and one for giving up.
    """
    events: list[Any] = []
    names = [("broadway", "retry", "attempt"), ("broadway", "retry", "gave_up")]
    telemetry.attach_many("test", names, lambda *event: events.append(event[:3]))
    errors = [ConnectionError(1), ConnectionError(2)]
    policy = Retry(max_attempts=2, backoff=lambda attempt: 0.001 * attempt)
    handler = make_handler(handle_message=Failing(*errors).handle_message, retry=policy)
    with make_pipeline(handler) as pipeline:
        _, (message,) = pipeline.test_message(1).receive(BOUND)
    common = {
        "topology_name": pipeline.name,
        "name": f"{pipeline.name}.Broadway.Processor_default_0",
        "callback": "handle_message",
        "messages": [message],
    }
    assert events == [
        (names[0], {"attempt": 1, "delay": 1_000_000}, {**common, "reason": errors[0]}),
        (names[1], {"attempt": 2}, {**common, "reason": errors[1]}),
    ]


def test_a_drain_lets_attempts_go_on(make_pipeline: Any, gate: Gate) -> None:
    """
    What is in the pipeline when a stop begins is still tried again.
    """
    failing = Failing(ConnectionError())

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if not failing.calls:
            gate.wait()
        return failing.handle_message(processor, message, context)

    handler = make_handler(handle_message=handle_message, retry=Retry(backoff=(0.01, 0.01)))
    pipeline = make_pipeline(handler).start()
    ref = pipeline.test_message(1)
    gate.arrived()
    pipeline.request_stop()
    gate.open()
    successful, _ = ref.receive(BOUND)
    assert [message.data for message in successful] == [1]


def test_a_pause_ends_when_the_stop_runs_out_of_time(make_pipeline: Any, acks: Any) -> None:
    """
    The messages are left to their source, and the thread ends at once rather than in an hour.
    """
    failed = threading.Event()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        failed.set()
        raise ConnectionError

    handler = make_handler(handle_message=handle_message, retry=Retry(backoff=lambda attempt: NEVER))
    feed = Feed([acks.message(1)])
    pipeline = make_pipeline(handler, producer={"module": (FeedProducer, {"feed": feed})}).start()
    assert failed.wait(BOUND)
    began = time.monotonic()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(timeout=0.1)
    assert time.monotonic() - began < BOUND
    acks.assert_nothing("nobody acknowledges it")
    name = f"{pipeline.name}.Broadway.Processor_default_0"
    eventually(lambda: all(t.name != name for t in threading.enumerate()), "the thread ends")


def test_many_threads_under_one_policy(make_pipeline: Any, acks: Any) -> None:
    """
    Every message fails twice, on whichever thread it is.
    """
    seen: dict[int, int] = {}

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        seen[message.data] = seen.get(message.data, 0) + 1
        if seen[message.data] < 3:
            raise ConnectionError
        return message

    handler = make_handler(handle_message=handle_message, retry=Retry(backoff=(0, 0.001)))
    producer = {"module": (IterableProducer, {"iterable": acks.messages(range(200))})}
    with make_pipeline(handler, producer=producer, processors={"default": {"concurrency": 8}}) as pipeline:
        assert pipeline.join(BOUND)
    assert sorted(acks.all_data()) == list(range(200))
    assert set(seen.values()) == {3}


# One call


@pytest.mark.parametrize("error", [ValueError(), InvalidReturnError(), SystemExit(), KeyboardInterrupt()])
def test_what_the_policy_does_not_cover_fails_at_once(error: BaseException) -> None:
    """
    Also what is a mistake of the callback, and what ends a program.
    """
    failing = Failing(error)
    with pytest.raises(type(error)):
        call(Retry(backoff=AT_ONCE, never=ValueError), failing.handle_message, new())
    assert len(failing.calls) == 1


def test_the_first_exception_that_is_not_covered_ends_it() -> None:
    """
    However many attempts are left.
    """
    failing = Failing(ConnectionError(), ValueError("for good"))
    with pytest.raises(ValueError, match="for good") as caught:
        call(Retry(max_attempts=9, backoff=AT_ONCE, on=ConnectionError), failing.handle_message, new())
    assert len(failing.calls) == 2
    assert caught.value.broadway_attempts == 2  # type: ignore[attr-defined]
    assert caught.value.__context__ is None  # the attempts before it are not its cause


def test_base_exceptions_are_tried_again_when_named() -> None:
    """
    A callback that calls a script which exits, for example.
    """
    failing = Failing(SystemExit(3))
    call(Retry(backoff=AT_ONCE, on=SystemExit), failing.handle_message, new())
    assert len(failing.calls) == 2


def test_a_message_that_was_failed_is_not_tried_again() -> None:
    """
    That is an answer.
    """
    calls: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        calls.append(message)
        return message.fail("no")

    assert call(Retry(), handle_message, new()).status == "failed"
    assert len(calls) == 1


def test_every_attempt_gets_the_message_as_it_was() -> None:
    """
    Data, batcher, batch key, status and reason.
    """
    seen: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        seen.append((message.data, message.batcher, message.batch_key, message.status, message.reason))
        message.put_data("changed").put_batcher("other").put_batch_key("key").fail("first thought")
        if len(seen) < 3:
            raise ConnectionError
        return message

    call(Retry(backoff=AT_ONCE), handle_message, new())
    assert seen == [(1, "default", "default", "ok", None)] * 3


def test_the_traceback_shows_the_callback() -> None:
    """
    And nothing of what makes the attempts but the call.
    """
    with pytest.raises(ConnectionError) as caught:
        call(Retry(backoff=AT_ONCE), Failing(*[ConnectionError() for _ in range(3)]).handle_message, new())
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == [
        "test_the_traceback_shows_the_callback",
        "call",
        "__call__",
        "make",
        "handle_message",
        "_next",
    ]


@pytest.mark.parametrize("shortest", [0, 0.01])
def test_pauses_grow_with_jitter(monkeypatch: Any, shortest: float) -> None:
    """
    Between the shortest one and a limit that doubles, also from none, and never above the longest.
    """
    pauses: list[float] = []
    monkeypatch.setattr("broadway_sync.retry.time.sleep", pauses.append)
    failing = Failing(*[ConnectionError() for _ in range(40)])
    call(Retry(max_attempts=41, backoff=(shortest, 0.04)), failing.handle_message, new())
    limits = [min(0.04, 0.02 * 2**number) for number in range(40)]
    assert len(pauses) == 40
    assert all(shortest <= pause <= limit for pause, limit in zip(pauses, limits))
    assert len(set(pauses)) > 20


def test_a_thousand_attempts_later_the_pause_is_not_longer(monkeypatch: Any) -> None:
    """
    Nor too large a number.
    """
    pauses: list[float] = []
    monkeypatch.setattr("broadway_sync.retry.time.sleep", pauses.append)
    failing = Failing(*[ConnectionError() for _ in range(1100)])
    call(Retry(max_attempts=1101, backoff=(0.001, 5)), failing.handle_message, new())
    assert max(pauses) <= 5


def test_pauses_of_a_function(monkeypatch: Any) -> None:
    """
    It is given the number of the attempt that failed.
    """
    pauses: list[float] = []
    monkeypatch.setattr("broadway_sync.retry.time.sleep", pauses.append)
    failing = Failing(*[ConnectionError() for _ in range(3)])
    call(Retry(max_attempts=4, backoff=lambda attempt: attempt * 10), failing.handle_message, new())
    assert pauses == [10, 20, 30]


def test_the_oldest_tenacity_will_do(monkeypatch: Any, caplog: Any) -> None:
    """
    Its states say less: 8.2 has the pause in the next action only.
    """
    announce = retry._Attempts._announce

    def announce_of_old(attempts: Any, state: Any) -> None:
        seconds = vars(state).pop("upcoming_sleep", None)
        announce(attempts, state)
        state.upcoming_sleep = seconds

    monkeypatch.setattr(retry._Attempts, "_announce", announce_of_old)
    monkeypatch.setattr("broadway_sync.retry.time.sleep", lambda seconds: None)
    caplog.set_level(logging.INFO, "broadway_sync")
    failing = Failing(ConnectionError())
    call(Retry(backoff=lambda attempt: 7), failing.handle_message, new())
    assert "the next one follows in 7 s" in caplog.text


@pytest.mark.parametrize("answer", [None, -1, "1", float("nan")])
def test_a_function_that_returns_no_pause_fails_the_message(answer: Any) -> None:
    """
    From the error of the attempt, which must not be lost.
    """
    failing = Failing(ConnectionError("first"))
    with pytest.raises(InvalidReturnError, match="backoff must return a number of seconds >= 0") as caught:
        call(Retry(backoff=lambda attempt: answer), failing.handle_message, new())
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_a_function_that_raises_fails_the_message() -> None:
    """
    The same.
    """
    failing = Failing(ConnectionError("first"), ConnectionError("second"))
    with pytest.raises(IndexError) as caught:
        call(Retry(backoff=lambda attempt: [0][attempt - 1]), failing.handle_message, new())
    assert str(caught.value.__cause__) == "second"


def test_an_exception_that_cannot_be_marked_goes_on_all_the_same() -> None:
    """
    The number of attempts is a courtesy.
    """

    class Marked(ConnectionError):
        @property
        def broadway_attempts(self) -> int:
            return 17

    failing = Failing(*[Marked() for _ in range(3)])
    with pytest.raises(Marked):
        call(Retry(backoff=AT_ONCE), failing.handle_message, new())


@dataclasses.dataclass(frozen=True)
class FrozenError(ConnectionError):
    """
    Refuses to be changed.
    """

    code: int = 1


class EmptyError(ConnectionError):
    """
    Counts as false.
    """

    def __len__(self) -> int:
        return 0


class UntraceableError(ConnectionError):
    """
    Takes no other traceback.
    """

    def with_traceback(self, traceback: Any) -> Any:
        """
        Fail.
        """
        raise RuntimeError


@pytest.mark.parametrize("cls", [FrozenError, EmptyError, UntraceableError])
@pytest.mark.parametrize("on", [OSError, ConnectionResetError])
def test_exceptions_of_peculiar_classes(cls: Any, on: Any) -> None:
    """
    Are raised in the end like any other, with the number of attempts; also one that ends the attempts.
    """
    errors = [ConnectionResetError(), cls(), cls()]
    failing = Failing(*errors)
    wrapped = Retry(backoff=AT_ONCE, on=on).wrap(failing.handle_message, "handle_message", "test")
    caught = None
    try:  # pytest.raises() would change them itself
        wrapped("default", new(), None)
    except ConnectionError as error:
        caught = error
    attempts = 3 if on is OSError else 2
    assert caught is errors[attempts - 1]
    assert caught.broadway_attempts == attempts


def test_a_generator_that_raises_is_tried_again() -> None:
    """
    It does nothing before somebody asks it for a message.
    """
    failing = Failing(ConnectionError())

    def prepare_messages(messages: list[Message], context: Any) -> Any:
        for message in messages:
            yield failing.handle_message("", message, context)

    message = new()
    assert call(Retry(backoff=AT_ONCE), prepare_messages, message, "prepare_messages") == [message]
    assert failing.calls == [1, 1]


# Messages that were acknowledged meanwhile


def test_a_message_that_was_acknowledged_is_not_handled_again(acks: Any) -> None:
    """
    It is through: nobody would learn what came of another attempt.
    """
    calls: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        calls.append(message.ack_immediately())
        raise ConnectionError

    with pytest.raises(ConnectionError):
        call(Retry(backoff=AT_ONCE), handle_message, acks.message(1))
    assert len(calls) == 1


def test_the_rest_of_a_batch_is_handled_again(make_pipeline: Any) -> None:
    """
    What the attempt that failed has acknowledged is through, and counts as returned.
    """
    seen: list[Any] = []

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        seen.append(([message.data for message in messages], batch_info.size))
        if len(messages) > 1:
            ack_immediately(messages[:2])
            raise ConnectionError
        return messages

    handler = make_handler(handle_batch=handle_batch, retry=Retry(max_attempts=9, backoff=AT_ONCE))
    batchers = {"default": {"batch_size": 5, "batch_timeout": NEVER}}
    with make_pipeline(handler, batchers=batchers) as pipeline:
        successful, failed = pipeline.test_batch(range(5)).collect(5, BOUND)
    assert seen == [([0, 1, 2, 3, 4], 5), ([2, 3, 4], 3), ([4], 1)]
    assert sorted(message.data for message in successful) == [0, 1, 2, 3, 4]
    assert failed == []


def test_messages_that_were_acknowledged_before_are_given_again() -> None:
    """
    Acknowledged by handle_message, say: handle_batch has still to be done for them.
    """
    failing = Failing(ConnectionError())
    message = new()
    message.ack_immediately()
    info = attrs.make_class("Info", ["size"])(1)
    wrapped = Retry(backoff=AT_ONCE).wrap(failing.handle_batch, "handle_batch", "test")
    assert wrapped("default", [message], info, None) == [message]
    assert failing.calls == [[1], [1]]
