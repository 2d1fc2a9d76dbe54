"""
Processes that cannot be left behind: one process group each, known to a guardian before the first instruction runs.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Iterator, Mapping, Sequence

SCALE = float(os.environ.get("BROADWAY_TIME_SCALE", "1"))
"""Stretches every bound here, for machines that are slow or busy."""

END_BOUND = 30.0 * SCALE
"""Seconds that a process has to end after SIGTERM, before it is killed."""

# Waits for the word from its parent, then becomes the command (same process id). Without the word, because the parent
# died first, it ends. So no process exists for a moment unknown to the guardian.
GATE = ["/bin/sh", "-c", 'read word && exec "$@" < /dev/null', "gate"]


class Guardian:
    """
    The guardian of this process: started with the first entry, asked to end when the process does.

    A forked child gets one of its own, because the guardian watches its parent.
    """

    _mutex = threading.Lock()  # guards _process; held while one line is written into a pipe
    _process: subprocess.Popen[bytes] | None = None
    _owner = 0

    @classmethod
    def enter(cls, kind: str, what: object) -> None:
        """
        Tell the guardian to clear up *what* (a ``"group"`` or a ``"folder"``) if this process dies.
        """
        cls._write(f"+{kind} {what}\n")

    @classmethod
    def remove(cls, kind: str, what: object) -> None:
        """
        Tell the guardian that *what* is gone.
        """
        cls._write(f"-{kind} {what}\n")

    @classmethod
    def _write(cls, line: str) -> None:
        with cls._mutex:
            if cls._process is None or cls._owner != os.getpid():
                cls._process, cls._owner = cls._start(), os.getpid()
            assert cls._process.stdin is not None
            cls._process.stdin.write(line.encode("utf-8"))
            cls._process.stdin.flush()

    @classmethod
    def _start(cls) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(__file__).with_name("guardian.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=tempfile.gettempdir(),
        )
        atexit.register(cls._end, process, os.getpid())
        return process

    @classmethod
    def _end(cls, process: subprocess.Popen[bytes], owner: int) -> None:
        if os.getpid() == owner:
            process.communicate(timeout=60)  # closes its input: it clears up and ends


class Folder:
    """
    A new folder below the system's temporary one, removed by ``close()`` or with the process.
    """

    def __init__(self, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"broadway-{prefix}-"))
        Guardian.enter("folder", self.path)

    def close(self) -> None:
        """
        Remove the folder and all that is in it.
        """
        shutil.rmtree(str(self.path), ignore_errors=True)
        Guardian.remove("folder", self.path)


class Process:
    """
    A running command in a process group of its own.

    Args:
        command: The program and its arguments.
        env: Its whole environment.
        cwd: Its working folder.
        stdout, stderr: As for ``subprocess.Popen``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int = subprocess.STDOUT,
    ) -> None:
        self.popen = subprocess.Popen(
            [*GATE, *command],
            env=dict(env),
            cwd=str(cwd),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        Guardian.enter("group", self.pid)
        self._open_gate()

    def _open_gate(self) -> None:
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(b"go\n")
            self.popen.stdin.close()
        except BrokenPipeError:
            pass  # killed already; whoever asks finds the return code

    @property
    def pid(self) -> int:
        """
        The id of the process and of its group.
        """
        return self.popen.pid

    @property
    def is_alive(self) -> bool:
        """
        Whether the process itself still runs.
        """
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """
        Send a signal to the process alone; none if it has ended.
        """
        self.popen.send_signal(number)

    def signal_group(self, number: int) -> None:
        """
        Send a signal to all processes of the group.
        """
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left in it

    def wait(self, timeout: float = END_BOUND) -> int:
        """
        Wait for the end of the process; return its return code.

        Raises:
            subprocess.TimeoutExpired: It still runs after *timeout* seconds.
        """
        return self.popen.wait(timeout)

    def terminate(self, timeout: float = END_BOUND) -> None:
        """
        End the process by SIGTERM, by SIGKILL if that takes too long.
        """
        self.signal(signal.SIGTERM)
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """
        Kill the whole group, also what the process left behind in it, and wait for its end.
        """
        self.signal_group(signal.SIGKILL)
        self.popen.wait()
        self._wait_for_group()
        Guardian.remove("group", self.pid)

    def _wait_for_group(self) -> None:
        """
        Wait until the rest of the group, which others than this process reap, is gone too; not for ever.
        """
        deadline = time.monotonic() + 2 * SCALE
        while _has_members(self.pid) and time.monotonic() < deadline:
            time.sleep(0.005)


def _has_members(group: int) -> bool:
    """
    Whether a process of the group still runs. Those that nobody reaped yet do not count, where that can be seen.
    """
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    states = [state for state, number in _processes() if number == group]
    return any(state != "Z" for state in states) if states else not Path("/proc/self/stat").exists()


def _processes() -> Iterator[tuple[str, int]]:
    """
    Yield state and group of each process of the machine; nothing where there is no /proc.
    """
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        yield state, int(group)
