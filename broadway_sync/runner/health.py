"""
Health for the world outside: an HTTP server for probes, a health file, and the log of stalls.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

from .. import registry, telemetry
from ..errors import NotRunningError
from ..health import Health, assess
from ..log import log_error
from ..pipeline import Pipeline
from ..rules import is_seconds, mistake
from ..telemetry.events import TOPOLOGY_INIT
from .connections import Connections
from .health_file import remove_file, write_file
from .health_report import Report, make_report
from .health_server import HealthServer
from .stall_log import StallLog

THREAD = "broadway_sync.health.watcher"

# Seconds that the watcher has to end: it may be writing to a disk that hangs.
_PATIENCE = 5.0


class HealthMonitor:
    """
    Watches pipelines of this process from :meth:`start` to :meth:`stop`; a context manager.

    Start it before the pipelines, so that it hears what connectors say of their first connection, and after a fork.
    It can be started once. Thread-safe.

    Args:
        pipelines: A pipeline, or several; None watches whatever runs in this process: those that are started later
            too, and those that failed until one of their name is started again.
        stall_after: See :meth:`broadway_sync.Pipeline.health`.
        port: For the HTTP server (:class:`HealthServer`), 0 picks a free one; None: no server.
        host: Address that the server listens on.
        file: Path of a health file; None: no file. It is written every *interval*, and removed by :meth:`stop`.
        interval: Seconds, > 0, between two looks.

    Raises:
        ConfigurationError: An argument is none of these, or two pipelines have the same name.
    """

    def __init__(
        self,
        pipelines: Union[Pipeline, Iterable[Pipeline], None] = None,
        *,
        stall_after: float = 60.0,
        port: Optional[int] = None,
        host: str = "127.0.0.1",
        file: Union[str, os.PathLike[str], None] = None,
        interval: float = 2.0,
    ) -> None:
        for name, value in (("stall_after", stall_after), ("interval", interval)):
            if not is_seconds(value) or value <= 0:
                raise mistake(name, f"expected a finite number of seconds > 0, got: {value!r}")
        self._pipelines = _Watched(pipelines)
        self._stall_after = stall_after
        self._interval = min(interval, threading.TIMEOUT_MAX)
        self._address = (port, host)
        self._file = None if file is None else os.path.abspath(os.fspath(file))
        self._connections = Connections()
        self._stalls = StallLog()
        self._server: Optional[HealthServer] = None
        self._is_failing = False
        # Guards the two below. Held while start() and stop() work; never by the watcher.
        self._lock = threading.Lock()
        self._was_started = False
        self._undo = ExitStack()
        self._ending = threading.Event()
        registry.fork_aware.add(self)

    def start(self) -> HealthMonitor:
        """
        Open the port, write the file for the first time, begin to watch.

        Raises:
            ConfigurationError: The port cannot be opened, or the file cannot be written; nothing is left open.
            RuntimeError: It was started before.
        """
        with self._lock:
            if self._was_started:
                raise RuntimeError("a HealthMonitor can be started once")
            self._was_started = True
            with ExitStack() as undo:
                self._start(undo)
                self._undo = undo.pop_all()
        return self

    def _start(self, undo: ExitStack) -> None:
        undo.callback(self._pipelines.clear)
        self._connections.attach()
        undo.callback(self._connections.detach)
        self._pipelines.attach()
        port, host = self._address
        if port is not None:
            self._server = HealthServer(self.report, port, host)
            undo.callback(self._server.stop)
        if self._file is not None:
            self._write_first(self._file)
            undo.callback(remove_file, self._file)
        watcher = threading.Thread(target=self._watch, name=THREAD, daemon=True)
        watcher.start()
        undo.callback(_join, watcher)
        undo.callback(self._ending.set)
        if self._server is not None:
            self._server.start()

    def stop(self) -> None:
        """
        Close the port, remove the file, end the threads, let go of the pipelines. Idempotent.
        """
        with self._lock:
            self._undo.close()

    def __enter__(self) -> HealthMonitor:
        return self.start()

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()

    @property
    def port(self) -> Optional[int]:
        """
        The port that the server listens on; None before :meth:`start`, and without a server.
        """
        return None if self._server is None else self._server.port

    def report(self) -> Report:
        """
        Return how the pipelines do now. Any thread.
        """
        return make_report([health for _, health in self._look()], self._connections.down())

    def _look(self) -> List[Tuple[Pipeline, Health]]:
        pipelines = self._pipelines.current()
        return [(pipeline, assess(pipeline.statistics(), self._stall_after)) for pipeline in pipelines]

    def _write_first(self, file: str) -> None:
        try:
            write_file(file, self.report())
        except OSError as error:
            raise mistake("health_file", f"cannot write {file}: {error}") from error

    # On the watcher's thread.

    def _watch(self) -> None:
        while not self._ending.wait(self._interval):
            try:
                self._watch_once()
                self._is_failing = False
            except Exception as error:  # a full disk, a log handler: the next look may succeed
                if not self._is_failing:
                    log_error("watching the health failed; it goes on", error, "", THREAD)
                self._is_failing = True

    def _watch_once(self) -> None:
        looks = self._look()
        self._stalls.look_at(looks)
        if self._file is not None:
            write_file(self._file, make_report([health for _, health in looks], self._connections.down()))

    def after_fork_in_child(self) -> None:
        """
        In a forked child: nobody watches here; port and file are the parent's.
        """
        self._lock = threading.Lock()
        self._undo = ExitStack()
        if self._server is not None:
            self._server.forget()
        self._connections.after_fork_in_child()
        self._pipelines.after_fork_in_child()


class _Watched:
    """
    The pipelines to watch: those that were given, or whatever runs.
    """

    def __init__(self, given: Union[Pipeline, Iterable[Pipeline], None]) -> None:
        self._is_given = given is not None
        # Guards _pipelines. Innermost.
        self._lock = threading.Lock()
        self._pipelines: Dict[str, Pipeline] = {}
        for pipeline in [given] if isinstance(given, Pipeline) else given or ():
            if not isinstance(pipeline, Pipeline):
                raise mistake("pipelines", f"expected Pipeline objects, got: {pipeline!r}")
            if self._pipelines.setdefault(pipeline.name, pipeline) is not pipeline:
                raise mistake("pipelines", f"there are two named {pipeline.name!r}")

    def attach(self) -> None:
        """
        Hear of each pipeline that starts, so that none can start and fail unseen between two looks.
        """
        if not self._is_given:
            telemetry.attach(self, TOPOLOGY_INIT, lambda event, measurements, metadata, config: self.current())

    def clear(self) -> None:
        """
        Hear no more, and let go of all pipelines.
        """
        with suppress(LookupError):
            telemetry.detach(self)
        with self._lock:
            self._pipelines.clear()

    def current(self) -> List[Pipeline]:
        """
        Return those to look at now.
        """
        running = [] if self._is_given else _running()
        with self._lock:
            if not self._is_given:
                kept = {name: each for name, each in self._pipelines.items() if each.state not in ("new", "stopped")}
                self._pipelines = {**kept, **{pipeline.name: pipeline for pipeline in running}}
            return list(self._pipelines.values())

    def after_fork_in_child(self) -> None:
        """
        In a forked child: a thread of the parent may have held the lock.
        """
        self._lock = threading.Lock()
        self.clear()


def _running() -> List[Pipeline]:
    """
    Return what runs in this process.
    """
    found = []
    for name in registry.all_running():
        with suppress(NotRunningError):  # it ended just now
            found.append(registry.get_pipeline(name))
    return found


def _join(thread: threading.Thread) -> None:
    """
    Wait for the watcher, not for ever; not at all on its own thread, where a log handler may call ``stop()``.
    """
    if thread is not threading.current_thread():
        thread.join(_PATIENCE)
