"""
Who notices that a thread ended, restarts what crashed, and carries out a stop.

The supervisor is a thread that waits for events and nothing else. User code that it runs: ``stop()`` of the children of
``prepare_for_start``; ``partition_by`` when a restart takes messages over; what a batcher's last steps call.
Everything it decides on (the generation of stages, the drain under way, the budget) is touched by this thread alone,
so it needs no lock; a stop is an event too, and putting an event on a ``SimpleQueue`` is safe even in a signal handler.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from queue import Empty, SimpleQueue
from time import monotonic, time_ns
from typing import Any, Dict, Iterable, List, Optional, Tuple

from ..core.restart_intensity import RestartIntensity
from ..errors import DrainTimeoutError
from ..log import log_error, log_warning
from ..telemetry.events import TOPOLOGY_RESTART
from ..telemetry.registry import execute
from .deadline import Deadline
from .frames import no_collection
from .stage_thread import StageThread

STOP, RESTART, FAIL = "shutdown", "restart", "failed"

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

# How often one stage gets a new thread, to finish what it has, before its generation ends.
RESUMES = 3

# Seconds that a thread may take from its last statement to its end: a bound for machines that hardly move.
LAST_STEPS = 1.0

# Seconds in which threads that are given up, and had nothing in hand, show that they do not hang. Waited out only by
# those that do, where no frame of Python shows it; enough for a machine that is busy.
MOMENT = 1.0


class Drain:
    """
    The end of a generation: why, until when, and because of what.
    """

    def __init__(self, reason: str, seconds: float, cause: Optional[BaseException]) -> None:
        self.reason = reason
        self.seconds = seconds
        self.cause = cause
        self.deadline = Deadline(seconds)
        # A producer that does not come back must not cost the messages that are in open batches already: those are
        # flushed at half of the time. What it brings before nine tenths of it are over can still be handled.
        self.flush: Optional[Deadline] = Deadline(seconds / 2)
        self.producers: Optional[Deadline] = Deadline(seconds * 0.9)

    def tighten(self, seconds: float) -> None:
        """
        Do not take longer than *seconds* from now.
        """
        if seconds < (self.deadline.remaining() or 0.0):
            self.seconds = seconds
            self.deadline.tighten(seconds)
            if self.flush is not None:
                self.flush.tighten(seconds / 2)
            if self.producers is not None:
                self.producers.tighten(seconds * 0.9)

    def next_timeout(self) -> Optional[float]:
        """
        Return the seconds until something has to be done.
        """
        return (self.flush or self.producers or self.deadline).remaining()


class ThreadSupervisor:
    """
    One pipeline's threads, from the first start until the last one has ended or was given up.

    A *generation* (see ``topology.py``) has ``stages``, each with ``name``, ``run()``, ``abandon()``; ``producers``,
    those among them that are not resumed; ``drain(reason)``, ``flush()``, ``close_sources()``,
    ``stage_ended(stage) -> int``, ``abandon(stages) -> int`` and ``late(stages) -> int``, which return how many
    messages were left.
    """

    def __init__(
        self,
        name: str,
        pipeline: str,
        owner: Any,
        intensity: RestartIntensity,
        shutdown: float,
    ) -> None:
        """
        Args:
            owner: The run: ``build(is_last) -> generation``, ``begin_restart()``, ``begin_stop()``,
                ``has_left_over() -> bool``, ``leave_behind() -> int``, ``ended(cause, drain_error)``, and
                ``thread_ends(name)``, called on each thread that runs callbacks, at its end.
        """
        self._name = name
        self._pipeline = pipeline
        self._owner = owner
        self._intensity = intensity
        self._shutdown = shutdown
        self._events: SimpleQueue[Tuple[str, Any, Any]] = SimpleQueue()
        self._generation: Any = None
        self._threads: Dict[StageThread, Any] = {}
        self._resumed: Dict[Any, int] = {}
        self._is_last = False  # whether the generation is there only to handle what the one before it left
        self._drain: Optional[Drain] = None
        self._left_behind = 0
        self._hung: Dict[str, str] = {}
        self._thread: Optional[StageThread] = None

    def start(self) -> None:
        """
        Start all threads, consumers first.

        Raises:
            RuntimeError: The system has no thread left; those that were started end again.
        """
        try:
            self._start_generation(is_last=False)
            thread = StageThread(self._name, self._run, self._died, self._owner)
            thread.start()
            self._thread = thread
        except BaseException:
            if self._generation is not None:
                self._generation.drain(STOP)
                self._generation.abandon(self._generation.stages)
            raise

    def stop(self, seconds: float) -> None:
        """
        Begin the stop. Returns at once; takes no lock that any interrupted thread could hold.
        """
        self._events.put(("stop", seconds, None))

    def fail(self, seconds: float, cause: BaseException) -> None:
        """
        Begin the end because of *cause*. Like :meth:`stop`.
        """
        self._events.put(("fail", seconds, cause))

    def join(self) -> None:
        """
        Wait for the supervisor's own thread, after the end: who looks for threads then shall find none.
        """
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(LAST_STEPS)

    def stacks(self) -> Dict[str, str]:
        """
        Return the present stack of each thread of this pipeline, the supervisor's included, as text.
        """
        threads = [thread for thread in threading.enumerate() if getattr(thread, "owner", None) is self._owner]
        return describe_threads(threads)

    def _start_generation(self, *, is_last: bool) -> None:
        self._generation = self._owner.build(is_last=is_last)
        self._is_last = is_last
        self._resumed = {}
        for stage in self._generation.stages:
            self._spawn(stage)

    def _spawn(self, stage: Any) -> None:
        thread = StageThread(stage.name, stage.run, self._thread_ended, self._owner)
        self._threads[thread] = stage
        thread.start()

    def _thread_ended(self, thread: Any, error: Optional[BaseException]) -> None:
        self._owner.thread_ends(thread.name)
        self._events.put(("ended", thread, error))

    # On the supervisor's thread.

    def _run(self) -> None:
        while True:
            kind, subject, error = self._next_event()
            if kind == "stop":
                self._begin(STOP, subject, None)
            elif kind == "fail":
                self._begin(FAIL, subject, error)
            elif kind == "ended":
                self._stage_ended(subject, error)
            else:
                self._time_is_up()
            if not self._threads and not self._go_on():
                return

    def _next_event(self) -> Tuple[str, Any, Any]:
        timeout = None if self._drain is None else self._drain.next_timeout()
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        try:
            return self._events.get(timeout=timeout)
        except Empty:
            return ("time", None, None)

    def _begin(self, reason: str, seconds: float, cause: Optional[BaseException]) -> None:
        if self._drain is None or self._drain.reason == RESTART:  # a restart under way becomes the end
            self._drain = Drain(reason, seconds, cause)
        else:
            self._drain.tighten(seconds)
            if reason == FAIL and self._drain.cause is None:
                self._drain.reason, self._drain.cause = FAIL, cause
        if reason == RESTART:
            self._owner.begin_restart()
        else:
            self._owner.begin_stop()
        self._generation.drain(reason)

    def _stage_ended(self, thread: StageThread, error: Optional[BaseException]) -> None:
        thread.join(LAST_STEPS)  # it has told of its end as the last thing it does
        stage = self._threads.pop(thread, None)
        if stage is None:  # given up before
            return
        if error is not None and self._crashed(stage, error):
            self._spawn(stage)
        else:
            self._left_behind += self._generation.stage_ended(stage)

    def _crashed(self, stage: Any, error: BaseException) -> bool:
        """
        Decide what a crash leads to; return whether *stage* gets a new thread, to finish what it has.
        """
        is_allowed = self._intensity.allows(monotonic())
        is_producer = stage in self._generation.producers
        what = "a producer crashed too often" if is_producer else "a thread of the library died"
        if self._drain is not None and self._drain.reason != RESTART:
            then = "the pipeline is stopping"
        else:
            then = "the pipeline restarts" if is_allowed else "too many restarts, the pipeline gives up"
            if self._drain is None or not is_allowed:
                self._begin(RESTART if is_allowed else FAIL, self._shutdown, error)
        log_error(f"{what}: {then}", error, self._pipeline, stage.name)
        self._resumed[stage] = self._resumed.get(stage, 0) + 1
        return not is_producer and self._resumed[stage] <= RESUMES

    def _time_is_up(self) -> None:
        drain = self._drain
        assert drain is not None
        if drain.flush is not None:
            drain.flush = None
            self._generation.flush()
        elif drain.producers is not None:
            drain.producers = None
            self._generation.close_sources()
        if drain.deadline.is_over():
            self._give_up()

    def _give_up(self) -> None:
        """
        Abandon the threads that have not ended. They are daemons and end when their callback returns.
        """
        threads, stages = list(self._threads), list(self._threads.values())
        hung = hanging(threads)
        stacks = describe_threads(hung or threads)
        self._threads.clear()
        if self._drain is not None and self._drain.reason != RESTART:
            self._left_behind += self._owner.leave_behind()
        self._left_behind += self._generation.abandon(stages)
        if hung or self._left_behind:
            self._hung.update(stacks)
        elif not have_ended(threads, within=MOMENT):
            self._hung.update((thread.name, stacks[thread.name]) for thread in threads if thread.is_alive())
        self._left_behind += self._generation.late(stages)

    def _go_on(self) -> bool:
        """
        All threads have ended: start the next generation, or finish and return False.
        """
        drain = self._drain
        if drain is not None and drain.reason == RESTART:
            self._report_restart(drain)
            self._left_behind, self._hung, self._drain = 0, {}, None
            self._start_generation(is_last=False)
            log_warning("the pipeline was restarted", self._pipeline, self._name)
            metadata = {"topology_name": self._pipeline, "name": self._name, "reason": drain.cause}
            execute(TOPOLOGY_RESTART, {"system_time": time_ns()}, metadata)
            return True
        if self._owner.has_left_over() and not self._is_last and (drain is None or not drain.deadline.is_over()):
            self._start_generation(is_last=True)  # a stop came while a restart was under way, or all processors died
            return True
        self._left_behind += self._owner.leave_behind()
        error = self._drain_error(drain)
        self._owner.thread_ends(self._name)  # this one has run callbacks too: what the last steps of a batcher fail
        self._owner.ended(drain.cause if drain is not None and drain.reason == FAIL else None, error)
        return False

    def _report_restart(self, drain: Drain) -> None:
        error = self._drain_error(drain)
        if error is not None:
            log_error(str(error), None, self._pipeline, self._name)

    def _drain_error(self, drain: Optional[Drain]) -> Optional[DrainTimeoutError]:
        if not self._left_behind and not self._hung:
            return None
        text = f"pipeline {self._pipeline!r} did not drain"
        text += f" within {drain.seconds:g} seconds" if drain is not None and self._hung else ""
        text += f": {self._left_behind} messages were left behind, neither acknowledged nor failed"
        for name, stack in self._hung.items():
            text += f"; thread {name} had not ended, it was at:\n{stack}"
        return DrainTimeoutError(text, self._left_behind, self._hung)

    def _died(self, thread: Any, error: Optional[BaseException]) -> None:
        """
        The supervisor's own thread has ended; with an error nobody else can tell those who wait.
        """
        if error is None:
            return
        log_error("the supervisor died: this is a bug in broadway_sync", error, self._pipeline, self._name)
        self._owner.begin_stop()
        if self._generation is not None:
            self._generation.drain(STOP)
            self._generation.abandon(list(self._threads.values()))
        self._owner.ended(error, None)


def hanging(threads: Iterable[threading.Thread]) -> List[threading.Thread]:
    """
    Return those of *threads* that are in code of others: the others wait for those.
    """
    with no_collection():
        frames = sys._current_frames()
        hung = [thread for thread in threads if _is_in_foreign_code(frames.get(thread.ident or -1))]
        del frames
    return hung


def have_ended(threads: Iterable[threading.Thread], within: float) -> bool:
    """
    Wait until all *threads* have ended, at most *within* seconds; return whether they have.
    """
    deadline = Deadline(within)
    for thread in threads:
        thread.join(deadline.remaining())
        if thread.is_alive():
            return False
    return True


def _is_in_foreign_code(frame: Any) -> bool:
    while frame is not None:
        file = frame.f_code.co_filename
        if file != threading.__file__ and not file.startswith(_PACKAGE):
            return True
        frame = frame.f_back
    return False


def describe_threads(threads: Iterable[threading.Thread]) -> Dict[str, str]:
    """
    Return the present stack of each thread, as text, by its name.
    """
    stacks: Dict[str, str] = {}
    with no_collection():
        frames = sys._current_frames()
        for thread in threads:
            frame = frames.get(thread.ident or -1)
            lines: List[str] = traceback.format_stack(frame) if frame is not None else ["  (ended)\n"]
            stacks[thread.name] = "".join(lines)
        del frames
    return stacks
