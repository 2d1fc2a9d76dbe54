"""
Runs pipelines until they end or a signal comes, in this process or in several; what every command calls.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from time import sleep
from typing import NoReturn, Optional

from .exit_codes import ExitCode
from .logs import finish_streams, flush_streams, logger
from .options import RunOptions
from .reload import start_afresh
from .restarts import counts_as
from .service import Service
from .signals import STOP_SIGNALS, check_main_thread
from .targets import Targets, listed
from .workers import Workers

# Seconds that an interpreter gets which waits for threads of others, before it is left all the same.
PATIENCE = 10.0
PATIENCE_LEFT_BEHIND = 1.5

# Seconds to say so, before it is left without a word: who reads stderr or stdout may hang, too.
LAST_WORDS = 1.0

_MAIN = threading.main_thread()


def run(targets: Targets, options: Optional[RunOptions] = None, *, default_level: Optional[str] = None) -> int:
    """
    Run pipelines until they end or a signal comes; return the exit code, an :class:`ExitCode`.

    On the main thread. SIGTERM and SIGINT drain, a second one stops at once; handlers of signals are restored at the
    end. What is wrong with a target is written to stderr, everything else is logged. With :func:`leave` it makes a
    command::

        leave(run("shop.orders:pipeline", RunOptions(processes=4)))

    With several processes this one starts no pipeline, imports nothing, and should have no threads: it forks. In the
    workers ``run`` does not return: they leave by ``SystemExit``.

    Args:
        targets: One or several: ``"package.module:name"``, a pipeline, or a function without arguments that returns
            one. With several processes better no pipelines: functions are called in each worker.
        options: How; default: all defaults.
        default_level: What is logged if neither *options* nor the program say.

    Raises:
        RuntimeError: This is not the main thread.
        ConfigurationError: *options* cannot be had on this system.
    """
    check_main_thread()
    options = options or RunOptions()
    level = None if default_level is None else int(getattr(logging, default_level.upper()))
    if options.processes > 1:
        code, birth = Workers(listed(targets), options, level).run()
        if birth is None:
            return code
        job, line = birth
        leave(job.run(line))
    service = Service(listed(targets), options, level)
    code = service.run()
    if service.is_changed and not service.is_signalled:  # who ends it in the meantime means the end
        start_afresh(service.folder)
    return code


def leave(code: int) -> NoReturn:
    """
    Exit with *code*, also if a thread keeps the interpreter from ending.

    Threads that are no daemons have ten seconds when all was drained; 1.5 when something was left behind, which may be
    what they wait for.
    """
    for number in STOP_SIGNALS if threading.current_thread() is _MAIN else ():
        signal.signal(number, signal.SIG_IGN)  # would kill it in the middle of what it does at its exit
    patience = PATIENCE if counts_as(code) == ExitCode.DRAINED else PATIENCE_LEFT_BEHIND
    # Two, made now: one may hang in saying why it leaves, and an interpreter that ends starts no more.
    for target, seconds in ((_leave_anyway, patience), (_leave_silently, patience + LAST_WORDS)):
        threading.Thread(target=target, args=(code, seconds), name="broadway_sync.exit", daemon=True).start()
    finish_streams()
    sys.exit(code)


def _leave_anyway(code: int, patience: float) -> None:
    sleep(patience)
    names = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not _MAIN]
    what = f"threads have not ended: {', '.join(names)}" if names else "what runs at the exit has not ended"
    logger.error("leaving although %s", what)
    logging.shutdown()
    flush_streams()
    os._exit(code)


def _leave_silently(code: int, patience: float) -> None:
    sleep(patience)
    os._exit(code)
