"""
``manage.py runpipeline NAME ...``: ``broadway-sync run`` for the pipelines of ``BROADWAY_PIPELINES``.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, List

from django.core.management.base import BaseCommand, CommandError, SystemCheckError
from django.db import connections

from .....errors import ConfigurationError
from .....pipeline import Pipeline
from .....runner import ExitCode, RunOptions, add_run_arguments, leave, run
from .....runner.targets import Target, load
from ...checks import check_threads
from ...pipelines import SETTING, find_target, pipeline_targets


class Command(BaseCommand):  # type: ignore[misc]
    """
    Runs pipelines until they end or a signal comes; the exit code is the runner's.
    """

    help = (
        f"Runs pipelines of {SETTING} until they end or a signal comes. SIGTERM and SIGINT drain, a second one stops "
        "at once. Exit codes: 0 drained, 1 messages were left behind, 2 nothing could be started, 3 a pipeline gave up."
    )

    def add_arguments(self, parser: Any) -> None:
        """
        Add the names, and the options that ``broadway-sync run`` has.
        """
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"pipelines of {SETTING}, all in one process")
        parser.add_argument("--all", action="store_true", dest="all_names", help=f"all pipelines of {SETTING}")
        parser.add_argument("--list", action="store_true", dest="lists", help="list the names, and run nothing")
        add_run_arguments(parser)

    def run_from_argv(self, argv: List[str]) -> None:
        """
        Run as a process, which also ends when a thread that was given up would keep it; ``call_command`` does not.
        """
        try:
            super().run_from_argv(argv)
        except SystemExit as error:
            if not isinstance(error.code, int):
                raise
            leave(error.code)

    def check(self, *args: Any, **options: Any) -> None:
        """
        Run the system checks, as every command does first; what fails them cannot be started.
        """
        try:
            super().check(*args, **options)
        except SystemCheckError as error:
            error.returncode = ExitCode.CANNOT_START
            raise

    def handle(self, *args: Any, **options: Any) -> None:
        """
        Run them.

        Raises:
            CommandError: A name or an option is wrong.
            SystemExit: With the runner's code, when that is not 0; always in a worker of ``--processes``.
        """
        try:
            if options["lists"]:
                self._list()
                return
            targets = [self._checked(name, find_target(name)) for name in _chosen(options)]
            run_options = RunOptions.from_arguments(options)
        except ConfigurationError as error:
            raise CommandError(str(error), returncode=ExitCode.CANNOT_START) from error
        if run_options.processes > 1:
            _close_before_fork()
        code = run(targets, run_options, default_level="info")
        if code != ExitCode.DRAINED:
            sys.exit(code)

    def _list(self) -> None:
        for name, target in pipeline_targets().items():
            self.stdout.write(f"{name}  {target if isinstance(target, str) else repr(target)}")

    def _checked(self, name: str, target: Target) -> Callable[[], Pipeline]:
        """
        Return *target* as a function that also says what the system checks have against the pipeline.
        """

        def make() -> Pipeline:
            pipeline = load(target)
            for message in check_threads(name, pipeline):
                if not message.is_silenced():
                    self.stderr.write(str(message), self.style.WARNING)
            return pipeline

        return make


def _chosen(options: Any) -> List[str]:
    known = list(pipeline_targets())
    if options["names"] and options["all_names"]:
        raise ConfigurationError("--all and names: give one or the other")
    if not known:
        raise ConfigurationError(f"{SETTING} has no pipelines, expected names and paths of some in the settings")
    chosen = known if options["all_names"] else list(dict.fromkeys(options["names"]))
    if not chosen:
        raise ConfigurationError(f"which pipeline? {SETTING} has: {', '.join(known)}; name some, or --all")
    return chosen


def _close_before_fork() -> None:
    """
    Close what system checks or the project have opened: workers must not share a connection, nor fork a pool's threads.
    """
    for connection in connections.all():
        connection.close()
        if hasattr(connection, "close_pool"):  # Django 5.1 and later, with pools
            connection.close_pool()
