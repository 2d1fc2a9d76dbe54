"""
PostgreSQL, as Debian packages it (``apt-get install postgresql``): a cluster of its own, run by whoever runs the tests,
or by the user ``postgres`` for root, whom the server refuses.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator

from tests.brokers.broker import POLL_INTERVAL, READY_BOUND, Broker, BrokerError, unique
from tests.brokers.ports import HOST
from tests.brokers.process import END_BOUND, SCALE

PROTOCOL = 196608  # 3.0
AUTHENTICATION = b"R"


def programs() -> Path | None:
    """
    Return the folder of the newest ``initdb`` and ``postgres``, None if there is none.
    """
    chosen = os.environ.get("BROADWAY_POSTGRESQL")
    folders = [Path(chosen)] if chosen else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
    on_path = shutil.which("postgres")
    folders = ([Path(on_path).parent] if on_path else []) + folders
    found = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    return found[-1] if found else None


def _version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdigit() else 0


class PostgreSQL(Broker):
    """
    One server with durable data: what was committed survives ``stop()`` and ``kill()``.
    """

    name = "PostgreSQL"
    user = "broadway"
    password = "broadway"

    def __init__(self) -> None:
        super().__init__()
        self.host = HOST
        self.port = self.reserve()

    @classmethod
    def missing(cls) -> str | None:
        """
        The server; for root a user to run it as.
        """
        if programs() is None:
            return "needs postgresql (apt-get install postgresql)"
        if os.getuid() == 0 and (_other_user() is None or not shutil.which("setpriv")):
            return "needs a user `postgres` and setpriv, as PostgreSQL does not run as root"
        return None

    # ---- how it runs

    def command(self) -> list[str]:
        """
        The server, in the foreground.
        """
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",  # the machine stays up: what a killed server has written is there
            "max_connections": 50,
            "shared_buffers": "16MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._as_other_user("postgres", "-D", str(self._data), *options)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _as_other_user(self, program: str, *arguments: str) -> list[str]:
        """
        Return a command that runs a program of PostgreSQL; as another user if this one is root.
        """
        folder = programs()
        assert folder is not None
        command = [str(folder / program), *arguments]
        user = _other_user()
        if os.getuid() != 0 or user is None:
            return command
        # setpriv becomes the program: signals reach the server.
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--", *command]

    def prepare(self) -> None:
        """
        Make the cluster, the first time.
        """
        if self._data.exists():
            return
        password = self.folder / "password"
        password.write_text(self.password)
        user = _other_user()
        if os.getuid() == 0 and user is not None:
            for path in (self.folder, password):
                os.chown(str(path), user.pw_uid, user.pw_gid)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        command = self._as_other_user(
            "initdb", "-D", str(self._data), "-U", self.user, f"--pwfile={password}", *options
        )  # fmt: skip
        done = subprocess.run(
            command, cwd=str(self.folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_BOUND
        )
        if done.returncode:
            raise BrokerError(f"initdb: {done.stdout}{done.stderr}")

    def is_ready(self) -> bool:
        """
        Whether it asks a client for its password: while it starts up or recovers it sends an error.
        """
        names = f"user\0{self.user}\0database\0postgres\0\0".encode()
        with socket.create_connection((HOST, self.port), 2 * SCALE) as connection:
            connection.sendall(struct.pack("!ii", len(names) + 8, PROTOCOL) + names)
            return connection.recv(1) == AUTHENTICATION

    def stop(self) -> None:
        """
        End the server without waiting for its clients to go; their connections break.
        """
        self.resume()
        if self._process is not None and self._process.is_alive:
            self._process.signal(signal.SIGINT)  # "fast"; SIGTERM would wait for every client
            try:
                self._process.wait(END_BOUND)
            except subprocess.TimeoutExpired:
                pass  # killed below
        self._clear_process()

    def _clear_process(self) -> None:
        """
        Kill the server's own processes too: each is in a group of its own, and the next server would find the shared
        memory in use until the last one has noticed that the first is gone.
        """
        children = _children(self.pid) if self.is_running else []
        super()._clear_process()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + END_BOUND
        while any(_is_running(pid) for pid in children):
            if time.monotonic() > deadline:
                raise BrokerError(f"processes of the server would not end: {children}")
            time.sleep(POLL_INTERVAL)

    # ---- what tests ask of it

    @property
    def url(self) -> str:
        """
        The address for clients, of the database that is always there.
        """
        return self.url_of("postgres")

    def url_of(self, database: str, port: int | None = None) -> str:
        """
        Return the address of a database; the port may be that of a proxy.
        """
        return f"postgresql://{self.user}:{self.password}@{HOST}:{port or self.port}/{database}"

    @contextmanager
    def connection(self, database: str = "postgres") -> Iterator[Any]:
        """
        Yield a new connection (psycopg), in autocommit, closed at the end.
        """
        import psycopg

        with psycopg.connect(self.url_of(database), autocommit=True) as connection:
            yield connection

    def query(self, sql: str, *parameters: Any, database: str = "postgres") -> list[Any]:
        """
        Run a statement on a connection of its own; return the rows, if there are any.
        """
        with self.connection(database) as connection:
            cursor = connection.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def database(self, template: str = "template1") -> str:
        """
        Make a new database and return its name.
        """
        name = unique("database").replace("-", "_")
        self.query(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """
        Drop a database under its clients.
        """
        self.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def backends(self, database: str) -> set[int]:
        """
        Return the process ids of the connections that clients have to a database.
        """
        rows = self.query(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", database
        )
        return {pid for (pid,) in rows}

    def close_connections(self, database: str) -> None:
        """
        Let the server end every connection to a database.
        """
        self.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)


def _stat(pid: object) -> tuple[str, int]:
    """
    Return state and parent of a process; ``"X"`` for one that is gone.
    """
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def _children(parent: int) -> list[int]:
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if _stat(pid)[1] == parent]


def _is_running(pid: int) -> bool:
    return _stat(pid)[0] not in "XZ"


def _other_user() -> Any:
    """
    Return the entry of the user that the server runs as when root starts it; None if the machine has none.
    """
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None
