"""
How this library logs: under ``broadway_sync``, one record a failure, with the fields ``pipeline`` and ``stage``.

No handler is ever configured here. Whatever a log handler or an object's ``repr`` raises stays here too: a
pipeline must survive its logging.
"""

from __future__ import annotations

import logging
import reprlib
from typing import Any, Optional

logger = logging.getLogger("broadway_sync")

_short = reprlib.Repr()
_short.maxother = _short.maxstring = 200


def safe_repr(value: Any) -> str:
    """
    Return a short ``repr`` of *value*, a substitute if that raises.
    """
    try:
        return _short.repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def log_error(text: str, error: Optional[BaseException], pipeline: str, stage: str) -> None:
    """
    Log one failure of *stage*, with the traceback of *error*.
    """
    _log(logging.ERROR, text, error, pipeline, stage)


def log_warning(text: str, pipeline: str, stage: str) -> None:
    """
    Log what is no failure yet but should be looked at.
    """
    _log(logging.WARNING, text, None, pipeline, stage)


def log_info(text: str, pipeline: str, stage: str) -> None:
    """
    Log a change for the better.
    """
    _log(logging.INFO, text, None, pipeline, stage)


def _log(level: int, text: str, error: Optional[BaseException], pipeline: str, stage: str) -> None:
    try:
        if logger.isEnabledFor(level):
            # Made here and not by Logger.log, which walks the stack for a caller that is always this file: it is
            # the greater part of what a failing message costs.
            exc_info = None if error is None else (type(error), error, error.__traceback__)
            fields = {"pipeline": pipeline, "stage": stage}
            record = logger.makeRecord(
                logger.name, level, __file__, 0, "[%s] %s", (stage, text), exc_info, "_log", fields, None
            )
            logger.handle(record)
    except BaseException:  # a log handler that raises has no one left to tell
        pass
