"""
What a pipeline does besides handling messages: what it logs and emits, which threads and sockets it leaves behind.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import traceback
from types import TracebackType
from typing import Any, Iterable, Iterator, List, Optional, Sequence, Tuple, Type

from .. import telemetry
from ..connectors.common.events import METADATA as CONNECTOR_EVENTS
from ..telemetry.events import METADATA as PIPELINE_EVENTS

Event = Tuple[str, ...]


class Watcher(logging.Handler):
    """
    Collects, inside ``with``, what is logged and emitted as telemetry in this process.

    Log records of this library and of *loggers* are collected from DEBUG on, those of everybody else from WARNING on:
    what a program shows that configures nothing.

    Args:
        loggers: Names of further loggers, such as that of a connector's package.
        events: Further telemetry events.
    """

    def __init__(self, loggers: Iterable[str] = (), events: Iterable[Event] = ()) -> None:
        super().__init__(logging.DEBUG)
        self.records: List[logging.LogRecord] = []
        """What was logged, in order."""
        self.emitted: List[Tuple[Event, Any, Any]] = []
        """``(event, measurements, metadata)``, in order."""
        self._loggers = [logging.getLogger(name) for name in ("broadway_sync", *loggers)]
        self._levels: List[int] = []
        self._events = [*PIPELINE_EVENTS, *CONNECTOR_EVENTS, *events]

    def emit(self, record: logging.LogRecord) -> None:
        """
        Collect one record. Called by logging.
        """
        if record.levelno >= logging.WARNING or any(_is_below(record.name, logger.name) for logger in self._loggers):
            self.records.append(record)

    def __enter__(self) -> Watcher:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.DEBUG)
        logging.getLogger().addHandler(self)
        telemetry.attach_many(self, self._events, self._collect)
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        stack: Optional[TracebackType],
    ) -> None:
        telemetry.detach(self)
        logging.getLogger().removeHandler(self)
        for logger, level in zip(self._loggers, self._levels):
            logger.setLevel(level)

    def _collect(self, event: Event, measurements: Any, metadata: Any, config: Any) -> None:
        self.emitted.append((event, measurements, metadata))

    def complaints(self) -> List[str]:
        """
        Return what this library and the connector's loggers said at WARNING and above.
        """
        return [
            record.getMessage()
            for record in list(self.records)
            if record.levelno >= logging.WARNING and any(_is_below(record.name, each.name) for each in self._loggers)
        ]

    def texts(self) -> Iterator[Tuple[str, str]]:
        """
        Yield everything as text: where it was seen, and what it says.
        """
        for record in list(self.records):
            yield f"a record of the logger {record.name!r}", _format(record)
        for event, measurements, metadata in list(self.emitted):
            yield f"the telemetry event {event!r}", f"{measurements!r} {metadata!r}"


def _is_below(name: str, logger: str) -> bool:
    return name == logger or name.startswith(f"{logger}.")


def _format(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info))
    return text


class Inventory:
    """
    The threads and sockets of this process at one moment, to compare with later ones.

    Args:
        ignored_threads: Beginnings of the names of threads that do not count, such as those of a client library's pool
            that lives as long as the process.
    """

    def __init__(self, ignored_threads: Sequence[str] = ()) -> None:
        self._ignored = tuple(ignored_threads)
        self._before = set(threading.enumerate())
        self._sockets = count_sockets()

    def new_threads(self) -> List[str]:
        """
        Return the names of the threads that are alive and were not there before.
        """
        found = [thread for thread in threading.enumerate() if thread not in self._before and thread.is_alive()]
        return sorted(thread.name for thread in found if not thread.name.startswith(self._ignored))

    def new_sockets(self) -> int:
        """
        Return how many sockets are open beyond those that were; 0 where one cannot tell.
        """
        return max(0, count_sockets() - self._sockets)


def count_sockets() -> int:
    """
    Return how many sockets this process has open; 0 where the system does not say (anywhere but on Linux).
    """
    gc.collect()  # what nobody refers to any more is closed, not leaked
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return 0
    return sum(_is_socket(descriptor) for descriptor in descriptors)


def _is_socket(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:  # closed meanwhile
        return False
