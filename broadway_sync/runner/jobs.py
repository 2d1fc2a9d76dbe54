"""
What the forked processes do: run the pipelines, or answer for the health of all who do.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import Optional, Sequence

import attrs

from ..errors import ConfigurationError
from .child import NOW, ParentLine, unblock_signals
from .exit_codes import ExitCode
from .health_file import read_file, remove_file, write_file
from .health_report import Report, merge
from .health_server import HealthServer
from .logs import LogHandler, logger, say
from .options import RunOptions
from .restarts import AT_LIMIT, SIGNALLED
from .service import Service
from .targets import Target

# How much longer than a drain may take a process has, before whoever waits for it kills it: below Kubernetes' 30 s.
KILL_AFTER = 4.0

# Seconds between two writings of the health file for all workers.
HEALTH_INTERVAL = 1.0

# Seconds of one sleep at most, three years: systems have their limits.
LONGEST_SLEEP = 1e8


@attrs.frozen
class WorkerJob:
    """
    Runs the pipelines.
    """

    targets: Sequence[Target]
    options: RunOptions
    default_level: Optional[int]

    def run(self, line: ParentLine) -> int:
        """
        Run them until they end, the parent says so, or there is none any more; return the exit code.
        """
        service = Service(self.targets, self.options, self.default_level, on_ready=line.say_ready, is_worker=True)
        thread = threading.Thread(target=self._obey, args=(line, service), name="broadway_sync.orders", daemon=True)
        thread.start()
        code = service.run()
        if code == ExitCode.DRAINED and service.is_at_limit:
            return AT_LIMIT
        return SIGNALLED if code == ExitCode.DRAINED and service.is_signalled else code

    def _obey(self, line: ParentLine, service: Service) -> None:
        while True:
            order = line.next_order()
            if order == NOW and service.group is not None:
                service.group.request_stop(0)
            elif order:
                os.kill(os.getpid(), signal.SIGTERM)  # also interrupts imports, and a start() that hangs
            else:
                self._end_without_parent()

    def _end_without_parent(self) -> None:
        logger.error("the parent is gone: draining")
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(min(self.options.shutdown + KILL_AFTER, LONGEST_SLEEP))
        os._exit(ExitCode.LEFT_BEHIND)  # nobody is left who would end a process that hangs


@attrs.frozen
class HealthJob:
    """
    Answers for all workers, from the health files that they write. A process of its own: their parent has no threads.
    """

    folder: str
    options: RunOptions
    default_level: Optional[int]

    def file(self, index: int) -> str:
        """
        Return the health file of a worker.
        """
        return os.path.join(self.folder, f"worker-{index}")

    def expect(self, index: int) -> None:
        """
        In the parent: a worker is to come, and the one before it, if any, is gone.

        It is not ready; that it is not live either a probe is told only if it takes long (``MAX_AGE``), so that workers
        that are renewed do not cost the life of all.
        """
        report = Report(live=True, ready=False, problems=(f"worker {index} is about to start",))
        with suppress(OSError):  # a full disk: the old one is believed no longer than MAX_AGE
            write_file(self.file(index), report)

    def retire(self, index: int) -> None:
        """
        In the parent: a worker has ended and none follows.
        """
        with suppress(OSError), open(f"{self.file(index)}.ended", "w", encoding="utf-8"):
            pass

    def report(self) -> Report:
        """
        Return the health of all workers that have not ended for good.

        One that leaves removes its file before its parent notices: like one that is about to start it is not ready, and
        must not cost the life of all. Where the folder is gone nobody can say anything any more.
        """
        files = [self.file(index) for index in range(self.options.processes)]
        expected = [file for file in files if not os.path.exists(f"{file}.ended")]
        is_there = os.path.isdir(self.folder)
        return merge(read_file(file, missing_ok=is_there) for file in expected)

    def run(self, line: ParentLine) -> int:
        """
        Answer until the parent says enough, or there is none any more.
        """
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # those who signal all processes do not mean this one: it goes last
        unblock_signals(signals)
        handler = LogHandler(self.options.level, self.default_level)
        try:
            self._serve(line)
        except ConfigurationError as error:
            say(f"broadway-sync: {error}")
            return ExitCode.CANNOT_START
        finally:
            handler.remove()
        return ExitCode.DRAINED

    def _serve(self, line: ParentLine) -> None:
        options, servers = self.options, []
        if options.health_port is not None:
            servers.append(HealthServer(self.report, options.health_port, options.health_host))
        self._write_first()
        for server in servers:
            server.start()
        line.say_ready()
        is_failing = False
        while not select.select([line.orders], [], [], HEALTH_INTERVAL)[0]:
            is_failing = self._write_again(is_failing)
        if not line.next_order():
            self._outlive_workers()
        if options.health_file is not None:
            remove_file(options.health_file)

    def _outlive_workers(self) -> None:
        """
        The parent is gone, and the workers drain: answer for them until the last one has removed its file.
        """
        deadline = monotonic() + self.options.shutdown + KILL_AFTER
        while monotonic() < deadline and self._has_reports():
            sleep(HEALTH_INTERVAL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _has_reports(self) -> bool:
        """
        Whether a worker reports. What :meth:`expect` wrote is of none, and stays when the parent dies before it starts.
        """
        return any(read_file(self.file(index)).pid is not None for index in range(self.options.processes))

    def _write_first(self) -> None:
        try:
            self._write()
        except OSError as error:
            raise ConfigurationError(f"health_file: cannot write {self.options.health_file}: {error}") from error

    def _write_again(self, was_failing: bool) -> bool:
        """
        Write the file; return whether that failed. Said once, and no reason to end: a disk that is full has room again
        some time, and those who ask the port get their answer.
        """
        try:
            self._write()
        except OSError as error:
            if not was_failing:
                logger.error("cannot write %s, it is tried again: %s", self.options.health_file, error)
            return True
        return False

    def _write(self) -> None:
        if self.options.health_file is not None:
            write_file(self.options.health_file, self.report())
