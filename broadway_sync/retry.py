"""
Declared retries: a callback that raises is called again, in place, before its messages fail.

In place means on the stage's own thread: the order of messages is kept, the source is not asked to deliver again, and
whoever leases the messages to the pipeline goes on extending the leases. The price is that the stage waits meanwhile.

The attempts and the pauses between them are made by `tenacity`, which the extra ``broadway_sync[retry]`` installs. Only
a call that failed gets there: one that succeeds costs a ``try``.
"""

from __future__ import annotations

import inspect
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Callable, List, Optional, Tuple, Type, TypeVar, Union

import attrs

from .errors import ConfigurationError, InvalidReturnError, UnknownBatcherError
from .extras import load
from .log import log_info, safe_repr
from .message import Message
from .rules import is_seconds, option, positive_int, rule, takes
from .runtime.stage_thread import current_owner
from .telemetry.events import RETRY
from .telemetry.registry import execute, heard

Callback = Callable[..., Any]
C = TypeVar("C")
Backoff = Union[Tuple[float, float], Callable[[int], float]]

# Where the messages are among the arguments of a callback; only handle_message gets one and not a list.
_POSITIONS = {"prepare_messages": 0, "handle_message": 1, "handle_batch": 1, "handle_failed": 0}
# What ``retry = Retry(...)`` on a handler is for. The others are named explicitly.
_BY_DEFAULT = ("handle_message", "handle_batch")
# Mistakes of the callback: they would only be made again.
_MISTAKES = (InvalidReturnError, UnknownBatcherError)
_MARK = "__broadway_retry__"
# Seconds: what doubles where the shortest pause is none.
_LEAST = 0.01
# Enough from any shortest to any longest that somebody waits for, and no overflow.
_MOST_DOUBLINGS = 64


def _types(value: Any) -> Any:
    return (value,) if inspect.isclass(value) else tuple(value) if isinstance(value, list) else value


def _is_types(value: Any) -> bool:
    return isinstance(value, tuple) and all(inspect.isclass(cls) and issubclass(cls, BaseException) for cls in value)


def _is_backoff(value: Any) -> bool:
    if not isinstance(value, tuple):
        return takes(1)(value)
    return len(value) == 2 and all(map(is_seconds, value)) and 0 <= value[0] <= value[1]


_exceptions = rule(_is_types, "an exception class or a tuple of them")
_pauses = rule(
    _is_backoff, "(shortest, longest) seconds with 0 <= shortest <= longest, or a function attempt -> seconds"
)


@attrs.frozen
class Retry:
    """
    How often a callback that raises is tried again, when, and after which exceptions.

    Declared in one of two ways, the first being the more specific one: as a decorator of a callback, which it marks and
    leaves as it is (a unit test calls the bare function); or as the attribute ``retry`` of the handler, either a
    ``Retry`` for ``handle_message`` and ``handle_batch``, or a mapping from the names of callbacks to one each.

    Every attempt gets the messages as they were before the first one: ``data``, ``batcher``, ``batch_key``, ``status``
    and ``reason`` are put back (not what was changed *inside* of the data). A message that was acknowledged during an
    attempt, by ``ack_immediately``, is through: it is not given again. ``Message.fail`` is an answer and not a failure
    of the callback; it is never tried again, nor is a wrong return.

    After the last attempt its exception goes on as if there were no policy; ``broadway_attempts`` on it says how many
    there were.
    """

    max_attempts: int = option(3, positive_int, "calls in all, the first one included")
    backoff: Backoff = option(
        (0.1, 10.0),
        _pauses,
        "(shortest, longest) seconds between two attempts: a random time between shortest and a limit that doubles "
        "with each attempt until it is longest; or a function that is given the number of the attempt that failed, "
        "from 1, and returns seconds",
    )
    on: Tuple[Type[BaseException], ...] = option(
        (Exception,), _exceptions, "exception class or classes that are worth another attempt", converter=_types
    )
    never: Tuple[Type[BaseException], ...] = option(
        (), _exceptions, "those among them that are not, subclasses included", converter=_types
    )

    def __call__(self, callback: C) -> C:
        """
        Declare this policy for *callback* and return it: nothing about calling it changes.

        Raises:
            ConfigurationError: It is not something that can be marked.
        """
        function = callback.__func__ if isinstance(callback, (staticmethod, classmethod)) else callback
        try:
            if inspect.isclass(function):  # it takes the mark, and nobody would look for it there
                raise TypeError
            setattr(function, _MARK, self)
        except (AttributeError, TypeError):
            raise ConfigurationError(
                f"retry: expected a function to decorate, got: {safe_repr(callback)}; "
                f"use the attribute `retry` of the handler"
            ) from None
        return callback

    def covers(self, error: BaseException) -> bool:
        """
        Whether *error* is worth another attempt.
        """
        return isinstance(error, self.on) and not isinstance(error, self.never + _MISTAKES)

    def wrap(self, callback: Callback, name: str, pipeline: str) -> Callback:
        """
        Return a function with the signature of *callback* that makes the attempts.

        Args:
            callback: What to call.
            name: Which callback it is, such as ``"handle_message"``.
            pipeline: Name of the pipeline, for telemetry and the log.
        """
        return _Retried(self, callback, name, pipeline)


