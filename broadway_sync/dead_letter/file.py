"""
Dead letters in a file.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Sequence, Union

from ..rules import is_int, mistake
from .letter import Letter

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FileLetters:
    """
    Appends to a file, one JSON object a line, see :meth:`Letter.as_dict`.

    Accepted means on the disk: written and synchronised. Any number of threads and processes may write to the same
    file: a lot of letters is appended under a lock of the file, whole or not at all. The file is opened for each lot,
    so that it can be renamed (by logrotate, say) at any time.
    """

    def __init__(self, path: Union[str, "os.PathLike[str]"], *, mode: int = 0o640) -> None:
        """
        Args:
            path: Of the file; it is made when it is needed, its folder must be there.
            mode: Permissions that it is made with.

        Raises:
            ConfigurationError: One of them is not that.
        """
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise mistake("path", f"expected the path of a file, got: {path!r}")
        if not is_int(mode, 0):
            raise mistake("mode", f"expected permissions, such as 0o640, got: {mode!r}")
        self._path = Path(path)
        self._mode = mode

    def __repr__(self) -> str:
        return f"FileLetters({str(self._path)!r})"

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Append *letters*.

        Raises:
            OSError: None of them are in the file.
        """
        lines = "".join(json.dumps(letter.as_dict()) + "\n" for letter in letters).encode("ascii")
        is_new = not self._path.exists()
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), self._mode)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)  # given back by close
            _append(file, lines)
        finally:
            os.close(file)
        if is_new:
            _sync_folder(self._path.parent)


def _append(file: int, lines: bytes) -> None:
    """
    Have all of *lines* on the disk, or nothing.
    """
    size = os.lseek(file, 0, os.SEEK_END)
    if size and _last_byte(file, size) != b"\n":  # somebody was killed in the middle of a line
        lines = b"\n" + lines
    written = 0
    try:
        while written < len(lines):  # a disk that is nearly full takes a part
            written += os.write(file, lines[written:])
        os.fsync(file)  # may be the first to say that the disk is full, or broken
    except OSError:
        with contextlib.suppress(OSError):  # of a device, say; what matters is the first error
            os.ftruncate(file, size)
        raise


def _last_byte(file: int, size: int) -> bytes:
    os.lseek(file, size - 1, os.SEEK_SET)
    return os.read(file, 1)


def _sync_folder(folder: Any) -> None:
    """
    Have the name of a new file survive a crash of the machine as well, where folders can be synchronised.

    Not on Windows, nor in a folder that may not be read, nor on some network file systems. That is no error: the
    letters are in the file, and would be written to it again.
    """
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
