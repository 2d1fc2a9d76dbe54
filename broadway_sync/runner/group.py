"""
The pipelines of one process, from the first start until the last one has ended.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Callable, List, Optional, Sequence

import attrs

from ..errors import ConfigurationError, DrainTimeoutError, PipelineFailedError
from ..log import safe_repr
from ..pipeline import Pipeline
from ..rules import is_seconds, mistake
from .exit_codes import ExitCode, worst

# How often the main thread looks whether one of several pipelines has ended, and at limits.
TICK = 0.25

# How much longer than its deadline a stop may take before it counts as hanging: only the stop() of a child of
# prepare_for_start gets it there. With what leave() and a parent wait it must fit between 25 s and Kubernetes' 30.
GRACE = 1.5


@attrs.frozen
class Ending:
    """
    How one pipeline ended; with neither error it ended in good order.
    """

    name: str
    failed: Optional[PipelineFailedError]
    drain: Optional[DrainTimeoutError]

    @property
    def code(self) -> ExitCode:
        """
        The exit code that says so.
        """
        if self.failed is not None:
            return ExitCode.GAVE_UP
        return ExitCode.DRAINED if self.drain is None else ExitCode.LEFT_BEHIND


class Group:
    """
    Starts pipelines, waits for all of them, and stops all when one gives up.

    ``run`` is for one thread, normally the main one; ``request_stop`` for any, and for signal handlers.

    Args:
        pipelines: Those that run already are waited for and stopped like the others.
        shutdown: Seconds for a stop that no one asked for; None: each pipeline's own.

    Raises:
        ConfigurationError: There is none, two have the same name, or an argument is none of these.
    """

    def __init__(self, pipelines: Sequence[Pipeline], shutdown: Optional[float]) -> None:
        _check(pipelines, shutdown)
        check_names(pipelines)
        self.pipelines = list(pipelines)
        self.endings: List[Ending] = []
        """Of those that have ended."""
        self.is_starting = False
        self.is_stopping = False
        """Whether a stop of all was asked for."""
        self._shutdown = shutdown
        # Of the last stop that was asked for. Written at any time, by any thread: what is read late is read again.
        self._seconds: Optional[float] = None
        self._deadline = float("inf")

    @property
    def code(self) -> ExitCode:
        """
        The worst of how the pipelines ended.
        """
        return worst(ending.code for ending in self.endings)

    def request_stop(self, seconds: Optional[float] = None) -> None:
        """
        Begin the stop of all pipelines, or shorten the one that is under way. Returns at once, takes no lock.

        Args:
            seconds: How long it may take; None: what the group was made with.
        """
        self._seconds = self._shutdown if seconds is None else seconds
        self.is_stopping = True
        longest = max(self._seconds_of(pipeline) for pipeline in self.pipelines)
        self._deadline = min(self._deadline, monotonic() + longest)
        for pipeline in self.pipelines:
            pipeline.request_stop(self._seconds)

    def run(self, look: Callable[[], None] = lambda: None) -> None:
        """
        Start those that do not run yet, and wait until all have ended. Interruptible by signals on the main thread.

        Args:
            look: Called every quarter of a second, on this thread.

        Raises:
            BaseException: What a ``start()``, *look* or a signal handler raised; all are stopped before.
        """
        try:
            self._start()
            self._wait(look)
        except BaseException:
            self.request_stop()
            self._wait(lambda: None)
            raise

    def _start(self) -> None:
        self.is_starting = True
        try:
            for pipeline in self.pipelines:
                if self.is_stopping:
                    return
                if pipeline.state not in ("running", "draining"):
                    pipeline.start()
        finally:
            self.is_starting = False
            if self.is_stopping:  # asked for at a moment when the one that was started could not hear it
                self.request_stop(self._seconds)

    def _wait(self, look: Callable[[], None]) -> None:
        while True:
            look()
            for pipeline in self._open():
                self._collect(pipeline, 0)
            still_open = self._open()
            if not still_open:
                return
            self._collect(still_open[0], TICK)
            if monotonic() > self._deadline + GRACE:
                self._give_up()

    def _open(self) -> List[Pipeline]:
        """
        Return those that were started and have not been seen to end.

        Asked and not remembered: a signal handler may raise right after a ``start()``, before anything is remembered.
        """
        ended = {ending.name for ending in self.endings}
        return [each for each in self.pipelines if each.state != "new" and each.name not in ended]

    def _collect(self, pipeline: Pipeline, timeout: float) -> None:
        failed = None
        try:
            if not pipeline.join(timeout):
                return
        except PipelineFailedError as error:
            failed = error
        self.endings.append(Ending(pipeline.name, failed, pipeline._left_behind()))
        if failed is not None:
            self.request_stop()

    def _give_up(self) -> None:
        for pipeline in self._open():
            self.endings.append(Ending(pipeline.name, None, pipeline._hung()))

    def _seconds_of(self, pipeline: Pipeline) -> float:
        return pipeline.shutdown if self._seconds is None else self._seconds


def _check(pipelines: Sequence[Any], shutdown: Any) -> None:
    """
    Raise ConfigurationError for what would otherwise be noticed by the signal that should stop the pipelines.
    """
    for pipeline in pipelines:
        if not isinstance(pipeline, Pipeline):
            raise mistake("pipelines", f"expected Pipeline objects, got: {safe_repr(pipeline)}")
    if shutdown is not None and not (is_seconds(shutdown) and shutdown >= 0):
        raise mistake("shutdown", f"expected a finite number of seconds >= 0, got: {safe_repr(shutdown)}")


def check_names(pipelines: Sequence[Pipeline]) -> None:
    """
    Raise ConfigurationError if there is no pipeline, or two have the same name.
    """
    names = [pipeline.name for pipeline in pipelines]
    if not names:
        raise ConfigurationError("expected at least one pipeline")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"two pipelines are named {twice[0]!r}, names must be unique in a process")
