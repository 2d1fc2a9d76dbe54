"""
``broadway-sync run --processes``: workers that are forked, followed up, drained together; and their parent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from broadway_sync import ConfigurationError
from broadway_sync.runner import ExitCode, RunOptions
from broadway_sync.runner.child import DRAIN, NOW
from broadway_sync.runner.health_file import remove_file, write_file
from broadway_sync.runner.health_report import Report
from broadway_sync.runner.jobs import HealthJob
from broadway_sync.runner.restarts import Next
from broadway_sync.runner.slot import Slot
from broadway_sync.runner.workers import Workers
from tests.helpers import SCALE, eventually
from tests.runner.support import PATIENCE, Runner, is_running, wait_for_echo

Start = Callable[..., Runner]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def workers(entries: list[list[str]]) -> list[int]:
    """
    Return the processes that made these entries, without repetition, in the order of their first.
    """
    return list(dict.fromkeys(int(entry[0]) for entry in entries))


def wait_for_workers(started: Runner, count: int, *words: object) -> list[int]:
    """
    Wait until so many processes have said *words*.
    """
    return eventually(
        lambda: workers(started.said(*words)) if len(workers(started.said(*words))) >= count else None,
        f"{count} workers that said {words}: {started}",
        PATIENCE,
    )


def test_each_worker_runs_the_pipelines(runner: Start) -> None:
    """
    All drain together when the parent is signalled; exit code 0.
    """
    started = runner("endless", "--processes", "3")
    found = wait_for_workers(started, 3, "ok")
    assert started.process.pid not in found
    assert started.stop() == 0, started
    assert "SIGTERM: draining, for 25 s at most" in started.output
    assert not any(is_running(pid) for pid in found)


def test_exhausted_workers_have_no_successor(runner: Start) -> None:
    """
    The parent ends with the last one.
    """
    started = runner("short", "--processes", "2")
    assert started.end() == 0, started
    assert len(started.said("ok")) == 20
    assert len(workers(started.said("ok"))) == 2


def test_signal_to_all_drains_while_handlers_are_busy(runner: Start) -> None:
    """
    As a terminal does on Ctrl-C, and systemd: a worker that hears it twice, once from its parent, drains all the same.
    """
    started = runner("gated", "--processes", "2", echo=PATIENCE)  # however late the second one is handled
    wait_for_workers(started, 2, "in")
    started.signal(signal.SIGSTOP)  # so that both are there when it goes on
    started.process.signal_group(signal.SIGINT)
    started.signal(signal.SIGTERM)
    started.signal(signal.SIGCONT)
    started.wait_for_output(": draining", count=3)
    started.open_gate()
    assert started.end() == 0, started
    assert len(started.said("ok")) == len(started.said("in"))


def test_second_signal_stops_all_at_once(runner: Start) -> None:
    """
    Exit code 1: something was left behind.
    """
    started = runner("hanging", "--processes", "2", "--shutdown", "600")
    wait_for_workers(started, 2, "in")
    started.signal()
    started.wait_for_output("SIGTERM: draining", count=3)
    wait_for_echo()
    started.signal()
    assert started.end() == 1, started
    assert started.output.count("messages were left behind, neither") >= 2


def test_worst_worker_decides(runner: Start) -> None:
    """
    Each says what it left behind.
    """
    started = runner("hanging", "--processes", "2", "--shutdown", "0.5")
    wait_for_workers(started, 2, "in")
    assert started.stop() == 1, started
    assert len(re.findall(r"worker \d \(process \d+\) left messages behind", started.output)) == 2


def test_worker_that_is_killed_is_followed_by_another(runner: Start) -> None:
    """
    After a pause; its parent and the other worker go on.
    """
    started = runner("endless", "--processes", "2")
    first, second = wait_for_workers(started, 2, "ok")
    os.kill(first, signal.SIGKILL)
    third = wait_for_workers(started, 3, "ok")[2]
    pattern = rf"worker \d \(process {first}\) was killed by SIGKILL, another one starts in [\d.]+ s"
    assert re.search(pattern, started.output), started
    assert is_running(second) and is_running(third)
    assert started.stop() == 0, started


def test_worker_that_is_signalled_is_followed_by_another(runner: Start) -> None:
    """
    It drains, and another one starts at once: so workers can be renewed one by one.
    """
    started = runner("endless", "--processes", "2")
    first, _ = wait_for_workers(started, 2, "ok")
    os.kill(first, signal.SIGTERM)
    wait_for_workers(started, 3, "ok")
    assert f"(process {first}) was drained by a signal, another one starts\n" in started.output
    assert started.stop() == 0, started


def test_no_storm(runner: Start) -> None:
    """
    Workers that die as soon as they start are started ever more slowly.
    """
    started = runner("dying", "--processes", "2")
    started.wait_for("dies", count=6)
    assert started.stop() in (0, 1), started
    deaths = [float(entry[2]) for entry in started.said("dies")]
    pauses = [
        float(pause)
        for pause in re.findall(r"ended with exit code 7, another one starts in ([\d.]+) s", started.output)
    ]
    assert min(pauses) >= 0.5
    # Each of the two slots died at least twice before the sixth death, and waited each time.
    assert max(deaths) - min(deaths) >= 1.0


def test_mistake_is_made_by_one_worker_alone(runner: Start) -> None:
    """
    And ends all, at once: another one would fare no better.
    """
    started = runner("nothing", "--processes", "4")
    assert started.end() == 2, started
    assert started.output.count("has no 'nothing'") == 1
    assert "another one starts" not in started.output


def test_worker_that_gives_up_is_followed_by_another(runner: Start) -> None:
    """
    After a pause. When the parent is stopped its exit code says that it was needed.
    """
    started = runner("failing", "--processes", "2")
    started.wait_for_output("gave up, another one starts in", count=3)
    assert started.stop() == 3, started


def test_parent_that_is_killed(runner: Start) -> None:
    """
    Leaves workers that notice it, drain and end.
    """
    started = runner("endless", "--processes", "2")
    found = wait_for_workers(started, 2, "ok")
    os.kill(started.process.pid, signal.SIGKILL)
    started.end()
    eventually(lambda: not any(map(is_running, found)), f"the workers end: {started}", PATIENCE)
    assert started.output.count("the parent is gone: draining") == 2
    assert started.output.count("broadway_sync.runner: drained") == 2


def test_parent_that_is_killed_with_a_worker_that_hangs(runner: Start) -> None:
    """
    Leaves nothing for ever: what does not drain in time ends as well.
    """
    started = runner("hanging", "--processes", "2", "--shutdown", "0.5")
    found = wait_for_workers(started, 2, "in")
    os.kill(started.process.pid, signal.SIGKILL)
    started.end()
    eventually(lambda: not any(map(is_running, found)), f"the workers end: {started}", PATIENCE)


@pytest.mark.parametrize("shutdown", ["3000000", "1e10"])
def test_drain_without_a_limit(runner: Start, shutdown: str) -> None:
    """
    More seconds than the system can wait for at a time are no fault.
    """
    started = runner("gated", "--processes", "2", "--shutdown", shutdown)
    wait_for_workers(started, 2, "in")
    started.signal()
    started.wait_for_output("SIGTERM: draining", count=3)
    started.open_gate()
    assert started.end() == 0, started
    assert "Traceback" not in started.output


def test_drain_without_a_limit_and_a_parent(runner: Start) -> None:
    """
    The same for workers that are left alone.
    """
    started = runner("gated", "--processes", "2", "--shutdown", "1e10")
    found = wait_for_workers(started, 2, "in")
    os.kill(started.process.pid, signal.SIGKILL)
    started.end()
    started.wait_for_output("SIGTERM: draining", count=2)
    started.open_gate()
    eventually(lambda: not any(map(is_running, found)), f"the workers end: {started}", PATIENCE)
    assert "Traceback" not in started.output


def test_first_signal_in_a_drain_that_nobody_asked_for() -> None:
    """
    Does not cut it short: the others have the time that they were given. The second one does.
    """
    workers = Workers(["no.module:pipeline"], RunOptions(processes=2), None)
    told: list[bytes] = []
    workers._workers[0].child = FakeChild(told)  # type: ignore[assignment]
    workers._ended(workers._workers[1], 1, 2, Next(None, ExitCode.CANNOT_START, is_hopeless=True))
    for _ in range(2):
        wait_for_echo()
        workers._signalled(signal.SIGTERM)
        told.append(b"|")
    assert told == [DRAIN, b"|", NOW, b"|"]


def test_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A read-only file system: workers cannot say how they are, and that is said before any of them starts.
    """
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    with pytest.raises(ConfigurationError, match="^health_port, health_file: .*, set TMPDIR to .*: .Errno 2"):
        Workers(["no.module:pipeline"], RunOptions(processes=2, health_port=0), None)