def policy_for(handler: Any, name: str) -> Optional[Retry]:
    """
    Return the policy that *handler* declares for its callback *name*, None if it declares none.

    Raises:
        ConfigurationError: A declaration is wrong, or `tenacity` is not installed.
    """
    declared = _declared(handler).get(name)
    mark = getattr(getattr(handler, name, None), _MARK, None)
    policy = mark if isinstance(mark, Retry) else declared
    if policy is not None:
        _tenacity()
    return policy


def _declared(handler: Any) -> Mapping[str, Retry]:
    """
    Return what the attribute ``retry`` of *handler* says, by callback.
    """
    declared = getattr(handler, "retry", None)
    if isinstance(declared, Retry):
        return dict.fromkeys(_BY_DEFAULT, declared)
    if not isinstance(declared, Mapping):
        _check_foreign(handler, declared)
        return {}
    for name, policy in declared.items():
        if name not in _POSITIONS:
            valid = ", ".join(_POSITIONS)
            raise ConfigurationError(f"handler.retry.{name}: unknown callback, valid ones are: {valid}")
        if not isinstance(policy, Retry):
            raise ConfigurationError(f"handler.retry.{name}: expected a Retry, got: {safe_repr(policy)}")
    return declared


def _check_foreign(handler: Any, declared: Any) -> None:
    """
    Let pass what cannot be meant as a policy: a method or an imported function that happens to have that name, or the
    answer of an object that has an answer to everything.
    """
    is_there = inspect.getattr_static(handler, "retry", None) is not None
    if declared is None or not is_there or inspect.isroutine(declared) or inspect.ismodule(declared):
        return
    raise ConfigurationError(
        f"handler.retry: expected a Retry, or a mapping from callbacks to one each, got: {safe_repr(declared)}"
    )


def _tenacity() -> Any:
    return load("tenacity", "retry", "handler.retry: a Retry")


class _Before:
    """
    A message as it was before the first attempt.
    """

    __slots__ = ("_state", "message", "was_acknowledged")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.was_acknowledged = message.is_acknowledged()
        self._state = message.data, message.batcher, message.batch_key, message.status, message.reason

    def restore(self) -> None:
        """
        Undo what an attempt changed.
        """
        message = self.message
        message.data, message.batcher, message.batch_key, message.status, message.reason = self._state


class _Retried:
    """
    A callback and its policy. Thread-safe: what belongs to one call is in :class:`_Attempts`.
    """

    def __init__(self, policy: Retry, callback: Callback, name: str, pipeline: str) -> None:
        self.policy = policy
        self.callback = callback
        self.name = name
        self.pipeline = pipeline
        self.position = _POSITIONS[name]

    def __call__(self, *args: Any) -> Any:
        given = args[self.position]
        before = [_Before(message) for message in ([given] if isinstance(given, Message) else given)]
        try:
            return _materialised(self.callback(*args))
        except BaseException as error:  # user code
            if not self.policy.covers(error):
                raise
            failure = error
        # Out of the handler: what later attempts raise must not have this failure as its context.
        return _Attempts(self, args, before, failure).make()


