"""
Telemetry: handlers, events with exactly their metadata, spans, and credentials that stay secret.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from typing import Any, Iterable

import pytest

from broadway_sync import BatchInfo, DummyProducer, Message, PipelineOptions, Producer, telemetry
from tests.helpers import BOUND, NEVER, Call, eventually, make_handler, unique_name

Event = Any

STAGES = ("processor", "batcher", "batch_processor", "handle_failed")
EVENTS = [
    ("broadway", "topology", "init"),
    *(("broadway", stage, kind) for stage in STAGES for kind in ("start", "stop", "exception")),
    *(("broadway", "processor", "message", kind) for kind in ("start", "stop", "exception")),
]


class Recorder:
    """
    Records events of one pipeline as ``(event, measurements, metadata, thread)``.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, event: Event, measurements: Any, metadata: Any, config: Any) -> None:
        self.events.append((event, dict(measurements), dict(metadata), threading.current_thread().name))

    def of(self, *event: str) -> list[Any]:
        """
        Return the recorded ones of one event.
        """
        return [e for e in list(self.events) if e[0] == ("broadway", *event)]

    def only(self, *event: str) -> Any:
        """
        Return the single one of this event.
        """
        found = self.of(*event)
        assert len(found) == 1, f"expected one {event}, got {[e[0] for e in self.events]}"
        return found[0]

    def names(self) -> list[str]:
        """
        Return the events without their first part, in order.
        """
        return [".".join(e[0][1:]) for e in self.events]


@pytest.fixture
def handler_id() -> Any:
    """
    Return an id of its own; whatever is attached under it is detached at the end.
    """
    name = unique_name("handler")
    yield name
    for suffix in ("", "-a", "-b"):
        try:
            telemetry.detach(name + suffix)
        except LookupError:
            pass


@pytest.fixture
def recorder(handler_id: str) -> Recorder:
    """
    Return a recorder that is attached to every event of the contract.
    """
    recorder = Recorder()
    telemetry.attach_many(handler_id, EVENTS, recorder)
    return recorder


# Handlers


def test_attach_and_execute(handler_id: str) -> None:
    """
    A handler gets the event, the measurements, the metadata and its config, on the thread that emits.
    """
    calls: list[Any] = []

    def function(*args: Any) -> None:
        calls.append((args, threading.current_thread()))

    telemetry.attach(handler_id, ("app", "thing"), function, {"a": 1})
    telemetry.execute(("app", "thing"), {"count": 1}, {"who": "me"})
    telemetry.execute(("app", "other"), {"count": 2}, {})
    telemetry.execute(("app",), {}, {})
    telemetry.execute(("app", "thing", "more"), {}, {})
    assert calls == [((("app", "thing"), {"count": 1}, {"who": "me"}, {"a": 1}), threading.current_thread())]


def test_config_defaults_to_none(handler_id: str) -> None:
    """
    Without a config a handler gets None.
    """
    calls: list[Any] = []
    telemetry.attach(handler_id, ("app", "thing"), lambda *args: calls.append(args[3]))
    telemetry.execute(("app", "thing"), {}, {})
    assert calls == [None]


def test_attach_many(handler_id: str) -> None:
    """
    One handler may be attached to several events at once, and is detached from all.
    """
    calls: list[Any] = []
    events = [("app", "a"), ("app", "b")]
    telemetry.attach_many(handler_id, events, lambda event, *rest: calls.append(event), None)
    for event in events:
        telemetry.execute(event, {}, {})
    telemetry.detach(handler_id)
    for event in events:
        telemetry.execute(event, {}, {})
    assert calls == events


def test_handlers_are_called_in_order(handler_id: str) -> None:
    """
    Several handlers of one event are called in the order in which they were attached.
    """
    calls: list[Any] = []
    telemetry.attach(handler_id + "-a", ("app", "thing"), lambda *args: calls.append("a"))
    telemetry.attach(handler_id + "-b", ("app", "thing"), lambda *args: calls.append("b"))
    telemetry.execute(("app", "thing"), {}, {})
    assert calls == ["a", "b"]


