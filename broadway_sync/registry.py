"""
The running pipelines of this process: their names, and what happens to them at a fork and at the end.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see below
import os
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, Dict, List

from .errors import AlreadyStartedError, NotRunningError
from .log import log_error
from .telemetry import registry as telemetry_registry

if TYPE_CHECKING:
    from .pipeline import Pipeline

# Guards _running. Innermost.
_lock = threading.Lock()
_running: Dict[str, Pipeline] = {}

fork_aware: weakref.WeakSet[Any] = weakref.WeakSet()
"""Objects with ``after_fork_in_child()``: they hold locks, or threads, that a child does not have."""

# The process that this module's state belongs to.
_pid = os.getpid()
# Pipelines that ran at a fork, and were not started in this process since: where they had been started.
_ran_before: Dict[str, int] = {}
# Guards the three of a fork. Outermost; reentrant, because what is called while it is held looks for forks too.
_fork_lock = threading.RLock()
_is_noticing = False


def register(pipeline: Pipeline) -> None:
    """
    Take the pipeline's name.

    Raises:
        AlreadyStartedError: Another running pipeline has it.
    """
    notice_fork()
    with _lock:
        if pipeline.name in _running:
            raise AlreadyStartedError(f"a pipeline named {pipeline.name!r} runs in this process already")
        _running[pipeline.name] = pipeline
        _ran_before.pop(pipeline.name, None)


def unregister(pipeline: Pipeline) -> None:
    """
    Free the pipeline's name.
    """
    with _lock:
        if _running.get(pipeline.name) is pipeline:
            del _running[pipeline.name]


def all_running() -> List[str]:
    """
    Return the names of the pipelines that run in this process.
    """
    notice_fork()
    with _lock:
        return list(_running)


def get_pipeline(name: str) -> Pipeline:
    """
    Return the running pipeline of that name.

    Raises:
        NotRunningError: There is none in this process.
    """
    notice_fork()
    with _lock:
        pipeline = _running.get(name)
        started_in = _ran_before.get(name)
    if started_in is not None:
        raise started_before_fork(f"pipeline {name!r}", started_in)
    if pipeline is None:
        raise NotRunningError(f"no pipeline named {name!r} runs in this process")
    return pipeline


def started_before_fork(what: str, pid: int) -> NotRunningError:
    """
    Return the error for *what* was started in the process *pid*, and is needed in a child of it.
    """
    return NotRunningError(
        f"{what} was started in process {pid}, before the fork that made this one ({os.getpid()}): threads do not "
        "survive a fork, so it does not run here. Start it after the fork: with gunicorn in the hook post_fork or "
        "post_worker_init, with uWSGI by `lazy-apps = true` or in a function decorated with uwsgidecorators.postfork"
    )


def _drain_all() -> None:
    """
    At the end of the interpreter: drain what runs, all at once, each within its own ``shutdown``.
    """
    notice_fork()
    with _lock:
        pipelines = list(_running.values())
    for pipeline in pipelines:
        pipeline.request_stop()
    started = monotonic()
    for pipeline in pipelines:
        try:
            pipeline.join(max(0.0, pipeline.shutdown + 1.0 - (monotonic() - started)))
        except Exception as error:  # the interpreter ends: there is nobody to raise to
            log_error("the pipeline failed at the end of the interpreter", error, pipeline.name, pipeline.name)


def notice_fork() -> None:
    """
    Do what has to be done in a forked child, unless it was: called first by all that use what a fork invalidates.

    Python itself calls :func:`_after_fork`, but not in children that are forked behind its back, as uWSGI's workers.
    """
    if os.getpid() != _pid:
        with _fork_lock:
            if os.getpid() != _pid and not _is_noticing:
                _after_fork_in_child()


def _after_fork_in_child() -> None:
    """
    A forked child has none of the threads: forget the pipelines, and renew locks that a thread may have held.
    """
    global _lock, _pid, _is_noticing
    _is_noticing = True
    try:
        _lock = threading.Lock()
        _ran_before.update(dict.fromkeys(_running, _pid))
        _running.clear()
        telemetry_registry._renew_lock()
        for item in list(fork_aware):
            item.after_fork_in_child()
    finally:
        _pid = os.getpid()  # last: other threads that notice the fork wait until all is as it should be
        _is_noticing = False


def _after_fork() -> None:
    """
    In a child that Python made. There are no other threads; one of the parent may have held the lock.
    """
    global _fork_lock
    _fork_lock = threading.RLock()
    _after_fork_in_child()


# threading._register_atexit runs before the interpreter waits for non-daemon threads, which may be a client
# library's that end only with the pipeline. The last one registered runs first: executors, which handlers may use, are
# shut down the same way, so their module has to be imported before. It is private, and missing in 3.8: atexit is good
# enough then.
getattr(threading, "_register_atexit", atexit.register)(_drain_all)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
