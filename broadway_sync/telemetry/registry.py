"""
Who listens to which event.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from time import monotonic_ns, time_ns
from typing import Any, Callable, Dict, Iterable, List, Mapping, Set, Tuple, TypeVar

import attrs

from ..log import log_error

Event = Tuple[str, ...]
"""The name of an event, such as ``("broadway", "processor", "start")``."""

Function = Callable[[Event, Mapping[str, Any], Mapping[str, Any], Any], Any]
"""``function(event, measurements, metadata, config)``, on the emitting thread."""

T = TypeVar("T")


@attrs.frozen
class EventHandler:
    """
    One function attached to one event.
    """

    handler_id: Any
    event: Event
    function: Function
    config: Any


handlers: Dict[Event, Tuple[EventHandler, ...]] = {}
"""The handlers of each event; empty while nobody listens. Tuples are replaced, so that emitting needs no lock."""

heard: Set[Event] = set()
"""The events without their last part (the span) of which anybody hears something: what a hot path looks at first."""

# Guards changes of the two above. Innermost: nothing is called while it is held.
_lock = threading.Lock()


def attach(handler_id: Any, event: Event, function: Function, config: Any = None) -> None:
    """
    Call *function* for each *event*; see :func:`attach_many`.
    """
    attach_many(handler_id, [event], function, config)


def attach_many(handler_id: Any, events: Iterable[Event], function: Function, config: Any = None) -> None:
    """
    Call ``function(event, measurements, metadata, config)`` for each of *events*, on the emitting thread.

    A function that raises is detached and logged; the pipeline never notices. It must be quick and thread-safe.
    Thread-safe.

    Args:
        handler_id: Any hashable value that identifies the handler.
        events: Tuples of str.

    Raises:
        ValueError: A handler with that id is attached.
        TypeError: An event is not a tuple of str, or *function* is not callable.
    """
    events = [_check_event(event) for event in events]
    if not callable(function):
        raise TypeError(f"expected a function(event, measurements, metadata, config), got: {function!r}")
    with _lock:
        if any(handler.handler_id == handler_id for attached in handlers.values() for handler in attached):
            raise ValueError(f"a telemetry handler with the id {handler_id!r} is attached already")
        for event in dict.fromkeys(events):
            added = EventHandler(handler_id, event, function, config)
            handlers[event] = handlers.get(event, ()) + (added,)
            heard.add(event[:-1])


def _check_event(event: Any) -> Event:
    if isinstance(event, tuple) and event and all(isinstance(part, str) for part in event):
        return event
    raise TypeError(f"expected an event, a non-empty tuple of str, got: {event!r}")


def detach(handler_id: Any) -> None:
    """
    Remove a handler from all its events. Thread-safe.

    Raises:
        LookupError: No handler with that id is attached.
    """
    found = False
    with _lock:
        for event, attached in list(handlers.items()):
            kept = tuple(handler for handler in attached if handler.handler_id != handler_id)
            found = found or len(kept) < len(attached)
            if kept:
                handlers[event] = kept
            else:
                del handlers[event]
        heard.intersection_update([event[:-1] for event in handlers])
    if not found:
        raise LookupError(f"no telemetry handler with the id {handler_id!r} is attached")


def list_handlers(prefix: Event = ()) -> List[EventHandler]:
    """
    Return the handlers of all events that begin with *prefix*.
    """
    prefix = tuple(prefix)
    with _lock:
        return [
            handler for event, attached in handlers.items() if event[: len(prefix)] == prefix for handler in attached
        ]


def execute(event: Event, measurements: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """
    Tell the handlers of *event*. Never raises.
    """
    found = handlers.get(event)
    if found:
        _tell(found, event, measurements, metadata)


def _tell(
    found: Tuple[EventHandler, ...], event: Event, measurements: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    for handler in found:
        try:
            handler.function(event, measurements, metadata, handler.config)
        except BaseException as error:  # whoever listens must not disturb whoever works
            _expel(handler, error)


def _expel(handler: EventHandler, error: BaseException) -> None:
    try:
        detach(handler.handler_id)
    except LookupError:  # it failed on several threads at once: once is enough
        return
    text = f"telemetry handler {handler.handler_id!r} raised on {handler.event!r} and was detached"
    log_error(text, error, "", threading.current_thread().name)


def span(event: Event, metadata: Mapping[str, Any], function: Callable[[], Tuple[T, Mapping[str, Any]]]) -> T:
    """
    Emit ``event + ("start",)``, call *function*, emit ``event + ("stop",)`` or ``event + ("exception",)``.

    Args:
        event: Prefix of the three events.
        metadata: Of the start event, and of the exception event.
        function: Returns ``(result, metadata of the stop event)``.

    Returns:
        The result.

    Raises:
        BaseException: What *function* raised, after the exception event, whose metadata has ``kind``, ``reason`` and
            ``stacktrace`` added.
    """
    running = Span(event)
    running.start({**metadata})
    try:
        result, stop_metadata = function()
    except BaseException as error:
        running.exception({**metadata}, error)
        raise
    running.stop({**stop_metadata})
    return result


@lru_cache(maxsize=1024)
def _phases(event: Event) -> Tuple[Event, Event, Event]:
    return event + ("start",), event + ("stop",), event + ("exception",)


def _failure(error: BaseException) -> Dict[str, Any]:
    """
    Return what an exception event has beyond its start: ``exit`` is what asks the interpreter or a thread to end.
    """
    kind = "error" if isinstance(error, Exception) else "exit"
    return {"kind": kind, "reason": error, "stacktrace": error.__traceback__}


class Span:
    """
    The start of something and its end. Measurements are integer nanoseconds.

    The metadata that it is given are its own from then on, a new dict for each event, and completed in place: further
    copies for each message would be a good part of what listening costs.
    """

    __slots__ = ("_context", "_phases", "_started")

    def __init__(self, event: Event) -> None:
        self._phases = _phases(event)
        self._context: Any = None
        self._started = 0

    def start(self, metadata: Dict[str, Any]) -> None:
        """
        Emit the start event and take the time.
        """
        self._context = metadata.setdefault("telemetry_span_context", self)
        self._started = now = monotonic_ns()
        event = self._phases[0]
        found = handlers.get(event)
        if found:
            _tell(found, event, {"system_time": time_ns(), "monotonic_time": now}, metadata)

    def stop(self, metadata: Dict[str, Any]) -> None:
        """
        Emit the stop event.
        """
        event = self._phases[1]
        found = handlers.get(event)
        if found:
            metadata["telemetry_span_context"] = self._context
            now = monotonic_ns()
            _tell(found, event, {"duration": now - self._started, "monotonic_time": now}, metadata)

    def exception(self, metadata: Dict[str, Any], error: BaseException) -> None:
        """
        Emit the exception event.
        """
        event = self._phases[2]
        found = handlers.get(event)
        if found:
            metadata["telemetry_span_context"] = self._context
            added = _failure(error)
            now = monotonic_ns()
            _tell(found, event, {"duration": now - self._started, "monotonic_time": now}, {**metadata, **added})


class MessageSpans:
    """
    The spans of one message after the other. What :class:`Span` does, with what messages share done once.

    Not thread-safe: of one chunk on one thread.
    """

    __slots__ = ("_common", "_context", "_exception", "_offset", "_start", "_started", "_stop")

    def __init__(self, event: Event, common: Dict[str, Any]) -> None:
        self._start, self._stop, self._exception = _phases(event)
        # A copy of a dict that has all keys takes half of the time of one to which some are added.
        self._common = {**common, "message": None, "telemetry_span_context": None}
        self._context: Any = None
        self._offset = time_ns() - monotonic_ns()  # one look at the wall clock does for a chunk
        self._started = 0

    def start(self, message: Any) -> None:
        """
        Emit the start event of a message and take the time.
        """
        self._context = context = object()
        event = self._start
        found = handlers.get(event)
        self._started = now = monotonic_ns()
        if found:
            metadata = self._common.copy()
            metadata["message"], metadata["telemetry_span_context"] = message, context
            _tell(found, event, {"system_time": now + self._offset, "monotonic_time": now}, metadata)

    def stop(self, message: Any) -> None:
        """
        Emit the stop event.
        """
        event = self._stop
        found = handlers.get(event)
        if found:
            now = monotonic_ns()
            metadata = self._common.copy()
            metadata["message"], metadata["telemetry_span_context"] = message, self._context
            _tell(found, event, {"duration": now - self._started, "monotonic_time": now}, metadata)

    def exception(self, message: Any, error: BaseException) -> None:
        """
        Emit the exception event.
        """
        event = self._exception
        found = handlers.get(event)
        if found:
            now = monotonic_ns()
            added = _failure(error)
            metadata = {**self._common, "message": message, "telemetry_span_context": self._context, **added}
            _tell(found, event, {"duration": now - self._started, "monotonic_time": now}, metadata)


def _renew_lock() -> None:
    """
    In a forked child: the lock may have been held by a thread that is not there any more.
    """
    global _lock
    _lock = threading.Lock()