def test_duplicate_id(handler_id: str) -> None:
    """
    An id that is attached already is refused, whatever the event; the first handler stays.
    """
    calls: list[Any] = []
    telemetry.attach(handler_id, ("app", "thing"), lambda *args: calls.append("first"))
    with pytest.raises(ValueError, match=handler_id):
        telemetry.attach(handler_id, ("app", "thing"), lambda *args: calls.append("second"))
    with pytest.raises(ValueError, match=handler_id):
        telemetry.attach(handler_id, ("app", "other"), lambda *args: calls.append("third"))
    with pytest.raises(ValueError, match=handler_id):
        telemetry.attach_many(handler_id, [("app", "other")], lambda *args: calls.append("fourth"))
    telemetry.execute(("app", "thing"), {}, {})
    telemetry.execute(("app", "other"), {}, {})
    assert calls == ["first"]


def test_unknown_id(handler_id: str) -> None:
    """
    Detaching what is not attached is a ``LookupError`` that names it.
    """
    with pytest.raises(LookupError, match=handler_id):
        telemetry.detach(handler_id)


def test_list_handlers(handler_id: str) -> None:
    """
    The handlers of the events with a prefix can be listed.
    """
    before = len(telemetry.list_handlers())
    telemetry.attach_many(handler_id, [("app", "a"), ("app", "b", "c")], print)
    assert len(telemetry.list_handlers()) == before + 2
    assert len(telemetry.list_handlers(("app",))) == 2
    assert len(telemetry.list_handlers(("app", "b"))) == 1
    assert len(telemetry.list_handlers(("app", "b", "c"))) == 1
    assert telemetry.list_handlers(("ap",)) == []
    assert telemetry.list_handlers(("app", "b", "c", "d")) == []
    assert handler_id in repr(telemetry.list_handlers(("app", "a")))


@pytest.mark.parametrize("event", ["broadway.topology.init", (), ("app", 1), None], ids=repr)
def test_event_that_is_no_tuple_of_str(handler_id: str, event: Any) -> None:
    """
    An event is a tuple of str, and nothing else can be attached to.
    """
    with pytest.raises((TypeError, ValueError)):
        telemetry.attach(handler_id, event, print)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1)], ids=["Exception", "BaseException"])
def test_handler_that_raises(handler_id: str, caplog: Any, error: BaseException) -> None:
    """
    A handler that raises is detached from all its events and logged once with its id; the emitter does not notice.
    """
    calls: list[Any] = []

    def broken(event: Any, *rest: Any) -> None:
        calls.append(event)
        raise error

    telemetry.attach_many(handler_id, [("app", "a"), ("app", "b")], broken)
    telemetry.attach(handler_id + "-a", ("app", "a"), lambda *args: calls.append("good"))
    with caplog.at_level(logging.DEBUG, "broadway_sync"):
        for _ in range(2):
            telemetry.execute(("app", "a"), {}, {})
            telemetry.execute(("app", "b"), {}, {})
    assert calls == [("app", "a"), "good", "good"]
    (record,) = [r for r in caplog.records if r.name.startswith("broadway_sync")]
    assert handler_id in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    with pytest.raises(LookupError):
        telemetry.detach(handler_id)


