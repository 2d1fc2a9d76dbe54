"""
Hooks around callbacks: when they run, what they may do, and that nothing they do loses a message or ends a thread.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import gc
import queue
import threading
import weakref
from typing import Any, Callable, Iterable, Iterator

import pytest

import broadway_sync
from broadway_sync import (
    Around,
    ConfigurationError,
    DrainTimeoutError,
    InvalidReturnError,
    Message,
    Producer,
    add_around,
    around,
    remove_around,
    telemetry,
)
from tests.helpers import (
    BOUND,
    NEVER,
    Batches,
    Feed,
    FeedProducer,
    eventually,
    get,
    get_many,
    make_handler,
    stage_thread,
    stage_threads,
    unique_name,
)

from .test_restarts import kill, push_until

CALLBACKS = ("prepare_messages", "handle_message", "handle_batch", "handle_failed")
BATCHERS = {"default": {"batch_size": 2, "batch_timeout": NEVER}}


class Peculiar(BaseException):
    """
    An exception that ``except Exception`` does not catch.
    """


class Spy:
    """
    A hook that records its calls as ``(callback, data of the messages, stage, thread)`` and changes nothing.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, call: Any, messages: Any) -> Any:
        data = [message.data for message in messages]
        self.calls.append((call.callback, data, call.stage, threading.current_thread().name))
        return call()

    def callbacks(self) -> list[str]:
        """
        Return the names of the callbacks, in order.
        """
        return [call[0] for call in self.calls]


