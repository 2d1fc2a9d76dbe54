"""
One life of a pipeline, from ``start()`` until the last thread has ended.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ..core.restart_intensity import RestartIntensity
from ..errors import DrainTimeoutError, NotRunningError, PipelineFailedError
from ..log import log_error, safe_repr
from ..message import Message
from ..options import PipelineOptions
from ..runtime.supervisor import ThreadSupervisor
from ..runtime.wait_list import Latch
from ..statistics import StageStatistics, Statistics
from .rate_limiter import SharedRateLimit
from .settings import Settings
from .topology import Names, Topology

# How much longer than its deadline a stop may take before stop() stops believing that it will end: only children of
# prepare_for_start that hang in stop() get it there.
GRACE = 5.0


class Run:
    """
    The stages' owner: restarts pass through it, and whoever waits for the end waits here. Thread-safe.

    The supervisor's thread calls ``build``, ``begin_restart``, ``begin_stop``, ``leave_behind`` and ``ended``; users'
    threads the rest.
    """

    def __init__(self, settings: Settings, children: List[Any], on_end: Callable[[], None]) -> None:
        options = settings.options
        self._settings = settings
        self._children = children
        self._on_end = on_end
        self.limit = None if options.producer.rate_limiting is None else SharedRateLimit(options.producer.rate_limiting)
        self._supervisor = ThreadSupervisor(
            Names(options).supervisor,
            settings.name,
            self,
            RestartIntensity(options.max_restarts, options.max_seconds),
            options.shutdown,
        )
        self._topology: Optional[Topology] = None
        self.is_stopping = False
        """Whether a stop has begun."""
        self._is_given_up = False  # by fail()
        # Guards _topology and _carried, so that a push meets either the old generation, the new one, or _carried.
        self._lock = threading.Lock()
        # Pushed while there is no generation to take it: before the first one, and during a restart.
        self._carried: Optional[List[Message]] = []
        self._cause: Optional[BaseException] = None
        self._drain_error: Optional[DrainTimeoutError] = None
        # One entry for each stop() that waits and will raise _drain_error; once all have, it is old news.
        self._callers_of_stop: List[None] = []
        self._is_reported = False
        self._ended = Latch()
        # For statistics: when it began, and what the generations before this one had done.
        self._started_at = self._finished_at = monotonic()
        # How many messages generations had handled before the one whose stages count; replaced as a whole.
        self._counts: Tuple[int, Optional[Topology]] = (0, None)
        self._most_handled = 0  # that was told
        self._generations = 0
        self.builds = 0
        """How often stages were made: at the start, after each restart, and for what was left over at the end."""
        # Called once at the end, the last first.
        self._at_end: List[Callable[[], None]] = []

    # For users' threads.

    def start(self) -> None:
        """
        Start children and stages; what a child raises, or the lack of threads, ends all of it and is raised.
        """
        started: List[Any] = []
        try:
            for child in self._children:
                child.start()
                started.append(child)
            self._supervisor.start()
        except BaseException:
            self._stop_children(started)
            self._ended.open()  # for whoever called stop() meanwhile
            raise

    def request_stop(self, seconds: float) -> None:
        """
        Begin the stop and return at once.
        """
        self.is_stopping = True
        self._supervisor.stop(seconds)
        self._stop_asking()

    def stop(self, seconds: float) -> None:
        """
        Stop, and wait for the end.

        Raises:
            DrainTimeoutError: Something was left behind. Once: a later call returns quietly.
        """
        self._callers_of_stop.append(None)
        try:
            self.request_stop(seconds)
            has_ended = self._ended.wait(seconds + GRACE)
            error = None if self._is_reported else self._drain_error
        finally:
            self._callers_of_stop.pop()
        if not has_ended:
            self._is_reported = self._is_reported or self._drain_error is not None
            raise self.hung(f"pipeline {self._settings.name!r} did not end in time")
        self._supervisor.join()
        if error is not None:
            if not self._callers_of_stop:
                self._is_reported = True
            raise error

    def join(self, timeout: Optional[float]) -> bool:
        """
        Wait for the end; whether it has come.
        """
        if not self._ended.wait(timeout):
            return False
        self._supervisor.join()
        return True

    def fail(self, cause: BaseException) -> None:
        """
        Begin the end because of *cause*, and return at once.
        """
        self.is_stopping = self._is_given_up = True
        self._supervisor.fail(self._settings.options.shutdown, cause)
        self._stop_asking()

    def _stop_asking(self) -> None:
        """
        See to it that no producer is asked any more although the supervisor has not had its turn yet.
        """
        if self.is_stopping and self._topology is not None:
            self._topology.stop_asking()

    def wait_abandoned(self, seconds: float) -> bool:
        """
        On a thread of a stage: wait *seconds*, or until it is given up; return whether it was.
        """
        stage = getattr(threading.current_thread(), "stage", None)
        if getattr(stage, "is_abandoned", False):
            return True
        topology = self._topology
        return topology is None or topology.abandoned.wait(seconds)

    def stacks(self) -> Dict[str, str]:
        """
        Return the present stack of each thread, as text, by its name.
        """
        return self._supervisor.stacks()

    def statistics(self) -> Statistics:
        """
        Return what it is doing.
        """
        (before, topology), now = self._counts, monotonic()
        stages = () if topology is None else topology.statistics(now)
        # A processor counts a chunk when it is through with it, its batchers count their part before that.
        self._most_handled = handled = max(self._most_handled, before + _through(stages))
        if topology is None:
            return Statistics(name=self.name, state=self.state, handled=handled)
        return Statistics(
            name=self.name,
            state=self.state,
            uptime=now - self._started_at,
            in_flight=sum(stage.waiting + stage.in_hand for stage in stages),
            handled=handled,
            idle_for=max(0.0, now - max(topology.finished_at(), self._finished_at)),
            restarts=max(0, self._generations - 1),
            stages=stages,
        )

    def hung(self, text: str) -> DrainTimeoutError:
        """
        Return the error for an end that does not come: *text*, what was left behind before, and where the threads are.
        """
        stacks, left = self._supervisor.stacks(), self._drain_error
        text += "" if left is None else f"; {left}"
        text += "".join(f"; thread {name} is at:\n{stack}" for name, stack in stacks.items())
        return DrainTimeoutError(text, 0 if left is None else left.left_behind, stacks)

    @property
    def drain_error(self) -> Optional[DrainTimeoutError]:
        """
        What was left behind at the end, also if that was raised already; None before the last thread has ended.
        """
        return self._drain_error

    @property
    def name(self) -> str:
        """
        The name of the pipeline.
        """
        return self._settings.name

    def raise_if_failed(self) -> None:
        """
        Raise PipelineFailedError from its cause if the pipeline gave up.
        """
        if self._cause is not None:
            why = "gave up" if self._is_given_up else "crashed more often than max_restarts allows and gave up"
            text = f"pipeline {self._settings.name!r} {why}"
            raise PipelineFailedError(f"{text}: {safe_repr(self._cause)}") from self._cause

    @property
    def options(self) -> PipelineOptions:
        """
        The options of this run, as ``prepare_for_start`` returned them.
        """
        return self._settings.options

    @property
    def state(self) -> str:
        """
        ``"running"``, ``"draining"``, ``"stopped"`` or ``"failed"``.
        """
        if self._ended.is_open:
            return "stopped" if self._cause is None else "failed"
        return "draining" if self.is_stopping else "running"

    def push(self, messages: List[Message]) -> None:
        """
        Hand over messages past demand and rate limit; during a restart, to the generation to come.

        Raises:
            NotRunningError: A stop has begun, or all producers have ended; nothing was taken.
        """
        while True:
            with self._lock:
                if self.is_stopping or self._ended.is_open:
                    raise NotRunningError(f"pipeline {self._settings.name!r} is stopping and takes no more messages")
                if self._carried is not None:
                    self._carried += messages
                    return
                topology = self._topology
            assert topology is not None
            try:
                topology.dispatcher.push(messages)
                return
            except NotRunningError:
                if topology is self._topology and self._carried is None:
                    raise

    # For the supervisor.

    def build(self, *, is_last: bool) -> Topology:
        """
        Make the first generation, or the one after a restart, with what the last one left.

        Args:
            is_last: Whether it is made to handle that and nothing else: without producers.
        """
        previous = self._topology
        self._generations += not is_last
        self.builds += 1
        exhausted = previous.exhausted if previous is not None else set()
        if is_last:
            exhausted = set(range(self._settings.options.producer.concurrency))
        topology = Topology(self._settings, self.limit, exhausted)
        ready, held = previous.dispatcher.remove_all() if previous is not None else ([], [])
        topology.carry_over(ready, held)
        while not self._publish(topology):  # what is pushed from then on comes after what was pushed before
            continue
        self._stop_asking()  # a stop that was asked for meanwhile may have met the generation before
        topology.close_exhausted()
        return topology

    def _publish(self, topology: Topology) -> bool:
        """
        Hand over what was pushed meanwhile, without the lock; if that is nothing let pushes go to *topology*.
        """
        with self._lock:
            carried, self._carried = self._carried, []
            if not carried:
                self._begin_counting(topology)
                self._topology, self._carried = topology, None
                return True
        topology.carry_over(carried, [])
        return False

    def _begin_counting(self, topology: Optional[Topology]) -> None:
        """
        Keep what the generation before has done, which has ended, and count what *topology* does.
        """
        before, previous = self._counts
        if previous is not None:
            before += _through(previous.statistics(monotonic()))
            self._finished_at = max(self._finished_at, previous.finished_at())
        self._counts = before, topology

    def at_end(self, function: Callable[[], None]) -> None:
        """
        Call *function* once when the last thread has ended, before ``join()`` and ``stop()`` return. Any thread.

        A function that is equal to one that is there is not added. What it raises is logged.
        """
        with self._lock:
            if function not in self._at_end:
                self._at_end.append(function)

    def thread_ends(self, stage: str) -> None:
        """
        Tell the hooks that want to know: on the thread of a stage, at its end.
        """
        for hook in self._settings.hooks:
            try:
                getattr(hook, "thread_ended", _nothing)()
            except BaseException as error:  # user code: the thread ends all the same
                log_error(f"{safe_repr(hook)}.thread_ended() raised", error, self._settings.name, stage)

    def begin_restart(self) -> None:
        """
        From now on pushes wait for the next generation.
        """
        with self._lock:
            self._carried = self._carried or []

    def begin_stop(self) -> None:
        """
        From now on nothing is taken any more.
        """
        self.is_stopping = True

    def has_left_over(self) -> bool:
        """
        Whether there is something that no stage has begun.
        """
        assert self._topology is not None
        with self._lock:  # a push that was let in has added what it brings
            is_carrying = bool(self._carried)
        return is_carrying or self._topology.dispatcher.has_messages()

    def leave_behind(self) -> int:
        """
        Take the right to acknowledge from what no stage has begun; return how many messages that were.
        """
        assert self._topology is not None
        ready, held = self._topology.dispatcher.remove_all()
        with self._lock:
            carried, self._carried = self._carried or [], None
        return sum(message.claim() for message in ready + held + carried)

    def ended(self, cause: Optional[BaseException], error: Optional[DrainTimeoutError]) -> None:
        """
        The last thread has ended or was given up.
        """
        self._cause = cause  # these two first: children may never stop, and whoever waits is told all the same
        self._drain_error = error
        self._stop_children(self._children)
        for function in reversed(self._at_end):
            self._safely(function, "what was to be done at the end raised")
        self._begin_counting(None)
        if error is not None and not self._callers_of_stop:  # nobody waits whom it could be raised to
            log_error(str(error), None, self._settings.name, Names(self._settings.options).supervisor)
        self._on_end()
        self._ended.open()

    def _stop_children(self, children: List[Any]) -> None:
        for child in reversed(children):
            self._safely(lambda: child.stop(), f"{safe_repr(child)}.stop() raised")  # noqa: B023

    def _safely(self, function: Callable[[], Any], text: str) -> None:
        try:
            function()
        except BaseException as error:  # the fault of one must not keep the others from ending
            log_error(text, error, self._settings.name, Names(self._settings.options).supervisor)

    def forget(self) -> None:
        """
        In a forked child: whatever stage this very thread belongs to ends when its callback returns.
        """
        if self._topology is not None:
            self._topology.forget()


def _nothing() -> None:
    pass


def _through(stages: Iterable[StageStatistics]) -> int:
    """
    Return how many messages are through: those of processors that went no further, and those of batch processors.
    """
    count = 0
    for stage in stages:
        if stage.kind in ("processor", "batch_processor"):
            count += stage.handled
        elif stage.kind == "batcher":
            count -= stage.handled + stage.waiting
    return max(0, count)
