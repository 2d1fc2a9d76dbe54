"""
From ``package.module:pipeline`` to a :class:`Pipeline`, and what to say when there is none.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any, Callable, Iterable, List, Optional, Sequence, Union

from ..errors import ConfigurationError
from ..log import safe_repr
from ..pipeline import Pipeline
from ..rules import takes

Target = Union[str, Pipeline, Callable[[], Pipeline]]
"""``"package.module:name"``, a pipeline, or a function without arguments that returns one."""

Targets = Union[Target, Iterable[Target]]
"""One or several."""

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class TargetError(ConfigurationError):
    """
    A target leads to no pipeline; the text is all that there is to say.
    """


class UserCodeError(TargetError):
    """
    The user's code raised while it was imported or called: ``__cause__``; the text has its traceback.
    """


def listed(targets: Targets) -> List[Target]:
    """
    Return *targets* as a list.
    """
    if isinstance(targets, (str, Pipeline)) or callable(targets):
        return [targets]
    return list(targets)


def load_all(targets: Sequence[Target]) -> List[Pipeline]:
    """
    Return the pipelines that *targets* mean, not started.

    Raises:
        TargetError: One leads to no pipeline.
        UserCodeError: The user's code raised.
    """
    return [load(target) for target in targets]


def load(target: Target) -> Pipeline:
    """
    Return the pipeline that *target* means; see :func:`load_all`.
    """
    name = target if isinstance(target, str) else f"target {safe_repr(target)}"
    found = _guarded(name, lambda: resolve(target)) if isinstance(target, str) else target
    if not isinstance(found, Pipeline):
        if not takes(0)(found):
            raise TargetError(f"{name}: expected a Pipeline or a function without arguments, got: {safe_repr(found)}")
        found = _guarded(name, found)
    if not isinstance(found, Pipeline):
        hint = " (was `return pipeline` forgotten?)" if found is None else ""
        raise TargetError(f"{name}: expected it to return a Pipeline, got: {safe_repr(found)}{hint}")
    if found.state in ("running", "draining"):
        raise TargetError(f"{name}: pipeline {found.name!r} was started already, leave that to the runner")
    return found


def resolve(target: str) -> Any:
    """
    Return what ``package.module:name`` names, imported from the current directory or ``sys.path``.

    Raises:
        TargetError: The text has another form, or the module or the name does not exist.
        Exception: What the module raised.
    """
    if not _FORM.fullmatch(target):
        raise TargetError(f"{target}: expected package.module:name, {_example(target)}")
    module_name, _, path = target.partition(":")
    found: Any = _import(target, module_name)
    module = found
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise TargetError(f"{target}: {safe_name(found)} has no {name!r}{_hint(found, name, module)}") from None
    return found


def _example(target: str) -> str:
    """
    Return the target that was probably meant: a path of a file, or a call, are what people try first.
    """
    path, _, name = target.strip().partition(":")
    module = path[:-3] if path.endswith(".py") else path
    meant = f"{os.path.normpath(module).replace(os.sep, '.')}:{name[:-2] if name.endswith('()') else name}"
    return f"did you mean {meant}?" if _FORM.fullmatch(meant) else "such as shop.orders:pipeline"


def add_current_directory() -> None:
    """
    Make the current directory importable, as ``python -m`` does.
    """
    here = current_directory()
    if here and not getattr(sys.flags, "safe_path", False) and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def current_directory() -> str:
    """
    Return the current directory, nothing (``""``) if it is gone.
    """
    try:
        return os.getcwd()
    except OSError:  # it was removed, for example by a deployment
        return ""


def _import(target: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only if it is *name* or a parent of it that is missing: else it is an import in the user's code that failed.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        here = current_directory()
        searched = f"in {here} and sys.path were" if here else "sys.path was"
        hint = f", {_example(target)}" if name.endswith(".py") else ""  # the name of a file, not its path
        raise TargetError(f"{target}: there is no module {error.name!r} ({searched} searched){hint}") from None


def safe_name(found: Any) -> str:
    """
    Return how a text names a module or another object.
    """
    return f"module {found.__name__!r}" if isinstance(found, ModuleType) else safe_repr(found)


def _hint(found: Any, name: str, module: ModuleType) -> str:
    names = [each for each in dir(found) if not each.startswith("_")]
    pipelines = [each for each in names if isinstance(getattr(found, each, None), Pipeline)] if found is module else []
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f", did you mean {close[0]!r}?"
    return f", its pipelines are: {', '.join(pipelines)}" if pipelines else ""


def _guarded(name: str, function: Callable[[], Any]) -> Any:
    """
    Call the user's code; an error of this library's options needs no traceback, others do.
    """
    try:
        return function()
    except TargetError:
        raise
    except ConfigurationError as error:
        raise TargetError(f"{name}: {error}{_place(error)}") from None
    except (Exception, SystemExit) as error:  # a script that ends itself would end this process as if all were well
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
        raise UserCodeError(f"{name}: the code raised\n{''.join(lines).rstrip()}") from error


def _place(error: BaseException) -> str:
    """
    Return the line of the user's code that made the mistake.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _users_part(tb: Optional[TracebackType]) -> Optional[TracebackType]:
    """
    Return the traceback without the way to the user's code; all of it if it never got there, as with a syntax error.
    """
    part = tb
    while part is not None and not _is_users(part.tb_frame.f_code.co_filename):
        part = part.tb_next
    return part


def _is_users(file: str) -> bool:
    return not file.startswith((_PACKAGE, "<frozen importlib")) and file != importlib.__file__
