"""
The runner's log, and where it goes when the program says nothing about that.
"""

from __future__ import annotations

import logging
import sys
from typing import Optional

logger = logging.getLogger("broadway_sync.runner")

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


class LogHandler:
    """
    Writes to stderr what nobody else would write. Made after the program had its chance to configure logging.

    Args:
        level: What the user asked for, None if nothing: then the program's configuration is left as it is.
        default: The level of the root logger if neither the user nor the program says anything; None: only the
            library's own records are shown.
    """

    def __init__(self, level: Optional[int], default: Optional[int]) -> None:
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
