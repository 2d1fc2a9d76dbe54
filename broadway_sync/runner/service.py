"""
Pipelines in this process: from the import of their modules to the verdict on how they ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from time import monotonic, sleep
from typing import Any, Callable, ContextManager, Iterator, List, Optional, Sequence

from ..errors import BroadwayError, ConfigurationError, PipelineFailedError
from ..pipeline import Pipeline
from .dumper import Dumper
from .exit_codes import ExitCode, worst
from .group import Ending, Group
from .health import HealthMonitor
from .limits import Limits, resident_memory, show_size
from .logs import LogHandler, logger, say
from .options import RunOptions
from .reload import SourceFiles
from .signals import START_INTERRUPTED, StopNow, StopSignals
from .targets import Target, current_directory, load_all

# Seconds between two looks at limits and source files.
LOOK_INTERVAL = 0.5


class Service:
    """
    One run of the targets in this process.

    Args:
        targets: What to run.
        options: How.
        default_level: See :class:`LogHandler`.
        on_ready: Called when all targets were made and nothing was started yet.
        is_worker: Whether a parent decides about a stop at once, so that a second signal is no such thing: a terminal
            signals the whole group of processes, and so do process managers.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        options: RunOptions,
        default_level: Optional[int] = None,
        *,
        on_ready: Callable[[], None] = lambda: None,
        is_worker: bool = False,
    ) -> None:
        self._targets = targets
        self._options = options
        self._default_level = default_level
        self._on_ready = on_ready
        self._limits = Limits(options.max_messages, options.max_memory)
        self._sources = SourceFiles() if options.reload else None
        self._signals = StopSignals(is_patient=is_worker)
        self._is_signal_logged = False
        self._next_look = 0.0
        self.folder = current_directory()
        """Where it began: the user's code may go elsewhere."""
        self.group: Optional[Group] = None
        self.is_at_limit = False
        """Whether it left because of ``max_messages`` or ``max_memory``."""
        self.is_changed = False
        """Whether it left because a source file changed."""

    @property
    def is_signalled(self) -> bool:
        """
        Whether a signal ended it.
        """
        return bool(self._signals.received)

    def run(self) -> ExitCode:
        """
        Run until the end, on the main thread; return how it was.
        """
        try:
            with self._signals, contextlib.ExitStack() as stack:
                return self._run_with(stack)
        except StopNow:  # a signal came while the handlers were installed, or taken away after a failed start
            return ExitCode.DRAINED

    def _run_with(self, stack: contextlib.ExitStack) -> ExitCode:
        try:
            return self._run(stack)
        except StopNow:
            return self._interrupted()
        except Exception as error:
            return self._failed_to_start(error)

    def _run(self, stack: contextlib.ExitStack) -> ExitCode:
        dumper = stack.enter_context(Dumper())
        pipelines = load_all(self._targets)
        self._check_signalled()  # the code may have caught what the handler raised
        if self._sources is not None:
            self._sources.changed()  # from now on
        stack.callback(LogHandler(self._options.level, self._default_level).remove)
        dumper.pipelines = pipelines
        group = Group(pipelines, self._options.shutdown)
        self._check_memory()
        for part in self._parts(pipelines):
            stack.enter_context(part)
        self._on_ready()
        self._check_signalled()  # by the last that may have swallowed it, such as a handler of the log
        self._signals.group = self.group = group  # in this order: a signal between the two finds what to stop
        logger.info("running %s", ", ".join(pipeline.name for pipeline in pipelines))
        group.run(self._look)
        return self._verdict()

    def _check_signalled(self) -> None:
        """
        Before there is a group: raise once more what a signal handler raised, if somebody kept it to himself.
        """
        if self.is_signalled:
            raise StopNow

    def _parts(self, pipelines: List[Pipeline]) -> List[ContextManager[Any]]:
        """
        Return what lives around the pipelines: it is there before them, and goes after them.
        """
        options = self._options
        monitor = HealthMonitor(
            pipelines,
            stall_after=options.stall_after,
            port=options.health_port,
            host=options.health_host,
            file=None if options.health_file is None else os.path.join(self.folder, options.health_file),
        )
        return [monitor] if options.statsd is None else [statsd(options), monitor]

    def _check_memory(self) -> None:
        """
        Refuse a limit at which the process would come and go without end.
        """
        resident, limit = resident_memory(), self._options.max_memory
        if limit is None:
            return
        if resident is None:
            raise ConfigurationError("max_memory: this system does not say how much memory is resident, expected None")
        if resident >= limit:
            have = show_size(resident)
            raise ConfigurationError(f"max_memory: expected more than the {have} of a start, got: {show_size(limit)}")

    def _look(self) -> None:
        """
        See what the main thread has to see to, between two looks at the pipelines.
        """
        assert self.group is not None
        if self.is_signalled and not self._is_signal_logged:
            self._is_signal_logged = True
            logger.info("%s: draining, for %g s at most", self._signals.received[0].name, self._options.shutdown)
        if monotonic() < self._next_look or self.group.is_stopping:
            return
        self._next_look = monotonic() + LOOK_INTERVAL
        self._look_at_limits(self.group)
        self._look_at_sources(self.group)

    def _look_at_limits(self, group: Group) -> None:
        handled = sum(pipeline.statistics().handled for pipeline in group.pipelines)
        exceeded = self._limits.exceeded(handled, resident_memory() if self._limits.max_memory else None)
        if exceeded:
            logger.info("%s: draining, for %g s at most", exceeded, self._options.shutdown)
            self.is_at_limit = True
            group.request_stop()

    def _look_at_sources(self, group: Group) -> None:
        changed = self._sources.changed() if self._sources is not None else None
        if changed:
            logger.info("%s has changed: draining, then starting afresh", changed)
            self.is_changed = True
            group.request_stop()

    def _verdict(self) -> ExitCode:
        """
        Say how it ended, and return the code.
        """
        assert self.group is not None
        log_errors(self.group.endings)
        code = self.group.code
        logger.log(logging.INFO if code == ExitCode.DRAINED else logging.ERROR, "%s", describe(self.group.endings))
        return code

    def _interrupted(self) -> ExitCode:
        if self.group is None:  # nothing was started yet
            return ExitCode.DRAINED
        logger.error(START_INTERRUPTED)
        return worst([self._verdict(), ExitCode.LEFT_BEHIND])

    def _failed_to_start(self, error: Exception) -> ExitCode:
        if isinstance(error, BroadwayError) and not isinstance(error, PipelineFailedError):
            say(f"broadway-sync: {error}")
        else:
            say("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        if self.group is not None:
            log_errors(self.group.endings)
        if self._sources is None:
            return ExitCode.CANNOT_START
        return self._wait_for_change(self._sources, error)

    def _wait_for_change(self, sources: SourceFiles, error: Exception) -> ExitCode:
        """
        While developing a mistake is no reason to end: the next change may mend it.
        """
        try:
            sources.add_from(error)
            sources.changed()  # from now on
            say("broadway-sync: waiting for a source file to change")
            while not sources.changed():
                if self.is_signalled:
                    return ExitCode.CANNOT_START
                sleep(LOOK_INTERVAL)
        except StopNow:
            return ExitCode.CANNOT_START
        self.is_changed = True
        return ExitCode.DRAINED


def log_errors(endings: Sequence[Ending]) -> None:
    """
    Log how pipelines ended that did not end well.
    """
    for ending in endings:
        if ending.failed is not None:
            logger.error("%s", ending.failed, exc_info=ending.failed.__cause__)
        if ending.drain is not None:
            logger.error("%s", ending.drain)


def describe(endings: Sequence[Ending]) -> str:
    """
    Return the last word on how pipelines ended.
    """
    gave_up = [ending.name for ending in endings if ending.failed is not None]
    left = [(ending.name, ending.drain.left_behind) for ending in endings if ending.drain is not None]
    where = ", ".join(f"{count} in {name}" for name, count in left if count)
    hung = ", ".join(name for name, count in left if not count)
    texts = [f"{', '.join(gave_up)} gave up"] if gave_up else []
    if where:
        texts.append(f"messages were left behind, neither acknowledged nor failed: {where}")
    if hung:
        texts.append(f"no message was left behind, but threads were: {hung}")
    return "; ".join(texts) or "drained"


@contextlib.contextmanager
def statsd(options: RunOptions) -> Iterator[None]:
    """
    Send metrics to a statsd server.

    Raises:
        ConfigurationError: Its client is not installed, or there is no such style of tags.
    """
    from ..telemetry.statsd import StatsdReporter

    assert options.statsd is not None
    host, port = options.statsd
    reporter = StatsdReporter(host, port, options.statsd_prefix, tags=options.statsd_tags)
    reporter.attach()
    try:
        yield
    finally:
        reporter.detach()
