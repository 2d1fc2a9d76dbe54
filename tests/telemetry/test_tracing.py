"""
Spans of callbacks: one for each call, in the trace of whoever sent the message.
"""

from __future__ import annotations

import http.server
import queue
import sys
import threading
from typing import Any, Callable, Iterator

import pytest
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from broadway_sync import ConfigurationError, Message
from broadway_sync.connectors.sqs.deliveries import to_message_attributes
from broadway_sync.telemetry.opentelemetry import Tracing, headers_of
from tests.helpers import RecordingAcknowledger, get, make_handler

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"


class Tracer:
    """
    A tracer provider and its finished spans.
    """

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(resource=Resource.create({"service.name": "tests"}))
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self, callback: str) -> list[ReadableSpan]:
        """
        Return the spans of a callback, in the order in which they began.
        """
        found = [span for span in self._exporter.get_finished_spans() if span.name.split()[0] == callback]
        return sorted(found, key=lambda span: span.start_time or 0)

    def span(self, callback: str) -> Any:
        """
        Return the only span of a callback.
        """
        (span,) = self.spans(callback)
        return span


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    """
    Return a tracer of this test.
    """
    tracer = Tracer()
    yield tracer
    tracer.provider.shutdown()


@pytest.fixture
def handle(make_pipeline: Callable[..., Any], tracer: Tracer) -> Callable[..., tuple[list[Message], list[Message]]]:
    """
    Return a function that runs messages through a handler in a traced pipeline.
    """

    def run(messages: list[Message], tracing: Any = None, **options: Any) -> tuple[list[Message], list[Message]]:
        callbacks = {name: options.pop(name) for name in list(options) if name.startswith(("handle", "prepare"))}
        acks = RecordingAcknowledger()
        for message in messages:
            message.acknowledger = acks.init()
        around = tracing or Tracing(tracer.provider)
        pipeline = make_pipeline(make_handler(**callbacks), name="orders", around=around, **options).start()
        pipeline.push_messages(messages)
        outcome = acks.collect(len(messages))
        pipeline.stop()
        return outcome

    return run


def message(data: Any = 1, **metadata: Any) -> Message:
    """
    Return a message; the fixture gives it an acknowledger.
    """
    return Message(data, None, metadata=metadata)  # type: ignore[arg-type]


