"""
The end of a step: failed messages are shown to ``handle_failed``, then all are acknowledged.
"""

from __future__ import annotations

import inspect
from contextvars import Context
from typing import Any, List, Optional, Sequence, Tuple

from ..acknowledger import acknowledge
from ..errors import InvalidReturnError
from ..log import log_error, safe_repr
from ..message import Message
from ..telemetry.events import HANDLE_FAILED
from ..telemetry.registry import Span, heard
from .settings import Settings


def settle(settings: Settings, stage: str, successful: List[Message], failed: List[Message]) -> None:
    """
    Acknowledge the messages of one step of *stage*, after ``handle_failed`` for those that failed.
    """
    if failed and settings.handle_failed is not None:
        failed = _handle_failed(settings, stage, failed)
    acknowledge(successful, failed, settings.name, stage)


def _handle_failed(settings: Settings, stage: str, failed: List[Message]) -> List[Message]:
    """
    Return what is to be acknowledged as failed: what ``handle_failed`` returned, or *failed* if that is no answer.
    """
    assert settings.handle_failed is not None
    span = Span(HANDLE_FAILED) if HANDLE_FAILED in heard else None
    metadata = {**settings.metadata(stage), "module": settings.handler} if span else {}
    if span:
        span.start({**metadata, "messages": list(failed)})
    before = snapshot(failed)
    try:
        returned = Context().run(settings.handle_failed, list(failed), settings.context)
        returned = _check_failed(settings, stage, failed, returned)
    except BaseException as error:  # user code: the messages are acknowledged as failed all the same
        drop_frame(error)
        restore(failed, before)
        if span:
            span.exception({**metadata, "messages": list(failed)}, error)
        log_error(f"handle_failed raised, for {len(failed)} messages", error, settings.name, stage)
        return failed
    if span:
        span.stop({**metadata, "messages": list(returned)})
    return returned


def snapshot(messages: Sequence[Message]) -> List[Tuple[Any, Any, Any]]:
    """
    Return what a callback that raises must not change.
    """
    try:
        return [(message.data, message.batcher, message.batch_key) for message in messages]
    except AttributeError:  # a callback has deleted its data, to save memory, say
        return [(getattr(message, "data", None), message.batcher, message.batch_key) for message in messages]


def restore(messages: Sequence[Message], before: List[Tuple[Any, Any, Any]]) -> None:
    """
    Undo what a callback changed before it raised.
    """
    for message, state in zip(messages, before):
        message.data, message.batcher, message.batch_key = state


def _check_failed(settings: Settings, stage: str, failed: List[Message], returned: Any) -> List[Message]:
    if isinstance(returned, (list, tuple)) and all(isinstance(message, Message) for message in returned):
        if count_distinct(returned) == len(failed) == len(returned):
            return list(returned)
        text = f"handle_failed received {len(failed)} messages and returned {count_distinct(returned)}"
    else:
        text = (
            f"handle_failed must return the list of messages that it was given, got: {_describe(returned, 'messages')}"
        )
    log_error(f"{text}; all that it was given are acknowledged as failed", None, settings.name, stage)
    return failed


def count_distinct(messages: Sequence[Message]) -> int:
    """
    Return how many different messages these are.
    """
    return len({id(message) for message in messages})


def invalid_return(expected: str, returned: Any, hint: str) -> InvalidReturnError:
    """
    Return the error for a callback that returned something else than *expected*; *hint* is what one returns.
    """
    text = f"{expected}, got: {_describe(returned, hint)}"
    if inspect.iscoroutine(returned):
        returned.close()  # else Python warns that it was never awaited
    return InvalidReturnError(text)


def _describe(returned: Any, hint: str) -> str:
    """
    Return the text of a wrong return value, with the remedy where the mistake is a common one.
    """
    if returned is None:
        return f"None (was `return {hint}` forgotten?)"
    if inspect.iscoroutine(returned):
        return f"{safe_repr(returned)} (the callback is asynchronous; broadway_sync runs plain functions on threads)"
    return safe_repr(returned)


def log_lost(count: int, pipeline: str, stage: str) -> None:
    """
    Log what a thread of the library had in hand when it died.
    """
    text = f"a thread died with {count} messages in hand; those not acknowledged yet are left to their source"
    log_error(text, None, pipeline, stage)


def drop_frame(error: BaseException) -> None:
    """
    Take this library's frame from the head of the traceback: its locals would keep all messages of the step alive.
    """
    traceback: Optional[Any] = error.__traceback__
    if traceback is not None and traceback.tb_next is not None:
        # Not by assignment: an exception that is a frozen dataclass refuses that.
        BaseException.with_traceback(error, traceback.tb_next)
