"""
Runners as real processes, and how tests follow what they do.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from broadway_sync.runner.signals import ECHO
from tests.brokers.process import Process
from tests.helpers import BOUND, SCALE, eventually, python_env

PATIENCE = 3 * BOUND
"""Seconds for what takes the start of an interpreter, or several."""


WITH_ECHO = """
import runpy
from broadway_sync.runner import signals

signals.ECHO = {}
runpy.run_module("broadway_sync", run_name="__main__", alter_sys=True)
"""


class Runner:
    """
    ``broadway-sync`` in a folder of its own, with the targets of ``tests/runner/apps.py``.

    What the targets say is in ``diary``, what the process writes to stdout and stderr in ``output``.

    Args:
        echo: The seconds in which a second signal counts as the same one, if others than ``ECHO``.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: Any,
        env: dict[str, str] | None = None,
        flags: tuple[str, ...] = (),
        echo: float | None = None,
    ) -> None:
        self.folder = folder
        self.diary_file = folder / "diary"
        self.diary_file.touch()
        self._output_file = folder / "output"
        self._stream = open(self._output_file, "wb")
        environment = python_env({"DIARY": str(self.diary_file), "TMPDIR": str(folder), **(env or {})})
        program = ["-m", "broadway_sync"] if echo is None else ["-c", WITH_ECHO.format(echo)]
        command = [sys.executable, *flags, *program, *map(str, arguments)]
        self.process = Process(command, env=environment, cwd=folder, stdout=self._stream)

    @property
    def output(self) -> str:
        """
        What it has written so far.
        """
        return self._output_file.read_text(encoding="utf-8")

    @property
    def diary(self) -> list[list[str]]:
        """
        What the targets have said so far: process id and words.
        """
        return [line.split() for line in self.diary_file.read_text(encoding="utf-8").splitlines()]

    def said(self, *words: Any) -> list[list[str]]:
        """
        Return the entries that begin with *words*, after the process id.
        """
        wanted = [str(word) for word in words]
        return [entry for entry in self.diary if entry[1 : len(wanted) + 1] == wanted]

    def wait_for(self, *words: Any, count: int = 1) -> list[list[str]]:
        """
        Wait until the targets have said *words* so often.
        """
        return eventually(lambda: self._at_least(count, words), f"{words} x {count}:\n{self}", PATIENCE)

    def _at_least(self, count: int, words: Any) -> Any:
        found = self.said(*words)
        if len(found) < count:
            assert self.process.is_alive, f"it has ended:\n{self}"
        return found if len(found) >= count else None

    def wait_for_output(self, text: str, count: int = 1) -> str:
        """
        Wait until the process has written *text* so often.
        """
        return eventually(lambda: self.output if self.output.count(text) >= count else None, f"{text!r}", PATIENCE)

    def open_gate(self) -> None:
        """
        Let handlers go on that wait at the gate.
        """
        (self.folder / "gate").touch()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """
        Signal the process alone.
        """
        self.process.signal(number)

    def end(self) -> int:
        """
        Wait for the end; return the exit code.
        """
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        """
        Drain by SIGTERM; return the exit code.
        """
        self.signal()
        return self.end()

    def close(self) -> None:
        """
        Leave nothing behind.
        """
        self.process.kill()
        self._stream.close()

    def __repr__(self) -> str:
        return f"{self.output}\n{self.diary_file.read_text(encoding='utf-8')}"


def is_running(pid: int) -> bool:
    """
    Whether there is a process of that id which is more than an entry that nobody has reaped.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        pass
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_echo() -> None:
    """
    Let the time pass in which a second signal counts as the same one.
    """
    time.sleep(10 * ECHO * SCALE)
