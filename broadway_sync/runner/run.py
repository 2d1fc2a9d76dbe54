"""
Runs pipelines until they end or a signal comes, in this process or in several; what every command calls.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from time import sleep
from typing import NoReturn, Optional

from .exit_codes import ExitCode
from .options import RunOptions
from .reload import start_afresh
from .service import Service
from .targets import Targets, listed
from .workers import Workers

# What an interpreter that hangs on threads of others gets before it is left all the same.
EXIT_GRACE = 1.5


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
    if service.is_changed:
        start_afresh()
    return code


def leave(code: int) -> NoReturn:
    """
    Exit with *code*; also if a thread that was given up would keep the interpreter from ending, after 1.5 seconds.
    """
    if code != ExitCode.DRAINED:
        threading.Thread(target=_leave_anyway, args=(code,), name="broadway_sync.exit", daemon=True).start()
    sys.exit(code)


def _leave_anyway(code: int) -> None:
    sleep(EXIT_GRACE)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
