"""
Web servers as processes, clients that remember what was acknowledged, and what the workers stored.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from tests.brokers import fixtures
from tests.brokers.ports import HOST, Port
from tests.brokers.process import Folder, Process
from tests.helpers import BOUND, eventually, python_env

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "web_app"


def is_installed(name: str) -> bool:
    """
    Whether a package can be imported.
    """
    return importlib.util.find_spec(name) is not None


def script(name: str) -> Optional[str]:
    """
    Return the path of a command that is installed beside this interpreter, None if it is not.
    """
    return shutil.which(name, path=sysconfig.get_path("scripts"))


def require(server: str, is_there: Any) -> None:
    """
    Skip a test for want of a web server, or fail it where servers are required.
    """
    fixtures.require(None if is_there else f"{server} is not installed")


class Server:
    """
    A web server with its workers, in a folder of its own that holds a copy of an example.

    Args:
        example: The folder of the example.
        files: Further files for that folder: their names and texts.
        env: Added to the environment; ``{folder}`` in a value stands for the folder.
    """

    def __init__(
        self,
        example: Path = EXAMPLE,
        *,
        files: Optional[Dict[str, str]] = None,
        env: Optional[Dict[str, str]] = None,
    ) -> None:
        self._folder = Folder("web")
        self.folder = self._folder.path
        self._port = Port()
        self.port = self._port.number
        for path in example.iterdir():
            if path.is_file():
                shutil.copy(str(path), str(self.folder))
        for name, text in (files or {}).items():
            (self.folder / name).write_text(text, encoding="utf-8")
        self.database = self.folder / "clicks.sqlite"
        values = {name: value.format(folder=self.folder) for name, value in (env or {}).items()}
        self._env = python_env({"CLICKS_DATABASE": str(self.database), "PYTHONDONTWRITEBYTECODE": "1", **values})
        self._process: Optional[Process] = None

    def start(self, command: Sequence[str]) -> Server:
        """
        Start it; return when it accepts connections.
        """
        with open(str(self.folder / "log"), "wb") as log:
            self._process = Process(command, env=self._env, cwd=self.folder, stdout=log)
        eventually(self._accepts, "the server accepts connections", 3 * BOUND)
        return self

    def start_gunicorn(self, *arguments: Any, workers: int = 2) -> Server:
        """
        Start gunicorn with the configuration of the example; return when so many workers have booted.
        """
        config = talking(self.folder / "gunicorn.conf.py", self.folder / "talking.conf.py")
        bind = ("--bind", f"{HOST}:{self.port}")
        self.start(python_command("-m", "gunicorn", "--config", config, *bind, *arguments))
        self.wait_until_booted(workers)
        return self

    def wait_until_booted(self, count: int = 2) -> None:
        """
        Wait until all workers of gunicorn have booted: each is told only once to end, and passes it by before that.
        """

        def is_booted() -> bool:
            log = self.log
            assert self.process.is_alive, log
            workers = self.workers()
            return len(workers) == count and workers <= booted(log)

        eventually(is_booted, "all workers have booted", 3 * BOUND)

    def _accepts(self) -> bool:
        assert self.process.is_alive, self.log
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(HOST, self.port, timeout=1)
            with contextlib.closing(connection):
                connection.connect()
            return True
        return False

    @property
    def process(self) -> Process:
        """
        Its first process.
        """
        assert self._process is not None, "not started"
        return self._process

    @property
    def log(self) -> str:
        """
        What it has written so far.
        """
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """
        Wait until *text* is in the log.
        """
        try:
            eventually(lambda: self.log.count(text) >= count, f"{text!r} in the log", 3 * BOUND)
        except AssertionError as error:
            raise AssertionError(f"{error}; the log:\n{self.log}") from None

    def stored(self, table: str = "clicks") -> List[str]:
        """
        Return the clicks in the database.
        """
        with contextlib.closing(sqlite3.connect(str(self.database), timeout=BOUND)) as database:
            return [path for (path,) in database.execute(f"SELECT path FROM {table}")]  # noqa: S608 - a test's own name

    def workers(self) -> Set[int]:
        """
        Return the ids of its worker processes.
        """
        return {pid for pid, parent, _ in _processes() if parent == self.process.pid}

    def get(self, path: str) -> http.client.HTTPResponse:
        """
        Make one request; return the response, its body read.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=BOUND)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            return response

    def stop(self, number: int = signal.SIGTERM) -> int:
        """
        Stop it by a signal; return the exit code of its first process once the whole group has ended.
        """
        self.process.signal(number)
        try:
            code = self.process.wait(2 * BOUND)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end; its log:\n{self.log}") from None
        eventually(self._is_gone, "no process of the server is left", BOUND)
        return code

    def _is_gone(self) -> bool:
        return all(group != self.process.pid for _, _, group in _processes())

    def close(self) -> None:
        """
        Kill what is left, and remove the folder.
        """
        if self._process is not None:
            self._process.kill()
        self._port.close()
        self._folder.close()