@pytest.mark.parametrize("event", [e for e in EVENTS if "exception" not in e], ids=".".join)
def test_pipeline_does_not_notice_a_handler_that_raises(
    make_pipeline: Any, acks: Any, handler_id: str, event: Any
) -> None:
    """
    Whatever event a handler raises on, messages are handled and acknowledged as without it.
    """

    def broken(*args: Any) -> None:
        raise SystemExit("broken handler")

    telemetry.attach(handler_id, event, broken)
    handler = make_handler(
        handle_message=lambda p, m, c: m.fail("x") if m.data % 2 else m, handle_failed=lambda messages, c: messages
    )
    with make_pipeline(handler, batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    assert sorted(acks.all_data()) == [0, 1, 2, 3]
    with pytest.raises(LookupError):
        telemetry.detach(handler_id)


def test_handler_may_detach_itself(handler_id: str) -> None:
    """
    A handler may attach and detach from within.
    """
    calls: list[Any] = []

    def once(*args: Any) -> None:
        calls.append(args[0])
        telemetry.detach(handler_id)
        telemetry.attach(handler_id + "-a", ("app", "thing"), lambda *a: calls.append("next"))

    telemetry.attach(handler_id, ("app", "thing"), once)
    telemetry.execute(("app", "thing"), {}, {})
    assert calls[0] == ("app", "thing")
    telemetry.execute(("app", "thing"), {}, {})
    assert calls[-1] == "next"
    assert calls.count(("app", "thing")) == 1


def test_attach_from_many_threads() -> None:
    """
    Handlers may be attached, called and detached from many threads.
    """
    names = [unique_name("handler") for _ in range(4)]

    def work(name: str) -> int:
        calls: list[Any] = []
        for _ in range(50):
            telemetry.attach(name, ("app", name), lambda *args: calls.append(1))
            telemetry.execute(("app", name), {}, {})
            telemetry.detach(name)
            telemetry.execute(("app", name), {}, {})
        return len(calls)

    assert [c.result() for c in [Call(work, name) for name in names]] == [50] * 4


# span


def spans(handler_id: str, event: Any) -> Recorder:
    """
    Return a recorder attached to the span of *event*.
    """
    recorder = Recorder()
    telemetry.attach_many(handler_id, [(*event, kind) for kind in ("start", "stop", "exception")], recorder)
    return recorder


def test_span(handler_id: str) -> None:
    """
    ``span`` returns the function's result, and emits start and stop with one context.
    """
    recorder = spans(handler_id, ("app", "work"))
    before = time.time_ns()
    result = telemetry.span(("app", "work"), {"who": "me"}, lambda: ("result", {"rows": 5}))
    assert result == "result"
    start, stop = recorder.events
    assert (start[0], stop[0]) == (("app", "work", "start"), ("app", "work", "stop"))
    assert set(start[1]) == {"system_time", "monotonic_time"}
    assert before <= start[1]["system_time"] <= time.time_ns()
    assert type(stop[1]["duration"]) is int
    assert stop[1]["duration"] >= 0
    context = start[2].pop("telemetry_span_context")
    assert stop[2].pop("telemetry_span_context") == context
    assert (start[2], stop[2]) == ({"who": "me"}, {"rows": 5})


def test_spans_have_contexts_of_their_own(handler_id: str) -> None:
    """
    Two spans can be told apart.
    """
    recorder = spans(handler_id, ("app", "work"))
    for _ in range(2):
        telemetry.span(("app", "work"), {}, lambda: (None, {}))
    contexts = [e[2]["telemetry_span_context"] for e in recorder.events]
    assert contexts[0] == contexts[1] != contexts[2] == contexts[3]


def test_span_duration(handler_id: str) -> None:
    """
    The duration is in nanoseconds.
    """
    recorder = spans(handler_id, ("app", "work"))

    def work() -> Any:
        threading.Event().wait(0.02)
        return None, {}

    telemetry.span(("app", "work"), {}, work)
    assert 0.019e9 <= recorder.events[1][1]["duration"] < BOUND * 1e9


def test_span_that_raises(handler_id: str) -> None:
    """
    A function that raises ends the span with an exception event that carries the start's metadata; it goes on.
    """
    recorder = spans(handler_id, ("app", "work"))
    error = ValueError("x")

    def work() -> Any:
        raise error

    with pytest.raises(ValueError, match="x"):
        telemetry.span(("app", "work"), {"who": "me"}, work)
    start, end = recorder.events
    assert end[0] == ("app", "work", "exception")
    assert end[1]["duration"] >= 0
    assert end[2]["telemetry_span_context"] == start[2]["telemetry_span_context"]
    assert (end[2]["who"], end[2]["reason"]) == ("me", error)
    assert set(end[2]) == {"who", "kind", "reason", "stacktrace", "telemetry_span_context"}
    assert end[2]["kind"] == "error"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("x"), "error"), (SystemExit(1), "exit"), (KeyboardInterrupt(), "exit")],
    ids=["Exception", "SystemExit", "KeyboardInterrupt"],
)
def test_kind_of_an_exception(make_pipeline: Any, acks: Any, recorder: Recorder, error: Any, kind: str) -> None:
    """
    As in Broadway it is ``error`` or ``exit``, in the events of messages and of ``handle_failed``.
    """

    def fail(*arguments: Any) -> Any:
        raise error

    with make_pipeline(make_handler(handle_message=fail, handle_failed=fail)) as pipeline:
        pipeline.push_messages(acks.messages([1]))
    metadata = [recorder.only("processor", "message", "exception")[2], recorder.only("handle_failed", "exception")[2]]
    assert [(each["kind"], each["reason"]) for each in metadata] == [(kind, error)] * 2


