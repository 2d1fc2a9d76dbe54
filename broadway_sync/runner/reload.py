"""
For development: notices that a source file changed, and starts the process afresh.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from contextlib import suppress
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Set

from .logs import flush_streams


class SourceFiles:
    """
    The source files of all modules that were imported, by the time of their last change.
    """

    def __init__(self) -> None:
        self._times: Dict[str, Optional[int]] = {}
        self._extra: Set[str] = set()

    def add_from(self, error: BaseException) -> None:
        """
        Also watch the files that *error* passed through: a module that could not be imported is in no list. One that
        was missing is watched for where it may come.
        """
        causes: Optional[BaseException] = error
        while causes is not None:
            self._extra.update(frame.filename for frame in traceback.extract_tb(causes.__traceback__))
            if isinstance(causes, SyntaxError) and causes.filename:
                self._extra.add(causes.filename)
            if isinstance(causes, ImportError):
                self._extra.update(_places(causes))
            causes = causes.__cause__ or causes.__context__

    def changed(self) -> Optional[str]:
        """
        Return a file that has changed since the last look, None if there is none. New modules are watched from now on.
        """
        changed = None
        for file in self._files():
            time = _time(file)
            if self._times.setdefault(file, time) != time:
                self._times[file] = time
                changed = file
        return changed

    def _files(self) -> Set[str]:
        found = {_file_of(module) for module in list(sys.modules.values())}
        return {file for file in found if file is not None} | self._extra


def _file_of(module: Any) -> Optional[str]:
    """
    Return the source file of what is in the list of modules, which may be any object that somebody has put there.
    """
    try:
        file = getattr(module, "__file__", None)
    except Exception:
        return None
    return file if isinstance(file, str) else None


def _places(error: ImportError) -> Iterator[str]:
    """
    Yield what changes when there is what could not be imported: the folder of the package that has no such name, and
    what a module that was not found would be.
    """
    if error.path:
        yield os.path.dirname(error.path)
    parent, _, last = (error.name or "").rpartition(".")
    folders = getattr(sys.modules.get(parent), "__path__", ()) if parent else sys.path
    for folder in folders if last else ():
        if isinstance(folder, str):
            place = os.path.join(folder, last)
            yield from (place, f"{place}.py", os.path.join(place, "__init__.py"))


def _time(file: str) -> Optional[int]:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return None


def start_afresh(folder: str) -> NoReturn:
    """
    Replace this process by a new one with the same id, command line and environment, in the directory *folder*.
    """
    with suppress(OSError):  # it is gone, as it was for this process
        os.chdir(folder)
    flush_streams()
    os.execv(sys.executable, command_line())


def command_line() -> List[str]:
    """
    Return the command that started this process.
    """
    original = getattr(sys, "orig_argv", None)  # from Python 3.10 on
    if original:
        return [sys.executable, *original[1:]]
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return [sys.executable, *flags, *sys.argv]
    name = spec.name[: -len(".__main__")] if spec.name.endswith(".__main__") else spec.name
    return [sys.executable, *flags, "-m", name, *sys.argv[1:]]
