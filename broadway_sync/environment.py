"""
What in a process keeps threads from running as a pipeline needs them: uWSGI's master, uWSGI without threads, gevent,
eventlet.

Nothing is imported for it: who is not in ``sys.modules`` is not at work in this process.
"""

from __future__ import annotations

import os
import sys
from queue import SimpleQueue
from typing import Any, Optional

from .errors import ConfigurationError
from .log import log_warning

HOWTO = 'see "Use a pipeline in a web process" in the manual'

# Pipelines warn of a patched process once, not at each start. Races are harmless: two warnings.
_has_warned = False


def check(pipeline: str) -> None:
    """
    Look whether a pipeline can run in this process; warn, once in a process, if it runs on greenlets.

    Args:
        pipeline: Its name, for the text.

    Raises:
        ConfigurationError: It would never run, or hang; the text names the cure.
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        _check_uwsgi(pipeline, uwsgi)
    patcher = patched_by()
    if patcher is not None:
        _check_patched(pipeline, patcher)


def _check_uwsgi(pipeline: str, uwsgi: Any) -> None:
    if _has_no_threads(uwsgi):
        raise ConfigurationError(
            f"pipeline {pipeline!r} cannot run in this uWSGI process: its Python threads are switched off, so that no "
            f"thread of a pipeline runs between two requests; set `enable-threads = true`, {HOWTO}"
        )
    if _call(uwsgi, "masterpid") == os.getpid():
        raise ConfigurationError(
            f"pipeline {pipeline!r} was about to start in uWSGI's master: threads do not survive the fork, no worker "
            "would have it. Set `lazy-apps = true`, so that each worker loads the application itself, or start it in a "
            f"function decorated with uwsgidecorators.postfork; {HOWTO}"
        )


def _has_no_threads(uwsgi: Any) -> bool:
    """
    Whether uWSGI keeps the interpreter to itself between requests. Versions after 2.0.26 never do.
    """
    return getattr(uwsgi, "has_threads", 1) == 0


def _call(uwsgi: Any, name: str) -> Any:
    """
    Return what a function of the ``uwsgi`` module returns; None if that is some other module of the same name.
    """
    function = getattr(uwsgi, name, None)
    return function() if callable(function) else None


def patched_by() -> Optional[str]:
    """
    Return who has replaced the threads of this process by greenlets: ``"gevent"``, ``"eventlet"`` or None.
    """
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


def _check_patched(pipeline: str, patcher: str) -> None:
    """
    Greenlets take turns when they wait in a patched module. A queue written in C is none: the first stage that waits on
    one stops its whole process.
    """
    if SimpleQueue.__module__ == "_queue":
        raise ConfigurationError(
            f"pipeline {pipeline!r} cannot run in this process: {patcher} has patched it after broadway_sync was "
            f"imported, or without its queues. Patch first, before anything else is imported; {HOWTO}"
        )
    global _has_warned
    if not _has_warned:
        _has_warned = True
        text = (
            f"{patcher} has replaced the threads of this process: stages are greenlets that take turns on one thread. "
            "A callback that computes, or waits in a library written in C, stops all of them, and the requests that "
            f"this process serves; {HOWTO}"
        )
        log_warning(text, pipeline, pipeline)
