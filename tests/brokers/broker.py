"""
What all brokers have in common: the verbs, the private folder, the wait until the broker answers.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from pathlib import Path
from typing import Any, TypeVar

from tests.brokers.ports import Port
from tests.brokers.process import END_BOUND, SCALE, Folder, Process

READY_BOUND = 90.0 * SCALE
"""Seconds that a broker has to become ready; those who wait pay only what it takes."""

POLL_INTERVAL = 0.02
"""Seconds between two questions to a broker that comes up: it has no event to wait on."""

ROOT = Path(__file__).resolve().parent.parent.parent
JARS = Path(os.environ.get("BROADWAY_BROKERS", str(ROOT / "build" / "brokers")))
"""Where ``make brokers`` puts what it fetches."""

Self = TypeVar("Self", bound="Broker")


class BrokerError(Exception):
    """
    A broker that did not come up, or refused what a test asked of it; the end of its log is in the text.
    """


def unique(prefix: str) -> str:
    """
    Return a name that nothing else uses, also not on a broker that outlives this process.
    """
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


class Broker:
    """
    One broker of this test process: it keeps its ports and its data over a restart.

    A subclass says what its command is, when it is ready, and what it needs to be there.
    """

    name = "broker"

    def __init__(self) -> None:
        self._folder = Folder(self.name.lower())
        self._ports: list[Port] = []
        self._process: Process | None = None
        self._is_paused = False

    # ---- what a subclass says

    @classmethod
    def missing(cls) -> str | None:
        """
        Return what has to be installed before this broker can run here, None if all is there.
        """
        raise NotImplementedError

    def command(self) -> list[str]:
        """
        Return the program and its arguments.
        """
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """
        Return the whole environment of the process.
        """
        return dict(os.environ)

    def prepare(self) -> None:
        """
        Write the configuration; called before each start.
        """

    def is_ready(self) -> bool:
        """
        Ask the broker whether it serves clients; an ``OSError`` means not yet.
        """
        raise NotImplementedError

    # ---- the verbs

    def start(self: Self) -> Self:
        """
        Start the broker and wait until it serves clients; nothing happens if it runs.

        Raises:
            BrokerError: It ended, or was not ready in time.
        """
        if not self.is_running:
            self._clear_process()  # it died by itself: its return code is still to be taken
            self.prepare()
            with open(str(self.log), "ab") as log:
                self._process = Process(self.command(), env=self.environment(), cwd=self.folder, stdout=log)
            self._wait_until_ready()
        return self

    def stop(self) -> None:
        """
        Stop the broker in an orderly way.
        """
        self.resume()
        if self._process is not None:
            self._process.terminate(END_BOUND)
        self._process = None

    def kill(self) -> None:
        """
        End the broker with SIGKILL.
        """
        self._clear_process()

    def restart(self, hard: bool = False) -> None:
        """
        Stop (*hard*: kill) the broker and start it again, on the same ports and data.
        """
        if hard:
            self.kill()
        else:
            self.stop()
        self.start()

    def pause(self) -> None:
        """
        Let the broker hang: its ports stay open, nothing answers.
        """
        assert self._process is not None, f"{self.name} does not run"
        self._is_paused = True
        self._process.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """
        Let a paused broker go on.
        """
        if self._is_paused and self._process is not None:
            self._process.signal_group(signal.SIGCONT)
        self._is_paused = False

    def close(self) -> None:
        """
        Kill the broker, remove its data, give its ports back. It cannot be started again.
        """
        self._clear_process()
        self._folder.close()
        for port in self._ports:
            port.close()

    def revive(self) -> None:
        """
        Bring the broker back into the state that tests expect: running, not paused.
        """
        self.resume()
        self.start()

    # ---- the state

    @property
    def folder(self) -> Path:
        """
        The folder of its data, configuration and log.
        """
        return self._folder.path

    @property
    def log(self) -> Path:
        """
        The file that has all output of the broker.
        """
        return self.folder / "broker.log"

    @property
    def is_running(self) -> bool:
        """
        Whether its process lives, paused or not.
        """
        return self._process is not None and self._process.is_alive

    @property
    def pid(self) -> int:
        """
        The id of its process and process group.
        """
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def __enter__(self: Self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc: Any) -> None:
        self.close()

    # ---- inside

    def reserve(self) -> int:
        """
        Return a port that is this broker's until ``close()``.
        """
        self._ports.append(Port())
        return self._ports[-1].number

    def _clear_process(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._process = None
        self._is_paused = False

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_BOUND
        while not self._answers():
            if not self.is_running:
                raise BrokerError(f"{self.name} ended before it was ready:\n{self.log_end()}")
            if time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"{self.name} was not ready in {READY_BOUND} s:\n{self.log_end()}")
            time.sleep(POLL_INTERVAL)

    def _answers(self) -> bool:
        try:
            return self.is_ready()
        except OSError:
            return False

    def log_end(self) -> str:
        """
        Return the last lines of the log.
        """
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:]


def java_missing() -> str | None:
    """
    Return what to do about a missing Java.
    """
    return None if shutil.which("java") else "needs java (17 or later) on PATH"


def java(heap: str) -> list[str]:
    """
    Return the Java command for a small server that has to be up soon.

    One compiler tier and the serial collector start quickest; performance data would stay in the temporary folder
    after a SIGKILL.
    """
    return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData"]