def test_span_without_handlers() -> None:
    """
    With nobody attached a span is the function's result.
    """
    assert telemetry.span(("app", "nobody"), {}, lambda: (5, {})) == 5


# Events of a pipeline


COMMON = {"topology_name", "name", "context", "telemetry_span_context"}
PROCESSOR = COMMON | {"index", "processor_key", "producer"}
BATCH_PROCESSOR = COMMON | {"index", "batch_info", "producer"}
FAILURE = {"kind", "reason", "stacktrace"}

METADATA = {
    ("processor", "start"): PROCESSOR | {"messages"},
    ("processor", "stop"): PROCESSOR
    | {"successful_messages_to_ack", "successful_messages_to_forward", "failed_messages"},
    ("processor", "message", "start"): PROCESSOR | {"message"},
    ("processor", "message", "stop"): PROCESSOR | {"message"},
    ("processor", "message", "exception"): PROCESSOR | {"message"} | FAILURE,
    ("batcher", "start"): COMMON | {"batcher_key", "messages"},
    ("batcher", "stop"): COMMON | {"batcher_key"},
    ("batch_processor", "start"): BATCH_PROCESSOR | {"messages"},
    ("batch_processor", "stop"): BATCH_PROCESSOR | {"successful_messages", "failed_messages"},
    ("handle_failed", "start"): COMMON | {"module", "messages"},
    ("handle_failed", "stop"): COMMON | {"module", "messages"},
    ("handle_failed", "exception"): COMMON | {"module", "messages"} | FAILURE,
}


def handle_message(processor: str, message: Message, context: Any) -> Message:
    """
    Raise for 1, fail 2, and let the others through.
    """
    if message.data == 1:
        raise ValueError("one")
    return message.fail("two") if message.data == 2 else message.update_data(lambda d: d * 10)


def full_handler(**callbacks: Any) -> Any:
    """
    Return a handler with every callback that has an event.
    """
    return make_handler(
        **{"handle_message": handle_message, "handle_failed": lambda messages, context: messages, **callbacks}
    )