def test_without_a_socket_for_dumps(runner: Start, folder: Path) -> None:
    """
    The parent and its workers do without it.
    """
    (folder / f"broadway-sync-{os.getuid()}").touch()
    started = runner("endless", "--processes", "2")
    first, _ = wait_for_workers(started, 2, "ok")
    os.kill(first, signal.SIGTERM)
    wait_for_workers(started, 3, "ok")
    assert "`broadway-sync dump` will not reach this process" in started.output
    assert started.stop() == 0, started


def test_system_without_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is tried again, and the others wait for the first as ever.
    """
    attempts = []

    def start(slot: Slot) -> None:
        attempts.append(slot.name)
        raise OSError("no process left")

    monkeypatch.setattr(Slot, "start", start)
    workers = Workers(["no.module:pipeline"], RunOptions(processes=3), None)
    assert workers._start_due() is None
    assert attempts == ["worker 0"]
    assert 0 < workers._timeout() <= 1.0


class FakeChild:
    """
    A child that notes what it is told.
    """

    def __init__(self, told: list[bytes]) -> None:
        self._told = told

    def tell(self, order: bytes, seconds: float) -> None:
        """
        Note it.
        """
        self._told.append(order)


def test_worker_that_does_not_drain_in_time_is_killed(runner: Start) -> None:
    """
    Exit code 1. One that is stopped like this one can do nothing about it.
    """
    started = runner("endless", "--processes", "2", "--shutdown", "0.5")
    first, _ = wait_for_workers(started, 2, "ok")
    os.kill(first, signal.SIGSTOP)
    before = time.monotonic()
    assert started.stop() == 1, started
    assert time.monotonic() - before < 20 * SCALE
    assert f"(process {first}) did not end in time and is killed" in started.output
    assert not is_running(first)


def test_max_messages_renews_workers_at_once(runner: Start) -> None:
    """
    Without a pause, for as long as there is something to do.
    """
    started = runner("endless", "--processes", "2", "--max-messages", "10")
    wait_for_workers(started, 5, "ok")
    assert started.stop() == 0, started
    assert re.search(r"worker \d \(process \d+\) left at its limit, another one starts\n", started.output)
    assert "another one starts in" not in started.output


def test_signal_while_the_first_worker_is_being_made(runner: Start) -> None:
    """
    Nothing was started yet: exit code 0, at once.
    """
    started = runner("slow_to_make", "--processes", "2")
    started.wait_for("making")
    assert started.stop() == 0, started
    assert len(started.said("making")) == 1


def test_stop_while_a_worker_waits_for_its_restart(runner: Start) -> None:
    """
    There is nobody to wait for.
    """
    started = runner("dying", "--processes", "2")
    started.wait_for_output("another one starts in", count=2)
    before = time.monotonic()
    started.stop()
    assert time.monotonic() - before < 10 * SCALE


def test_health_of_all_workers(runner: Start) -> None:
    """
    One file tells of all; a worker that was killed is missed until another one reports.
    """
    started = runner("endless", "--processes", "2", "--health-file", "health.json")
    wait_for_workers(started, 2, "ok")
    file = started.folder / "health.json"

    def report() -> dict[str, Any]:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    eventually(lambda: report().get("ready"), f"all are ready: {started}", PATIENCE)
    assert sorted(each["pid"] for each in report()["pipelines"]) == sorted(workers(started.said("ok")))
    assert started.stop() == 0, started
    assert not file.exists()


def test_health_while_a_worker_leaves(folder: Path) -> None:
    """
    It has removed its file, and its parent has not seen its end yet: that must not cost the life of all.
    """
    job = HealthJob(str(folder), RunOptions(processes=2, health_port=0), None)
    good = Report(live=True, ready=True, pid=1)
    for index in range(2):
        job.expect(index)
        write_file(job.file(index), good)
    assert (job.report().live, job.report().ready) == (True, True)
    remove_file(job.file(1))
    assert (job.report().live, job.report().ready) == (True, False)
    job.retire(1)
    assert (job.report().live, job.report().ready) == (True, True)
    shutil.rmtree(folder)
    assert (job.report().live, job.report().ready) == (False, False)


def test_health_process_waits_for_workers_that_there_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Not for one that its parent was about to start when it was killed: the port must be free for those who come next.
    """
    pauses: list[float] = []
    job = HealthJob(str(folder / "health"), RunOptions(processes=2, health_port=0), None)
    (folder / "health").mkdir()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        remove_file(job.file(0))

    monkeypatch.setattr("broadway_sync.runner.jobs.sleep", pause)
    for index in range(2):
        job.expect(index)
    write_file(job.file(0), Report(live=True, ready=True, pid=1))
    job._outlive_workers()
    assert len(pauses) == 1
    assert not (folder / "health").exists()