class _Attempts:
    """
    The attempts of one call of which the first has failed. Lives on the thread of the stage.
    """

    def __init__(self, retried: _Retried, args: Tuple[Any, ...], before: List[_Before], failure: BaseException) -> None:
        self._retried = retried
        self._args = args
        self._before = before
        self._failure = failure
        self._traceback = _without_head(failure)
        self._made = 1
        self._is_abandoned = False

    def make(self) -> Any:
        """
        Go on until an attempt succeeds, and return what it returned; raise what the last one raised.
        """
        try:
            for attempt in self._retrying():
                with attempt:
                    if self._made < attempt.retry_state.attempt_number:
                        return self._try_again()
                    raise self._failure
            raise self._failure
        except BaseException as error:
            if self._made > 1 and not self._is_abandoned:
                self._report("gave_up", {"attempt": self._made})
            # Not as their classes would have it: frozen dataclasses refuse to be changed.
            with suppress(Exception):  # an attribute of that name which is read only
                BaseException.__setattr__(error, "broadway_attempts", self._made)
            if error is self._failure:  # without the frames of tenacity, which tell nobody anything
                raise BaseException.with_traceback(error, self._traceback)  # noqa: B904 - it is the same one
            raise

    def _retrying(self) -> Any:
        tenacity, policy = _tenacity(), self._retried.policy
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(policy.max_attempts),
            wait=self._random_pause if isinstance(policy.backoff, tuple) else self._chosen_pause,
            retry=tenacity.retry_if_exception(lambda error: policy.covers(error) and bool(self._open())),
            before_sleep=self._announce,
            sleep=self._pause,
            # Its own way to raise the last failure takes one that counts as false for none.
            retry_error_callback=lambda state: None,
        )

    def _open(self) -> List[_Before]:
        """
        Return the messages that were not acknowledged during an attempt.
        """
        return [each for each in self._before if each.was_acknowledged or not each.message.is_acknowledged()]

    def _try_again(self) -> Any:
        self._made += 1
        messages = []
        for each in self._open():
            each.restore()
            messages.append(each.message)
        try:
            returned = _materialised(self._retried.callback(*self._with(messages)))
        except BaseException as error:  # user code
            self._failure, self._traceback = error, _without_head(error)
            raise
        if len(messages) < len(self._before) and isinstance(returned, (list, tuple)):
            given = set(map(id, messages))
            return [*returned, *(each.message for each in self._before if id(each.message) not in given)]
        return returned

    def _with(self, messages: List[Message]) -> List[Any]:
        """
        Return the arguments of the callback for *messages*.
        """
        args = list(self._args)
        args[self._retried.position] = messages[0] if self._retried.name == "handle_message" else messages
        if self._retried.name == "handle_batch":
            args[2] = attrs.evolve(args[2], size=len(messages))
        return args

    def _random_pause(self, state: Any) -> float:
        """
        Return a time that grows; not by tenacity, whose older versions know no shortest one.
        """
        backoff = self._retried.policy.backoff
        assert isinstance(backoff, tuple)
        shortest, longest = backoff
        limit = max(shortest, _LEAST) * 2.0 ** min(state.attempt_number, _MOST_DOUBLINGS)
        return random.uniform(shortest, min(limit, longest))

    def _chosen_pause(self, state: Any) -> float:
        """
        Ask the function that was given as ``backoff``.
        """
        backoff = self._retried.policy.backoff
        assert callable(backoff)
        try:
            seconds = backoff(state.attempt_number)
        except BaseException as error:  # user code; what the callback raised must not be lost
            raise error from self._failure
        if not is_seconds(seconds) or seconds < 0:
            text = f"backoff must return a number of seconds >= 0, got: {safe_repr(seconds)}"
            raise InvalidReturnError(text) from self._failure
        return seconds

    def _announce(self, state: Any) -> None:
        delay = state.next_action.sleep
        self._report("attempt", {"attempt": self._made, "delay": int(delay * 1e9)})
        retried = self._retried
        text = f"{retried.name} failed, attempt {self._made} of {retried.policy.max_attempts}; the next one follows in"
        log_info(f"{text} {delay:.3g} s: {safe_repr(self._failure)}", retried.pipeline, threading.current_thread().name)

    def _report(self, what: str, measurements: Mapping[str, int]) -> None:
        if RETRY not in heard:
            return
        metadata = {
            "topology_name": self._retried.pipeline,
            "name": threading.current_thread().name,
            "callback": self._retried.name,
            "messages": [each.message for each in self._before],
            "reason": self._failure,
        }
        execute(RETRY + (what,), measurements, metadata)

    def _pause(self, seconds: float) -> None:
        """
        Wait; if the thread is given up meanwhile there is no point in another attempt, whose messages are not its own.
        """
        owner = current_owner()
        if owner is None:
            time.sleep(seconds)
        elif owner.wait_abandoned(seconds):
            self._is_abandoned = True
            raise self._failure


def _materialised(returned: Any) -> Any:
    """
    Return the list of what an iterator yields: a generator raises when it is run, which is an attempt as well.
    """
    return list(returned) if isinstance(returned, Iterator) else returned


def _without_head(error: BaseException) -> Optional[TracebackType]:
    """
    Return the traceback of *error* without the frame of this module, which is there again once it is raised on.
    """
    return error.__traceback__ and error.__traceback__.tb_next
