"""
The callbacks of user code.

:class:`Handler` is there for type checkers; the pipeline takes any object with these callbacks.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable, List, Optional, Sequence

from .batch_info import BatchInfo
from .errors import ConfigurationError
from .message import Message
from .retry import policy_for

Callback = Callable[..., Any]


class Handler:
    """
    Base class to subclass for type checkers and editors; nothing requires it.

    Callbacks run on the stage's own thread, several at a time when a stage's concurrency is above 1:
    whatever they share, ``context`` included, must be thread-safe. What a callback raises fails its
    messages, never the thread.
    """

    def prepare_messages(self, messages: List[Message], context: Any) -> List[Message]:
        """
        Optional: look at the messages of one demand before ``handle_message``.

        Returns:
            As many messages as were given; else all of them fail with ``InvalidReturnError``.
        """
        raise NotImplementedError

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Required: handle one message.

        Args:
            processor: Key of the processors.
            message: The message; change it in place.
            context: The pipeline's ``context``.

        Returns:
            The message. Anything else fails it with ``InvalidReturnError``.
        """
        raise NotImplementedError

    def handle_batch(self, batcher: str, messages: List[Message], batch_info: BatchInfo, context: Any) -> List[Message]:
        """
        Required with batchers: handle one batch.

        Returns:
            All messages that were given. Those missing fail with ``InvalidReturnError``; an object that
            was not given fails the whole batch.
        """
        raise NotImplementedError

    def handle_failed(self, messages: List[Message], context: Any) -> List[Message]:
        """
        Optional: see failed messages before they are acknowledged.

        Returns:
            The messages. Anything else is logged and ignored; they are acknowledged as failed in any case.
        """
        raise NotImplementedError


def find_callback(handler: Any, name: str) -> Optional[Callback]:
    """
    Return the callback *name* of *handler*, None if it has none (those of :class:`Handler` are none).
    """
    callback = getattr(handler, name, None)
    if getattr(callback, "__func__", callback) is getattr(Handler, name):
        return None
    return callback


ARGUMENTS = {
    "handle_message": ("processor", "message", "context"),
    "prepare_messages": ("messages", "context"),
    "handle_batch": ("batcher", "messages", "batch_info", "context"),
    "handle_failed": ("messages", "context"),
}


def resolve_handler(handler: Any, *, with_batchers: bool) -> Any:
    """
    Check the callbacks of *handler* and return the object to call them on.

    That is *handler* itself, or an instance of it if it is a class whose callbacks take ``self``.

    Raises:
        ConfigurationError: A required callback is missing, or one is ``async def``, not callable, or
            takes other arguments.
    """
    if inspect.isclass(handler) and _takes_self(handler):
        handler = _instantiate(handler)
    required = ("handle_message", "handle_batch") if with_batchers else ("handle_message",)
    for name in ARGUMENTS:
        callback = find_callback(handler, name)
        if callback is not None:
            _check(handler, name, callback)
            policy_for(handler, name)
        elif name in required:
            raise ConfigurationError(_missing(handler, name))
    return handler


def _takes_self(handler: Any) -> bool:
    """
    Whether ``handle_message`` of a class is a method. One that may do without its last argument looks like a function
    of three as well.
    """
    callback = getattr(handler, "handle_message", None)
    if not _accepts(callback, "handle_message"):
        return True
    is_plain = inspect.isfunction(inspect.getattr_static(handler, "handle_message", None))
    return is_plain and _binds(callback, ("self", *ARGUMENTS["handle_message"]))


def _instantiate(handler: Any) -> Any:
    try:
        return handler()
    except TypeError as error:
        raise ConfigurationError(
            f"handler: {handler!r} is a class whose callbacks take self and that cannot be made without "
            f"arguments ({error}); give an instance"
        ) from error


def _missing(handler: Any, name: str) -> str:
    why = " (required with batchers)" if name == "handle_batch" else ""
    return f"handler.{name}: missing{why}, {handler!r} must define {name}({', '.join(ARGUMENTS[name])})"


def _check(handler: Any, name: str, callback: Callback) -> None:
    arguments = ", ".join(ARGUMENTS[name])
    if not callable(callback):
        raise ConfigurationError(f"handler.{name}: expected a callable, got: {callback!r}")
    call = callback if inspect.isroutine(callback) else getattr(callback, "__call__", callback)
    for candidate in (callback, call, getattr(callback, "func", None)):  # functools.partial has a func
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise ConfigurationError(
                f"handler.{name}: is `async def`; broadway_sync runs callbacks on threads, define it with a plain `def`"
            )
    if not _accepts(callback, name):
        raise ConfigurationError(f"handler.{name}: must accept ({arguments}), got: {callback!r}")


def _accepts(callback: Any, name: str) -> bool:
    return _binds(callback, ARGUMENTS[name])


def _binds(callback: Any, arguments: Sequence[str]) -> bool:
    try:
        inspect.signature(callback).bind(*arguments)
    except ValueError:  # a builtin without a signature: cannot tell
        return True
    except TypeError:
        return False
    return True