def _processes() -> List[Tuple[int, int, int]]:
    """
    Return id, parent and group of each process of the machine that has not ended.
    """
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,pgid=,stat="], stdout=subprocess.PIPE, universal_newlines=True, check=True
    )
    lines = [line.split() for line in listed.stdout.splitlines()]
    return [(int(pid), int(parent), int(group)) for pid, parent, group, state in lines if not state.startswith("Z")]


class Clients:
    """
    Threads that make requests until :meth:`stop`, each with a path of its own, and remember which were acknowledged.

    A request whose connection breaks before the answer counts as not acknowledged.
    """

    def __init__(self, server: Server, count: int = 4) -> None:
        self._server = server
        self._ending = threading.Event()
        # Written by one thread each.
        self._acknowledged: List[List[str]] = [[] for _ in range(count)]
        self.workers: Dict[str, str] = {}
        """The header ``X-Worker`` of the answers, by path."""
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self, client: int) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            path = f"/{client}/{number}"
            try:
                response = self._server.get(path)
            except (OSError, http.client.HTTPException):
                self._ending.wait(0.01)
                continue
            self.workers[path] = response.headers.get("X-Worker", "")
            if response.status == 202:
                self._acknowledged[client].append(path)

    @property
    def acknowledged(self) -> List[str]:
        """
        The paths that the server has answered with 202 so far.
        """
        return [path for paths in self._acknowledged for path in list(paths)]

    def wait_for(self, count: int) -> None:
        """
        Wait until that many more requests are acknowledged.
        """
        before = len(self.acknowledged)
        try:
            eventually(lambda: len(self.acknowledged) >= before + count, f"{count} acknowledged requests", 3 * BOUND)
        except AssertionError as error:
            raise AssertionError(f"{error}, {len(self.acknowledged)} were; the log:\n{self._server.log}") from None

    def stop(self) -> List[str]:
        """
        Make no more requests; return the acknowledged paths.
        """
        self._ending.set()
        for thread in self._threads:
            thread.join(3 * BOUND)
        return self.acknowledged


@contextlib.contextmanager
def requests(server: Server, count: int = 4) -> Iterator[Clients]:
    """
    Make requests while the block runs.
    """
    clients = Clients(server, count)
    try:
        yield clients
    finally:
        clients.stop()


# A configuration of gunicorn whose workers say when they have booted.
TALKING = """
with open({path!r}) as _file:
    exec(_file.read())

_post_worker_init = globals().get("post_worker_init", lambda worker: None)

def post_worker_init(worker):
    _post_worker_init(worker)
    worker.log.info("worker %d has booted", worker.pid)
"""


def talking(path: Path, target: Path) -> Path:
    """
    Write to *target* the configuration of gunicorn in *path*, with workers that say when they have booted; return it.
    """
    target.write_text(TALKING.format(path=str(path)), encoding="utf-8")
    return target


def booted(log: str) -> Set[int]:
    """
    Return the ids of the workers that have booted, by gunicorn's log.
    """
    return set(map(int, re.findall(r"worker (\d+) has booted", log)))


def python_command(*arguments: Any) -> List[str]:
    """
    Return a command for this interpreter.
    """
    return [sys.executable, *map(str, arguments)]