def test_health_file_that_cannot_be_written_for_a_while(runner: Start, folder: Path) -> None:
    """
    Is said once and costs nothing else: the health process goes on, and writes it when it can.
    """
    (folder / "run").mkdir()
    started = runner("endless", "--processes", "2", "--health-file", "run/health.json")
    file = folder / "run" / "health.json"
    eventually(file.exists, f"the health file is written: {started}", PATIENCE)
    file.parent.rename(folder / "elsewhere")
    started.wait_for_output("cannot write run/health.json, it is tried again")
    file.parent.mkdir()
    eventually(file.exists, f"the health file is written again: {started}", PATIENCE)
    assert "another one starts" not in started.output
    assert started.stop() == 0, started


def test_health_outlives_a_parent_that_is_killed(runner: Start) -> None:
    """
    As long as workers drain, and leaves nothing behind.
    """
    started = runner("gated", "--processes", "2", "--health-file", "health.json")
    found = wait_for_workers(started, 2, "in")
    eventually((started.folder / "health.json").exists, "the health file is written", PATIENCE)
    os.kill(started.process.pid, signal.SIGKILL)
    started.wait_for_output("the parent is gone: draining", count=2)
    started.open_gate()
    eventually(lambda: not any(map(is_running, found)), f"the workers end: {started}", PATIENCE)
    eventually(lambda: not list(started.folder.glob("broadway-sync-health-*")), "the folder is removed", PATIENCE)
    eventually(lambda: not (started.folder / "health.json").exists(), "the health file is removed", PATIENCE)
