"""
Hooks around callbacks: how database connections, application contexts, tracing and error scopes are kept.

A hook is a function ``around(call, messages)`` that returns ``call()``. It runs on the stage's own thread, inside the
fresh ``contextvars`` context of that callback. Callbacks are wrapped when a pipeline starts, and only if there are
hooks: without any, nothing here runs.
"""

from __future__ import annotations

import inspect
import threading
from functools import partial
from typing import Any, Callable, Iterable, List, Tuple, TypeVar

from .errors import ConfigurationError
from .handler import ARGUMENTS, Callback
from .message import Message
from .rules import takes

T = TypeVar("T")
Hook = Callable[["Call", List[Message]], Any]
"""``around(call, messages) -> result``."""


class Call:
    """
    One call of a callback, as a hook sees it. Called without arguments it runs the callback, or the next hook.

    It may be called again: then the callback runs anew, with lists of its own.
    """

    __slots__ = ("_function", "callback", "pipeline", "stage")

    def __init__(self, callback: str, pipeline: str, function: Callable[[], Any]) -> None:
        self.callback = callback
        """Name of the callback: ``"handle_message"``, ``"handle_batch"``, ..."""
        self.pipeline = pipeline
        """Name of the pipeline."""
        self.stage = threading.current_thread().name
        """Name of the stage's thread."""
        self._function = function

    def __call__(self) -> Any:
        """
        Run it, and return what it returns.
        """
        return self._function()

    def __repr__(self) -> str:
        return f"<Call of {self.callback} on {self.stage}>"


class Around:
    """
    Base class of hooks that want more than the callbacks of the handler; nothing requires it.

    One hook serves all threads of its pipelines: it must be thread-safe.
    """

    def __call__(self, call: Call, messages: List[Message]) -> Any:
        """
        Surround one callback of the handler.

        Args:
            call: Runs the callback.
            messages: What it is given; a list of one for ``handle_message``.

        Returns:
            What ``call()`` returned; it is taken for what the callback returned. What is raised fails the messages
            as if the callback had raised it.
        """
        return call()

    def around_producer(self, call: Call) -> Any:
        """
        Optional: surround one callback of a producer (``init``, ``handle_demand``, ``prepare_for_draining``,
        ``terminate``), which must be called exactly once. What is raised crashes the producer.
        """
        return call()

    def thread_ended(self) -> None:
        """
        Optional: called on each thread of the pipeline's stages, at its end. What it raises is logged.
        """


# A generator is what one writes who has @contextmanager in mind.
_NOT_PLAIN = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)

# Process-wide hooks: those of the library, which what others do in theirs relies on, and the others. Replaced, never
# changed: a pipeline that starts takes the tuples that it finds.
_ours: Tuple[Any, ...] = ()
_everywhere: Tuple[Any, ...] = ()
# Guards the replacement. Innermost.
_lock = threading.Lock()


def add_around(hook: Hook) -> None:
    """
    Put *hook* around the callbacks of every pipeline that starts in this process from now on, outside of its own hooks.

    Adding the same object, or the same method of it, again changes nothing. Thread-safe.

    Raises:
        ConfigurationError: *hook* is no plain function that can be called with ``(call, messages)``.
    """
    check(hook, "around")
    global _everywhere
    with _lock:
        _everywhere = _with(hook, _everywhere)


def add_ours(hook: Hook) -> None:
    """
    Do the same for a hook of the library: it is outside of all that users add, whoever comes first.
    """
    global _ours
    with _lock:
        _ours = _with(hook, _ours)


def remove_around(hook: Hook) -> None:
    """
    Undo :func:`add_around` for pipelines that start from now on; a hook that is not there is passed over.
    """
    global _ours, _everywhere
    with _lock:
        _ours, _everywhere = _without(hook, _ours), _without(hook, _everywhere)


def _with(hook: Any, hooks: Tuple[Any, ...]) -> Tuple[Any, ...]:
    return hooks if any(_is_same(hook, other) for other in hooks) else (*hooks, hook)


def _without(hook: Any, hooks: Tuple[Any, ...]) -> Tuple[Any, ...]:
    return tuple(other for other in hooks if not _is_same(hook, other))


def _is_same(hook: Any, other: Any) -> bool:
    """
    Whether these are one object. Of a method Python makes another object each time that one looks at it.
    """
    return hook is other or (inspect.ismethod(hook) and inspect.ismethod(other) and hook == other)


def everywhere() -> Tuple[Any, ...]:
    """
    Return the process-wide hooks, the outermost first.
    """
    return (*_ours, *_everywhere)


def check(hook: Any, path: str) -> None:
    """
    Raise ConfigurationError if *hook* cannot be one.
    """
    called = getattr(hook, "__call__", hook)  # noqa: B004 - of an object whose __call__ is `async def`
    is_plain = not any(test(each) for each in (hook, called) for test in _NOT_PLAIN)
    if not is_plain or not takes(2)(hook):
        raise ConfigurationError(
            f"{path}: expected a plain function of two arguments, (call, messages), that returns call(), got: {hook!r}"
        )


def to_hooks(value: Any) -> Tuple[Any, ...]:
    """
    Return the option ``around``, None, a hook or a sequence of hooks, as a tuple of hooks.

    Raises:
        ConfigurationError: Something in it cannot be a hook.
    """
    if value is None:
        return ()
    hooks = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for index, hook in enumerate(hooks):
        check(hook, f"around[{index}]" if isinstance(value, (list, tuple)) else "around")
    return hooks


def surround(callback: Callback, name: str, hooks: Iterable[Any], pipeline: str) -> Callback:
    """
    Return *callback*, a callback of the handler, inside *hooks*, the first of them outermost.
    """
    for hook in reversed(tuple(hooks)):
        callback = _inside(hook, callback, name, pipeline)
    return callback


def _inside(hook: Any, callback: Callback, name: str, pipeline: str) -> Callback:
    is_single = "message" in ARGUMENTS[name]
    position = ARGUMENTS[name].index("message" if is_single else "messages")

    def surrounded(*arguments: Any) -> Any:
        given = arguments[position]
        if is_single:
            return hook(Call(name, pipeline, lambda: callback(*arguments)), [given])
        before, after = arguments[:position], arguments[position + 1 :]
        return hook(Call(name, pipeline, lambda: callback(*before, list(given), *after)), list(given))

    return surrounded


def surround_producer(callback: Callable[[], T], name: str, hooks: Iterable[Any], pipeline: str) -> T:
    """
    Return ``callback()``, a producer's callback *name*, called inside those of *hooks* that want it.

    What a hook returns is ignored: it is no business of its.

    Raises:
        RuntimeError: A hook did not call it.
    """
    wanting = [hook.around_producer for hook in hooks if hasattr(hook, "around_producer")]
    if not wanting:
        return callback()
    results: List[T] = []
    function: Callable[[], Any] = lambda: results.append(callback())  # noqa: E731
    for around in reversed(wanting):
        function = partial(around, Call(name, pipeline, function))
    function()
    if not results:
        raise RuntimeError(f"an around hook did not call the producer's {name}: it must `return call()`")
    return results[-1]