def test_metadata_of_every_event(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    Each event carries exactly its metadata, with the names of this pipeline and the thread as name.
    """

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        if any(m.data == 30 for m in messages):
            raise RuntimeError("handle_failed")
        return messages

    handler = full_handler(
        handle_failed=handle_failed, handle_batch=lambda b, messages, i, c: [m.fail("batch") for m in messages]
    )
    with make_pipeline(
        handler,
        name="inv",
        context="the context",
        processors={"work": {"concurrency": 1}},
        batchers={"default": {"batch_timeout": NEVER}},
    ) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    seen = {e[0][1:] for e in recorder.events}
    assert seen == set(METADATA) | {("topology", "init")}
    for event, measurements, metadata, thread in recorder.events:
        if event == ("broadway", "topology", "init"):
            continue
        assert set(metadata) == METADATA[event[1:]], event
        assert metadata["context"] == "the context"
        if "name" in metadata:
            # Nothing says on which thread a batcher works; its events name the batcher in any case.
            name = "inv.Broadway.Batcher_default" if event[1] == "batcher" else thread
            assert (metadata["topology_name"], metadata["name"]) == ("inv", name)
        assert metadata.get("processor_key", "work") == "work"
        assert metadata.get("batcher_key", "default") == "default"
        assert metadata.get("index", 0) == 0
        wanted = {"system_time", "monotonic_time"} if event[-1] == "start" else {"duration"}
        assert wanted <= set(measurements) <= wanted | {"monotonic_time"}
        assert {type(value) for value in measurements.values()} == {int}


def test_topology_init(make_pipeline: Any, recorder: Recorder) -> None:
    """
    It carries the options and the name, once for each start, when the pipeline is registered already.
    """
    import broadway_sync

    running: list[Any] = []
    handler_id = unique_name("handler")
    telemetry.attach(
        handler_id, ("broadway", "topology", "init"), lambda *a: running.append(broadway_sync.all_running())
    )
    try:
        pipeline = make_pipeline(name="inv", context="mine")
        assert recorder.events == []
        pipeline.start()
    finally:
        telemetry.detach(handler_id)
    _, measurements, metadata, _ = recorder.only("topology", "init")
    assert set(metadata) == {"config", "name"}
    assert metadata["name"] == "inv"
    assert isinstance(metadata["config"], PipelineOptions)
    assert (metadata["config"].name, metadata["config"].context) == ("inv", "mine")
    assert "system_time" in measurements
    assert abs(measurements["system_time"] - time.time_ns()) < 60e9
    assert running == [["inv"]]


def test_events_of_a_chunk(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    Events come in the order of the work, and carry the messages at that point.
    """
    with make_pipeline(full_handler(), batchers={"default": {"batch_timeout": NEVER}}) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    names = recorder.names()
    processor = [n for n in names if n.split(".")[0] in ("processor", "handle_failed")]
    message = "processor.message."
    assert processor == [
        "processor.start",
        *(message + "start", message + "stop"),
        *(message + "start", message + "exception"),
        *(message + "start", message + "stop"),
        *(message + "start", message + "stop"),
        "handle_failed.start",
        "handle_failed.stop",
        "processor.stop",
    ]
    start, stop = recorder.only("processor", "start")[2], recorder.only("processor", "stop")[2]
    assert len(start["messages"]) == 4
    assert [m.data for m in stop["successful_messages_to_forward"]] == [0, 30]
    assert [m.data for m in stop["failed_messages"]] == [1, 2]
    assert list(stop["successful_messages_to_ack"]) == []
    assert start["telemetry_span_context"] == stop["telemetry_span_context"]
    assert [m.data for m in recorder.only("batcher", "start")[2]["messages"]] == [0, 30]
    batch_start, batch_stop = recorder.only("batch_processor", "start")[2], recorder.only("batch_processor", "stop")[2]
    assert isinstance(batch_start["batch_info"], BatchInfo)
    assert batch_start["batch_info"] == batch_stop["batch_info"]
    assert batch_start["batch_info"].trigger == "flush"
    assert [m.data for m in batch_start["messages"]] == [0, 30]
    assert [m.data for m in batch_stop["successful_messages"]] == [0, 30]
    assert list(batch_stop["failed_messages"]) == []
    failure = recorder.only("processor", "message", "exception")[2]
    assert (type(failure["reason"]), failure["message"].data) == (ValueError, 1)


def test_events_of_a_chunk_and_its_batch(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    The span of a processor ends before its messages go to a batcher: it shows them as they were then.
    """
    forwarded: list[Any] = []

    def look(event: Event, measurements: Any, metadata: Any, config: Any) -> None:
        if event[1] == "batcher":
            eventually(lambda: len(acks.all_data()) == 3, "the batch is through")
        else:
            forwarded.append([m.data for m in metadata["successful_messages_to_forward"]])

    handler = make_handler(handle_batch=lambda batcher, messages, i, c: [m.fail("batch") for m in messages])
    handler_id = unique_name("handler")
    telemetry.attach_many(handler_id, [("broadway", "batcher", "stop"), ("broadway", "processor", "stop")], look)
    with make_pipeline(handler, batchers={"default": {"batch_size": 3}}) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
        eventually(lambda: recorder.of("batch_processor", "stop"), "the end of the batch")
    assert forwarded == [[0, 1, 2]]
    spans = [
        name for name in recorder.names() if name.split(".")[0] in ("processor", "batcher") and "message" not in name
    ]
    assert spans == ["processor.start", "processor.stop", "batcher.start", "batcher.stop"]
    names = recorder.names()
    assert names.index("batcher.start") < names.index("batch_processor.start")


def test_events_without_batchers(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    Without batchers successful messages are there to acknowledge, not to forward.
    """
    with make_pipeline(full_handler()) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    stop = recorder.only("processor", "stop")[2]
    assert [m.data for m in stop["successful_messages_to_ack"]] == [0, 30]
    assert list(stop["successful_messages_to_forward"]) == []
    assert [m.data for m in stop["failed_messages"]] == [1, 2]


def test_acknowledgement_is_inside_the_span(make_pipeline: Any, recorder: Recorder) -> None:
    """
    Messages are acknowledged before the stop event of their step.
    """
    order: list[Any] = []

    class Acknowledger:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            order.append(recorder.names()[-1])

    with make_pipeline(batchers={"default": {}}) as pipeline:
        pipeline.push_messages([Message(0, (Acknowledger(), None, None))])
    assert order == ["batch_processor.start"]


def test_wrong_returns_are_exceptions(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    A wrong return of ``handle_message`` ends its span with an exception event, ``fail`` with a stop event.
    """
    with make_pipeline(make_handler(handle_message=lambda p, m, c: None if m.data else m.fail("x"))) as pipeline:
        pipeline.push_messages(acks.messages(range(2)))
    assert [n for n in recorder.names() if ".message." in n] == [
        "processor.message.start",
        "processor.message.stop",
        "processor.message.start",
        "processor.message.exception",
    ]


@pytest.mark.parametrize("status", ["error", "strange"])
def test_status_set_by_hand_is_no_exception(make_pipeline: Any, acks: Any, recorder: Recorder, status: str) -> None:
    """
    A callback that returns ends its span with a stop event, whatever status it gave the message: there is no exception.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message.status = status
        return message

    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        assert acks.collect_data(1) == ([], [1])
    assert recorder.only("processor", "message", "stop")[2]["message"].status == status
    assert [name for name in recorder.names() if name.endswith("exception")] == []


def test_handle_failed_events_only_where_it_is_defined(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    A handler without ``handle_failed`` emits no events of it.
    """
    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    assert "handle_failed.start" not in recorder.names()


def test_handle_failed_that_raises_is_an_exception_event(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    ``handle_failed`` that raises ends its span with an exception event.
    """

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        raise RuntimeError("broken")

    with make_pipeline(full_handler(handle_failed=handle_failed)) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    assert str(recorder.only("handle_failed", "exception")[2]["reason"]) == "broken"
    assert recorder.of("handle_failed", "stop") == []


def test_attach_while_running(make_pipeline: Any, acks: Any, handler_id: str) -> None:
    """
    A handler attached to a running pipeline sees what comes after, and nothing once it is detached.
    """
    recorder = Recorder()
    pipeline = make_pipeline().start()
    pipeline.push_messages(acks.messages([0]))
    acks.collect(1)
    telemetry.attach(handler_id, ("broadway", "processor", "start"), recorder)
    pipeline.push_messages(acks.messages([1]))
    acks.collect(1)
    eventually(lambda: len(recorder.events) == 1, "one event")
    telemetry.detach(handler_id)
    pipeline.push_messages(acks.messages([2]))
    acks.collect(1)
    assert len(recorder.events) == 1


# Credentials


class Connected(Producer):
    """
    A producer whose options hold credentials.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        received.append(options)

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Produce nothing.
        """
        return []


received: list[Any] = []


@dataclasses.dataclass
class Parameters:
    """
    Connection parameters as a client library might have them.
    """

    host: str = "visible"
    password: str = "hunter2"


SECRETS: dict[str, Any] = {
    "password": "hunter2",
    "passwd": "hunter2",
    "secret": "hunter2",
    "client_secret": "hunter2",
    "token": "hunter2",
    "access_token": "hunter2",
    "api_key": "hunter2",
    "aws_access_key_id": "hunter2",
    "aws_secret_access_key": "hunter2",
    "private_key": "hunter2",
    "sasl_plain_password": "hunter2",
    "sasl.password": "hunter2",
    "sasl": ("plain", "user", "hunter2"),
    "ssl_key_password": "hunter2",
    "AccessKey": "hunter2",
    "connection": {"host": "visible", "password": "hunter2"},
    "brokers": [{"host": "visible", "token": "hunter2"}],
    "url": "amqp://visible:hunter2@example.org:5672/vhost?heartbeat=10",
    "urls": ["https://visible:hunter2@example.org/", "amqps://:hunter2@example.org"],
    "nested": {"deeper": {"uri": "redis://:hunter2@example.org/0"}},
    "url with query": {"address": "postgres://example.org/visible?password=hunter2"},
    "bytes url": {"address": b"amqp://user:hunter2@visible"},
    "dsn": "host=visible password=hunter2 user=somebody",
    "connection_string": "Endpoint=sb://visible/;SharedAccessKey=hunter2",
    "sasl_jaas_config": 'PlainLoginModule required username="visible" password="hunter2";',
    "headers": [("Host", "visible"), ("Authorization", "Bearer hunter2")],
    "parameters": Parameters(),
    "factory": functools.partial(dict, host="visible", password="hunter2"),
}


@pytest.mark.parametrize("name", SECRETS)
def test_credentials_are_masked(make_pipeline: Any, acks: Any, recorder: Recorder, name: str) -> None:
    """
    Passwords, keys and tokens never reach a telemetry handler, not even inside URLs; other options do.
    """
    received.clear()
    options = {"queue": "invoices", name: SECRETS[name]}
    with make_pipeline(producer={"module": (Connected, options)}, batchers={"default": {"batch_size": 1}}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        acks.collect(1)
    with_producer = [e[2]["producer"] for e in recorder.events if "producer" in e[2]]
    assert with_producer
    for producer in with_producer:
        assert "hunter2" not in repr(producer)
        assert "hunter2" not in str(producer)
        assert "invoices" in repr(producer)
    assert received == [options]


@pytest.mark.parametrize("name", ["password", "url"])
def test_credentials_in_the_config_are_not_shown(make_pipeline: Any, recorder: Recorder, name: str) -> None:
    """
    The options that ``topology.init`` carries do not show credentials when a handler prints them, nor does a pipeline.
    """
    with make_pipeline(producer={"module": (Connected, {"queue": "invoices", name: SECRETS[name]})}) as pipeline:
        assert "hunter2" not in repr(pipeline)
    config = recorder.only("topology", "init")[2]["config"]
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config.producer)
    assert "invoices" in repr(config)


@pytest.mark.parametrize("name", ["connection", "brokers", "url", "urls"])
def test_only_credentials_are_masked(make_pipeline: Any, acks: Any, recorder: Recorder, name: str) -> None:
    """
    What stands beside a credential, in its mapping or its URL, is shown.
    """
    with make_pipeline(producer={"module": (Connected, {name: SECRETS[name]})}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        acks.collect(1)
    assert "visible" in repr(recorder.only("processor", "start")[2]["producer"])


def test_credentials_of_a_factory_are_masked(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    A factory made by ``functools.partial`` shows no credentials either.
    """
    module = functools.partial(Connected, queue="invoices", password="hunter2", url="amqp://u:hunter2@example.org")
    with make_pipeline(producer={"module": module}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        acks.collect(1)
    assert "hunter2" not in repr(recorder.events)


def test_options_that_contain_themselves_are_masked_too(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    However often they do.
    """
    options: Any = {"password": "hunter2", "visible": "invoices"}
    options.update(first=options, second=[options])
    with make_pipeline(producer={"module": (Connected, options)}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        acks.collect(1)
    shown = repr(recorder.only("processor", "start")[2]["producer"])
    assert "invoices" in shown
    assert "hunter2" not in shown


def test_names_that_only_look_like_credentials(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    A URL without a password is shown as it is.
    """
    options = {"queue_url": "https://sqs.example.org/123/invoices", "max_number_of_messages": 10}
    with make_pipeline(producer={"module": (Connected, options)}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        acks.collect(1)
    text = repr(recorder.only("processor", "start")[2]["producer"])
    assert "https://sqs.example.org/123/invoices" in text
    assert "10" in text


def test_producer_metadata_of_a_factory(make_pipeline: Any, acks: Any, recorder: Recorder) -> None:
    """
    A factory is shown as well.
    """
    with make_pipeline(producer={"module": lambda: DummyProducer()}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        acks.collect(1)
    assert recorder.only("processor", "start")[2]["producer"] is not None


def test_credentials_do_not_reach_the_log(make_pipeline: Any, caplog: Any) -> None:
    """
    A crash of a producer logs none of its credentials.
    """

    class Broken(Connected):
        def init(self) -> None:
            raise ConnectionError("refused")

    with caplog.at_level(logging.DEBUG, "broadway_sync"):
        pipeline = make_pipeline(
            producer={"module": (Broken, {"password": "hunter2", "url": "amqp://u:hunter2@example.org"})},
            resubscribe_interval=0,
            max_restarts=0,
        ).start()
        eventually(lambda: pipeline.state == "failed", "failed")
    assert caplog.records
    formatter = logging.Formatter("%(message)s")
    assert [r for r in caplog.records if "hunter2" in formatter.format(r) + repr(r.__dict__)] == []
