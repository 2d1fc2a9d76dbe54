"""
A run that is ended before its time shows and writes what was measured until then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import pytest

from bench import runner
from bench.__main__ import main
from bench.ending import SIGNALS, EndedError, ended_by_signals

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals as POSIX has them"),
]

# One case that is over in a moment, one that is not: it watches an idle pipeline for an hour.
ENDLESS = ["proc_tuned", "idle", "--messages=2000", "--repetitions=1", "--seconds=3600", "--concurrency=1"]


class Command:
    """
    The command, in a session of its own, so that what it leaves behind can be told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, *arguments: str) -> None:
        """
        Run it; what it writes goes to ``path``.
        """
        command = [sys.executable, "-m", "bench", *arguments, "--json", str(self.path)]
        self.process = subprocess.Popen(
            command, cwd=runner.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def wait_for(self, text: str) -> None:
        """
        Wait until it says *text*.
        """
        assert self.process.stderr is not None
        while text not in self.process.stderr.readline():
            assert self.process.poll() is None

    def end(self, number: Optional[signal.Signals] = None) -> str:
        """
        Send the signal, wait for the end; return what was printed.
        """
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 4, err
        assert "Traceback" not in err
        assert not self.is_anything_left()
        return out

    def is_anything_left(self) -> bool:
        """
        Whether a process of it is there.
        """
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def written(self) -> Dict[str, Any]:
        """
        Return the content of the file.
        """
        content: Dict[str, Any] = json.loads(self.path.read_text())
        return content


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """
    Nothing of it is left afterwards.
    """
    command = Command(tmp_path / "out.json")
    yield command
    with command.process:
        if command.is_anything_left():
            os.killpg(command.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_loses_nothing_that_was_measured(number: signal.Signals, command: Command) -> None:
    """
    The case that is over is in table and file; the job of the other one does not outlive the command.
    """
    command.start(*ENDLESS)
    command.wait_for("idle concurrency=1 (1 of 1)")
    before = command.written()
    out = command.end(number)
    assert "| proc_tuned " in out and "| idle " not in out
    assert f"ended by {number.name}: 1 of 2 cases were not run" in out
    assert command.written()["about"]["ended"] == number.name
    assert [case["scenario"] for case in command.written()["cases"]] == ["proc_tuned"]
    assert command.written()["cases"] == before["cases"]
    assert before["about"]["ended"] == ""


def test_repetitions_that_are_over_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Of a case that was ended between two of them.
    """
    jobs = iter(range(5))

    def run_job(*_: Any, **__: Any) -> Dict[str, Any]:
        if next(jobs) == 4:  # the comparison before the third run
            signal.raise_signal(signal.SIGTERM)
        return {"rate": 1.0}

    monkeypatch.setattr(runner, "run_job", run_job)
    path = tmp_path / "out.json"
    assert main(["batch_tuned", "--repetitions=3", "--json", str(path)]) == 4
    (case,) = json.loads(path.read_text())["cases"]
    assert len(case["runs"]) == len(case["baseline_runs"]) == 2
    assert f"{case['name']}: 2 of 3 runs" in capsys.readouterr().out


def test_time_limit(command: Command) -> None:
    """
    As a signal; here before anything was measured.
    """
    command.start(*ENDLESS[1:], "--time-limit=1.5")
    assert "ended by time limit of 1.5 s: 1 of 1 cases were not run" in command.end()
    assert command.written()["about"]["ended"] == "time limit of 1.5 s"
    assert command.written()["cases"] == []


def test_second_signal_does_what_it_did_before() -> None:
    """
    Somebody is in a hurry: the handlers are those from before once the first has come, and at the end.
    """
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(EndedError, match="^SIGTERM$"), ended_by_signals(60.0):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            assert [signal.getsignal(number) for number in SIGNALS] == before
            assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    with ended_by_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
