"""
Where a runner can be asked for a dump: a socket named by its process id, in a folder that is its user's alone.

The folder is below the temporary one, where everybody may write. What is found there is trusted only if it is a folder
(no link), belongs to the user in question, and nobody else may write or look into it.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import tempfile
from contextlib import suppress
from time import sleep
from typing import Callable, Iterator, Tuple

from ..errors import BroadwayError

_SOCKET = re.compile(r"\d+\.sock")

# Seconds until the next attempt to accept a client when that failed.
_PAUSE = 0.1


class Endpoint:
    """
    The listening socket of this process.

    Raises:
        OSError: The system has no such sockets, or there is no folder to put it in.
    """

    def __init__(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this system has no Unix sockets")
        folder = _own_folder()
        _remove_dead(folder)
        self._pid = os.getpid()
        self._path = os.path.join(folder, f"{self._pid}.sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            self._listen()
        except BaseException:
            self.socket.close()
            raise

    def _listen(self) -> None:
        """
        Listen first and take the name then: others that start remove names behind which nobody listens.
        """
        unnamed = os.path.join(os.path.dirname(self._path), f"{self._pid}.new")
        with suppress(FileNotFoundError):
            os.unlink(unnamed)
        self.socket.bind(unnamed)
        self.socket.listen(8)
        os.rename(unnamed, self._path)

    def answer(self, make_text: Callable[[], str], workers: Tuple[int, ...] = ()) -> None:
        """
        Send the text, and the ids of the processes to ask as well, to the client that waits. What it does is its fault.
        """
        try:
            client, _ = self.socket.accept()
        except BlockingIOError:  # it did not wait
            return
        except OSError:  # no file descriptor is left: it goes on waiting, and must not be tried again at once
            sleep(_PAUSE)
            return
        with suppress(OSError), client:
            client.settimeout(2)
            head = " ".join(map(str, ["broadway-sync", self._pid, *workers]))
            client.sendall(f"{head}\n{make_text()}".encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """
        Close the socket; in the process that made it also remove its name.
        """
        self.socket.close()
        if os.getpid() == self._pid:
            with suppress(OSError):
                os.unlink(self._path)


def ask(pid: int) -> Tuple[str, Tuple[int, ...]]:
    """
    Return the dump of the runner *pid*, and the ids of its workers.

    Raises:
        NoAnswerError: There is no such process, it is no runner, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        try:
            client.connect(_find(pid))
            with client.makefile(encoding="utf-8", errors="replace") as stream:
                head, text = stream.readline().split(), stream.read()
        except OSError as error:
            raise NoAnswerError(f"process {pid} does not answer: {error}") from error
    if head[:1] != ["broadway-sync"]:
        raise NoAnswerError(f"process {pid} closed the connection")
    return text, tuple(int(each) for each in head[2:])


class NoAnswerError(BroadwayError):
    """
    A process cannot be asked for a dump; the text says why.
    """


def _find(pid: int) -> str:
    uid = _owner(pid)
    for folder in _folders(pid, uid):
        path = os.path.join(folder, f"{pid}.sock")
        if _is_private(folder, uid) and os.path.exists(path):
            return path
    folders = " or ".join(_folders(pid, uid))
    searched = f"another temporary folder than this one ({folders} was searched)"
    raise NoAnswerError(f"process {pid} is no `broadway-sync run`, or has {searched}")


def _owner(pid: int) -> int:
    """
    Return the user of a process, as far as the system tells.
    """
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        raise NoAnswerError(f"there is no process {pid}") from None
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return os.getuid()


def _folders(pid: int, uid: int) -> Iterator[str]:
    """
    Yield where the folder may be: here, and where the process itself sees it (systemd's PrivateTmp).
    """
    folder = _folder_name(uid)
    yield folder
    if os.path.isdir(f"/proc/{pid}/root"):
        yield f"/proc/{pid}/root{folder}"


def _folder_name(uid: int) -> str:
    return os.path.join(os.path.realpath(tempfile.gettempdir()), f"broadway-sync-{uid}")


def _own_folder() -> str:
    uid = os.getuid()
    folder = _folder_name(uid)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    if not _is_private(folder, uid):
        raise PermissionError(f"{folder} belongs to somebody else, or others may use it")
    return folder


def _is_private(folder: str, uid: int) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not stat.S_IMODE(found.st_mode) & 0o077


def _remove_dead(folder: str) -> None:
    """
    Remove the names that killed processes left: nobody listens there, in whatever container the process was.
    """
    for name in filter(_SOCKET.fullmatch, os.listdir(folder)):
        path = os.path.join(folder, name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
            client.setblocking(False)
            try:
                client.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
