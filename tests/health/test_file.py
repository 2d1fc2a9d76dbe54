"""
The health file, and the command that reads it.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, List

import pytest

from broadway_sync.runner import health_file
from broadway_sync.runner.health_file import main, read_file, remove_file, write_file
from broadway_sync.runner.health_report import Report, merge
from tests.helpers import python_env

GOOD = Report(live=True, ready=True, pipelines=({"name": "p"},), pid=7)
NOT_READY = Report(live=True, ready=False, problems=("p: draining",))
BAD = Report(live=False, ready=False, problems=("p: stalled",))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """
    Return where a health file may be.
    """
    return str(tmp_path / "health.json")


@pytest.mark.parametrize("report", [GOOD, NOT_READY, BAD], ids=["good", "not ready", "bad"])
def test_what_was_written_is_read(path: str, report: Report) -> None:
    """
    As a whole, with the time.
    """
    before = time.time()
    write_file(path, report)
    assert read_file(path) == report
    fields = json.loads(Path(path).read_text(encoding="utf-8"))
    assert before <= fields["timestamp"] <= time.time()


def test_others_may_read_it(path: str) -> None:
    """
    The probe may be another user, whatever the umask of this process.
    """
    before = os.umask(0o077)
    try:
        write_file(path, GOOD)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


def test_nothing_else_is_left_in_the_folder(path: str, monkeypatch: Any) -> None:
    """
    Not of a write that failed either, after which the last report still stands.
    """
    write_file(path, GOOD)

    def fail(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(health_file.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_file(path, BAD)
    monkeypatch.undo()
    assert read_file(path) == GOOD
    assert os.listdir(os.path.dirname(path)) == ["health.json"]


def test_a_reader_sees_one_report_or_the_other(path: str) -> None:
    """
    Never half of one, while it is written over and over.
    """
    write_file(path, GOOD)
    done = threading.Event()

    def write() -> None:
        for _ in range(200):
            write_file(path, BAD)
            write_file(path, GOOD)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: List[Report] = []
    while not done.is_set():
        seen.append(read_file(path))
    writer.join()
    assert [report for report in seen if report not in (GOOD, BAD)] == []


def test_removing_it_is_no_matter_when_it_is_gone(path: str) -> None:
    """
    Somebody may have tidied up.
    """
    write_file(path, GOOD)
    remove_file(path)
    assert not os.path.exists(path)
    remove_file(path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"timestamp": 1}', '{"timestamp": "x", "live": true}', "\udcff"]
)
def test_what_is_no_health_file_is_bad_health(path: str, content: str) -> None:
    """
    The text says what is wrong.
    """
    Path(path).write_bytes(content.encode("utf-8", "surrogateescape"))
    report = read_file(path)
    assert (report.live, report.ready) == (False, False)
    assert report.problems[0].startswith(f"no health in {path}: ")


def test_a_missing_file_is_bad_health(path: str) -> None:
    """
    The process has not come that far, or has ended.
    """
    problems = (f"there is no {path}",)
    assert read_file(path) == Report(live=False, ready=False, problems=problems)
    assert read_file(path, missing_ok=True) == Report(live=True, ready=False, problems=problems)


@pytest.mark.parametrize("seconds", [-31.0, 31.0], ids=["past", "future"])
def test_a_file_of_another_time_is_bad_health(path: str, seconds: float) -> None:
    """
    Whoever should write it has died, or hangs; one from the future is as old as it seems.
    """
    write_file(path, GOOD)
    fields = json.loads(Path(path).read_text(encoding="utf-8"))
    Path(path).write_text(json.dumps({**fields, "timestamp": time.time() + seconds}), encoding="utf-8")
    report = read_file(path, max_age=30)
    assert not report.live
    assert report.problems[0].startswith(f"the health in {path} is ")
    assert read_file(path, max_age=60) == GOOD


def test_several_processes_are_as_bad_as_the_worst() -> None:
    """
    And have the problems of all, each with the process that has it.
    """
    assert merge([GOOD, GOOD]) == Report(live=True, ready=True, pipelines=GOOD.pipelines * 2)
    assert merge([GOOD, NOT_READY]) == Report(
        live=True, ready=False, problems=NOT_READY.problems, pipelines=GOOD.pipelines
    )
    assert merge([NOT_READY, BAD]) == Report(live=False, ready=False, problems=NOT_READY.problems + BAD.problems)
    stalled = Report(live=False, ready=False, problems=("p: stalled", "q: failed"), pid=12)
    assert merge([stalled, GOOD]).problems == ("process 12: p: stalled", "process 12: q: failed")
    assert merge([]) == Report(live=True, ready=False, problems=("no process reports",))


def test_the_command_answers_by_its_exit_code(path: str, capsys: Any) -> None:
    """
    And says why.
    """
    answers = []
    for report in (GOOD, NOT_READY, BAD):
        write_file(path, report)
        answers.append((main([path]), main([path, "--ready"])))
    assert answers == [(0, 0), (0, 1), (1, 1)]
    assert capsys.readouterr().out == "ok\nok\nok\np: draining\nnot ok\np: draining\n" + "not ok\np: stalled\n" * 2


def test_the_command_reads_the_files_of_several_workers(tmp_path: Path, capsys: Any) -> None:
    """
    One bad one is enough.
    """
    paths = [str(tmp_path / f"health.{number}") for number in range(3)]
    for each in paths[:2]:
        write_file(each, GOOD)
    assert main(paths[:2]) == 0
    assert main(paths) == 1
    assert main([*paths, "--missing-ok"]) == 0
    assert main([*paths, "--missing-ok", "--ready"]) == 1
    assert capsys.readouterr().out == "".join(
        f"{line}\nthere is no {paths[2]}\n" if number else f"{line}\n"
        for number, line in enumerate(["ok", "not ok", "ok", "not ok"])
    )


def test_the_command_runs_without_anything_else(path: str) -> None:
    """
    As a probe runs it, with the age that it is told.
    """
    write_file(path, GOOD)
    command = [sys.executable, "-W", "error", "-m", "broadway_sync", "health", path]
    done = subprocess.run(command, capture_output=True, text=True, env=python_env(), timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    old = subprocess.run([*command, "--max-age", "0"], capture_output=True, text=True, env=python_env(), timeout=60)
    assert (old.returncode, old.stderr) == (1, "")
