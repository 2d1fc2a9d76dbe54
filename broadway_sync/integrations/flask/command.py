"""
``flask broadway``: the runner's options as click's, on the pipelines of the application.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Callable, List, Tuple

import click
from flask.cli import ScriptInfo

from ...errors import ConfigurationError
from ...pipeline import Pipeline
from ...runner import Flag, RunOptions, leave, run, run_flags
from ...runner.drawing import draw
from ...runner.exit_codes import ExitCode
from ...runner.targets import TargetError, load
from .connections import forget_connections

if TYPE_CHECKING:
    from .extension import Broadway


def make_group() -> click.Group:
    """
    Return the command group ``broadway``.
    """
    group = click.Group("broadway", help="Run the pipelines of this application.")
    names = click.Argument(["names"], nargs=-1, metavar="[NAME]...")
    required = click.Argument(["names"], nargs=-1, required=True, metavar="NAME...")
    options = [_to_option(flag) for flag in run_flags()]
    group.add_command(_command("run", _run, [required, *options], "Run pipelines until they end or a signal comes."))
    group.add_command(_command("check", _check, [names], "Make pipelines, all if none is named, and draw them."))
    group.add_command(_command("list", _list, [], "List the pipelines of this application."))
    return group


def _command(name: str, function: Callable[..., None], params: List[click.Parameter], doc: str) -> click.Command:
    return click.Command(name, params=params, callback=function, help=doc)


def _to_option(flag: Flag) -> click.Option:
    """
    Return the same option for click. Values stay texts: the runner reads them.
    """
    if flag.metavar:
        return click.Option([flag.flag, flag.name], metavar=flag.metavar, help=flag.doc)
    return click.Option([flag.flag, flag.name], is_flag=True, default=None, help=flag.doc)


class _Target:
    """
    What the runner calls to make one pipeline, in each of its processes.
    """

    def __init__(self, broadway: Broadway, name: str, app: Any) -> None:
        self._broadway, self._name, self._app = broadway, name, app
        self._pid = os.getpid()

    def __call__(self) -> Pipeline:
        if os.getpid() != self._pid:
            forget_connections(self._app)
        return self._broadway.make(self._name, self._app)

    def __repr__(self) -> str:
        return repr(self._name)


def _targets(names: Tuple[str, ...]) -> List[_Target]:
    """
    Return the targets of *names*, of all pipelines if that is empty; an unknown one ends the command.
    """
    broadway, app = _extension()
    for name in names:
        try:
            broadway.describe(name)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from None
    return [_Target(broadway, name, app) for name in names or broadway.names()]


def _extension() -> Tuple[Broadway, Any]:
    info = click.get_current_context().find_object(ScriptInfo)
    assert info is not None, "flask.cli always has one"
    app = info.load_app()
    return app.extensions["broadway_sync"], app


def _run(names: Tuple[str, ...], **values: Any) -> None:
    try:
        options = RunOptions.from_arguments(values)
        code = run(_targets(names), options, default_level="info")
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    if _is_process_ours():
        leave(code)
    sys.exit(code)


def _is_process_ours() -> bool:
    """
    Whether the process ends with the command. It does not where a test calls it, by ``app.test_cli_runner()``: that
    puts streams in the place of all three; an application may do so with those it writes to.
    """
    return sys.stdin is sys.__stdin__


def _check(names: Tuple[str, ...]) -> None:
    """
    Draw all that is right; say all that is wrong.
    """
    code = ExitCode.DRAINED
    for target in _targets(names):
        try:
            click.echo(draw(load(target).options))
        except TargetError as error:
            click.echo(str(error), err=True)
            code = ExitCode.CANNOT_START
    click.get_current_context().exit(code)


def _list() -> None:
    broadway, _ = _extension()
    width = max(map(len, broadway.names()), default=0)
    for name in broadway.names():
        click.echo(f"{name:{width}}  {broadway.describe(name)}")
