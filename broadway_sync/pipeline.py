"""
The pipeline: what users make, start, ask and stop.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from time import monotonic, time_ns
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

import attrs

from . import environment, producer_module, registry
from .acknowledger import CallerAcknowledger
from .around import Hook, to_hooks
from .errors import (
    AlreadyStartedError,
    DrainTimeoutError,
    NotRunningError,
    RateLimitingNotEnabledError,
)
from .handler import resolve_handler
from .health import Health, assess
from .log import log_error, safe_repr
from .message import Message
from .options import PipelineOptions, build_options, check_rate_limiting
from .rules import is_seconds
from .runtime.stage_thread import current_owner
from .runtime.wait_list import Latch
from .statistics import Statistics
from .telemetry import execute
from .telemetry.events import TOPOLOGY_INIT
from .test_ref import TestRef
from .topology.rate_limiter import SharedRateLimit
from .topology.run import Run
from .topology.settings import Settings
from .topology.topology import Names

MakeAcknowledger = Callable[[Any, Any], Any]
"""``acknowledger(data, (queue, ref)) -> (acknowledger, ack_ref, ack_data)``."""


class Pipeline:
    """
    Producers, processors and batchers around the callbacks of *handler*.

    The constructor checks everything and starts nothing. All methods are thread-safe.
    Follows Broadway 1.3, ``lib/broadway.ex``; ``docs/explanation/differences_from_broadway`` lists where it does not.

    Args:
        handler: Instance, class or module with the callbacks, see :class:`Handler`.
        name: Unique among the running pipelines of this process; prefix of every thread name.
        producer: Mapping or :class:`ProducerOptions`.
        processors: Mapping of exactly one key to a mapping or :class:`ProcessorOptions`.
        batchers: Mapping of keys to mappings or :class:`BatcherOptions`; may be empty.
        context: Handed as it is to every callback; shared by all threads.
        shutdown: Seconds that a graceful stop may take.
        max_restarts: How often the whole pipeline may be restarted within *max_seconds* before it gives up.
        max_seconds: The time in which restarts are counted.
        resubscribe_interval: Seconds between a producer's crash and its next demand.
        partition_by: Inherited by processors and batchers that set none.
        around: ``around(call, messages) -> call()``, or a sequence of such hooks, the outermost first: run around each
            callback on its thread, see :class:`Around`.

    Raises:
        ConfigurationError: Any mistake in the above; the text names the option, the value and the rule.
    """

    def __init__(
        self,
        handler: Any,
        *,
        name: str,
        producer: Any,
        processors: Any,
        batchers: Any = None,
        context: Any = None,
        shutdown: float = 30.0,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        resubscribe_interval: float = 0.1,
        partition_by: Any = None,
        around: Any = None,
    ) -> None:
        options = build_options(
            name=name,
            producer=producer,
            processors=processors,
            batchers=batchers,
            context=context,
            shutdown=shutdown,
            max_restarts=max_restarts,
            max_seconds=max_seconds,
            resubscribe_interval=resubscribe_interval,
            partition_by=partition_by,
            around=around,
        )
        self._handler = resolve_handler(handler, with_batchers=bool(options.batchers))
        self._options = producer_module.validate(options)
        # Serializes start(). Outermost: held while prepare_for_start runs and the children and stages are started;
        # reentrant, so that a start() from there gets its error.
        self._lock = threading.RLock()
        self._last_run: Optional[Run] = None
        # The process that _last_run was started in. In a forked child there is no run; then it is the parent, if the
        # pipeline was running there.
        self._started_in: Optional[int] = None
        self._is_starting = False
        self._starter = 0  # identifier of the thread that is in start()
        self._prepared = Latch()  # opened once the start under way has made its run, or has failed
        # Seconds of the stop that was asked for while there was nothing yet that could have been stopped.
        self._requested_stop: Optional[float] = None
        registry.fork_aware.add(self)

    @property
    def _run(self) -> Optional[Run]:
        """
        The present or last run in this process, None before the first.
        """
        registry.notice_fork()
        return self._last_run

    @property
    def name(self) -> str:
        """
        The name.
        """
        return self._options.name

    @property
    def shutdown(self) -> float:
        """
        Seconds that a graceful stop may take.
        """
        return self.options.shutdown

    @property
    def state(self) -> str:
        """
        ``"new"``, ``"running"``, ``"draining"`` (a stop has begun), ``"stopped"`` or ``"failed"`` (it gave up).
        """
        run = self._run
        return "new" if run is None else run.state

    def start(self) -> Pipeline:
        """
        Start all threads. A pipeline that has stopped may be started again.

        A broker that is down raises nothing here: the producer crashes, and is restarted.

        Raises:
            AlreadyStartedError: A pipeline of that name runs in this process.
            ConfigurationError: ``prepare_for_start`` of the producer returned what it must not; or this process runs no
                threads: uWSGI's master, uWSGI without ``enable-threads``, gevent that came too late.
            BaseException: What ``prepare_for_start`` or the ``start()`` of one of its children raised; nothing is left
                running.
        """
        environment.check(self.name)
        registry.notice_fork()
        with self._lock:
            if self._is_starting or self.state in ("running", "draining"):
                raise AlreadyStartedError(f"pipeline {self.name!r} is running already, or starting")
            run = None
            try:
                registry.register(self)
                self._requested_stop = None  # one that came when the last start had just ended is none of this one
                self._prepared = Latch()
                self._starter = threading.get_ident()  # before the next line, after which a signal handler looks at it
                self._is_starting = True
                self._last_run = run = self._prepare_run()
                self._prepared.open()
                run.start()
                self._started_in = os.getpid()
                if self._requested_stop is not None:
                    run.request_stop(self._requested_stop)
            except BaseException:
                if run is not None:  # an interrupt may have come when all threads were there
                    with suppress(DrainTimeoutError):
                        run.stop(0.0)
                if self._is_starting:  # else another pipeline has the name, or an interrupt came before all else
                    self._last_run = self._started_in = None
                registry.unregister(self)
                raise
            finally:
                self._is_starting, self._requested_stop = False, None
                self._prepared.open()
        return self

    def _prepare_run(self) -> Run:
        children, options = producer_module.prepare_for_start(self._handler, self._options)
        resolve_handler(self._handler, with_batchers=bool(options.batchers))
        settings = Settings(options, self._handler)
        execute(TOPOLOGY_INIT, {"system_time": time_ns()}, {"config": settings.masked_options, "name": self.name})
        return Run(settings, children, lambda: registry.unregister(self))

    def stop(self, timeout: Optional[float] = None) -> None:
        """
        Drain and end: take nothing new, handle and acknowledge what is there.

        Idempotent; on a pipeline that never started it does nothing. From a callback of this pipeline, and from inside
        its ``start()`` (a child's, a signal handler's), it only begins the stop. While another thread is in ``start()``
        it waits for that, too.

        Args:
            timeout: Seconds for all of it, >= 0; default the option ``shutdown``. If a stop is under way the earlier
                deadline holds.

        Raises:
            DrainTimeoutError: Messages or threads were left behind; raised once, to those who wait, or to the next
                who asks. Messages left behind are neither acknowledged nor failed. Also when another thread is still
                in ``start()`` then: the pipeline stops once it is through.
        """
        seconds = self._seconds(timeout)
        if self._is_inside():
            self.request_stop(seconds)
            return
        if self._is_starting:
            self._requested_stop = seconds
            seconds -= self._await_run(seconds)
        run = self._run
        if run is not None:
            run.stop(seconds)

    def _await_run(self, seconds: float) -> float:
        """
        Wait until the start under way has made its run, or has failed; return how many of the *seconds* it took.
        """
        began = monotonic()
        if not self._prepared.wait(seconds):
            raise DrainTimeoutError(f"pipeline {self.name!r} did not end in time: it is still in start()", 0, {})
        return min(seconds, monotonic() - began)

    def _is_inside(self) -> bool:
        """
        Whether this thread is one that a stop has to wait for: in a callback of the pipeline, or in its ``start()``.
        """
        if self._is_starting and self._starter == threading.get_ident():
            return True
        owner = current_owner()
        return owner is not None and owner is self._run

    def request_stop(self, timeout: Optional[float] = None) -> None:
        """
        Begin the stop and return at once: for signal handlers. Takes no lock that the interrupted thread could hold.

        Args:
            timeout: As of :meth:`stop`; 0 abandons at once what has not ended.
        """
        seconds = self._seconds(timeout)
        if self._is_starting:
            self._requested_stop = seconds
        run = self._run
        if run is not None:
            run.request_stop(seconds)

    def join(self, timeout: Optional[float] = None) -> bool:
        """
        Wait until the pipeline has ended: all producers exhausted and everything acknowledged, or stopped.

        Interruptible by signals on the main thread.

        Returns:
            True once it has ended, False after *timeout* seconds.

        Raises:
            NotRunningError: It never started in this process.
            PipelineFailedError: It gave up; from the cause.
            RuntimeError: Called from a callback of this pipeline, without a timeout: it would wait for itself.
        """
        run = self._run
        if run is None:
            raise self._not_started("was not started in this process")
        if timeout is None and current_owner() is run:
            raise RuntimeError(f"join() in a callback of pipeline {self.name!r} would wait for itself for ever")
        has_ended = run.join(timeout)
        if has_ended:
            run.raise_if_failed()
        return has_ended

    def __enter__(self) -> Pipeline:
        return self.start()

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        run = self._run
        try:
            try:
                self.stop()
            finally:
                if run is not None:
                    run.raise_if_failed()
        except Exception as error:
            if exc is None:
                raise
            log_error("the pipeline ended badly while an exception left its `with`", error, self.name, self.name)

    def add_around(self, hook: Hook, *, outermost: bool = False) -> None:
        """
        Add a hook to those of the option ``around``, from the next start on: inside of them, or outside if *outermost*.

        Raises:
            ConfigurationError: *hook* is ``async def``, or cannot be called with ``(call, messages)``.
            AlreadyStartedError: The pipeline is running.
        """
        hooks = to_hooks(hook)
        with self._lock:
            if self._is_starting or self.state in ("running", "draining"):
                raise AlreadyStartedError(f"pipeline {self.name!r} is running: add_around() comes before start()")
            present = self._options.around
            self._options = attrs.evolve(self._options, around=hooks + present if outermost else present + hooks)

    def fail(self, cause: BaseException) -> None:
        """
        Give up: take nothing new, drain what is there, end in the state ``"failed"``. Returns at once; any thread.

        ``join()`` raises PipelineFailedError from *cause*. On a pipeline that is not running it does nothing.

        Raises:
            TypeError: *cause* is no exception.
        """
        if not isinstance(cause, BaseException):
            raise TypeError(f"fail() expects the exception to blame, got: {safe_repr(cause)}")
        run = self._run
        if run is not None:
            run.fail(cause)

    def statistics(self) -> Statistics:
        """
        Return what the pipeline and each of its stages is doing, in any state. Cheap: nothing is stopped for it.
        """
        run = self._run
        return Statistics(name=self.name, state="new") if run is None else run.statistics()

    def health(self, stall_after: float = 60.0) -> Health:
        """
        Return whether the pipeline makes progress; see :class:`Health`.

        Args:
            stall_after: Seconds > 0 without progress after which it counts as stalled.

        Raises:
            ConfigurationError: *stall_after* is no number of seconds > 0.
        """
        return assess(self.statistics(), stall_after)

    def stacks(self) -> Dict[str, str]:
        """
        Return the present stack of each of the pipeline's threads, as text, by the name of the thread.
        """
        run = self._run
        return {} if run is None else run.stacks()

    def topology(self) -> Dict[str, List[Dict[str, Any]]]:
        """
        Return the stages: ``{"producers": [{"name", "concurrency"}], "processors": [{"name", "processor_key",
        "concurrency"}], "batchers": [{"batcher_name", "batcher_key", "name", "concurrency"}]}``.

        Names are those of threads without the index. Answers at any time.
        """
        return Names(self.options).topology()

    def producer_names(self) -> List[str]:
        """
        Return the names of the producers' threads. Answers at any time.
        """
        return Names(self.options).producers()

    def get_rate_limiting(self) -> Dict[str, Any]:
        """
        Return ``{"allowed_messages", "interval"}``.

        Raises:
            RateLimitingNotEnabledError: The pipeline has no ``rate_limiting``.
            NotRunningError: It is not running.
        """
        current: Dict[str, Any] = attrs.asdict(self._running_limit().current())
        return current

    def update_rate_limiting(
        self, *, allowed_messages: Optional[int] = None, interval: Optional[float] = None, reset: bool = False
    ) -> None:
        """
        Change the limit at the next interval, or at once, in a new interval, with *reset*.

        Raises:
            ConfigurationError: A value is out of range.
            RateLimitingNotEnabledError: The pipeline has no ``rate_limiting``.
            NotRunningError: It is not running.
        """
        limit = self._running_limit()
        limit.update(lambda current: check_rate_limiting(allowed_messages, interval, current), reset=reset)

    def push_messages(self, messages: Iterable[Message]) -> None:
        """
        Hand over messages out of band: to a randomly chosen producer, past demand, transformer and rate limit.

        Returns at once, also while the producer sits in a long poll. The one way into a pipeline without
        back-pressure: whoever pushes must not outrun it.

        Raises:
            NotRunningError: A stop has begun, or the pipeline is not running; nothing was taken.
            TypeError: Something is not a Message; nothing was taken.
        """
        messages = list(messages)
        for message in messages:
            if not isinstance(message, Message):
                raise TypeError(f"push_messages() expects Message objects, got: {safe_repr(message)}")
        self._running_run().push(messages)

    def test_message(
        self,
        data: Any,
        *,
        metadata: Optional[Mapping[Any, Any]] = None,
        acknowledger: Optional[MakeAcknowledger] = None,
        batch_mode: str = "flush",
    ) -> TestRef:
        """
        Send one message through the pipeline, past demand, transformer and rate limit; see :meth:`test_batch`.
        """
        return self.test_batch([data], metadata=metadata, acknowledger=acknowledger, batch_mode=batch_mode)

    def test_batch(
        self,
        data_list: Iterable[Any],
        *,
        metadata: Optional[Mapping[Any, Any]] = None,
        acknowledger: Optional[MakeAcknowledger] = None,
        batch_mode: str = "bulk",
    ) -> TestRef:
        """
        Send messages through the pipeline, past demand, transformer and rate limit.

        Args:
            data_list: The data of each message.
            metadata: Merged into the metadata of each message.
            acknowledger: ``acknowledger(data, (queue, ref)) -> (acknowledger, ack_ref, ack_data)``, in place of one
                that reports to the returned ref; to do so itself it puts ``("ack", ref, successful, failed)``.
            batch_mode: ``"bulk"`` or ``"flush"``.

        Returns:
            A ref whose ``receive()`` and ``collect()`` wait for the acknowledgements.

        Raises:
            NotRunningError: A stop has begun, or the pipeline is not running.
            ValueError: *batch_mode* is neither.
        """
        ref = TestRef()
        make = acknowledger or (lambda data, target: CallerAcknowledger.init(*target))
        messages = [
            Message(data, make(data, (ref.queue, ref)), metadata=dict(metadata or {})).put_batch_mode(batch_mode)
            for data in data_list
        ]
        self._running_run().push(messages)
        return ref

    def __reduce__(self) -> Any:
        raise TypeError("a Pipeline cannot be pickled: it has threads; make it in the process where it runs")

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}, {self.state}>"

    def after_fork_in_child(self) -> None:
        """
        In a forked child: there are no threads here, the pipeline is new.
        """
        self._lock = threading.RLock()
        self._is_starting = False
        run, self._last_run = self._last_run, None
        if run is None or run.state in ("stopped", "failed"):
            self._started_in = None
        if run is not None:
            run.forget()

    @property
    def options(self) -> PipelineOptions:
        """
        All options with their defaults: of the present or last run, which ``prepare_for_start`` may have changed.
        """
        run = self._run
        return self._options if run is None else run.options

    def _left_behind(self) -> Optional[DrainTimeoutError]:
        """
        For who decides how the process ends: what a pipeline that has ended has left behind, None if nothing. Nobody
        else is told of it from now on, but who was told before does not matter.
        """
        with suppress(DrainTimeoutError):
            self.stop(0)
        return None if self._run is None else self._run.drain_error

    def _hung(self) -> DrainTimeoutError:
        """
        The same for one that was to have ended by now, and has only the children left that ``prepare_for_start`` made.
        """
        assert self._run is not None
        return self._run.hung(f"pipeline {self.name!r}: what it was started with did not stop in time")

    def _running_run(self) -> Run:
        run = self._run
        if run is None or run.state in ("stopped", "failed"):
            raise self._not_started(f"is not running in this process (it is {self.state})")
        return run

    def _not_started(self, text: str) -> NotRunningError:
        if self._last_run is None and self._started_in is not None:
            return registry.started_before_fork(f"pipeline {self.name!r}", self._started_in)
        return NotRunningError(f"pipeline {self.name!r} {text}")

    def _running_limit(self) -> SharedRateLimit:
        if self.options.producer.rate_limiting is None:
            raise RateLimitingNotEnabledError(f"pipeline {self.name!r} was configured without producer.rate_limiting")
        limit = self._running_run().limit
        assert limit is not None
        return limit

    def _seconds(self, timeout: Optional[float]) -> float:
        if timeout is None:
            return self.shutdown
        if not is_seconds(timeout) or timeout < 0:
            raise ValueError(f"timeout must be a number of seconds >= 0, got: {timeout!r}")
        return timeout
