"""
Handler callbacks: what they get, what they may return, and what happens when they raise.
"""

from __future__ import annotations

import dataclasses
import queue
import sys
import traceback
import types
from typing import Any

import pytest

from broadway_sync import EndOfStream, Handler, InvalidReturnError, Message, UnknownBatcherError
from tests.helpers import BOUND, NEVER, Batches, get, make_handler


class Peculiar(BaseException):
    """
    An exception that ``except Exception`` does not catch.
    """


RAISED = [ValueError("bad"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Peculiar("odd"), EndOfStream()]


def raising(error: BaseException) -> Any:
    """
    Return a callback that raises *error*.
    """

    def callback(*args: Any) -> Any:
        raise error

    return callback


# What may be a handler


class PlainHandler:
    """
    Without any base class.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Note who was called.
        """
        return message.put_data(("instance", processor, context))


class StaticHandler:
    """
    Used as a class, never instantiated.
    """

    @staticmethod
    def handle_message(processor: str, message: Message, context: Any) -> Message:
        """
        Note who was called.
        """
        return message.put_data(("class", processor, context))


class TypedHandler(Handler):
    """
    With the base class for type checkers.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Note who was called.
        """
        return message.put_data(("typed", processor, context))


def module_handler() -> types.ModuleType:
    """
    Return a module with the callbacks.
    """
    module = types.ModuleType("callbacks")
    source = "def handle_message(processor, message, context): return message.put_data(('module', processor, context))"
    exec(source, module.__dict__)
    return module


@pytest.mark.parametrize(
    ("handler", "kind"),
    [(PlainHandler(), "instance"), (StaticHandler, "class"), (TypedHandler(), "typed"), (module_handler(), "module")],
)
def test_kinds_of_handlers(make_pipeline: Any, handler: Any, kind: str) -> None:
    """
    An instance, a class or a module with the callbacks is a handler; it gets the processor's key and the context.
    """
    context = object()
    with make_pipeline(handler, processors={"work": {"concurrency": 1}}, context=context) as pipeline:
        (message,), _ = pipeline.test_message(1).receive(BOUND)
    assert message.data == (kind, "work", context)


def careless_handler(first: str = "self") -> Any:
    """
    Return a class whose methods may do without the context: read from the class they look complete without ``self``.
    """
    source = f"""
def handle_message({first}, processor, message, context=None): return message.put_data(("careless", processor, context))
def handle_batch({first}, *arguments): return arguments[1]
def handle_failed({first}, messages, context=None): return messages
"""
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return type("Careless", (), namespace)


class VariadicHandler:
    """
    Used as a class, with a function that takes any number of arguments.
    """

    @staticmethod
    def handle_message(*arguments: Any) -> Message:
        """
        Note how many arguments there were.
        """
        message: Message = arguments[1]
        return message.put_data(len(arguments))


def test_class_whose_methods_have_a_default_for_the_context(make_pipeline: Any) -> None:
    """
    An instance is made of it: its methods are not taken for functions whose first argument is the key.
    """
    with make_pipeline(careless_handler(), batchers={"default": {"batch_size": 1}}, context="db") as pipeline:
        (message,), _ = pipeline.test_message(1).receive(BOUND)
    assert message.data == ("careless", "default", "db")


def test_class_with_a_static_function_of_any_arguments(make_pipeline: Any) -> None:
    """
    It is used as it is: a static method gets no ``self``.
    """
    with make_pipeline(VariadicHandler) as pipeline:
        (message,), _ = pipeline.test_message(1).receive(BOUND)
    assert message.data == 3


def test_context_is_handed_to_every_callback(make_pipeline: Any) -> None:
    """
    Each callback gets the very object that was given as context; the default is None.
    """
    seen: queue.Queue[Any] = queue.Queue()

    def prepare_messages(messages: list[Message], context: Any) -> list[Message]:
        seen.put(("prepare_messages", context))
        return messages

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        seen.put(("handle_message", context))
        return message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        seen.put(("handle_batch", context))
        return [m.fail("no") for m in messages]

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        seen.put(("handle_failed", context))
        return messages

    handler = make_handler(
        prepare_messages=prepare_messages,
        handle_message=handle_message,
        handle_batch=handle_batch,
        handle_failed=handle_failed,
    )
    context = {"unhashable": []}
    for options, expected in (({"context": context}, context), ({}, None)):
        with make_pipeline(handler, batchers={"default": {}}, **options) as pipeline:
            pipeline.test_message(1).receive(BOUND)
        calls = [get(seen) for _ in range(4)]
        assert [name for name, _ in calls] == ["prepare_messages", "handle_message", "handle_batch", "handle_failed"]
        assert all(got is expected for _, got in calls)


# handle_message


@pytest.mark.parametrize("error", RAISED, ids=[type(e).__name__ for e in RAISED])
def test_handle_message_raises(make_pipeline: Any, acks: Any, error: BaseException) -> None:
    """
    Whatever ``handle_message`` raises fails that message alone, with the exception as its reason; the thread lives.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == 2:
            raise error
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    for _ in range(2):
        pipeline.push_messages(acks.messages(range(5)))
        ok, failed = acks.collect(5)
        assert [m.data for m in ok] == [0, 1, 3, 4]
        assert [(m.data, m.status) for m in failed] == [(2, "error")]
        assert failed[0].reason is error
        assert failed[0].reason.__traceback__ is not None
        assert {m.status for m in ok} == {"ok"}
    assert pipeline.state == "running"


def test_the_message_is_restored_after_a_raise(make_pipeline: Any, acks: Any) -> None:
    """
    After a raise ``data``, ``batcher`` and ``batch_key`` are what they were before the call; nothing else is restored.
    """
    seen: queue.Queue[Any] = queue.Queue()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message.put_data("changed").put_batcher("other").put_batch_key("key").put_batch_mode("flush")
        message.metadata["tried"] = True
        raise ValueError

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        seen.put([(m.data, m.batcher, m.batch_key, m.batch_mode, m.metadata) for m in messages])
        return messages

    handler = make_handler(handle_message=handle_message, handle_failed=handle_failed)
    with make_pipeline(handler, batchers={"default": {}, "other": {}}) as pipeline:
        pipeline.push_messages([acks.message("original", batch_key="mine")])
        _, (message,) = acks.collect(1)
    expected = ("original", "default", "mine", "flush", {"tried": True})
    assert get(seen) == [expected]
    assert (message.data, message.batcher, message.batch_key, message.batch_mode, message.metadata) == expected


WRONG_RETURNS = [None, "text", 5, [], {"data": 1}, (1, 2)]


@pytest.mark.parametrize("value", WRONG_RETURNS, ids=repr)
def test_handle_message_returns_no_message(make_pipeline: Any, acks: Any, value: Any) -> None:
    """
    Returning anything but a message counts as raising ``InvalidReturnError``; the message is restored.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Any:
        if message.data == 1:
            message.put_data("changed")
            return value
        return message

    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
        ok, (message,) = acks.collect(3)
    assert [m.data for m in ok] == [0, 2]
    assert (message.data, message.status) == (1, "error")
    assert type(message.reason) is InvalidReturnError
    assert "handle_message" in str(message.reason)
    assert "Message" in str(message.reason)


def test_handle_message_returns_none(make_pipeline: Any, acks: Any) -> None:
    """
    The text for None asks whether ``return message`` was forgotten.
    """
    with make_pipeline(make_handler(handle_message=lambda *args: None)) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    assert "return message" in str(message.reason)


def test_handle_message_returns_a_list_of_the_message(make_pipeline: Any, acks: Any) -> None:
    """
    A list around the message is a wrong return, too.
    """
    with make_pipeline(make_handler(handle_message=lambda processor, message, context: [message])) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    assert type(message.reason) is InvalidReturnError


def test_unknown_batcher(make_pipeline: Any, acks: Any) -> None:
    """
    Naming a batcher that does not exist fails the message; the text lists those that do.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_batcher("s4") if message.data == 1 else message.put_batcher("s3")

    handler = make_handler(handle_message=handle_message)
    with make_pipeline(handler, batchers={"sqs": {}, "s3": {"batch_timeout": NEVER}}) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
        _, (message,) = acks.collect(1)
        assert (message.data, message.status, message.batcher) == (1, "error", "default")
        assert type(message.reason) is UnknownBatcherError
        assert all(key in str(message.reason) for key in ("s4", "sqs", "s3"))
    assert sorted(acks.all_data()) == [0, 1, 2]


def test_default_batcher_that_does_not_exist(make_pipeline: Any, acks: Any) -> None:
    """
    A message that is left on the default batcher fails where there is none.
    """
    with make_pipeline(batchers={"sqs": {}}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    assert type(message.reason) is UnknownBatcherError


def test_batcher_of_a_failed_message_is_not_checked(make_pipeline: Any, acks: Any) -> None:
    """
    A message that was failed keeps its reason, whatever batcher it names.
    """
    handler = make_handler(handle_message=lambda processor, message, context: message.put_batcher("x").fail("mine"))
    with make_pipeline(handler, batchers={"sqs": {}}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    assert (message.status, message.reason) == ("failed", "mine")


def test_put_batcher_without_batchers(make_pipeline: Any, acks: Any) -> None:
    """
    Without batchers it does not matter which one a message names.
    """
    handler = make_handler(handle_message=lambda processor, message, context: message.put_batcher("x"))
    with make_pipeline(handler) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        assert acks.collect_data(1) == ([1], [])


def test_fail_in_handle_message(make_pipeline: Any, acks: Any) -> None:
    """
    A message failed with a reason is acknowledged as failed with the changes that were made to it.
    """
    handler = make_handler(handle_message=lambda processor, message, context: message.put_data("new").fail("reason"))
    with make_pipeline(handler, batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    assert (message.data, message.status, message.reason) == ("new", "failed", "reason")


def test_fail_then_raise(make_pipeline: Any, acks: Any) -> None:
    """
    Raising after ``fail`` makes the exception the reason.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message.fail("first")
        raise ValueError("second")

    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    assert (message.status, str(message.reason)) == ("error", "second")


def test_status_set_by_hand(make_pipeline: Any, acks: Any) -> None:
    """
    A status that is not ok fails the message, whatever it is, and never the thread.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message.status = message.data
        return message

    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages(acks.messages(["ok", "failed", "error", "strange", None]))
        ok, failed = acks.collect_data(5)
    assert (ok, failed) == (["ok"], ["failed", "error", "strange", None])


def test_deep_recursion_fails_the_message(make_pipeline: Any, acks: Any) -> None:
    """
    A ``RecursionError`` is a failure like any other.
    """

    def recurse(n: int) -> int:
        return recurse(n + 1)

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        recurse(0)
        return message

    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages(acks.messages([1, 2]))
        _, failed = acks.collect(2)
    assert [type(m.reason) for m in failed] == [RecursionError, RecursionError]


def test_exception_that_cannot_be_shown(make_pipeline: Any, acks: Any) -> None:
    """
    An exception whose text raises fails its message and nothing else.
    """

    class Shy(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    with make_pipeline(make_handler(handle_message=raising(Shy()))) as pipeline:
        pipeline.push_messages(acks.messages([1, 2]))
        _, failed = acks.collect(2)
    assert [type(m.reason) for m in failed] == [Shy, Shy]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """
    An exception to whose attributes, ``__traceback__`` included, nothing can be assigned.
    """

    code: int


@pytest.mark.parametrize("callback", ["prepare_messages", "handle_message", "handle_batch", "handle_failed"])
def test_exception_that_cannot_be_changed(make_pipeline: Any, acks: Any, callback: str) -> None:
    """
    A frozen dataclass may be raised like any other exception: it is the reason, and no thread dies of it.
    """
    error = Frozen(7)
    callbacks = {callback: raising(error)}
    if callback == "handle_failed":
        callbacks["handle_message"] = raising(ValueError("no"))
    batchers = {"default": {"batch_size": 2}} if callback == "handle_batch" else {}
    with make_pipeline(make_handler(**callbacks), batchers=batchers) as pipeline:
        pipeline.push_messages(acks.messages([1, 2]))
        _, failed = acks.collect(2)
        assert pipeline.statistics().restarts == 0
    if callback != "handle_failed":
        assert [m.reason for m in failed] == [error, error]
        assert traceback.extract_tb(error.__traceback__)[-1].name == "callback"


# prepare_messages


def test_prepare_messages_gets_the_messages_of_a_chunk(make_pipeline: Any, acks: Any) -> None:
    """
    ``prepare_messages`` gets the messages before any of them is handled, and its changes are seen.
    """
    order: list[Any] = []

    def prepare_messages(messages: list[Message], context: Any) -> list[Message]:
        order.append(("prepare", [m.data for m in messages]))
        return [m.update_data(lambda d: d * 10) for m in messages]

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        order.append(("handle", message.data))
        return message

    handler = make_handler(prepare_messages=prepare_messages, handle_message=handle_message)
    with make_pipeline(handler) as pipeline:
        pipeline.push_messages(acks.messages([1, 2, 3]))
        assert acks.collect_data(3) == ([10, 20, 30], [])
    assert order == [("prepare", [1, 2, 3]), ("handle", 10), ("handle", 20), ("handle", 30)]


def test_prepare_messages_may_reorder(make_pipeline: Any, acks: Any) -> None:
    """
    The order that ``prepare_messages`` returns is the one in which messages are handled and acknowledged.
    """
    handler = make_handler(prepare_messages=lambda messages, context: messages[::-1])
    with make_pipeline(handler) as pipeline:
        pipeline.push_messages(acks.messages([1, 2, 3]))
        assert acks.collect_data(3) == ([3, 2, 1], [])


def test_messages_failed_by_prepare_messages(make_pipeline: Any, acks: Any) -> None:
    """
    ``handle_message`` also gets what ``prepare_messages`` failed; unchanged, it stays failed.
    """
    handled: list[Any] = []

    def prepare_messages(messages: list[Message], context: Any) -> list[Message]:
        return [m.fail("prepared") if m.data == 2 else m for m in messages]

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        handled.append((message.data, message.status))
        return message

    handler = make_handler(prepare_messages=prepare_messages, handle_message=handle_message)
    with make_pipeline(handler, batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.messages([1, 2, 3]))
    assert handled == [(1, "ok"), (2, "failed"), (3, "ok")]
    failed = [m for ack in acks.acks for m in ack.failed]
    assert [(m.data, m.reason) for m in failed] == [(2, "prepared")]
    assert sorted(acks.all_data()) == [1, 2, 3]


def duplicate_first(messages: list[Message]) -> list[Message]:
    """
    Return as many messages, but one of them twice and one not at all.
    """
    return [messages[0], *messages[:-1]]


PREPARE_WRONG: dict[str, Any] = {
    "raises": raising(ValueError("x")),
    "exits": raising(SystemExit(1)),
    "none": lambda messages, context: None,
    "too few": lambda messages, context: messages[:-1],
    "empty": lambda messages, context: [],
    "too many": lambda messages, context: [*messages, Message(0, messages[0].acknowledger)],
    "no list": lambda messages, context: 5,
    "foreign": lambda messages, context: ["a"] * len(messages),
    "partly foreign": lambda messages, context: [*messages[:-1], None],
    "one twice": lambda messages, context: duplicate_first(messages),
}


@pytest.mark.parametrize("prepare_messages", PREPARE_WRONG.values(), ids=PREPARE_WRONG)
def test_prepare_messages_goes_wrong(make_pipeline: Any, acks: Any, prepare_messages: Any) -> None:
    """
    When ``prepare_messages`` raises or returns something else, all are failed, in order, and none is handled.
    """
    handled: list[Any] = []
    failed_calls: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        handled.append(message.data)
        return message

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        failed_calls.append([m.data for m in messages])
        return messages

    handler = make_handler(
        prepare_messages=prepare_messages, handle_message=handle_message, handle_failed=handle_failed
    )
    with make_pipeline(handler) as pipeline:
        pipeline.push_messages(acks.messages([1, 2, 3]))
        ok, failed = acks.collect(3)
    assert (ok, [m.data for m in failed], handled, failed_calls) == ([], [1, 2, 3], [], [[1, 2, 3]])
    assert {m.status for m in failed} == {"error"}
    assert len({id(m.reason) for m in failed}) == 1
    assert isinstance(failed[0].reason, (ValueError, SystemExit, InvalidReturnError))
    if isinstance(failed[0].reason, InvalidReturnError):
        assert "prepare_messages" in str(failed[0].reason)


def test_prepare_messages_restores(make_pipeline: Any, acks: Any) -> None:
    """
    After a raise in ``prepare_messages`` the messages have the data that they had before it.
    """

    def prepare_messages(messages: list[Message], context: Any) -> list[Message]:
        for message in messages:
            message.put_data("changed").put_batcher("x").put_batch_key("y")
        raise ValueError

    with make_pipeline(make_handler(prepare_messages=prepare_messages)) as pipeline:
        pipeline.push_messages(acks.messages([1, 2]))
        _, failed = acks.collect(2)
    assert [(m.data, m.batcher, m.batch_key) for m in failed] == [(1, "default", "default"), (2, "default", "default")]


def test_prepare_messages_that_empties_its_list(make_pipeline: Any, acks: Any) -> None:
    """
    A callback that changes the list it got loses no message.
    """

    def prepare_messages(messages: list[Message], context: Any) -> list[Message]:
        messages.clear()
        return messages

    with make_pipeline(make_handler(prepare_messages=prepare_messages)) as pipeline:
        pipeline.push_messages(acks.messages([1, 2]))
        assert acks.collect_data(2) == ([], [1, 2])


# handle_failed


def odd_ones_fail(processor: str, message: Message, context: Any) -> Message:
    """
    A ``handle_message`` that raises for odd numbers.
    """
    if message.data % 2:
        raise ValueError(message.data)
    return message


def test_handle_failed_is_called_once_a_chunk(make_pipeline: Any, acks: Any) -> None:
    """
    ``handle_failed`` gets all failed messages of a chunk in one call, before they are acknowledged.
    """
    calls: list[Any] = []

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        calls.append([m.data for m in messages])
        assert acks.acks == []
        return messages

    with make_pipeline(make_handler(handle_message=odd_ones_fail, handle_failed=handle_failed)) as pipeline:
        pipeline.push_messages(acks.messages(range(5)))
        assert acks.collect_data(5) == ([0, 2, 4], [1, 3])
    assert calls == [[1, 3]]


def test_handle_failed_is_not_called_without_failures(make_pipeline: Any, acks: Any) -> None:
    """
    Where nothing failed ``handle_failed`` is not called.
    """
    calls: list[Any] = []

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        calls.append(messages)
        return messages

    with make_pipeline(make_handler(handle_failed=handle_failed), batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.messages(range(5)))
    assert calls == []
    assert len(acks.all_data()) == 5


def test_handle_failed_may_change_messages(make_pipeline: Any, acks: Any) -> None:
    """
    The acknowledger sees what ``handle_failed`` made of the messages; failed they stay.
    """

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        for message in messages:
            message.status = "ok"
        return [m.update_data(str) for m in messages]

    with make_pipeline(make_handler(handle_message=odd_ones_fail, handle_failed=handle_failed)) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
        assert acks.collect_data(4) == ([0, 2], ["1", "3"])


HANDLE_FAILED_WRONG: dict[str, Any] = {
    "raises": raising(ValueError("x")),
    "exits": raising(SystemExit(1)),
    "none": lambda messages, context: None,
    "too few": lambda messages, context: messages[1:],
    "empty": lambda messages, context: [],
    "foreign": lambda messages, context: ["a" for _ in messages],
    "partly foreign": lambda messages, context: [*messages[1:], None],
    "one twice": lambda messages, context: duplicate_first(messages),
    "too many": lambda messages, context: [*messages, *messages],
    "empties its list": lambda messages, context: messages.clear() or messages,
}


@pytest.mark.parametrize("handle_failed", HANDLE_FAILED_WRONG.values(), ids=HANDLE_FAILED_WRONG)
@pytest.mark.parametrize("step", ["processor", "batch processor"])
def test_handle_failed_goes_wrong(make_pipeline: Any, acks: Any, handle_failed: Any, step: str) -> None:
    """
    Whatever ``handle_failed`` does, each original is acknowledged as failed exactly once and the others succeed.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        return [m.fail("odd") if m.data % 2 else m for m in messages]

    if step == "processor":
        handler, options = make_handler(handle_message=odd_ones_fail, handle_failed=handle_failed), {}
    else:
        handler = make_handler(handle_batch=handle_batch, handle_failed=handle_failed)
        options = {"batchers": {"default": {}}}
    with make_pipeline(handler, **options) as pipeline:
        pipeline.push_messages(acks.messages(range(5)))
    ok = [m.data for ack in acks.acks for m in ack.successful]
    failed = [m.data for ack in acks.acks for m in ack.failed]
    assert (ok, sorted(failed)) == ([0, 2, 4], [1, 3])


def test_handle_failed_that_raises_keeps_the_reasons(make_pipeline: Any, acks: Any) -> None:
    """
    The reason of a message stays what failed it first, also when ``handle_failed`` raises.
    """
    handler = make_handler(handle_message=odd_ones_fail, handle_failed=raising(RuntimeError("later")))
    with make_pipeline(handler) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    assert (type(message.reason), message.status) == (ValueError, "error")


# handle_batch


def run_batch(make_pipeline: Any, acks: Any, handle_batch: Any, **callbacks: Any) -> tuple[list[Any], list[Any]]:
    """
    Send five messages through one batch; return the messages that succeeded and those that failed.
    """
    handler = make_handler(handle_batch=handle_batch, **callbacks)
    options = {"default": {"batch_size": 5, "batch_timeout": NEVER}}
    with make_pipeline(handler, batchers=options) as pipeline:
        pipeline.push_messages(acks.messages(range(5)))
        successful, failed = acks.collect(5)
        pipeline.push_messages(acks.messages(range(5)))
        acks.collect(5)  # the thread is still there for the next one
    assert len(acks.all_data()) == 10
    return successful, failed


def test_handle_batch_arguments(make_pipeline: Any, acks: Any) -> None:
    """
    ``handle_batch`` gets the batcher's key, the messages in order and what kind of batch it is.
    """
    seen: list[Any] = []

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        seen.append((batcher, [m.data for m in messages], batch_info))
        return messages

    run_batch(make_pipeline, acks, handle_batch)
    batcher, data, batch_info = seen[0]
    assert (batcher, data) == ("default", [0, 1, 2, 3, 4])
    assert (batch_info.batcher, batch_info.batch_key, batch_info.partition) == ("default", "default", None)
    assert (batch_info.size, batch_info.trigger) == (5, "size")


@pytest.mark.parametrize("error", RAISED, ids=[type(e).__name__ for e in RAISED])
def test_handle_batch_raises(make_pipeline: Any, acks: Any, error: BaseException) -> None:
    """
    Whatever ``handle_batch`` raises fails the whole batch with the exception as the reason; the thread lives.
    """
    failed_calls: list[Any] = []

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        failed_calls.append([m.data for m in messages])
        return messages

    ok, failed = run_batch(make_pipeline, acks, raising(error), handle_failed=handle_failed)
    assert (ok, [m.data for m in failed]) == ([], [0, 1, 2, 3, 4])
    assert {m.status for m in failed} == {"error"}
    assert all(m.reason is error for m in failed)
    assert failed_calls[0] == [0, 1, 2, 3, 4]


def test_handle_batch_restores(make_pipeline: Any, acks: Any) -> None:
    """
    After a raise in ``handle_batch`` the messages have the data, batcher and key that they had before it.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.update_data(lambda d: d + 100).put_batch_key("key")

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        for message in messages:
            message.put_data("changed").put_batcher("x").put_batch_key("y")
        raise ValueError

    _, failed = run_batch(make_pipeline, acks, handle_batch, handle_message=handle_message)
    assert [(m.data, m.batcher, m.batch_key) for m in failed] == [(n + 100, "default", "key") for n in range(5)]


def test_handle_batch_fails_some(make_pipeline: Any, acks: Any) -> None:
    """
    Messages that ``handle_batch`` fails are acknowledged as failed, the others as successful, both in order.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        return [m.fail("odd") if m.data % 2 else m for m in messages]

    ok, failed = run_batch(make_pipeline, acks, handle_batch)
    assert ([m.data for m in ok], [m.data for m in failed]) == ([0, 2, 4], [1, 3])
    assert {(m.status, m.reason) for m in failed} == {("failed", "odd")}


@pytest.mark.parametrize("value", [None, 5, "text"], ids=repr)
def test_handle_batch_returns_no_list(make_pipeline: Any, acks: Any, value: Any) -> None:
    """
    Returning something else than messages fails the whole batch with ``InvalidReturnError``.
    """
    ok, failed = run_batch(make_pipeline, acks, lambda *args: value)
    assert (ok, [m.data for m in failed]) == ([], [0, 1, 2, 3, 4])
    assert {type(m.reason) for m in failed} == {InvalidReturnError}
    assert "handle_batch" in str(failed[0].reason)


def test_handle_batch_returns_none(make_pipeline: Any, acks: Any) -> None:
    """
    The text for None asks for the forgotten return.
    """
    _, failed = run_batch(make_pipeline, acks, lambda *args: None)
    assert "forgotten" in str(failed[0].reason)


@pytest.mark.parametrize("foreign", [None, "text", 5], ids=repr)
def test_handle_batch_returns_a_foreign_object(make_pipeline: Any, acks: Any, foreign: Any) -> None:
    """
    A foreign object among the messages fails the batch.
    """
    ok, failed = run_batch(make_pipeline, acks, lambda b, messages, i, c: [*messages[:-1], foreign])
    assert (ok, len(failed)) == ([], 5)
    assert {type(m.reason) for m in failed} == {InvalidReturnError}


def test_handle_batch_returns_too_few(make_pipeline: Any, acks: Any) -> None:
    """
    Messages missing from what ``handle_batch`` returns fail with ``InvalidReturnError``, the others succeed.
    """
    failed_calls: list[Any] = []

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        failed_calls.append([m.data for m in messages])
        return messages

    ok, failed = run_batch(make_pipeline, acks, lambda b, messages, i, c: messages[1:3], handle_failed=handle_failed)
    assert ([m.data for m in ok], [m.data for m in failed]) == ([1, 2], [0, 3, 4])
    assert {(m.status, type(m.reason)) for m in failed} == {("error", InvalidReturnError)}
    assert failed_calls[0] == [0, 3, 4]


def test_handle_batch_returns_one_twice(make_pipeline: Any, acks: Any) -> None:
    """
    A message that is returned twice is acknowledged once; one that is missing for it fails.
    """
    ok, failed = run_batch(make_pipeline, acks, lambda b, messages, i, c: duplicate_first(messages))
    assert ([m.data for m in ok], [m.data for m in failed]) == ([0, 1, 2, 3], [4])


def test_handle_batch_that_empties_its_list(make_pipeline: Any, acks: Any) -> None:
    """
    A callback that changes the list it got loses no message.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        kept = messages.pop()
        messages[:] = [kept]
        return messages

    ok, failed = run_batch(make_pipeline, acks, handle_batch)
    assert ([m.data for m in ok], [m.data for m in failed]) == ([4], [0, 1, 2, 3])


def test_handle_batch_may_be_a_generator(make_pipeline: Any, acks: Any) -> None:
    """
    A ``handle_batch`` that was written with ``yield`` either works or fails its messages: none is lost.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> Any:
        yield from messages

    ok, failed = run_batch(make_pipeline, acks, handle_batch)
    assert sorted(m.data for m in ok + failed) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("outcome", ["ok", "failed", "raises"])
def test_data_deleted_by_a_callback(make_pipeline: Any, acks: Any, outcome: str) -> None:
    """
    A handler that is through with the data may let go of it: no later step needs it.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        del message.data
        return message.fail("no") if outcome == "failed" else message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        if outcome == "raises":
            raise ValueError("no")
        return messages

    handler = make_handler(handle_message=handle_message, handle_batch=handle_batch, handle_failed=lambda ms, c: ms)
    with make_pipeline(handler, batchers={"default": {"batch_size": 2}}) as pipeline:
        pipeline.push_messages(acks.messages([1, 2]))
        successful, failed = acks.collect(2)
        assert pipeline.statistics().restarts == 0
    assert (len(successful), len(failed)) == ((2, 0) if outcome == "ok" else (0, 2))


def test_only_messages_that_succeeded_reach_the_batcher(make_pipeline: Any, acks: Any) -> None:
    """
    Failed messages are acknowledged by the processor and never batched.
    """
    batches = Batches()
    handler = make_handler(handle_message=odd_ones_fail, handle_batch=batches)
    with make_pipeline(handler, batchers={"default": {"batch_size": 3, "batch_timeout": NEVER}}) as pipeline:
        pipeline.push_messages(acks.messages(range(5)))
        assert batches.next_cut() == ([0, 2, 4], "size")
    threads = {ack.thread.rpartition(".")[2]: ack.data for ack in acks.acks}
    assert threads == {"Processor_default_0": ([], [1, 3]), "BatchProcessor_default_0": ([0, 2, 4], [])}


def test_handler_that_returns_a_coroutine(make_pipeline: Any, acks: Any) -> None:
    """
    A plain function that returns a coroutine fails its message with ``InvalidReturnError`` and warns of nothing.
    """

    async def work() -> None:
        """
        Do nothing.
        """

    made: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Any:
        made.append(work())
        return made[-1]

    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        _, (message,) = acks.collect(1)
    for coroutine in made:
        coroutine.close()
    assert type(message.reason) is InvalidReturnError
    assert sys.exc_info() == (None, None, None)
