"""
Dumps: what a process is doing, for who asks and for who may.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from broadway_sync import DrainTimeoutError
from broadway_sync.runner.dump import dump_text
from broadway_sync.runner.dumper import Dumper
from broadway_sync.runner.endpoint import Endpoint, NoAnswerError, ask
from tests.helpers import Call, make_handler, python_env
from tests.runner.support import Runner
from tests.runner.test_workers import wait_for_workers

Start = Callable[..., Runner]

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


@pytest.fixture
def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Return the folder, which is the temporary one for the time of the test.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def dump(started: Runner, pid: int) -> subprocess.CompletedProcess[str]:
    """
    Run ``broadway-sync dump``.
    """
    return subprocess.run(
        [sys.executable, "-m", "broadway_sync", "dump", str(pid)],
        capture_output=True,
        text=True,
        timeout=60,
        env=python_env({"TMPDIR": str(started.folder)}),
        cwd=started.folder,
    )


def test_text(make_pipeline: Any, gate: Any) -> None:
    """
    Has the figures of each stage, the stacks of the pipeline's threads, and those of all others once.
    """

    def stands_here(processor: Any, message: Any, context: Any) -> Any:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=stands_here), name="looked_at").start()
    ref = pipeline.test_batch([1, 2, 3])
    gate.arrived()
    text = dump_text([pipeline])
    assert f"process {os.getpid()}, " in text
    assert re.search(r"^pipeline 'looked_at': running for \d+\.\d s, 3 messages in flight, 0 handled,", text, re.M)
    assert re.search(r"^  looked_at.Broadway.Processor_default_0 +0 +3 +0 +\d\.\d s", text, re.M), text
    assert "in stands_here" in text
    assert text.count("thread looked_at.Broadway.Processor_default_0\n") == 1
    assert "thread MainThread" in text
    gate.open()
    ref.collect(3)


def test_thread_that_was_given_up(make_pipeline: Any, gate: Any) -> None:
    """
    Is shown as well, although the one that came after it has the same name: it is the one to look for.
    """

    def hangs_here(processor: Any, message: Any, context: Any) -> Any:
        gate.wait()
        return message

    processors = {"default": {"concurrency": 1}}
    pipeline = make_pipeline(make_handler(handle_message=hangs_here), name="again", processors=processors).start()
    pipeline.test_message(1)
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(0)
    text = dump_text([pipeline.start()])
    assert text.count("thread again.Broadway.Processor_default_0\n") == 2
    assert text.count("in hangs_here") == 1
    gate.open()


def test_text_of_a_pipeline_that_does_not_run(make_pipeline: Any) -> None:
    """
    Says so.
    """
    assert "pipeline 'idle': new" in dump_text([make_pipeline(name="idle")])


def test_of_a_running_process(runner: Start) -> None:
    """
    The command prints where the handler is.
    """
    started = runner("hanging", "--shutdown", "0.5")
    started.wait_for("in", 0)
    done = dump(started, started.process.pid)
    assert done.returncode == 0, done.stderr
    assert "pipeline 'hanging': running" in done.stdout
    assert "in never_returns" in done.stdout


def test_of_a_process_that_hangs_while_it_starts(runner: Start) -> None:
    """
    It answers already.
    """
    started = runner("slow_to_make")
    started.wait_for("making")
    done = dump(started, started.process.pid)
    assert "in slow_to_make" in done.stdout, done


def test_of_workers(runner: Start) -> None:
    """
    The parent names them, and all of them are asked.
    """
    started = runner("gated", "--processes", "2")
    found = wait_for_workers(started, 2, "in")
    done = dump(started, started.process.pid)
    assert done.returncode == 0, done.stderr
    assert f"process {started.process.pid}, parent of 2 workers" in done.stdout
    for number, pid in enumerate(sorted(found)):
        assert re.search(rf"worker \d: process {pid} for \d", done.stdout), number
        assert f"process {pid}, " in done.stdout
    assert done.stdout.count("pipeline 'gated': running") == 2
    started.open_gate()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
@pytest.mark.parametrize("options", [[], ["--processes", "2"]], ids=["one", "workers"])
def test_signal_writes_it_to_stderr(runner: Start, options: list[str]) -> None:
    """
    Of the process itself, and of its workers; all go on.
    """
    started = runner("gated", *options)
    count = 2 if options else 1
    wait_for_workers(started, count, "in")
    started.signal(signal.SIGUSR1)
    started.wait_for_output("pipeline 'gated': running", count=count)
    started.wait_for_output("thread MainThread", count=count)
    started.open_gate()
    assert started.stop() == 0, started


def test_nothing_is_left(runner: Start) -> None:
    """
    The socket goes with the process.
    """
    started = runner("short")
    assert started.end() == 0
    assert list(started.folder.rglob("*.sock")) == []


def test_no_such_process(temporary: Path) -> None:
    """
    Is said.
    """
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(NoAnswerError, match=f"^there is no process {process.pid}$"):
        ask(process.pid)


def test_process_that_is_no_runner(temporary: Path) -> None:
    """
    Is told from one that is, as far as possible. Nobody is sent to SIGUSR1, which ends other processes.
    """
    with pytest.raises(NoAnswerError, match=f"^process {os.getpid()} is no `broadway-sync run`, or has another temp"):
        ask(os.getpid())


def test_command_says_it_in_one_line(folder: Path) -> None:
    """
    Exit code 2.
    """
    started = Runner(folder, "dump", os.getpid())
    assert started.end() == 2
    assert started.output.startswith(f"broadway-sync: process {os.getpid()} is no")
    assert started.output.count("\n") == 1
    started.close()


def test_folder_is_private(temporary: Path) -> None:
    """
    Nobody else may look into it.
    """
    endpoint = Endpoint()
    folder = temporary / f"broadway-sync-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    endpoint.close()
    assert list(folder.iterdir()) == []


def test_folder_that_others_may_use(temporary: Path) -> None:
    """
    Is trusted by neither side.
    """
    endpoint = Endpoint()
    folder = temporary / f"broadway-sync-{os.getuid()}"
    folder.chmod(0o755)
    with pytest.raises(NoAnswerError, match="is no `broadway-sync run`"):
        ask(os.getpid())
    with pytest.raises(PermissionError, match="or others may use it"):
        Endpoint()
    endpoint.close()


def test_folder_that_is_a_link(temporary: Path) -> None:
    """
    Somebody else's trap: what it leads to is left alone.
    """
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir(0o700)
    (temporary / f"broadway-sync-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        Endpoint()
    assert list(elsewhere.iterdir()) == []


def test_names_of_killed_processes_are_removed(temporary: Path) -> None:
    """
    Those of living ones are not.
    """
    living = Endpoint()
    folder = temporary / f"broadway-sync-{os.getuid()}"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "1.sock"))
    (folder / "notes").touch()
    living_name = folder / f"{os.getpid()}.sock"
    renamed = living_name.rename(folder / "2.sock")  # else the next one would take it for its own
    other = Endpoint()
    assert sorted(file.name for file in folder.iterdir()) == sorted(["2.sock", "notes", living_name.name])
    other.close()
    living.close()
    renamed.unlink()


def test_name_appears_when_somebody_listens(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Not before: others would take it for that of a killed process.
    """
    name = temporary / f"broadway-sync-{os.getuid()}" / f"{os.getpid()}.sock"

    class Watched(socket.socket):
        def listen(self, *backlog: int) -> None:
            assert not name.exists()
            super().listen(*backlog)

    monkeypatch.setattr("socket.socket", Watched)
    endpoint = Endpoint()
    assert [file.name for file in name.parent.iterdir()] == [name.name]
    endpoint.close()


