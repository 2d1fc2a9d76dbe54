"""
A span around each callback.
"""

from __future__ import annotations

from typing import Any, Callable, Collection, Dict, List, Mapping, Optional
from weakref import WeakKeyDictionary

from ...around import Around, Call
from ...errors import ConfigurationError
from ...extras import load
from ...log import log_warning, safe_repr
from ...logs import NO_ID, message_id
from ...message import Message
from .headers import Getter, headers_of

CALLBACKS = ("prepare_messages", "handle_message", "handle_batch", "handle_failed")

_GETTER = Getter()


class Tracing(Around):
    """
    An ``around`` hook that makes a span of each callback; spans that the callback makes are its children.

    The span of ``handle_message`` continues the trace that the message's headers name (W3C ``traceparent``, or whatever
    the global propagator reads), or links to it. The span of a batch begins a trace of its own and links to the spans
    of its messages. What a callback raises is recorded, and makes the span's status an error, as failed messages do.
    Thread-safe.

    Args:
        tracer_provider: Default is the global one, also if the application sets it later.
        callbacks: Names of the callbacks that get a span.
        continue_trace: Whether the span of a message is a child of the sender's; else it begins a trace and links.
        headers: ``headers(message) -> dict`` of str: where the sender's context is.
        attributes: Attributes of every span, such as ``{"messaging.system": "rabbitmq"}``.

    Raises:
        ConfigurationError: An argument is wrong, or the package ``opentelemetry-api`` is missing.
    """

    def __init__(
        self,
        tracer_provider: Optional[Any] = None,
        *,
        callbacks: Collection[str] = CALLBACKS,
        continue_trace: bool = True,
        headers: Callable[[Message], Mapping[str, str]] = headers_of,
        attributes: Optional[Mapping[str, Any]] = None,
    ) -> None:
        unknown = [name for name in callbacks if name not in CALLBACKS]
        if unknown or isinstance(callbacks, str):
            raise ConfigurationError(f"callbacks: expected some of {', '.join(CALLBACKS)}, got: {callbacks!r}")
        self._api = load("opentelemetry.trace", "opentelemetry", "Tracing")
        self._propagate = load("opentelemetry.propagate", "opentelemetry", "Tracing")
        self._context = load("opentelemetry.context", "opentelemetry", "Tracing")
        self._tracer = self._api.get_tracer("broadway_sync", tracer_provider=tracer_provider)
        self._callbacks = frozenset(callbacks)
        self._continue_trace = continue_trace
        self._headers = headers
        self._attributes = dict(attributes or {})
        self._has_warned = False
        # The span context of the last handle_message of each message; one operation at a time, which is atomic.
        self._spans: WeakKeyDictionary[Message, Any] = WeakKeyDictionary()

    def __call__(self, call: Call, messages: List[Message]) -> Any:
        """
        Surround one callback.
        """
        if call.callback not in self._callbacks:
            return call()
        span = self._quietly(self._begin, call, messages)
        if span is None:
            return call()
        token = self._context.attach(self._api.set_span_in_context(span))
        try:
            result = call()
        except BaseException as error:  # whatever it is, it fails the messages
            self._quietly(self._record, span, error)
            raise
        else:
            self._quietly(self._conclude, span, call, result)
            return result
        finally:
            self._context.detach(token)
            self._quietly(span.end)

    def _quietly(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """
        Call *function*; what it raises (what others sent, a sampler, an exporter) is no reason to fail a message.
        """
        try:
            return function(*arguments)
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                log_warning(f"a message or a batch cannot be traced as it should be: {safe_repr(error)}", "", "tracing")
            return None

    def _begin(self, call: Call, messages: List[Message]) -> Any:
        is_single = call.callback == "handle_message"
        kind = self._api.SpanKind
        sender = self._sender(messages[0]) if is_single else None
        span = self._tracer.start_span(
            f"{call.callback} {call.pipeline}",
            context=sender if sender is not None and self._continue_trace else self._context.Context(),
            kind=kind.CONSUMER if call.callback in ("handle_message", "handle_batch") else kind.INTERNAL,
            attributes=self._describe(call, messages),
            links=self._links(messages, sender, is_single),
        )
        if is_single:
            self._spans[messages[0]] = span.get_span_context()
        return span

    def _describe(self, call: Call, messages: List[Message]) -> Dict[str, Any]:
        attributes = {
            **self._attributes,
            "messaging.operation.name": call.callback,
            "messaging.operation.type": "process",
            "broadway.pipeline": call.pipeline,
            "broadway.stage": call.stage,
        }
        if call.callback != "handle_message":
            attributes["messaging.batch.message_count"] = len(messages)
        else:
            identity = message_id(messages[0])
            if identity != NO_ID:
                attributes["messaging.message.id"] = identity
        return attributes

    def _links(self, messages: List[Message], sender: Any, is_single: bool) -> List[Any]:
        if is_single:
            contexts = [] if sender is None or self._continue_trace else [self._span_context(sender)]
        else:
            contexts = [self._spans.get(message) or self._span_context(self._sender(message)) for message in messages]
        return [self._api.Link(context) for context in contexts if context is not None]

    def _sender(self, message: Message) -> Any:
        """
        Return the context that the message's headers name, None if they name none.
        """
        context = self._quietly(self._extract, message)
        if context is None or not self._api.get_current_span(context).get_span_context().is_valid:
            return None
        return context

    def _extract(self, message: Message) -> Any:
        return self._propagate.extract(self._headers(message), self._context.Context(), _GETTER)

    def _span_context(self, context: Any) -> Any:
        return None if context is None else self._api.get_current_span(context).get_span_context()

    def _conclude(self, span: Any, call: Call, result: Any) -> None:
        """
        Say what became of the messages that the callback returned.
        """
        if call.callback == "handle_message":
            if isinstance(result, Message):
                self._spans[result] = span.get_span_context()
                if result.status != "ok":
                    self._fail(span, f"failed: {safe_repr(result.reason)}")
        elif call.callback == "handle_batch" and isinstance(result, (list, tuple)):
            failed = sum(isinstance(message, Message) and message.status != "ok" for message in result)
            if failed:
                span.set_attribute("broadway.failed_count", failed)
                self._fail(span, f"{failed} of {len(result)} messages failed")

    def _record(self, span: Any, error: BaseException) -> None:
        self._fail(span, type(error).__name__)
        span.record_exception(error)
        self._fail(span, f"{type(error).__name__}: {error}")

    def _fail(self, span: Any, text: str) -> None:
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, text[:1000]))
