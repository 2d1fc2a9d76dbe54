"""
Consumer processes: their output can be awaited line by line, they can be killed, and they are gone after the test.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable

from tests.brokers.process import SCALE, Process

BOUND = 30.0 * SCALE
"""Seconds within which an awaited line has to come, or the process has to end."""

END = object()
"""In the queue of lines: there will be no more."""


class Spawned:
    """
    A Python process that runs a module or some source code, and its output.

    Args:
        target: A module (``tests.connectors.kafka.consumer``), the path of a .py file, or source code.
        arguments: What it finds in ``sys.argv[1:]``.
        env: Added to the environment.
    """

    def __init__(self, target: str, *arguments: Any, env: dict[str, str] | None = None) -> None:
        from tests.helpers import python_env

        self.lines: list[str] = []
        self._queue: queue.Queue[Any] = queue.Queue()
        self._errors = tempfile.TemporaryFile()
        self._is_closed = False
        command = [sys.executable, "-u", *_how_to_run(target), *map(str, arguments)]
        folder, stdout = Path(tempfile.gettempdir()), subprocess.PIPE
        self._process = Process(command, env=python_env(env), cwd=folder, stdout=stdout, stderr=self._errors)
        self._reader = threading.Thread(target=self._read, name=f"output of {self.pid}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.popen.stdout or ():
            self.lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
            self._queue.put(self.lines[-1])
        self._queue.put(END)

    @property
    def pid(self) -> int:
        """
        The id of the process.
        """
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """
        Whether it still runs.
        """
        return self._process.is_alive

    @property
    def errors(self) -> str:
        """
        What it has written to its standard error.
        """
        # Not by seek(): the process has the same position, and would go on writing where this one stands.
        number = self._errors.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode("utf-8", "replace")

    def line(self, timeout: float = BOUND) -> str:
        """
        Wait for the next line of output that was not returned yet, without its end.
        """
        return self.wait_for(lambda line: True, timeout=timeout)

    def wait_for(self, wanted: str | Callable[[str], Any], timeout: float = BOUND) -> str:
        """
        Wait for the next line that contains *wanted*, or for which it returns something true; return the line.

        Raises:
            AssertionError: No such line came in time, or the process ended without; its output is in the text.
        """
        fits = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(self._describe(f"no line with {wanted!r} in {timeout} s")) from None
            if line is END:
                self._queue.put(END)
                raise AssertionError(self._describe(f"ended without a line with {wanted!r}"))
            if fits(line):
                return str(line)

    def signal(self, number: int) -> None:
        """
        Send it a signal.
        """
        self._process.signal(number)

    def terminate(self) -> None:
        """
        Send it SIGTERM; ``wait()`` waits for its end.
        """
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """
        End it with SIGKILL and wait until it is gone.
        """
        self._process.kill()
        self._reader.join(BOUND)

    def pause(self) -> None:
        """
        Let it hang.
        """
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """
        Let it go on.
        """
        self.signal(signal.SIGCONT)

    def wait(self, timeout: float = BOUND) -> int:
        """
        Wait for its end and for the rest of its output; return the return code (negative: the signal that ended it).
        """
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._describe(f"still running after {timeout} s")) from None
        self._reader.join(BOUND)
        return code

    def close(self) -> None:
        """
        Kill it if it still runs.
        """
        if not self._is_closed:
            self._is_closed = True
            self.kill()
            assert self._process.popen.stdout is not None
            self._process.popen.stdout.close()
            self._errors.close()

    def _describe(self, what: str) -> str:
        output = "\n".join(self.lines[-50:])
        return f"process {self.pid}: {what}; output:\n{output}\nerrors:\n{self.errors[-4000:]}"


def _how_to_run(target: str) -> list[str]:
    """
    Return the interpreter's arguments for a file, a module or source code.
    """
    if target.endswith(".py") and "\n" not in target:
        return [target]
    return ["-m", target] if re.fullmatch(r"[\w.]+", target) else ["-c", target]