def test_client_that_goes_away(temporary: Path) -> None:
    """
    Costs nothing.
    """
    with Dumper():
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(temporary / f"broadway-sync-{os.getuid()}" / f"{os.getpid()}.sock"))
        assert "thread MainThread" in ask(os.getpid())[0]


def test_without_file_descriptors_it_waits(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A client that cannot be accepted keeps the socket readable: whoever waits for that must not spin, nor look at all
    threads for nobody.
    """
    pauses: list[float] = []
    monkeypatch.setattr("broadway_sync.runner.endpoint.sleep", pauses.append)
    endpoint = Endpoint()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(temporary / f"broadway-sync-{os.getuid()}" / f"{os.getpid()}.sock"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            endpoint.answer(lambda: pytest.fail("there is nobody to tell it"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(pauses) == 1
        endpoint.answer(lambda: "now")
        assert client.recv(100) == f"broadway-sync {os.getpid()}\nnow".encode()
    endpoint.answer(lambda: pytest.fail("there is nobody to tell it"))
    assert len(pauses) == 1
    endpoint.close()


def test_without_a_folder(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    A read-only file system: the process goes without the socket, and says so.
    """
    caplog.set_level("INFO")
    tempfile.tempdir = str(temporary / "missing")
    with Dumper():
        pass
    assert "`broadway-sync dump` will not reach this process" in caplog.text


def test_dumper_puts_the_handler_back(temporary: Path) -> None:
    """
    And leaves no thread. The default one is not put back: a late request would kill the process.
    """
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    with Dumper():
        assert callable(signal.getsignal(signal.SIGUSR1))
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    mine = Call  # any callable
    signal.signal(signal.SIGUSR1, mine)
    with Dumper():
        pass
    assert signal.getsignal(signal.SIGUSR1) is mine
    signal.signal(signal.SIGUSR1, before)
    assert "broadway_sync.dumper" not in [thread.name for thread in threading.enumerate()]
