"""
The runner's log, and where it goes when the program says nothing about that.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any, List, Optional


class _Log:
    """
    The runner's logger. What handlers and filters of the program raise stays here: it must neither keep a process from
    its drain nor change how it ends.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def log(self, level: int, text: str, *args: object, exc_info: Optional[BaseException] = None) -> None:
        """
        Log, or do not. No ``BaseException``: a signal may stop it.
        """
        with suppress(Exception):
            self._logger.log(level, text, *args, exc_info=exc_info)

    def info(self, text: str, *args: object) -> None:
        """
        Log what goes as it should.
        """
        self.log(logging.INFO, text, *args)

    def warning(self, text: str, *args: object) -> None:
        """
        Log what should be looked at.
        """
        self.log(logging.WARNING, text, *args)

    def error(self, text: str, *args: object, exc_info: Optional[BaseException] = None) -> None:
        """
        Log what went wrong.
        """
        self.log(logging.ERROR, text, *args, exc_info=exc_info)


logger = _Log(logging.getLogger("broadway_sync.runner"))

FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def say(text: str) -> None:
    """
    Write a line to stderr, if there is one.
    """
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # closed, or None


def show(text: str) -> bool:
    """
    Write *text* to stdout; return False, and say why, if that cannot be done. Who reads no further, such as ``head``,
    has seen enough.
    """
    if sys.stdout is None:  # closed before the start
        return False
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:
        say(f"broadway-sync: cannot write to stdout: {error}")
        return False
    return True


def flush_streams() -> List[Any]:
    """
    Write what is in the buffers of stdout and stderr; return those that keep it, as it cannot be written.
    """
    failing = []
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # who read it is gone, a disk is full, it is closed
            failing.append(stream)
    return failing


def finish_streams() -> None:
    """
    At the end of a process: lose what cannot be written. The interpreter would try once more, fail, and turn the exit
    code into 120.
    """
    for stream in flush_streams():
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _enable() -> None:
    """
    Let the library log again. ``logging.config`` disables the loggers that exist already, unless told otherwise, and
    when the program's module configures logging the runner's exist; nobody means to lose why a pipeline gave up.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "broadway_sync":
            logging.getLogger(name).disabled = False


class LogHandler:
    """
    Writes to stderr what nobody else would write. Made after the program had its chance to configure logging.

    Args:
        level: What the user asked for, None if nothing: then the program's configuration is left as it is.
        default: The level of the root logger if neither the user nor the program says anything; None: only the
            library's own records are shown.
    """

    def __init__(self, level: Optional[int], default: Optional[int]) -> None:
        _enable()
        root = logging.getLogger()
        level = default if level is None and not root.handlers else level
        # Without a level the root logger is left alone: a handler there would show twice what others show already.
        self._logger = logging.getLogger("broadway_sync") if level is None else root
        self._handler: Optional[logging.Handler] = None
        if not self._logger.hasHandlers():
            self._handler = logging.StreamHandler()
            self._handler.setFormatter(logging.Formatter(FORMAT))
            self._logger.addHandler(self._handler)
        self._previous = self._logger.level
        if level is not None or self._handler is not None:
            self._logger.setLevel(logging.INFO if level is None else level)

    def remove(self) -> None:
        """
        Put back what it was.
        """
        self._logger.setLevel(self._previous)
        if self._handler is not None:
            self._logger.removeHandler(self._handler)
            self._handler = None
