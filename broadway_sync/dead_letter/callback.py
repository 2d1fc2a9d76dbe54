"""
``handle_failed``, ready-made: failed messages are written somewhere before they are acknowledged.
"""

from __future__ import annotations

import inspect
import io
import threading
import weakref
from contextlib import ExitStack
from functools import partial
from time import monotonic, sleep
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple, Union
from weakref import WeakKeyDictionary

from ..connectors.common.reporter import describe
from ..core.backoff import Backoff
from ..errors import AckConfigurationError, BroadwayError
from ..log import log_error, log_warning, safe_repr
from ..message import Message
from ..rules import is_int, is_seconds, mistake, takes
from ..runtime.stage_thread import current_owner
from ..telemetry.events import DEAD_LETTER
from ..telemetry.registry import Span, heard
from .errors import DeadLetterError, LetterRefusedError, PartlyWrittenError, TooManyFailuresError
from .held import Mutex
from .letter import Letter, to_letter
from .limits import Failures, Limits

_RETRY_MIN, _RETRY_MAX = 0.2, 5.0


class Writer(Protocol):
    """
    Where letters go. It may also have ``close()``, which is called when a pipeline that used it has ended.
    """

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Store *letters*; return once all of them are accepted. Called by several threads at a time.

        Raises:
            PartlyWrittenError: Some are stored, ``left`` are not.
            LetterRefusedError: The same, and trying again would change nothing.
            Exception: None are stored.
        """


class DeadLetter:
    """
    A ``handle_failed`` that writes failed messages to a queue, a topic, a table, a file or anything else.

    .. code-block:: python

        class Invoices:
            handle_failed = DeadLetter(RabbitMQLetters("invoices.dead", connection=URL), max_run=100)

    A message is acknowledged only after its letter was accepted, and then as done: with ``on_failure="ack"`` where its
    acknowledger can be configured (of RabbitMQ, SQS and Pub/Sub), so that its source does not deliver it again.

    A letter that is not accepted is tried again for ``patience`` seconds, on the stage's own thread. After that its
    message is left to its source, as if the process had died: with ``on_failure="noop"`` where the acknowledger knows
    that (SQS, Pub/Sub), else it is not acknowledged at all (RabbitMQ delivers it again once the connection is closed;
    Kafka's offset does not move past it). And the pipeline gives up, from a :exc:`DeadLetterError`: failures that
    cannot be stored are failures that nobody would hear of.

    Thread-safe. One may serve several handlers and pipelines. Called from a ``handle_failed`` of your own it does the
    same; outside of a pipeline it raises what would have made the pipeline give up.
    """

    def __init__(
        self,
        writer: Union[Writer, Callable[[Sequence[Letter]], Any]],
        *,
        fallback: Union[Writer, Callable[[Sequence[Letter]], Any], None] = None,
        data: Optional[Callable[[Message], Any]] = None,
        patience: float = 30.0,
        max_ratio: Optional[float] = None,
        window: int = 1000,
        max_run: Optional[int] = None,
    ) -> None:
        """
        Args:
            writer: A writer, or a function ``write(letters)`` that returns once they are stored, and else raises.
            fallback: Another one, for letters that *writer* refuses, or does not accept for *patience* seconds.
            data: Returns what is to be written of a message, in place of ``message.data``: which is what it was before
                the callback that raised, and so for ``handle_batch`` what ``handle_message`` has made of it.
            patience: Seconds for which a letter that is not accepted is tried again.
            max_ratio: The pipeline gives up, from a :exc:`TooManyFailuresError`, when more than this part of the last
                *window* messages failed; above 0 and below 1. None: never.
            window: See *max_ratio*.
            max_run: The same when more messages than this failed in a row, at the same kind of stage. A batch that
                raises is as many failures as it has messages. None: never.

        Raises:
            ConfigurationError: An argument is wrong.
        """
        self._writers = [_to_writer("writer", writer)]
        if fallback is not None:
            self._writers.append(_to_writer("fallback", fallback))
        if data is not None and not takes(1)(data):
            raise mistake("data", f"expected a function of a message, got: {data!r}")
        _check_numbers(patience, max_ratio, window, max_run)
        self._data = data
        self._patience = patience
        self._limits = Limits(max_ratio, window, max_run)
        self._runs: WeakKeyDictionary[Any, _Run] = WeakKeyDictionary()
        # Guards _runs and what is in them. Innermost.
        self._mutex = Mutex()

    def __repr__(self) -> str:
        return f"DeadLetter({', '.join(map(safe_repr, self._writers))})"

    def __call__(self, messages: List[Message], context: Any = None) -> List[Message]:
        """
        Write *messages*, decide what their sources are told, and return them.

        Raises:
            DeadLetterError, TooManyFailuresError: Only outside of a pipeline, where there is nobody else to tell.
        """
        if not messages:  # a choice of them, by a handle_failed of somebody's own: no writer needs to know
            return messages
        owner, stage = current_owner(), threading.current_thread().name
        run = self._run_of(owner)
        try:
            left, error = self._store(messages, run, owner.name if owner is not None else "", stage)
        except BaseException as caught:  # a mistake somewhere in here must not lose messages either
            left, error = list(messages), caught
        unwritten = set(map(id, left))
        for message in messages:
            if id(message) not in unwritten:
                _settle_as_done(message)
        if left:
            self._leave(left, run, error, stage)
        elif self._limits.is_set and run.owner is not None:
            self._count(len(messages), run, stage)
        if run.wait_abandoned(0):  # the end of the run was not waited for: nobody else closes what was opened here
            self.close()
        return messages

    def close(self) -> None:
        """
        Close what writers have open; the next letter opens it again. Pipelines do so when they end.
        """
        with ExitStack() as stack:  # all of them, whatever the others raise
            for writer in self._writers:
                if hasattr(writer, "close"):
                    stack.callback(writer.close)

    def _run_of(self, owner: Any) -> _Run:
        if owner is None:
            return _Run(None, self._limits)
        with self._mutex.lock:
            run = self._runs.get(owner)
            if run is not None:
                return run
            run = self._runs[owner] = _Run(owner, self._limits)
        owner.at_end(partial(self._ended, run))
        return run

    def _ended(self, run: _Run) -> None:
        run.left.clear()
        self.close()

    # Storing.

    def _store(
        self, messages: List[Message], run: _Run, pipeline: str, stage: str
    ) -> Tuple[List[Message], Optional[BaseException]]:
        """
        Return the messages whose letters were not accepted, and why.
        """
        letters = [to_letter(message, self._data_of(message, pipeline, stage), pipeline, stage) for message in messages]
        span = Span(DEAD_LETTER) if DEAD_LETTER in heard else None
        metadata: Dict[str, Any] = {"topology_name": pipeline, "name": stage}
        if span:
            span.start({**metadata, "messages": list(messages)})
        left, error = self._write(letters, run, stage)
        unwritten = [letter.message for letter in left]
        metadata = {**metadata, "written": len(letters) - len(left)}
        if span and error is not None:
            span.exception({**metadata, "messages": unwritten}, error)
        elif span:
            span.stop({**metadata, "messages": list(messages)})
        return unwritten, error

    def _data_of(self, message: Message, pipeline: str, stage: str) -> Any:
        if self._data is None:
            return message.data
        try:
            return self._data(message)
        except BaseException as error:  # user code
            log_error("the function `data` of DeadLetter raised, message.data is written", error, pipeline, stage)
            return message.data

    def _write(self, letters: List[Letter], run: _Run, stage: str) -> Tuple[List[Letter], Optional[BaseException]]:
        """
        Return the letters that no writer accepted, and why.
        """
        left, error = self._write_patiently(self._writers[0], letters, run)
        for fallback in self._writers[1:]:
            if not left or run.wait_abandoned(0):
                break
            text = f"{len(left)} dead letters were not accepted by {self._describe(0, error)}; they go to the fallback"
            log_warning(text, letters[0].pipeline, stage)
            left, error = self._write_patiently(fallback, left, run)
        return left, error

    def _write_patiently(
        self, writer: Any, letters: List[Letter], run: _Run
    ) -> Tuple[List[Letter], Optional[BaseException]]:
        backoff = Backoff("rand_exp", _RETRY_MIN, _RETRY_MAX)
        deadline = monotonic() + self._patience
        while True:
            try:
                _check_done(writer.write(letters), letters)
                return [], None
            except BaseException as error:  # user code, or whatever a client library raises
                letters = _left_of(letters, error)
                pause = backoff.next() or _RETRY_MAX
                is_over = isinstance(error, LetterRefusedError) or run.is_failing or monotonic() + pause > deadline
                if is_over or run.wait_abandoned(pause):
                    return letters, error

    def _describe(self, number: int, error: Optional[BaseException]) -> str:
        return f"{safe_repr(self._writers[number])}: {describe(error) if error is not None else None}"

    # What becomes of it.

    def _leave(self, messages: List[Message], run: _Run, error: Optional[BaseException], stage: str) -> None:
        """
        Leave *messages* to their sources, and give up.
        """
        for message in messages:
            if not _is_left_by_option(message):
                message.claim()
                run.left.append(message)
        if run.wait_abandoned(0):
            return  # they were taken away meanwhile
        why = self._describe(-1, error)
        text = (
            f"dead letters of {len(messages)} messages were not accepted, the messages are left to their source; {why}"
        )
        self._give_up(DeadLetterError(text), error, run, stage)

    def _count(self, count: int, run: _Run, stage: str) -> None:
        generation, statistics = run.owner.builds, run.owner.statistics()  # in this order
        with self._mutex.lock:
            text = run.failures.add(statistics, stage, count, generation)
        if text is not None:
            self._give_up(TooManyFailuresError(text), None, run, stage)

    def _give_up(self, problem: BroadwayError, error: Optional[BaseException], run: _Run, stage: str) -> None:
        problem.__cause__ = error
        if run.owner is None:
            raise problem
        if not run.is_failing:
            run.is_failing = True
            log_error(f"the pipeline gives up: {problem}", error, run.owner.name, stage)
        run.owner.fail(problem)


class _Function:
    """
    A function as a writer.
    """

    def __init__(self, function: Callable[[Sequence[Letter]], Any]) -> None:
        self.write = function

    def __repr__(self) -> str:
        return repr(self.write)


def _to_writer(name: str, value: Any) -> Any:
    """
    Return *value*, a function in the form of a writer.
    """
    writer = value if hasattr(value, "write") else _Function(value)
    if isinstance(value, io.IOBase):  # has a write() as well, for something else
        raise mistake(name, f"expected FileLetters(path) and not an open file, got: {value!r}")
    if not takes(1)(writer.write):
        raise mistake(name, f"expected an object with write(letters), or such a function, got: {value!r}")
    return writer


class _Run:
    """
    What belongs to one run of a pipeline; or to none, for calls from elsewhere.
    """

    def __init__(self, owner: Any, limits: Limits) -> None:
        self._owner = None if owner is None else weakref.ref(owner)
        self.failures = Failures(limits)
        self.is_failing = False
        """Whether it has given up: then letters are not tried again."""
        # Messages that nobody acknowledges. Kept until the end of the run: Kafka's connector reads a partition again
        # when messages of it disappear, and counts them as done when they disappear a second time.
        self.left: List[Message] = []

    @property
    def owner(self) -> Any:
        """
        The run of the topology.
        """
        return None if self._owner is None else self._owner()

    def wait_abandoned(self, seconds: float) -> bool:
        """
        Wait; return whether the thread was given up.
        """
        owner = self.owner
        if owner is None:
            sleep(seconds)
            return False
        return bool(owner.wait_abandoned(seconds))


def _check_done(returned: Any, letters: List[Letter]) -> None:
    """
    Raise if the writer has done nothing yet: what it returns would have to be awaited, or gone through.
    """
    if inspect.iscoroutine(returned) or inspect.isgenerator(returned):
        returned.close()  # else Python warns that it was never awaited
        kind = "a generator" if inspect.isgenerator(returned) else "asynchronous"
        raise LetterRefusedError(f"the writer is {kind}; write(letters) must return once they are stored", letters)


def _left_of(letters: List[Letter], error: BaseException) -> List[Letter]:
    """
    Return what *error* says is left of *letters*; everything unless it says something that can be.
    """
    if not isinstance(error, PartlyWrittenError):
        return letters
    left = set(map(id, error.left))
    return [letter for letter in letters if id(letter) in left] or letters


def _settle_as_done(message: Message) -> None:
    """
    Have the source told that *message* is done, though it failed.
    """
    try:
        message.configure_ack(on_failure="ack")
    except AckConfigurationError:
        pass  # one that knows one way only, such as Kafka's, for which failed messages are done
    except Exception as error:  # an acknowledger of somebody else, which knows other options
        text = f"the acknowledger does not know on_failure='ack' ({safe_repr(error)}), it decides what a failure means"
        log_warning(text, "", threading.current_thread().name)


def _is_left_by_option(message: Message) -> bool:
    """
    Have the source told nothing about *message*; whether its acknowledger knows such an option.

    Better than not calling it at all: it may wait for its messages, or extend their leases.
    """
    try:
        message.configure_ack(on_failure="noop")
    except Exception:  # none, or other options
        return False
    return True


def _check_numbers(patience: Any, max_ratio: Any, window: Any, max_run: Any) -> None:
    if not is_seconds(patience) or patience < 0:
        raise mistake("patience", f"expected a number of seconds >= 0, got: {patience!r}")
    if max_ratio is not None and not (is_seconds(max_ratio) and 0 < max_ratio < 1):
        raise mistake("max_ratio", f"expected a number above 0 and below 1, or None, got: {max_ratio!r}")
    if not is_int(window, 1):
        raise mistake("window", f"expected an int > 0, got: {window!r}")
    if max_run is not None and not is_int(max_run, 1):
        raise mistake("max_run", f"expected an int > 0, or None, got: {max_run!r}")