def only(callback: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return a hook that is *hook* for one callback, and nothing for the others.
    """
    return lambda call, messages: hook(call, messages) if call.callback == callback else call()


def failing_handler(**callbacks: Callable[..., Any]) -> Any:
    """
    Return a handler with all four callbacks, which fails the message ``"bad"``.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.fail("bad") if message.data == "bad" else message

    defaults: dict[str, Callable[..., Any]] = {
        "prepare_messages": lambda messages, context: messages,
        "handle_message": handle_message,
        "handle_failed": lambda messages, context: messages,
    }
    return make_handler(**{**defaults, **callbacks})


@pytest.fixture
def everywhere() -> Iterator[Callable[[Any], Any]]:
    """
    Return ``add_around``; what a test adds is removed after it.
    """
    added: list[Any] = []

    def add(hook: Any) -> Any:
        add_around(hook)
        added.append(hook)
        return hook

    yield add
    for hook in added:
        remove_around(hook)


def send(pipeline: Any, acks: Any, *data: Any) -> tuple[list[Any], list[Any]]:
    """
    Push messages and return the data of the successful and the failed ones.
    """
    pipeline.push_messages(acks.messages(data))
    successful, failed = acks.collect_data(len(data))
    return successful, failed


# What a hook sees


def test_it_surrounds_every_callback(make_pipeline: Any, acks: Any) -> None:
    """
    A hook runs for each callback of the handler, with the messages of that call, on the thread that it names.
    """
    spy = Spy()
    name = unique_name()
    pipeline = make_pipeline(failing_handler(), name=name, around=spy, batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, "bad", 2) == ([1, 2], ["bad"])
    processor = f"{name}.Broadway.Processor_default_0"
    batch_processor = f"{name}.Broadway.BatchProcessor_default_0"
    assert sorted(map(str, spy.calls)) == sorted(
        str((callback, data, stage, stage))
        for callback, data, stage in [
            ("prepare_messages", [1, "bad", 2], processor),
            ("handle_message", [1], processor),
            ("handle_message", ["bad"], processor),
            ("handle_message", [2], processor),
            ("handle_failed", ["bad"], processor),
            ("handle_batch", [1, 2], batch_processor),
        ]
    )


def test_what_the_call_knows(make_pipeline: Any, acks: Any) -> None:
    """
    A call knows its callback, pipeline and stage; messages are those of the callback, in a list.
    """
    seen: list[Any] = []

    def hook(call: Any, messages: Any) -> Any:
        seen.append((call.callback, call.pipeline, call.stage, messages))
        return call()

    name = unique_name()
    pipeline = make_pipeline(name=name, around=hook).start()
    message = acks.message(1)
    pipeline.push_messages([message])
    acks.next()
    assert [(entry[:3]) for entry in seen] == [("handle_message", name, f"{name}.Broadway.Processor_default_0")]
    assert isinstance(seen[0][3], list)
    assert [id(m) for m in seen[0][3]] == [id(message)]


def test_handle_failed_of_a_batch(make_pipeline: Any, acks: Any) -> None:
    """
    A hook also surrounds the ``handle_failed`` that follows a batch, on the batch processor's thread.
    """
    spy = Spy()
    handler = failing_handler(handle_batch=lambda batcher, messages, info, context: [m.fail("no") for m in messages])
    pipeline = make_pipeline(handler, around=spy, batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, 2) == ([], [1, 2])
    assert [c[0] for c in spy.calls if "BatchProcessor" in c[3]] == ["handle_batch", "handle_failed"]


def test_callbacks_that_are_not_there(make_pipeline: Any, acks: Any) -> None:
    """
    Of the callbacks that the handler does not define no hook hears anything; nor of those that only Handler defines.
    """

    class Minimal(broadway_sync.Handler):
        def handle_message(self, processor: str, message: Message, context: Any) -> Message:
            return message.fail("always")

    spy = Spy()
    pipeline = make_pipeline(Minimal(), around=spy).start()
    assert send(pipeline, acks, 1) == ([], [1])
    assert spy.callbacks() == ["handle_message"]


def test_handler_sees_no_difference(make_pipeline: Any, acks: Any) -> None:
    """
    With a hook callbacks get the same arguments as without.
    """
    arguments: list[Any] = []
    context = object()

    def handle_message(*args: Any) -> Any:
        arguments.append(args)
        return args[1]

    def handle_batch(*args: Any) -> Any:
        arguments.append(args)
        return args[1]

    handler = make_handler(handle_message=handle_message, handle_batch=handle_batch)
    pipeline = make_pipeline(handler, around=Spy(), context=context, batchers=BATCHERS).start()
    messages = acks.messages([1, 2])
    pipeline.push_messages(messages)
    acks.collect(2)
    assert [(a[0], a[1], a[2]) for a in arguments[:2]] == [("default", message, context) for message in messages]
    batcher, given, info, seen_context = arguments[2]
    assert (batcher, given, info.size, seen_context) == ("default", messages, 2, context)


def test_callbacks_that_are_generators(make_pipeline: Any, acks: Any) -> None:
    """
    A callback that yields its messages runs inside of the hook like any other, to its last message.
    """
    order: list[Any] = []

    def hook(call: Any, messages: Any) -> Any:
        order.append(f"+{call.callback}")
        try:
            return call()
        finally:
            order.append(f"-{call.callback}")

    def prepare_messages(messages: Any, context: Any) -> Iterator[Message]:
        for message in messages:
            order.append(message.data)
            yield message

    def handle_batch(batcher: str, messages: Any, info: Any, context: Any) -> Iterator[Message]:
        yield from prepare_messages(messages, context)

    handler = make_handler(prepare_messages=prepare_messages, handle_batch=handle_batch)
    pipeline = make_pipeline(handler, around=hook, batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, 2) == ([1, 2], [])
    seen = [entry for entry in order if "handle_message" not in str(entry)]
    assert seen == ["+prepare_messages", 1, 2, "-prepare_messages", "+handle_batch", 1, 2, "-handle_batch"]


@pytest.mark.parametrize("callback", ["prepare_messages", "handle_batch"])
def test_callbacks_that_return_something_lazy(make_pipeline: Any, acks: Any, callback: str) -> None:
    """
    It is worked off inside of the hook, too.
    """
    inside, seen = threading.local(), []

    def hook(call: Any, messages: Any) -> Any:
        inside.call = call.callback
        try:
            return call()
        finally:
            inside.call = None

    def store(message: Message) -> Message:
        seen.append(inside.call)
        return message

    lazy = {
        "prepare_messages": lambda messages, context: map(store, messages),
        "handle_batch": lambda batcher, messages, info, context: map(store, messages),
    }
    pipeline = make_pipeline(make_handler(**{callback: lazy[callback]}), around=hook, batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, 2) == ([1, 2], [])
    assert seen == [callback, callback]


# What a hook returns


def test_return_value_is_the_result(make_pipeline: Any, acks: Any) -> None:
    """
    What a hook returns is taken for what the callback returned.
    """
    results: list[Any] = []

    def hook(call: Any, messages: Any) -> Any:
        results.append(call())
        return results[-1].fail("said the hook")

    pipeline = make_pipeline(around=hook).start()
    message = acks.message(1)
    pipeline.push_messages([message])
    assert acks.next().data == ([], [1])
    assert results == [message]
    assert (message.status, message.reason) == ("failed", "said the hook")


@pytest.mark.parametrize("returned", [None, 7, "text", [], object()], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("callback", ["prepare_messages", "handle_message", "handle_batch"])
def test_wrong_return_value(make_pipeline: Any, acks: Any, callback: str, returned: Any) -> None:
    """
    A hook that returns something else fails the messages as the callback would have; the next ones are not affected.
    """
    wrong = [True]

    def hook(call: Any, messages: Any) -> Any:
        result = call()
        return returned if wrong[0] else result

    pipeline = make_pipeline(failing_handler(), around=only(callback, hook), batchers=BATCHERS).start()
    pipeline.push_messages(acks.messages([1, 2]))
    successful, failed = acks.collect(2)
    assert ([m.data for m in successful], [m.data for m in failed]) == ([], [1, 2])
    assert {type(message.reason) for message in failed} == {InvalidReturnError}
    assert {message.status for message in failed} == {"error"}
    wrong[0] = False
    assert send(pipeline, acks, 3, 4) == ([3, 4], [])


def test_none_asks_for_a_forgotten_return(make_pipeline: Any, acks: Any) -> None:
    """
    A hook without ``return call()`` fails every message with a text that leads there.
    """

    def hook(call: Any, messages: Any) -> Any:
        call()

    pipeline = make_pipeline(around=hook).start()
    message = acks.message(1)
    pipeline.push_messages([message])
    acks.next()
    assert "None" in str(message.reason)
    assert "return" in str(message.reason)


@pytest.mark.parametrize("returned", [None, 7, []], ids=repr)
def test_wrong_return_value_for_handle_failed(make_pipeline: Any, acks: Any, caplog: Any, returned: Any) -> None:
    """
    Around ``handle_failed`` it is logged and ignored, and the messages are acknowledged as failed.
    """

    def hook(call: Any, messages: Any) -> Any:
        call()
        return returned

    pipeline = make_pipeline(failing_handler(), around=only("handle_failed", hook)).start()
    assert send(pipeline, acks, "bad") == ([], ["bad"])
    assert "handle_failed" in caplog.text


def test_message_missing_from_what_a_hook_returns(make_pipeline: Any, acks: Any) -> None:
    """
    A message that a hook leaves out of a batch fails, alone.
    """
    hook = only("handle_batch", lambda call, messages: call()[:1])
    pipeline = make_pipeline(failing_handler(), around=hook, batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, 2) == ([1], [2])


@pytest.mark.parametrize("callback", CALLBACKS)
def test_hook_that_empties_its_list(make_pipeline: Any, acks: Any, callback: str) -> None:
    """
    Whatever a hook does to the list that it gets: every message is acknowledged once.
    """

    def hook(call: Any, messages: Any) -> Any:
        messages.clear()
        return call()

    pipeline = make_pipeline(failing_handler(), around=only(callback, hook), batchers=BATCHERS).start()
    successful, failed = send(pipeline, acks, 1, "bad", 2)
    assert sorted(map(str, successful + failed)) == ["1", "2", "bad"]
    assert "bad" in failed
    acks.assert_nothing("a message is acknowledged once")


# Calling


def test_callback_that_is_not_called(make_pipeline: Any, acks: Any) -> None:
    """
    A hook may answer itself: then the callback does not run.
    """
    calls: list[Any] = []
    handler = make_handler(handle_message=lambda processor, message, context: calls.append(message))
    pipeline = make_pipeline(handler, around=lambda call, messages: messages[0]).start()
    assert send(pipeline, acks, 1) == ([1], [])
    assert calls == []


def test_batch_that_is_not_handled(make_pipeline: Any, acks: Any) -> None:
    """
    The same for a batch; a hook may fail its messages in place of handling them.
    """
    batches = Batches()
    hook = only("handle_batch", lambda call, messages: [message.fail("closed") for message in messages])
    pipeline = make_pipeline(make_handler(handle_batch=batches), around=hook, batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, 2) == ([], [1, 2])
    batches.assert_none("handle_batch was called")


def test_calling_twice(make_pipeline: Any, acks: Any) -> None:
    """
    Each call runs the callback anew; what the hook returns in the end counts.
    """
    seen: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        seen.append(message.data)
        return message.update_data(lambda number: number + 1)

    def hook(call: Any, messages: Any) -> Any:
        call()
        return call()

    pipeline = make_pipeline(make_handler(handle_message=handle_message), around=hook).start()
    assert send(pipeline, acks, 10) == ([12], [])
    assert seen == [10, 11]


def test_calling_a_batch_twice(make_pipeline: Any, acks: Any) -> None:
    """
    A callback that empties its list does not take the messages from the second call.
    """
    seen: list[Any] = []

    def handle_batch(batcher: str, messages: Any, info: Any, context: Any) -> Any:
        seen.append([message.data for message in messages])
        taken = list(messages)
        messages.clear()
        return taken

    def hook(call: Any, messages: Any) -> Any:
        call()
        return call()

    handler = make_handler(handle_batch=handle_batch)
    pipeline = make_pipeline(handler, around=only("handle_batch", hook), batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, 2) == ([1, 2], [])
    assert seen == [[1, 2], [1, 2]]


def test_trying_again_in_a_hook(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    A hook sees what the callback raises, and may call again: the message succeeds, and nothing is logged.
    """
    attempts: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        attempts.append(message.data)
        if len(attempts) < 3:
            raise ConnectionError("busy")
        return message

    def hook(call: Any, messages: Any) -> Any:
        while True:
            try:
                return call()
            except ConnectionError:
                continue

    pipeline = make_pipeline(make_handler(handle_message=handle_message), around=hook).start()
    assert send(pipeline, acks, 1) == ([1], [])
    assert attempts == [1, 1, 1]
    assert caplog.text == ""


def test_hook_that_swallows_what_the_callback_raises(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    A hook may turn an exception into a failure of its own wording.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        raise ValueError("no number")

    def hook(call: Any, messages: Any) -> Any:
        try:
            return call()
        except ValueError as error:
            return messages[0].fail(f"rejected: {error}")

    pipeline = make_pipeline(make_handler(handle_message=handle_message), around=hook).start()
    message = acks.message(1)
    pipeline.push_messages([message])
    assert acks.next().data == ([], [1])
    assert (message.status, message.reason, caplog.text) == ("failed", "rejected: no number", "")


def test_callback_on_another_thread(make_pipeline: Any, acks: Any) -> None:
    """
    A hook may hand the call to an executor, to give it a timeout for example: one that is too slow fails its message.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "slow":
            released.wait(BOUND)
        return message

    def hook(call: Any, messages: Any) -> Any:
        seconds = 0.05 if messages[0].data == "slow" else BOUND
        return executor.submit(call).result(seconds)

    released = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        pipeline = make_pipeline(make_handler(handle_message=handle_message), around=hook).start()
        pipeline.push_messages(acks.messages([1, "slow", 2]))
        successful, failed = acks.collect(3)
        released.set()
    assert ([m.data for m in successful], [m.data for m in failed]) == ([1, 2], ["slow"])
    assert isinstance(failed[0].reason, concurrent.futures.TimeoutError)
    acks.assert_nothing("the slow one is not acknowledged again")


def test_call_kept_for_later(make_pipeline: Any, acks: Any) -> None:
    """
    A call that is made after its message was acknowledged acknowledges nothing a second time.
    """
    kept: list[Any] = []

    def hook(call: Any, messages: Any) -> Any:
        kept.append(call)
        return call()

    pipeline = make_pipeline(around=hook).start()
    assert send(pipeline, acks, 1) == ([1], [])
    kept[0]()
    acks.assert_nothing("the message was acknowledged already")


# Raising

ERRORS = [ValueError("x"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), Peculiar(), StopIteration()]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("callback", ["prepare_messages", "handle_message", "handle_batch"])
def test_hook_that_raises(make_pipeline: Any, acks: Any, caplog: Any, callback: str, error: Any, when: str) -> None:
    """
    What a hook raises, before the callback or after it, fails the messages of that call, and never the thread.
    """
    raising = [True]
    calls: list[str] = []

    def hook(call: Any, messages: Any) -> Any:
        if not raising[0]:
            return call()
        if when == "after":
            call()
        raise error

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (calls.append(name), function(*args))[1]

    plain = failing_handler()
    handler = failing_handler(**{name: counted(name, getattr(plain, name)) for name in CALLBACKS})
    pipeline = make_pipeline(handler, around=only(callback, hook), batchers=BATCHERS).start()
    threads = stage_threads(pipeline.name)
    pipeline.push_messages(acks.messages([1, 2]))
    successful, failed = acks.collect(2)
    assert (len(successful), len(failed)) == (0, 2)
    assert {message.status for message in failed} == {"error"}
    assert all(message.reason is error for message in failed)
    assert (callback in calls) == (when == "after")
    assert "handle_failed" in calls
    assert f"{callback} failed" in caplog.text
    raising[0] = False
    assert send(pipeline, acks, 3, 4) == ([3, 4], [])
    assert stage_threads(pipeline.name) == threads


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_hook_that_raises_around_handle_failed(make_pipeline: Any, acks: Any, caplog: Any, error: Any) -> None:
    """
    Around ``handle_failed`` it is logged, and the messages are acknowledged as failed for their own reason.
    """

    def hook(call: Any, messages: Any) -> Any:
        raise error

    pipeline = make_pipeline(failing_handler(), around=only("handle_failed", hook)).start()
    message = acks.message("bad")
    pipeline.push_messages([message])
    assert acks.next().data == ([], ["bad"])
    assert (message.status, message.reason) == ("failed", "bad")
    assert "handle_failed raised" in caplog.text


def test_message_is_restored(make_pipeline: Any, acks: Any) -> None:
    """
    A hook that raises after the callback leaves data, batcher and batch key as they were before it.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_data("changed").put_batcher("other").put_batch_key("key")

    def hook(call: Any, messages: Any) -> Any:
        call()
        raise ValueError("no commit")

    handler = make_handler(handle_message=handle_message)
    pipeline = make_pipeline(handler, around=only("handle_message", hook), batchers={**BATCHERS, "other": {}}).start()
    message = acks.message("as it was")
    pipeline.push_messages([message])
    acks.next()
    assert (message.data, message.batcher, message.batch_key) == ("as it was", "default", "default")


def test_hook_sees_what_the_callback_raises(make_pipeline: Any, acks: Any) -> None:
    """
    The callback's exception passes through the hooks, and is the reason of the message.
    """
    error = ValueError("x")
    seen: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        raise error

    def hook(call: Any, messages: Any) -> Any:
        try:
            return call()
        except ValueError as caught:
            seen.append(caught)
            raise

    pipeline = make_pipeline(make_handler(handle_message=handle_message), around=hook).start()
    message = acks.message(1)
    pipeline.push_messages([message])
    acks.next()
    assert seen == [error]
    assert message.reason is error


def test_hook_is_part_of_the_span(make_pipeline: Any, acks: Any) -> None:
    """
    For telemetry a hook that raises is a callback that raised.
    """
    events: list[Any] = []
    name = unique_name()
    for kind in ("stop", "exception"):
        event = ("broadway", "processor", "message", kind)
        telemetry.attach(f"{name}-{kind}", event, lambda event, *rest: events.append((event[-1], rest[1])))

    def hook(call: Any, messages: Any) -> Any:
        if messages[0].data == "bad":
            raise Peculiar
        return call()

    pipeline = make_pipeline(around=hook).start()
    send(pipeline, acks, 1, "bad")
    assert [kind for kind, _ in events] == ["stop", "exception"]
    assert isinstance(events[1][1]["reason"], Peculiar)


# Several hooks


@pytest.mark.parametrize("kind", [list, tuple])
def test_order(make_pipeline: Any, acks: Any, kind: Any) -> None:
    """
    The first hook of a sequence is the outermost.
    """
    order: list[str] = []

    def named(name: str) -> Callable[..., Any]:
        def hook(call: Any, messages: Any) -> Any:
            order.append(f"+{name}")
            try:
                return call()
            finally:
                order.append(f"-{name}")

        return hook

    hooks = kind([named("a"), named("b"), named("c")])
    assert send(make_pipeline(around=hooks).start(), acks, 1) == ([1], [])
    assert order == ["+a", "+b", "+c", "-c", "-b", "-a"]


def test_inner_hook_that_raises(make_pipeline: Any, acks: Any) -> None:
    """
    Outer hooks see what inner ones raise; one that catches it decides.
    """

    def outer(call: Any, messages: Any) -> Any:
        try:
            return call()
        except Peculiar:
            return messages[0].fail("caught")

    def inner(call: Any, messages: Any) -> Any:
        raise Peculiar

    message = acks.message(1)
    make_pipeline(around=[outer, inner]).start().push_messages([message])
    acks.next()
    assert (message.status, message.reason) == ("failed", "caught")


def test_no_hooks(make_pipeline: Any, acks: Any) -> None:
    """
    None and an empty sequence are no hooks.
    """
    for hooks in (None, [], ()):
        assert send(make_pipeline(around=hooks).start(), acks, 1) == ([1], [])


def test_sequence_is_copied(make_pipeline: Any, acks: Any) -> None:
    """
    What is added to the list after the constructor is no hook.
    """
    first, second = Spy(), Spy()
    hooks = [first]
    pipeline = make_pipeline(around=hooks)
    hooks.append(second)
    send(pipeline.start(), acks, 1)
    assert (len(first.calls), len(second.calls)) == (1, 0)


# What can be a hook


class Methods:
    """
    Hooks as methods of all kinds.
    """

    def method(self, call: Any, messages: Any) -> Any:
        return call()

    @staticmethod
    def static(call: Any, messages: Any) -> Any:
        return call()

    @classmethod
    def of_class(cls, call: Any, messages: Any) -> Any:
        return call()


class Bare:
    """
    An object with ``__call__`` and nothing else, and no attributes of its own.
    """

    __slots__ = ()

    def __call__(self, call: Any, messages: Any) -> Any:
        return call()


@pytest.mark.parametrize(
    "hook",
    [
        lambda call, messages: call(),
        lambda *args: args[0](),
        lambda call, messages, extra=None: call(),
        functools.partial(lambda extra, call, messages: call(), "extra"),
        Methods().method,
        Methods.static,
        Methods.of_class,
        Bare(),
        Around(),
    ],
    ids=["lambda", "varargs", "default", "partial", "method", "static", "class", "object", "Around"],
)
def test_hooks_of_all_kinds(make_pipeline: Any, acks: Any, hook: Any) -> None:
    """
    Anything that can be called with two arguments is a hook.
    """
    pipeline = make_pipeline(failing_handler(), around=hook, batchers=BATCHERS).start()
    assert send(pipeline, acks, 1, "bad", 2) == ([1, 2], ["bad"])


async def asynchronous(call: Any, messages: Any) -> Any:
    """
    Not a hook.
    """


async def asynchronous_generator(call: Any, messages: Any) -> Any:
    """
    Not a hook either.
    """
    yield


class AsynchronousObject:
    """
    No hook, too.
    """

    async def __call__(self, call: Any, messages: Any) -> Any:
        return call()

    async def method(self, call: Any, messages: Any) -> Any:
        return call()


WRONG = {
    "number": 7,
    "text": "hook",
    "mapping": {"hook": Bare()},
    "no_arguments": lambda: None,
    "one_argument": lambda call: call(),
    "three_arguments": lambda call, messages, more: call(),
    "keyword_only": lambda call, *, messages: call(),
    "class": Bare,
    "base_class": Around,
    "async": asynchronous,
    "async_generator": asynchronous_generator,
    "async_object": AsynchronousObject(),
    "async_method": AsynchronousObject().method,
    "async_partial": functools.partial(asynchronous),
}


@pytest.mark.parametrize("hook", WRONG.values(), ids=WRONG.keys())
def test_what_is_no_hook(make_pipeline: Any, hook: Any) -> None:
    """
    What cannot be a hook is refused where it is given, with a text that begins with the option.
    """
    for value in (hook, [Bare(), hook]):
        with pytest.raises(ConfigurationError, match=r"^around"):
            make_pipeline(around=value)
    with pytest.raises(ConfigurationError):
        add_around(hook)
    pipeline = make_pipeline()
    with pytest.raises(ConfigurationError):
        pipeline.add_around(hook)


# Added later


def test_added_to_a_pipeline(make_pipeline: Any, acks: Any) -> None:
    """
    A hook may be added to a pipeline before it starts, beside those of the constructor.
    """
    given, added = Spy(), Spy()
    pipeline = make_pipeline(around=given)
    pipeline.add_around(added)
    send(pipeline.start(), acks, 1)
    assert given.callbacks() == added.callbacks() == ["handle_message"]


def test_adding_to_a_running_pipeline(make_pipeline: Any, acks: Any) -> None:
    """
    While it runs that is refused; once it has stopped it holds for the next start.
    """
    spy = Spy()
    pipeline = make_pipeline().start()
    with pytest.raises(RuntimeError, match="running"):
        pipeline.add_around(spy)
    send(pipeline, acks, 1)
    pipeline.stop()
    pipeline.add_around(spy)
    assert spy.calls == []
    send(pipeline.start(), acks, 2)
    assert spy.callbacks() == ["handle_message"]


def test_added_hooks_stay_for_the_next_start(make_pipeline: Any, acks: Any) -> None:
    """
    A pipeline that is started again has the hooks that it had, each once.
    """
    spy = Spy()
    pipeline = make_pipeline()
    pipeline.add_around(spy)
    for _ in range(2):
        send(pipeline.start(), acks, 1)
        pipeline.stop()
    assert spy.callbacks() == ["handle_message", "handle_message"]


def test_everywhere(make_pipeline: Any, acks: Any, everywhere: Any) -> None:
    """
    A hook of the process holds for every pipeline that starts from then on, not for those that run.
    """
    spy = Spy()
    before = make_pipeline().start()
    made_before = make_pipeline()
    everywhere(spy)
    send(before, acks, "runs already")
    send(made_before.start(), acks, "made before")
    send(make_pipeline().start(), acks, "made after")
    assert [data for _, data, _, _ in spy.calls] == [["made before"], ["made after"]]


def test_everywhere_is_outermost(make_pipeline: Any, acks: Any, everywhere: Any) -> None:
    """
    Hooks of the process are outside of those of a pipeline, in the order in which they were added.
    """
    order: list[str] = []

    def named(name: str) -> Callable[..., Any]:
        return lambda call, messages: (order.append(name), call())[1]

    pipeline = make_pipeline(around=named("own"))
    everywhere(named("first"))
    everywhere(named("second"))
    send(pipeline.start(), acks, 1)
    assert order == ["first", "second", "own"]


class Equal(Spy):
    """
    A hook that is equal to any other of its kind.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    __hash__ = None  # type: ignore[assignment]


def test_adding_twice(make_pipeline: Any, acks: Any, everywhere: Any) -> None:
    """
    The same object counts once, however often it is added; one that is merely equal is another one.
    """
    first, second = Equal(), Equal()
    for hook in (first, first, second):
        everywhere(hook)
    send(make_pipeline().start(), acks, 1)
    assert (len(first.calls), len(second.calls)) == (1, 1)
    remove_around(first)
    send(make_pipeline().start(), acks, 2)
    assert (len(first.calls), len(second.calls)) == (1, 2)


def test_removing(make_pipeline: Any, acks: Any, everywhere: Any) -> None:
    """
    A hook that is removed holds for no pipeline that starts from then on; to remove it again, or another, is nothing.
    """
    spy = everywhere(Spy())
    pipeline = make_pipeline().start()
    remove_around(spy)
    remove_around(spy)
    remove_around(Spy())
    send(pipeline, acks, "started with it")
    send(make_pipeline().start(), acks, "started without")
    assert [data for _, data, _, _ in spy.calls] == [["started with it"]]


class Scope(Spy):
    """
    Somebody whose method is a hook: looked at twice, it is two objects.
    """

    def enter(self, call: Any, messages: Any) -> Any:
        """
        Record the call.
        """
        return self(call, messages)


def test_method_of_an_object(make_pipeline: Any, acks: Any, everywhere: Any) -> None:
    """
    It is added once, and can be removed; that of another object is another one.
    """
    first, second = Scope(), Scope()
    for scope in (first, first, second):
        everywhere(scope.enter)
    send(make_pipeline().start(), acks, 1)
    remove_around(first.enter)
    send(make_pipeline().start(), acks, 2)
    assert (len(first.calls), len(second.calls)) == (1, 2)


def test_hooks_of_the_library_are_outside_of_all_others(make_pipeline: Any, acks: Any, everywhere: Any) -> None:
    """
    Also of those that were there before: what a hook does may need the connections or the fields that they see to.
    """
    order: list[str] = []

    def named(name: str) -> Callable[..., Any]:
        return lambda call, messages: (order.append(name), call())[1]

    everywhere(named("user's"))
    ours = named("ours")
    around.add_ours(ours)
    try:
        send(make_pipeline().start(), acks, 1)
    finally:
        remove_around(ours)
    send(make_pipeline().start(), acks, 2)
    assert order == ["ours", "user's", "user's"]


def test_adding_from_many_threads(make_pipeline: Any, acks: Any, everywhere: Any) -> None:
    """
    No hook is lost when many threads add theirs at once.
    """
    hooks = [Spy() for _ in range(16)]
    barrier = threading.Barrier(len(hooks))

    def add(hook: Any) -> None:
        barrier.wait(BOUND)
        everywhere(hook)

    threads = [threading.Thread(target=add, args=(hook,)) for hook in hooks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    send(make_pipeline().start(), acks, 1)
    assert [len(hook.calls) for hook in hooks] == [1] * len(hooks)


# Producers


class ProducerSpy(Around):
    """
    Records the producer's callbacks as ``(callback, pipeline, stage, thread)``; may raise in one of them.
    """

    def __init__(self, raises_in: str = "", error: BaseException | None = None, times: int = 1) -> None:
        self.calls: queue.Queue[Any] = queue.Queue()
        self.raises_in = raises_in
        self.error = error
        self.times = times

    def around_producer(self, call: Any) -> Any:
        """
        Record the call.
        """
        self.calls.put((call.callback, call.pipeline, call.stage, threading.current_thread().name))
        if call.callback == self.raises_in and self.times:
            self.times -= 1
            assert self.error is not None
            raise self.error
        return call()


def test_callbacks_of_a_producer(make_pipeline: Any, acks: Any) -> None:
    """
    ``around_producer`` surrounds the callbacks of the producer, on its thread.
    """
    spy = ProducerSpy()
    name = unique_name()
    feed = Feed(acks.messages([1, 2]))
    pipeline = make_pipeline(name=name, around=spy, producer={"module": (FeedProducer, {"feed": feed})}).start()
    assert acks.collect_data(2) == ([1, 2], [])
    pipeline.stop()
    calls = get_many(spy.calls, spy.calls.qsize())
    producer = f"{name}.Broadway.Producer_0"
    assert {call[1:] for call in calls} == {(name, producer, producer)}
    callbacks = [call[0] for call in calls]
    assert callbacks[:2] == ["init", "handle_demand"]
    assert callbacks[-2:] == ["prepare_for_draining", "terminate"]
    assert set(callbacks[2:-2]) <= {"handle_demand"}


def test_end_of_stream_passes_through(make_pipeline: Any, acks: Any) -> None:
    """
    ``EndOfStream`` ends the pipeline through a hook, with its last messages.
    """
    feed = Feed(acks.messages([1, 2]), closed=True)
    pipeline = make_pipeline(around=[ProducerSpy(), Around()], producer={"module": (FeedProducer, {"feed": feed})})
    with pipeline:
        assert pipeline.join(BOUND)
    assert acks.collect_data(2) == ([1, 2], [])
    assert pipeline.state == "stopped"


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), Peculiar()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("callback", ["init", "handle_demand"])
def test_hook_that_crashes_the_producer(make_pipeline: Any, acks: Any, callback: str, error: Any) -> None:
    """
    A hook that raises crashes the producer as its callback would: it is terminated and made anew.
    """
    spy = ProducerSpy(callback, error)
    feed = Feed(acks.messages([1]))
    producer = {"module": (FeedProducer, {"feed": feed})}
    pipeline = make_pipeline(around=spy, producer=producer, resubscribe_interval=0.01).start()
    assert acks.collect_data(1) == ([1], [])
    assert len(feed.instances) == 2
    assert pipeline.state == "running"


@pytest.mark.parametrize("callback", ["prepare_for_draining", "terminate"])
def test_hook_that_raises_at_the_end(make_pipeline: Any, acks: Any, caplog: Any, callback: str) -> None:
    """
    At the end what a hook raises is logged, and the pipeline stops all the same.
    """
    spy = ProducerSpy(callback, Peculiar("at the end"))
    feed = Feed(acks.messages([1]))
    pipeline = make_pipeline(around=spy, producer={"module": (FeedProducer, {"feed": feed})}).start()
    assert acks.collect_data(1) == ([1], [])
    pipeline.stop()
    assert pipeline.state == "stopped"
    assert "at the end" in caplog.text


def test_hook_of_a_producer_that_does_not_call(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    A producer whose callbacks a hook swallows does not just stand still: it crashes, and the log says why.
    """

    class Swallowing(Around):
        def around_producer(self, call: Any) -> Any:
            return call() if call.callback != "handle_demand" else None

    feed = Feed(acks.messages([1]))
    pipeline = make_pipeline(
        around=Swallowing(),
        producer={"module": (FeedProducer, {"feed": feed})},
        max_restarts=0,
        resubscribe_interval=0.0,
    ).start()
    with pytest.raises(broadway_sync.PipelineFailedError):
        pipeline.join(BOUND)
    assert "handle_demand" in caplog.text


def test_hooks_of_a_producer_in_order(make_pipeline: Any) -> None:
    """
    The first is the outermost here, too; a hook without ``around_producer`` is passed over.
    """
    order: queue.Queue[str] = queue.Queue()

    class Named(Around):
        def __init__(self, name: str) -> None:
            self.name = name

        def around_producer(self, call: Any) -> Any:
            if call.callback == "init":
                order.put(f"+{self.name}")
            try:
                return call()
            finally:
                if call.callback == "init":
                    order.put(f"-{self.name}")

    make_pipeline(
        around=[Named("a"), Bare(), Named("b")], producer={"module": (FeedProducer, {"feed": Feed()})}
    ).start()
    assert get_many(order, 4) == ["+a", "+b", "-b", "-a"]


# The end of a thread


class Ending(Around):
    """
    Records on which threads it was told of their end, and what it was called for on each of them before.
    """

    def __init__(self) -> None:
        self.ended: queue.Queue[threading.Thread] = queue.Queue()
        self.last: dict[str, str] = {}

    def __call__(self, call: Any, messages: Any) -> Any:
        self.last[call.stage] = call.callback
        return call()

    def around_producer(self, call: Any) -> Any:
        """
        Record the callback.
        """
        self.last[call.stage] = call.callback
        return call()

    def thread_ended(self) -> None:
        """
        Record the thread.
        """
        self.ended.put(threading.current_thread())

    def names(self) -> collections.Counter[str]:
        """
        Count the ends by thread name, without the pipeline's.
        """
        return collections.Counter(thread.name.split(".Broadway.")[1] for thread in list(self.ended.queue))


STAGES = ("Producer_0", "Processor_default_0", "Processor_default_1", "Batcher_default", "BatchProcessor_default_0")


def test_end_of_threads(make_pipeline: Any, acks: Any) -> None:
    """
    ``thread_ended`` runs once for each stage, on its thread, as the last thing there.
    """
    hook = Ending()
    feed = Feed(acks.messages([1, 2]))
    pipeline = make_pipeline(
        around=hook,
        producer={"module": (FeedProducer, {"feed": feed})},
        processors={"default": {"concurrency": 2}},
        batchers=BATCHERS,
    ).start()
    acks.collect(2)
    assert hook.ended.empty()
    threads = set(stage_threads(pipeline.name))
    pipeline.stop()
    names = hook.names()
    assert {name: names[name] for name in STAGES} == dict.fromkeys(STAGES, 1)
    assert set(names.values()) == {1}
    assert set(hook.ended.queue) <= threads
    assert hook.last[f"{pipeline.name}.Broadway.Producer_0"] == "terminate"


def test_end_of_threads_comes_before_stop_returns(make_pipeline: Any) -> None:
    """
    When ``stop`` returns, and when ``join`` does, every thread has been told.
    """
    for end in ("stop", "join"):
        hook = Ending()
        pipeline = make_pipeline(around=hook, producer={"module": (FeedProducer, {"feed": Feed(closed=end == "join")})})
        pipeline.start()
        pipeline.stop() if end == "stop" else pipeline.join(BOUND)
        names = hook.names()
        assert (names["Producer_0"], names["Processor_default_0"]) == (1, 1), end


def test_end_of_threads_at_a_natural_end(make_pipeline: Any, acks: Any) -> None:
    """
    The same when the producers are exhausted.
    """
    hook = Ending()
    feed = Feed(acks.messages([1]), closed=True)
    with make_pipeline(around=hook, producer={"module": (FeedProducer, {"feed": feed})}) as pipeline:
        assert pipeline.join(BOUND)
    assert hook.names()["Processor_default_0"] == 1


class CrashingProducer(Producer):
    """
    A producer that crashes a number of times in all, then has nothing.
    """

    def __init__(self, crashes: list[int]) -> None:
        self.crashes = crashes

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Crash while there is a crash left.
        """
        if self.crashes:
            self.crashes.pop()
            raise ConnectionError("crash")
        return []


def test_producer_that_is_made_again_keeps_its_thread(make_pipeline: Any) -> None:
    """
    A restart of a producer alone ends no thread.
    """
    hook = Ending()
    crashes = [1]
    producer = {"module": (CrashingProducer, {"crashes": crashes})}
    pipeline = make_pipeline(around=hook, producer=producer, resubscribe_interval=0.0).start()
    eventually(lambda: not crashes, "the crash")
    assert pipeline.test_message(1).receive(BOUND)
    assert hook.ended.empty()
    pipeline.stop()
    assert hook.names()["Producer_0"] == 1


@pytest.mark.usefixtures("crashes_add_up")
def test_end_of_threads_at_a_restart(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    A restart of the whole pipeline ends all of its threads, and each of the new ones ends as well.
    """
    hook = Ending()
    crashes = [1, 2, 3]
    producer = {"module": (CrashingProducer, {"crashes": crashes})}
    pipeline = make_pipeline(
        around=hook, producer=producer, batchers=BATCHERS, resubscribe_interval=0.0, max_restarts=5
    ).start()
    eventually(lambda: "was restarted" in caplog.text, "a restart")
    assert send(pipeline, acks, 1, 2) == ([1, 2], [])
    pipeline.stop()
    names = hook.names()
    for stage in ("Producer_0", "Processor_default_0", "Batcher_default", "BatchProcessor_default_0"):
        assert names[stage] == 2, stage
    assert len(set(hook.ended.queue)) == hook.ended.qsize(), "a thread was told twice"


@pytest.mark.parametrize("error", [ValueError("at the end"), SystemExit("at the end"), Peculiar("at the end")])
def test_end_of_a_thread_that_raises(make_pipeline: Any, acks: Any, caplog: Any, error: BaseException) -> None:
    """
    What ``thread_ended`` raises is logged; the other hooks are told all the same, and the pipeline stops well.
    """

    class Broken(Around):
        def thread_ended(self) -> None:
            raise error

    before, after = Ending(), Ending()
    pipeline = make_pipeline(around=[before, Broken(), after]).start()
    assert send(pipeline, acks, 1) == ([1], [])
    pipeline.stop()
    assert pipeline.state == "stopped"
    assert before.names() == after.names()
    assert before.names()["Processor_default_0"] == 1
    assert "at the end" in caplog.text
    assert "died" not in caplog.text


def test_end_of_a_thread_that_was_given_up(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A thread that a stop gave up is told of its end when its callback has returned.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    hook = Ending()
    pipeline = make_pipeline(make_handler(handle_message=handle_message), around=hook).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(timeout=0.05)
    assert hook.names()["Processor_default_0"] == 0
    gate.open()
    eventually(lambda: hook.names()["Processor_default_0"] == 1, "the end of the thread")
    acks.assert_nothing("what was left behind is not acknowledged")


@pytest.mark.parametrize("name", ["Processor_default_0", "Batcher_default", "BatchProcessor_default_0"])
def test_end_of_a_thread_that_dies(make_pipeline: Any, acks: Any, name: str) -> None:
    """
    A thread of the library that dies is told of its end like any other, once, on that thread.
    """
    hook = Ending()
    pipeline = make_pipeline(
        around=hook,
        producer={"module": (FeedProducer, {"feed": Feed()})},
        batchers={"default": {"batch_size": 2, "batch_timeout": 0.02}},
        max_seconds=6 * BOUND,
        shutdown=6 * BOUND,
    ).start()
    victim = stage_thread(pipeline.name, name)
    kill(victim)
    push_until(pipeline, acks, lambda: not victim.is_alive(), "the thread is hit")
    assert list(hook.ended.queue).count(victim) == 1
    pipeline.stop()
    ended = list(hook.ended.queue)
    assert len(set(ended)) == len(ended), "a thread was told twice"


# Under load


def test_under_load(make_pipeline: Any, acks: Any) -> None:
    """
    Many threads share one hook: each call is its own, every message passes each callback once.
    """
    count = 2000
    mistakes: list[Any] = []
    counted: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def hook(call: Any, messages: Any) -> Any:
        result = call()
        expected = messages if call.callback == "handle_batch" else messages[0]
        if result != expected or call.stage != threading.current_thread().name:
            mistakes.append((call, messages, result))
        counted.put((call.callback, len(messages)))
        return result

    with make_pipeline(
        around=[hook, Bare()],
        producer={"module": (FeedProducer, {"feed": Feed(acks.messages(range(count)), closed=True)})},
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"concurrency": 3, "batch_size": 7, "batch_timeout": 0.05}},
    ) as pipeline:
        assert pipeline.join(6 * BOUND)
    assert sorted(acks.collect_data(count)[0]) == list(range(count))
    assert mistakes == []
    totals: collections.Counter[str] = collections.Counter()
    while not counted.empty():
        callback, size = counted.get()
        totals[callback] += size
    assert totals == {"handle_message": count, "handle_batch": count}


class Precious:
    """
    Data of which a test can see whether it is still held.
    """


def test_nothing_is_held(make_pipeline: Any) -> None:
    """
    Once a message is through the pipeline holds neither it nor its data, with hooks as without.
    """
    pipeline = make_pipeline(failing_handler(), around=[Bare(), Around()], batchers=BATCHERS).start()
    alive: Any = weakref.WeakSet()

    def send_one() -> None:
        data = Precious()
        alive.add(data)
        pipeline.test_message(data).receive(BOUND)

    def is_free() -> bool:
        gc.collect()
        return not alive

    send_one()
    eventually(is_free, "the data is free")


def test_in_the_repr(make_pipeline: Any) -> None:
    """
    A call says what it is, for whoever prints it while looking for a mistake.
    """
    shown: queue.Queue[str] = queue.Queue()

    def hook(call: Any, messages: Any) -> Any:
        shown.put(repr(call))
        return call()

    name = unique_name()
    make_pipeline(name=name, around=hook).start().test_message(1).receive(BOUND)
    text = get(shown)
    assert "handle_message" in text
    assert name in text