def test_the_span_of_a_message_continues_the_senders_trace(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    As its child, with what is known about the message.
    """
    handle([message(headers={"traceparent": TRACEPARENT}, message_id="m1")])
    span = tracer.span("handle_message")
    assert span.name == "handle_message orders"
    assert span.kind is SpanKind.CONSUMER
    assert (span.context.trace_id, span.parent.span_id, span.parent.is_remote) == (TRACE, SPAN, True)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "messaging.operation.name": "handle_message",
        "messaging.operation.type": "process",
        "messaging.message.id": "m1",
        "broadway.pipeline": "orders",
        "broadway.stage": "orders.Broadway.Processor_default_0",
    }


def test_or_links_to_it(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    With ``continue_trace=False`` each message begins a trace.
    """
    tracing = Tracing(tracer.provider, continue_trace=False, attributes={"messaging.system": "kafka"})
    handle([message(headers=[("traceparent", TRACEPARENT.encode())])], tracing)
    span = tracer.span("handle_message")
    assert span.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(TRACE, SPAN)]
    assert span.attributes["messaging.system"] == "kafka"


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"headers": {"traceparent": TRACEPARENT}}, id="rabbitmq"),
        pytest.param({"headers": {"Traceparent": TRACEPARENT.encode(), "x": [1], "y": None}}, id="rabbitmq_bytes"),
        pytest.param({"headers": [("x", b"\xff"), ("traceparent", TRACEPARENT.encode())]}, id="kafka"),
        pytest.param(
            {
                "attributes": {"sender_id": "me", "sent_timestamp": 1},
                "message_attributes": to_message_attributes(
                    {"traceparent": {"DataType": "String", "StringValue": TRACEPARENT}}
                ),
            },
            id="sqs",
        ),
        pytest.param({"attributes": {"traceparent": TRACEPARENT}}, id="pubsub"),
        pytest.param({"attributes": {"googclient_traceparent": TRACEPARENT}}, id="pubsub_client"),
    ],
)
def test_every_connectors_headers_are_read(
    metadata: dict[str, Any], tracer: Tracer, handle: Callable[..., Any]
) -> None:
    """
    As each of them gives them: str or bytes, mappings or pairs, whatever the case.
    """
    handle([message(**metadata)])
    assert tracer.span("handle_message").context.trace_id == TRACE


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"headers": None},
        {"headers": 7},
        {"headers": {"traceparent": "garbage"}},
        {"headers": {"traceparent": 7}},
        {"headers": {7: TRACEPARENT}},
        {"headers": ["traceparent", ("traceparent",)]},
        {"attributes": "traceparent"},
        {"message_attributes": {"traceparent": {"data_type": "Binary", "value": b"\xff\xfe"}}},
    ],
)
def test_without_headers_a_trace_begins(metadata: dict[str, Any], tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    Also with headers that say nothing: no message fails for it.
    """
    successful, _ = handle([message(**metadata)])
    assert len(successful) == 1
    span = tracer.span("handle_message")
    assert span.parent is None
    assert span.links == ()


def test_an_x_ray_header_of_sqs() -> None:
    """
    Is there under the name that its propagator asks for.
    """
    headers = headers_of(message(attributes={"aws_trace_header": "Root=1-2-3"}))
    assert headers["x-amzn-trace-id"] == "Root=1-2-3"


def test_headers_of_ones_own(tracer: Tracer, handle: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """
    A function says where they are; if it raises, a trace begins and the log says so once.
    """
    tracing = Tracing(tracer.provider, headers=lambda each: each.data["headers"])
    successful, _ = handle([message({"headers": {"traceparent": TRACEPARENT}}), message({}), message({})], tracing)
    assert len(successful) == 3
    assert [span.parent is None for span in tracer.spans("handle_message")] == [False, True, True]
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["[tracing] a message or a batch cannot be traced as it should be: KeyError('headers')"]


def test_spans_that_a_callback_makes_are_children(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    And what it sends on carries its context.
    """
    own = tracer.provider.get_tracer("application")
    sent: dict[str, str] = {}

    def handle_message(processor: str, each: Message, context: Any) -> Message:
        with own.start_as_current_span("query"):
            propagate.inject(sent)
        return each

    handle([message()], handle_message=handle_message)
    outer, inner = tracer.span("handle_message"), tracer.span("query")
    assert inner.parent.span_id == outer.context.span_id
    assert sent["traceparent"].split("-")[1] == f"{outer.context.trace_id:032x}"


def test_a_batch_links_to_the_spans_of_its_messages(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    And begins a trace of its own.
    """
    batchers = {"default": {"batch_size": 3, "batch_timeout": 60}}
    handle([message(number) for number in range(3)], batchers=batchers)
    span = tracer.span("handle_batch")
    assert span.name == "handle_batch orders"
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is None
    assert span.attributes["messaging.batch.message_count"] == 3
    linked = {link.context.span_id for link in span.links}
    assert linked == {each.context.span_id for each in tracer.spans("handle_message")}


def test_a_batch_links_to_messages_that_were_replaced(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    The span belongs to what ``handle_message`` returned, too.
    """

    def replace(processor: str, each: Message, context: Any) -> Message:
        return Message(each.data, each.acknowledger)

    handle([message()], handle_message=replace, batchers={"default": {"batch_size": 1}})
    (link,) = tracer.span("handle_batch").links
    assert link.context.span_id == tracer.span("handle_message").context.span_id


def test_without_spans_of_messages_a_batch_links_to_the_senders(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    With spans of batches only.
    """
    messages = [message(headers={"traceparent": TRACEPARENT}), message()]
    tracing = Tracing(tracer.provider, callbacks=["handle_batch"])
    handle(messages, tracing, batchers={"default": {"batch_size": 2}})
    assert [link.context.span_id for link in tracer.span("handle_batch").links] == [SPAN]
    assert tracer.spans("handle_message") == []


class Stop(BaseException):
    """
    No Exception.
    """


@pytest.mark.parametrize("error", [ValueError("wrong"), Stop("at once")])
def test_what_a_callback_raises_is_recorded(tracer: Tracer, handle: Callable[..., Any], error: BaseException) -> None:
    """
    With its status and traceback, once; ``handle_failed`` gets a span that links to it.
    """

    def fail(processor: str, each: Message, context: Any) -> Message:
        raise error

    _, failed = handle([message()], handle_message=fail, handle_failed=lambda messages, context: messages)
    assert failed[0].reason is error
    span = tracer.span("handle_message")
    assert (span.status.status_code, span.status.description) == (
        StatusCode.ERROR,
        f"{type(error).__name__}: {error}",
    )
    (event,) = span.events
    assert event.attributes["exception.message"] == str(error)
    assert "in fail" in event.attributes["exception.stacktrace"]
    after = tracer.span("handle_failed")
    assert after.status.status_code is StatusCode.UNSET
    assert [link.context.span_id for link in after.links] == [span.context.span_id]


class Unprintable(Exception):
    """
    An exception without a text.
    """

    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_that_has_no_text(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    Fails the message, and not another one in its place.
    """

    def fail(processor: str, each: Message, context: Any) -> Message:
        raise Unprintable

    _, failed = handle([message()], handle_message=fail)
    assert type(failed[0].reason) is Unprintable
    assert tracer.span("handle_message").status.description == "Unprintable"


class Broken(SpanProcessor):
    """
    A span processor that raises.
    """

    def __init__(self, when: str) -> None:
        self._when = when

    def on_start(self, *arguments: Any, **options: Any) -> None:
        """
        Raise, if that is when.
        """
        if self._when == "start":
            raise RuntimeError("broken")

    def on_end(self, span: Any) -> None:
        """
        Raise, if that is when.
        """
        if self._when == "end":
            raise RuntimeError("broken")


@pytest.mark.parametrize("when", ["start", "end"])
def test_tracing_that_breaks_fails_no_message(
    tracer: Tracer, handle: Callable[..., Any], caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """
    It is said once.
    """
    tracer.provider.add_span_processor(Broken(when))
    batchers = {"default": {"batch_size": 3, "batch_timeout": 60}}
    successful, _ = handle([message(), message(), message()], batchers=batchers)
    assert len(successful) == 3
    (text,) = [record.getMessage() for record in caplog.records]
    assert text == "[tracing] a message or a batch cannot be traced as it should be: RuntimeError('broken')"


def test_messages_that_fail_make_an_error(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    Of the message, and of the batch, which says how many.
    """
    handle([message()], handle_message=lambda processor, each, context: each.fail("no stock"))
    status = tracer.span("handle_message").status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "failed: 'no stock'")

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        messages[0].fail("no stock")
        return messages

    handle([message(), message()], handle_batch=handle_batch, batchers={"default": {"batch_size": 2}})
    span = tracer.span("handle_batch")
    assert span.status.description == "1 of 2 messages failed"
    assert span.attributes["broadway.failed_count"] == 1


def test_a_callback_that_returns_something_else(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    Fails by the library's own check, not in the hook.
    """
    _, failed = handle([message()], handle_message=lambda processor, each, context: None)
    assert type(failed[0].reason).__name__ == "InvalidReturnError"
    assert len(tracer.spans("handle_message")) == 1


def test_a_chunk_is_prepared_in_a_span(tracer: Tracer, handle: Callable[..., Any]) -> None:
    """
    Which is no consumer of messages.
    """
    handle([message(), message()], prepare_messages=lambda messages, context: messages)
    assert sum(span.attributes["messaging.batch.message_count"] for span in tracer.spans("prepare_messages")) == 2
    assert {span.kind for span in tracer.spans("prepare_messages")} == {SpanKind.INTERNAL}


def test_the_global_provider_may_come_later(handle: Callable[..., Any]) -> None:
    """
    Without any nothing is recorded, and nothing breaks.
    """
    successful, _ = handle([message(headers={"traceparent": TRACEPARENT})], Tracing())
    assert len(successful) == 1
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.fixture
def collector() -> Iterator[tuple[str, queue.Queue[Any]]]:
    """
    Return the address of a collector of OTLP over HTTP, and the requests that reach it.
    """
    requests: queue.Queue[Any] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.put(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", requests
        server.shutdown()
        thread.join()


def test_spans_reach_a_collector(handle: Callable[..., Any], collector: tuple[str, queue.Queue[Any]]) -> None:
    """
    As OTLP over HTTP, parent and links included.
    """
    address, requests = collector
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(address)))
    headers = {"traceparent": TRACEPARENT}
    handle([message(headers=headers)], Tracing(provider), batchers={"default": {"batch_size": 1}})
    provider.shutdown()
    spans = {}
    for request in (get(requests), get(requests)):
        (span,) = request.resource_spans[0].scope_spans[0].spans
        spans[span.name] = span
    sent, batch = spans["handle_message orders"], spans["handle_batch orders"]
    assert (sent.trace_id.hex(), sent.parent_span_id.hex()) == (f"{TRACE:032x}", f"{SPAN:016x}")
    assert [link.span_id for link in batch.links] == [sent.span_id]


def test_wrong_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Are named; a missing library is, too.
    """
    expected = "callbacks: expected some of prepare_messages, handle_message, handle_batch, handle_failed, got: ['x']"
    with pytest.raises(ConfigurationError) as caught:
        Tracing(callbacks=["x"])
    assert str(caught.value) == expected
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'broadway_sync\[opentelemetry\]'"):
        Tracing()
