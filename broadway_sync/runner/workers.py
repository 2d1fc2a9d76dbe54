"""
The parent of several processes: forks them, follows up those that end, and drains all together.

It has no threads and runs no code of the user, so that it can fork at any time and is not what fails. Whatever it waits
for (signals, what its children say, ``broadway-sync dump``) is a file descriptor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import signal
import tempfile
import threading
from time import monotonic
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import attrs

from ..errors import ConfigurationError
from .child import DRAIN, NOW
from .dumper import SIGNAL, open_endpoint
from .exit_codes import ExitCode, worst
from .jobs import KILL_AFTER, HealthJob, WorkerJob
from .logs import LogHandler, logger, say
from .options import RunOptions
from .restarts import Next, describe
from .signals import ECHO, STOP_SIGNALS
from .slot import Birth, Slot
from .targets import Target
from .wakeup import Wakeup

# Seconds that processes have which are to stop at once.
AT_ONCE = 3.0

# Seconds until the next attempt when the system has no process left.
NO_PROCESS_PAUSE = 1.0

# Seconds of one wait at most: poll() cannot wait for longer than 24 days.
LONGEST_WAIT = 3600.0


class Workers:
    """
    Runs the targets in ``options.processes`` processes.

    Args:
        targets: What each of them runs.
        options: How.
        default_level: See :class:`LogHandler`.

    Raises:
        ConfigurationError: This system cannot fork, or has no temporary folder for what workers say of their health.
    """

    def __init__(self, targets: Sequence[Target], options: RunOptions, default_level: Optional[int]) -> None:
        if not hasattr(os, "fork"):
            raise ConfigurationError(f"processes: this system cannot fork, expected 1, got: {options.processes}")
        self._options = options
        self._default_level = default_level
        self._pid = os.getpid()
        self._started_at = monotonic()
        self._is_stopping = False
        self._signals = 0  # how often somebody asked for a stop, without echoes
        self._signalled_at = 0.0
        self._health = self._make_health()
        self._workers = [self._make_worker(index, targets) for index in range(options.processes)]
        self._slots = [*([self._health] if self._health else []), *self._workers]

    def _make_health(self) -> Optional[Slot]:
        if self._options.health_port is None and self._options.health_file is None:
            return None
        try:
            folder = tempfile.mkdtemp(prefix="broadway-sync-health-")
        except OSError as error:
            what = (
                "health_port, health_file: workers report in a temporary folder, set TMPDIR to one that can be written"
            )
            raise ConfigurationError(f"{what}: {error}") from error
        return Slot("health process", HealthJob(folder, self._options, self._default_level), is_first=True)

    def _make_worker(self, index: int, targets: Sequence[Target]) -> Slot:
        file = None
        if self._health is not None:
            self._health_job.expect(index)
            file = self._health_job.file(index)
        options = attrs.evolve(self._options, processes=1, health_port=None, health_file=file)
        return Slot(f"worker {index}", WorkerJob(targets, options, self._default_level), is_first=index == 0)

    @property
    def _health_job(self) -> HealthJob:
        assert self._health is not None and isinstance(self._health.job, HealthJob)
        return self._health.job

    def run(self) -> Tuple[ExitCode, Optional[Birth]]:
        """
        Run until all have ended; return the worst of their codes.

        Returns a second time, in each child, and then with what that was born for. Everything that is the parent's is
        closed there by then.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(LogHandler(self._options.level, self._default_level).remove)
            stack.callback(self._clean_up)
            wakeup = stack.enter_context(Wakeup(filter(None, (*STOP_SIGNALS, signal.SIGCHLD, SIGNAL))))
            endpoint = open_endpoint()
            if endpoint is not None:
                stack.callback(endpoint.close)
            self._warn_of_threads()
            birth = self._supervise(wakeup, endpoint)
        return self._code(), birth

    def _code(self) -> ExitCode:
        codes = [slot.code for slot in self._workers]
        if self._health is not None and self._health.code != ExitCode.LEFT_BEHIND:  # it has no messages
            codes.append(self._health.code)
        return worst(codes)

    def _supervise(self, wakeup: Wakeup, endpoint: Any) -> Optional[Birth]:
        while True:
            birth = self._start_due()
            if birth is not None:
                return birth
            if not any(slot.is_open for slot in self._workers) and not self._end_health():
                return None
            for source in self._wait(wakeup, endpoint):
                if isinstance(source, Slot):
                    source.hear()
                elif source is not None:  # None: what the signals woke us by
                    source.answer(self._dump, tuple(slot.child.pid for slot in self._workers if slot.child))
            for number in wakeup.take():
                self._signalled(number)
            self._look_after_children()

    # Starting.

    def _start_due(self) -> Optional[Birth]:
        """
        Start those that are due; return what a child was born for, in the child.
        """
        for slot in self._slots:
            if slot.due is not None and slot.due <= monotonic():
                try:
                    birth = slot.start()
                except OSError as error:
                    logger.error("%s could not be started: %s", slot.name, error)
                    slot.due = monotonic() + NO_PROCESS_PAUSE
                    break
                if birth is not None:
                    self._forget_children()
                    return birth
                assert slot.child is not None
                logger.info("%s is process %d", slot.name, slot.child.pid)
            if slot.holds_back:
                break
        return None

    def _forget_children(self) -> None:
        """
        In a child: close the parent's side of all lines. Else the others would not notice the parent's death.
        """
        for slot in self._slots:
            if slot.child is not None:
                slot.child.close()
                slot.child = None

    # Waiting.

    def _wait(self, wakeup: Wakeup, endpoint: Any) -> List[Any]:
        """
        Wait until there is something to do; return which of the slots, and the endpoint, are readable.
        """
        # Made anew each time: one that is kept would be shared by the children.
        with selectors.PollSelector() as selector:
            selector.register(wakeup.fd, selectors.EVENT_READ)
            if endpoint is not None:
                selector.register(endpoint.socket, selectors.EVENT_READ, endpoint)
            for slot in self._slots:
                if slot.child is not None and slot.child.status is not None:
                    selector.register(slot.child.status, selectors.EVENT_READ, slot)
            return [key.data for key, _ in selector.select(self._timeout())]

    def _timeout(self) -> float:
        now = monotonic()
        return min([LONGEST_WAIT, *(max(0.0, at - now) for at in self._appointments())])

    def _appointments(self) -> Iterator[float]:
        is_held_back = False
        for slot in self._slots:
            if slot.due is not None and not is_held_back:
                yield slot.due
            if slot.child is not None and slot.child.kill_at is not None and not slot.child.was_killed:
                yield slot.child.kill_at
            is_held_back = is_held_back or slot.holds_back

    # Ending.

    def _signalled(self, number: int) -> None:
        if number == SIGNAL:
            say(self._dump())
            for slot in self._workers:
                if slot.child is not None:
                    slot.child.signal(number)
        elif number in STOP_SIGNALS:
            self._told_to_stop(signal.Signals(number).name)

    def _told_to_stop(self, name: str) -> None:
        """
        Drain all workers at the first signal, stop them at once at the second.
        """
        now = monotonic()
        if self._signals and now - self._signalled_at < ECHO:
            return
        self._signalled_at = now
        self._signals += 1
        if self._signals > 1:
            logger.info("%s: stopping at once", name)
            self._stop(NOW, AT_ONCE)
        elif self._is_stopping:  # because a worker cannot go on: the others have the time that they were given
            logger.info("%s: draining already", name)
        else:
            self._drain(name)

    def _drain(self, reason: str) -> None:
        logger.info("%s: draining, for %g s at most", reason, self._options.shutdown)
        self._stop(DRAIN, self._options.shutdown + KILL_AFTER)

    def _stop(self, order: bytes, seconds: float) -> None:
        self._is_stopping = True
        for slot in self._workers:
            slot.due = None
            if slot.child is not None:
                slot.child.tell(order, seconds)

    def _end_health(self) -> bool:
        """
        Tell the health process that all others have ended; return whether it still has to.
        """
        if self._health is None:
            return False
        self._health.due = None
        child = self._health.child
        if child is not None and child.kill_at is None:
            child.tell(DRAIN, AT_ONCE)
        return child is not None

    def _look_after_children(self) -> None:
        for slot in self._slots:
            child = slot.child
            if child is None:
                continue
            if child.kill_if_late():
                logger.error("%s (process %d) did not end in time and is killed", slot.name, child.pid)
            ended = slot.reap(is_stopping=child.kill_at is not None, was_ready=any(s.was_ready for s in self._workers))
            if ended is not None:
                self._ended(slot, child.pid, *ended)

    def _ended(self, slot: Slot, pid: int, code: int, follows: Next) -> None:
        text = f"{slot.name} (process {pid}) {describe(code)}"
        if follows.pause is not None:
            text += f", another one starts in {follows.pause:.1f} s" if follows.pause else ", another one starts"
        is_well = follows.code == ExitCode.DRAINED
        logger.log(logging.INFO if is_well else logging.ERROR, "%s", text)
        self._tell_health(slot)
        if follows.is_hopeless and not self._is_stopping:
            self._drain(f"{slot.name} cannot go on")

    def _tell_health(self, slot: Slot) -> None:
        if self._health is not None and slot is not self._health:
            index = self._workers.index(slot)
            if slot.is_open:
                self._health_job.expect(index)
            else:
                self._health_job.retire(index)

    def _clean_up(self) -> None:
        """
        In the parent, whatever happened: leave nothing behind. Children that there still are drain when they are
        alone.
        """
        if os.getpid() != self._pid:
            return
        for slot in self._slots:
            if slot.child is not None:
                slot.child.close()
        if self._health is not None:
            shutil.rmtree(self._health_job.folder, ignore_errors=True)

    def _dump(self) -> str:
        uptime = monotonic() - self._started_at
        head = f"process {self._pid}, parent of {len(self._workers)} workers for {uptime:.1f} s"
        return "\n".join([head, *(f"  {slot.describe()}" for slot in self._slots), ""])

    def _warn_of_threads(self) -> None:
        others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
        if others:
            names = ", ".join(others)
            logger.warning("forking although there are threads, which workers will not have: %s", names)
