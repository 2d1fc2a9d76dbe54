"""
Context variables: each callback starts with none, hooks and callbacks of one call share theirs, and nothing is left.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import decimal
import gc
import queue
import weakref
from contextvars import ContextVar
from typing import Any, Callable, Iterable, Iterator

import pytest

from broadway_sync import Around, Message, Producer, Retry, telemetry
from tests.helpers import (
    BOUND,
    NEVER,
    Feed,
    FeedProducer,
    RecordingAcknowledger,
    eventually,
    get,
    get_many,
    make_handler,
)

CALLBACKS = ("prepare_messages", "handle_message", "handle_batch", "handle_failed")
BATCHERS = {"default": {"batch_size": 2, "batch_timeout": NEVER}}

variable: ContextVar[Any] = ContextVar("variable")
other: ContextVar[Any] = ContextVar("other", default="default")

Observer = Callable[[str], Any]


def observed_handler(observe: Observer, *, fails: bool = False) -> Any:
    """
    Return a handler each of whose callbacks calls *observe* with its name; *fails* makes every batch fail.
    """

    def prepare_messages(messages: Any, context: Any) -> Any:
        observe("prepare_messages")
        return messages

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        observe("handle_message")
        return message

    def handle_batch(batcher: str, messages: Any, info: Any, context: Any) -> Any:
        observe("handle_batch")
        return [message.fail("no") for message in messages] if fails else messages

    def handle_failed(messages: Any, context: Any) -> Any:
        observe("handle_failed")
        return messages

    return make_handler(
        prepare_messages=prepare_messages,
        handle_message=handle_message,
        handle_batch=handle_batch,
        handle_failed=handle_failed,
    )


def run_through(pipeline: Any, acks: Any, count: int = 6) -> tuple[list[Any], list[Any]]:
    """
    Start the pipeline, and send *count* messages as one chunk and half as many batches.
    """
    pipeline.start().push_messages(acks.messages(range(count)))
    successful, failed = acks.collect_data(count)
    return successful, failed


def test_every_callback_starts_with_an_empty_context(make_pipeline: Any, acks: Any) -> None:
    """
    Nothing is set when a callback begins: neither by who started the pipeline, nor by any callback before.
    """
    found: list[Any] = []

    def observe(callback: str) -> None:
        found.append((callback, dict(contextvars.copy_context())))
        variable.set(callback)

    token = variable.set("main thread")
    try:
        run_through(make_pipeline(observed_handler(observe, fails=True), batchers=BATCHERS), acks)
    finally:
        variable.reset(token)
    assert {callback for callback, _ in found} == set(CALLBACKS)
    assert [entry for entry in found if entry[1]] == []


def test_messages_of_a_chunk_do_not_see_each_other(make_pipeline: Any, acks: Any) -> None:
    """
    What one ``handle_message`` sets the next one of the same chunk does not see, whichever of them set anything.
    """
    found: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        found.append((message.data, variable.get(None), other.get()))
        if message.data % 3:
            variable.set(message.data)
        if message.data % 2:
            other.set(message.data)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.push_messages(acks.messages(range(12)))
    assert acks.collect_data(12) == (list(range(12)), [])
    assert found == [(number, None, "default") for number in range(12)]


def test_context_is_gone_when_the_callback_raised(make_pipeline: Any, acks: Any) -> None:
    """
    The same after a callback that set something and raised.
    """
    found: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        found.append(variable.get(None))
        variable.set(message.data)
        raise ValueError("x")

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.push_messages(acks.messages(range(4)))
    assert acks.collect_data(4) == ([], list(range(4)))
    assert found == [None] * 4


def test_main_thread_keeps_its_context(make_pipeline: Any, acks: Any) -> None:
    """
    What callbacks set is not seen outside.
    """
    run_through(make_pipeline(observed_handler(variable.set), batchers=BATCHERS), acks)
    assert variable.get(None) is None


def test_callbacks_see_what_a_hook_sets(make_pipeline: Any, acks: Any) -> None:
    """
    A hook runs inside the context of its call: the callback sees what it sets, and the next call does not.
    """
    found: list[Any] = []
    begun: list[Any] = []

    def hook(call: Any, messages: Any) -> Any:
        begun.append(variable.get(None))
        variable.set(f"for {call.callback}")
        return call()

    def observe(callback: str) -> None:
        found.append((callback, variable.get(None)))

    run_through(make_pipeline(observed_handler(observe, fails=True), around=hook, batchers=BATCHERS), acks)
    assert set(found) == {(callback, f"for {callback}") for callback in CALLBACKS}
    assert set(begun) == {None}


def test_hook_sees_what_the_callback_sets(make_pipeline: Any, acks: Any) -> None:
    """
    The other way round it is one context, too; so it is when the hook calls twice, and between hooks.
    """
    found: list[Any] = []

    def inner(call: Any, messages: Any) -> Any:
        call()
        found.append(variable.get())
        return call()

    def outer(call: Any, messages: Any) -> Any:
        result = call()
        found.append(variable.get())
        return result

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        variable.set(variable.get(0) + 1)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message), around=[outer, inner])
    assert run_through(pipeline, acks, 2) == ([0, 1], [])
    assert found == [1, 2, 1, 2]


def test_token_is_reset(make_pipeline: Any, acks: Any) -> None:
    """
    A hook may reset its token after the call, whether that raised or not.
    """

    def hook(call: Any, messages: Any) -> Any:
        token = variable.set("set")
        try:
            return call()
        finally:
            variable.reset(token)
            assert variable.get(None) is None

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        assert variable.get() == "set"
        return message.update_data(lambda number: 1 // number)

    pipeline = make_pipeline(make_handler(handle_message=handle_message), around=hook).start()
    messages = acks.messages(range(4))
    pipeline.push_messages(messages)
    assert acks.collect_data(4) == ([1, 0, 0], [0])
    assert isinstance(messages[0].reason, ZeroDivisionError)


def test_token_of_another_call(make_pipeline: Any, acks: Any) -> None:
    """
    A token that a callback kept from another call is refused by Python: that fails this message and no other.
    """
    kept: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "reset":
            variable.reset(kept[0])
        kept.append(variable.set(message.data))
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    messages = acks.messages(["set", "reset", "after"])
    pipeline.push_messages(messages)
    assert acks.collect_data(3) == (["set", "after"], ["reset"])
    assert isinstance(messages[1].reason, ValueError)


def test_context_manager_of_a_generator(make_pipeline: Any, acks: Any) -> None:
    """
    Context managers made of generators, as database sessions often are, work around a call.
    """

    @contextlib.contextmanager
    def session(name: str) -> Iterator[None]:
        token = variable.set(name)
        try:
            yield
        finally:
            variable.reset(token)

    def hook(call: Any, messages: Any) -> Any:
        with session(call.callback):
            return call()

    found: list[Any] = []
    handler = observed_handler(lambda callback: found.append((callback, variable.get(None))), fails=True)
    run_through(make_pipeline(handler, around=hook, batchers=BATCHERS), acks)
    assert {callback for callback, _ in found} == set(CALLBACKS)
    assert [entry for entry in found if entry[0] != entry[1]] == []


def test_generator_over_several_callbacks(make_pipeline: Any, acks: Any) -> None:
    """
    A generator that lives longer than a callback sees the context of whoever resumes it.
    """

    def numbers() -> Iterator[Any]:
        while True:
            before = variable.get(None)
            variable.set("left behind")
            yield before

    generator = numbers()
    found: list[Any] = []
    run_through(make_pipeline(observed_handler(lambda callback: found.append(next(generator)))), acks, 4)
    assert found == [None] * len(found)


def test_callbacks_that_are_generators(make_pipeline: Any, acks: Any) -> None:
    """
    What a callback that yields its messages sets is gone as well: the acknowledger, on the same thread, sees nothing.
    """
    found: list[Any] = []

    class Looking(RecordingAcknowledger):
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            found.append(dict(contextvars.copy_context()))
            super().ack(ack_ref, successful, failed)

    def handle_batch(batcher: str, messages: Any, info: Any, context: Any) -> Iterator[Message]:
        found.append(dict(contextvars.copy_context()))
        for message in messages:
            variable.set(message.data)
            yield message

    run_through(make_pipeline(make_handler(handle_batch=handle_batch), batchers=BATCHERS), Looking(), 4)
    assert found == [{}] * 4


def test_decimal_context(make_pipeline: Any, acks: Any) -> None:
    """
    The precision that one callback sets is not that of the next.
    """
    found: list[Any] = []
    default = decimal.DefaultContext.prec

    def observe(callback: str) -> None:
        found.append(decimal.getcontext().prec)
        decimal.getcontext().prec = 3
        assert str(decimal.Decimal(1) / 3) == "0.333"

    run_through(make_pipeline(observed_handler(observe), batchers=BATCHERS), acks)
    assert set(found) == {default}


def test_local_decimal_context_of_a_hook(make_pipeline: Any, acks: Any) -> None:
    """
    A hook may set the precision for its callback.
    """

    def hook(call: Any, messages: Any) -> Any:
        with decimal.localcontext() as context:
            context.prec = 2
            return call()

    handler = make_handler(
        handle_message=lambda processor, message, context: message.put_data(str(decimal.Decimal(message.data) / 3))
    )
    assert run_through(make_pipeline(handler, around=hook), acks, 3) == (["0", "0.33", "0.67"], [])


def test_copy_of_the_context(make_pipeline: Any, acks: Any) -> None:
    """
    A callback may run something in a copy of its context: at once, and on a thread of an executor.
    """
    found: list[Any] = []

    def observe(callback: str) -> None:
        variable.set(callback)
        copy = contextvars.copy_context()
        copy.run(variable.set, "in the copy")
        found.append((callback, variable.get(), copy[variable]))
        found.append((callback, *executor.submit(copy.run, lambda: (callback, variable.get())).result(BOUND)))

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        run_through(make_pipeline(observed_handler(observe), batchers=BATCHERS), acks)
    assert {entry[0] for entry in found} == {"prepare_messages", "handle_message", "handle_batch"}
    assert [entry for entry in found if entry != (entry[0], entry[0], "in the copy")] == []


def test_copy_outlives_its_callback(make_pipeline: Any, acks: Any) -> None:
    """
    A copy keeps what was set in its call, whatever later calls set.
    """
    copies: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        copies.append(contextvars.copy_context())
        variable.set(message.data)
        copies.append(contextvars.copy_context())
        return message

    run_through(make_pipeline(make_handler(handle_message=handle_message)), acks, 3)
    assert [dict(copy) for copy in copies] == [{}, {variable: 0}, {}, {variable: 1}, {}, {variable: 2}]


def test_event_loop_in_a_callback(make_pipeline: Any, acks: Any) -> None:
    """
    ``asyncio.run`` in a callback works, and its tasks see the variables of the call.
    """

    async def seen() -> Any:
        async def task() -> Any:
            return variable.get()

        return await asyncio.ensure_future(task())

    def hook(call: Any, messages: Any) -> Any:
        variable.set("of the hook")
        return call()

    handler = make_handler(handle_message=lambda processor, message, context: message.put_data(asyncio.run(seen())))
    assert run_through(make_pipeline(handler, around=hook), acks, 2) == (["of the hook"] * 2, [])


def test_pipeline_inside_of_a_callback(make_pipeline: Any, acks: Any) -> None:
    """
    Another pipeline that a callback starts and feeds has contexts of its own.
    """
    found: list[Any] = []
    inner = make_pipeline(observed_handler(lambda callback: found.append(variable.get(None))))

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        variable.set("outer")
        inner.start().test_message(1).receive(BOUND)
        inner.stop()
        assert variable.get() == "outer"
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message))
    assert run_through(pipeline, acks, 1) == ([0], [])
    assert found == [None, None]


class Value:
    """
    A value of which a test can see whether it is still held.
    """


@pytest.mark.parametrize("callback", CALLBACKS)
def test_values_are_let_go(make_pipeline: Any, acks: Any, callback: str) -> None:
    """
    What a callback set is held by nobody once it has returned, also while the stage is idle.
    """
    alive: Any = weakref.WeakSet()

    def observe(name: str) -> None:
        if name == callback:
            value = Value()
            alive.add(value)
            variable.set(value)
            made.put(name)

    def is_free() -> bool:
        gc.collect()
        return not alive

    made: queue.Queue[str] = queue.Queue()
    run_through(make_pipeline(observed_handler(observe, fails=True), batchers=BATCHERS), acks, 2)
    get(made)
    eventually(is_free, "the value is free")


def test_contexts_of_a_retried_call(make_pipeline: Any, acks: Any) -> None:
    """
    A hook that calls again does so in the same context: what the first attempt set is its to clear.
    """
    found: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        found.append(variable.get(None))
        variable.set("attempt")
        return message

    def hook(call: Any, messages: Any) -> Any:
        call()
        return call()

    run_through(make_pipeline(make_handler(handle_message=handle_message), around=hook), acks, 2)
    assert found == [None, "attempt", None, "attempt"]


def test_contexts_under_telemetry(make_pipeline: Any, acks: Any) -> None:
    """
    The same holds when telemetry listens to every message.
    """
    telemetry.attach("test-contexts", ("broadway", "processor", "message", "start"), lambda *args: None)
    test_messages_of_a_chunk_do_not_see_each_other(make_pipeline, acks)


def test_hook_of_a_producer_shares_its_context(make_pipeline: Any, acks: Any) -> None:
    """
    A producer's callback sees what ``around_producer`` sets for it.
    """
    found: queue.Queue[Any] = queue.Queue()

    class Setting(Around):
        def around_producer(self, call: Any) -> Any:
            token = variable.set(call.callback)
            try:
                return call()
            finally:
                variable.reset(token)

    class Looking(Producer):
        def init(self) -> None:
            found.put(variable.get(None))

        def handle_demand(self, demand: int) -> Iterable[Message]:
            found.put(variable.get(None))
            return []

        def terminate(self, reason: Any) -> None:
            found.put(variable.get(None))

    pipeline = make_pipeline(around=Setting(), producer={"module": Looking}).start()
    assert get_many(found, 2) == ["init", "handle_demand"]
    pipeline.stop()
    last = get_many(found, found.qsize())[-1]
    assert last == "terminate"


def test_contexts_under_load(make_pipeline: Any, acks: Any) -> None:
    """
    With many threads, some messages that fail and some that set variables, no call ever sees what is not its own.
    """
    count = 2000
    strangers: list[Any] = []

    def hook(call: Any, messages: Any) -> Any:
        if contextvars.copy_context():
            strangers.append((call.callback, dict(contextvars.copy_context())))
        if len(messages) % 2 or messages[0].data % 3:
            variable.set(id(messages[0]))
        return call()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if variable.get(id(message)) != id(message):
            strangers.append(message)
        other.set(message)
        if message.data % 10 == 9:
            raise ValueError("every tenth")
        return message

    with make_pipeline(
        make_handler(handle_message=handle_message),
        around=hook,
        producer={"module": (FeedProducer, {"feed": Feed(acks.messages(range(count)), closed=True)})},
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"concurrency": 2, "batch_size": 5, "batch_timeout": 0.05}},
    ) as pipeline:
        assert pipeline.join(6 * BOUND)
    successful, failed = acks.collect_data(count)
    assert (len(successful), len(failed)) == (count - count // 10, count // 10)
    assert strangers == []


def test_attempts_of_a_retry(make_pipeline: Any, acks: Any) -> None:
    """
    Each attempt of a retried callback passes the hooks again, and begins with an empty context.
    """
    pytest.importorskip("tenacity")
    found: list[Any] = []
    hooked: list[str] = []

    class Busy:
        retry = Retry(max_attempts=3, backoff=(0.0, 0.0))

        def handle_message(self, processor: str, message: Message, context: Any) -> Message:
            found.append(variable.get(None))
            variable.set("attempt")
            raise ConnectionError("busy")

    def hook(call: Any, messages: Any) -> Any:
        hooked.append(call.callback)
        found.append(variable.get(None))
        return call()

    run_through(make_pipeline(Busy(), around=hook), acks, 2)
    assert hooked == ["handle_message"] * 6
    assert found == [None] * 12
