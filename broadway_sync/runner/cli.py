"""
The command ``broadway-sync``.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import List, Optional

from ..errors import BroadwayError
from . import health_file
from .check import check as check_targets
from .endpoint import NoAnswerError, ask
from .exit_codes import ExitCode
from .logs import finish_streams, say, show
from .options import RunOptions, add_run_arguments
from .run import leave, run
from .targets import add_current_directory

_TARGET = "package.module:name of a Pipeline, or of a function without arguments that returns one"


def main(arguments: Optional[List[str]] = None) -> None:
    """
    Do what the command line says, and exit.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["health"]:  # has a parser of its own
        code = health_file.main(arguments[1:])
        finish_streams()
        sys.exit(code)
    parsed = _parser().parse_args(arguments)
    add_current_directory()
    try:
        code = parsed.command(parsed)
    except BroadwayError as error:
        say(f"broadway-sync: {error}")
        code = ExitCode.CANNOT_START
    leave(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="broadway-sync", description="Run pipelines, check them, look into them.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="run pipelines until they end or a signal comes"))
    check = commands.add_parser("check", help="validate pipelines and draw them; starts nothing")
    check.add_argument("targets", nargs="+", metavar="TARGET", help=_TARGET)
    check.set_defaults(command=lambda arguments: check_targets(arguments.targets))
    dump = commands.add_parser("dump", help="print stages, queues and stacks of a running process")
    dump.add_argument("pid", type=int, metavar="PID", help="of `broadway-sync run`, or of one of its workers")
    dump.set_defaults(command=_dump)
    commands.add_parser("health", help="read health files, for probes", add_help=False)
    return parser


def _version() -> str:
    try:
        return version("broadway_sync")
    except PackageNotFoundError:  # run from a tree that was never installed
        return "of an unknown version"


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit codes: 0 drained, 1 messages were left behind, 2 cannot start, 3 a pipeline gave up. "
        "SIGTERM and SIGINT drain, a second one stops at once; SIGUSR1 writes a dump to stderr."
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=_TARGET)
    add_run_arguments(parser)
    parser.set_defaults(command=_run)


def _dump(arguments: argparse.Namespace) -> int:
    """
    Print the dump of a process, then of those that it names.
    """
    text, workers = ask(arguments.pid)
    shown = [show(text), *(show(f"\n{_dump_of_worker(pid)}") for pid in workers)]
    return ExitCode.DRAINED if all(shown) else ExitCode.CANNOT_START


def _dump_of_worker(pid: int) -> str:
    try:
        return ask(pid)[0]
    except NoAnswerError as error:  # it ended meanwhile, or has only just begun
        return f"{error}\n"


def _run(arguments: argparse.Namespace) -> int:
    return run(arguments.targets, RunOptions.from_arguments(arguments), default_level="info")
