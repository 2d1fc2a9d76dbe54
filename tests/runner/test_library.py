"""
``run`` and its parts, called from code.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from broadway_sync import IterableProducer
from broadway_sync.runner import RunOptions, run
from broadway_sync.runner.cli import main
from broadway_sync.runner.health_file import write_file
from broadway_sync.runner.health_report import Report
from broadway_sync.runner.logs import LogHandler, say, show
from broadway_sync.runner.service import Service
from broadway_sync.runner.signals import StopSignals
from broadway_sync.runner.wakeup import Wakeup
from tests.helpers import SCALE, Call, RecordingAcknowledger, python_env, run_python

Make = Callable[..., Any]

NO_SPACE = "[Errno 28] No space left on device\n"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@contextlib.contextmanager
def bare_logging() -> Iterator[logging.Logger]:
    """
    Return the root logger, which has no handlers for the time of the test, as in a program that configures nothing.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_run_of_a_pipeline(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Returns the exit code; handlers of signals are those from before.
    """
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": acks.messages(range(5))})})
    assert run(pipeline) == 0
    assert acks.collect_data(5) == (list(range(5)), [])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_run_of_functions(make_pipeline: Make) -> None:
    """
    They are called once each.
    """
    made = []

    def make() -> Any:
        made.append(make_pipeline(producer={"module": (IterableProducer, {"iterable": []})}))
        return made[-1]

    assert run([make, make], RunOptions(shutdown=1)) == 0
    assert [pipeline.state for pipeline in made] == ["stopped", "stopped"]


@pytest.mark.parametrize("processes", [1, 2])
def test_run_on_another_thread(make_pipeline: Make, processes: int) -> None:
    """
    Is an error that says so.
    """
    with pytest.raises(RuntimeError, match="signals can be handled on the main thread only"):
        Call(run, make_pipeline(), RunOptions(processes=processes)).result()


def test_start_that_raises(make_pipeline: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Exit code 2, with the traceback.
    """

    class Unstartable(IterableProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            raise OSError("no such device")

    assert run(make_pipeline(producer={"module": (Unstartable, {"iterable": []})})) == 2
    assert "OSError: no such device" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_signal_that_waits_for_a_worker_to_begin(make_pipeline: Make) -> None:
    """
    Comes as soon as its handlers stand: nothing is started, and it ends well.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    pipeline = make_pipeline()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    try:
        service = Service([pipeline], RunOptions(), is_worker=True)
        assert service.run() == 0
        assert service.is_signalled
        assert pipeline.state == "new"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # it leaves: a second one must not kill it
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signal_just_before_the_start(make_pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nothing was started, so nothing is left behind.
    """

    class Late(StopSignals):
        _group: Any = None

        @property
        def group(self) -> Any:
            return self._group

        @group.setter
        def group(self, group: Any) -> None:
            if group is not None:
                signal.raise_signal(signal.SIGTERM)
            self._group = group

    monkeypatch.setattr("broadway_sync.runner.service.StopSignals", Late)
    pipeline = make_pipeline()
    assert run(pipeline) == 0
    assert pipeline.state == "new"


def test_signal_that_a_log_handler_swallows(make_pipeline: Make) -> None:
    """
    It comes while something is logged before the start, where whatever is raised stays: nothing is started even so.
    """

    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "answers on" in record.getMessage():
                signal.raise_signal(signal.SIGTERM)

    interrupted = Interrupted()
    logging.getLogger("broadway_sync").addHandler(interrupted)
    try:
        pipeline = make_pipeline()
        assert run(pipeline, RunOptions(health_port=0, log_level="info")) == 0
        assert pipeline.state == "new"
    finally:
        logging.getLogger("broadway_sync").removeHandler(interrupted)


def test_signal_as_soon_as_it_waits_for_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ends it with exit code 2, as any later one does.
    """
    said: list[str] = []

    def say_and_signal(text: str) -> None:
        said.append(text)
        if "waiting for a source file" in text:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("broadway_sync.runner.service.say", say_and_signal)
    assert run("no_such_module:pipeline", RunOptions(reload=True)) == 2
    assert said[-1] == "broadway-sync: waiting for a source file to change"


def test_statsd_is_attached_while_it_runs(make_pipeline: Make) -> None:
    """
    And detached at the end.
    """
    from broadway_sync import telemetry

    attached = []

    def look() -> Any:
        attached.append(len(telemetry.list_handlers()))
        return iter(())

    class Looking(IterableProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            look()
            return [], options

    before = len(telemetry.list_handlers())
    pipeline = make_pipeline(producer={"module": (Looking, {"iterable": []})})
    assert run(pipeline, RunOptions(statsd="127.0.0.1:9")) == 0
    plain = make_pipeline(producer={"module": (Looking, {"iterable": []})})
    assert run(plain) == 0
    assert attached[0] > attached[1] >= before
    assert len(telemetry.list_handlers()) == before


def test_log_of_a_program_that_configures_nothing() -> None:
    """
    Gets a handler for the time of the run: for all at the default level, if there is one, else for the library alone.
    """
    library = logging.getLogger("broadway_sync")
    with bare_logging() as root:
        handler = LogHandler(None, logging.INFO)
        assert (len(root.handlers), root.level) == (1, logging.INFO)
        handler.remove()
        assert root.handlers == []
        handler = LogHandler(None, None)
        assert (root.handlers, len(library.handlers), library.level) == ([], 1, logging.INFO)
        handler.remove()
        assert (library.handlers, library.level) == ([], logging.NOTSET)


def test_log_of_a_program_that_configures_it() -> None:
    """
    Is left alone, but for the level, if the user names one.
    """
    own = logging.StreamHandler(io.StringIO())
    with bare_logging() as root:
        root.addHandler(own)
        root.setLevel(logging.ERROR)
        for level in (None, logging.DEBUG):
            handler = LogHandler(level, logging.INFO)
            assert (root.handlers, root.level) == ([own], level or logging.ERROR)
            handler.remove()
            assert (root.handlers, root.level) == ([own], logging.ERROR)


def test_log_of_a_program_that_disables_what_it_does_not_name() -> None:
    """
    As ``logging.config`` does unless it is told otherwise: the library is heard all the same, others are not.
    """
    loggers = [logging.getLogger(name) for name in ("broadway_sync", "broadway_sync.runner", "broadway_syncopated")]
    for logger in loggers:
        logger.disabled = True
    try:
        LogHandler(None, logging.INFO).remove()
        assert [logger.disabled for logger in loggers] == [False, False, True]
    finally:
        for logger in loggers:
            logger.disabled = False


def test_log_handler_that_raises(make_pipeline: Make) -> None:
    """
    Does not change how a run ends.
    """

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> Any:
            raise LookupError("no request")

    broken = Broken()
    logging.getLogger("broadway_sync").addHandler(broken)
    try:
        pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": []})})
        assert run(pipeline, RunOptions(log_level="info")) == 0
    finally:
        logging.getLogger("broadway_sync").removeHandler(broken)


def test_say_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Says nothing.
    """
    for stream in (None, io.StringIO()):
        if stream is not None:
            stream.close()
        monkeypatch.setattr("sys.stderr", stream)
        say("nobody hears")


def test_wakeup() -> None:
    """
    Notes signals as they come, and puts everything back.
    """
    before = signal.getsignal(signal.SIGUSR2)
    with Wakeup([signal.SIGUSR2]) as wakeup:
        assert wakeup.take() == []
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert wakeup.take() in ([signal.SIGUSR2], [signal.SIGUSR2] * 2)
        assert wakeup.take() == []
    assert signal.getsignal(signal.SIGUSR2) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_import_starts_nothing() -> None:
    """
    And needs no client library.
    """
    source = """
import sys, threading
import broadway_sync.runner
print(threading.active_count(), [name for name in ("statsd", "django", "flask") if name in sys.modules])
"""
    assert run_python(source).stdout == "1 []\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["check", "--help"], ["dump", "--help"]]
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """
    Every command explains itself, and all have a version.
    """
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "broadway-sync" in capsys.readouterr().out


def test_health_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Reads health files, for probes.
    """
    with pytest.raises(SystemExit) as caught:
        main(["health", str(tmp_path / "missing")])
    assert caught.value.code == 1
    assert "not ok" in capsys.readouterr().out


CHECK = """
import sys
from broadway_sync import DummyProducer, Pipeline
from broadway_sync.runner import check, leave

class Handler:
    def handle_message(self, processor, message, context):
        return message

leave(check(Pipeline(Handler(), name="caf\\u00e9", producer={"module": DummyProducer}, processors={"x": {}})))
"""


def check_into(stdout: Any, **env: str) -> "subprocess.CompletedProcess[str]":
    """
    Check a pipeline with another stdout than a terminal or a file.
    """
    done = subprocess.Popen(
        [sys.executable, "-c", CHECK],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=python_env({"PYTHONUNBUFFERED": "", **env}),
    )
    out, err = done.communicate(timeout=60 * SCALE)
    return subprocess.CompletedProcess(CHECK, done.returncode, out, err)


def test_reader_that_is_gone() -> None:
    """
    ``| head``: nobody is told, and the exit code is the verdict.
    """
    reader, writer = os.pipe()
    os.close(reader)
    done = check_into(writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_stdout_on_a_full_disk(tmp_path: Path) -> None:
    """
    Is said, and does not change the verdict: a probe must not take a full disk for a stall.
    """
    with open("/dev/full", "w") as full:
        done = check_into(full)
        assert (done.returncode, done.stderr) == (0, "broadway-sync: cannot write to stdout: " + NO_SPACE)
        file = str(tmp_path / "health")
        write_file(file, Report(live=True, ready=True))
        command = [sys.executable, "-m", "broadway_sync", "health", file]
        probe = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=python_env(), timeout=60)
        assert (probe.returncode, probe.stderr) == (0, done.stderr)


def test_stdout_that_cannot_encode_a_name() -> None:
    """
    Gets what it can.
    """
    done = check_into(subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pipeline 'caf\\xe9': ")


def test_without_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nothing is shown.
    """
    monkeypatch.setattr("sys.stdout", None)
    assert not show("nobody sees it")


def test_stderr_whose_reader_is_gone() -> None:
    """
    Keeps no worker from being forked, and does not change the exit code.
    """
    source = """
import contextlib, os, sys
from broadway_sync.runner import leave
from broadway_sync.runner.child import Child, fork

reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 2)
with contextlib.suppress(OSError):
    print("nobody reads it", file=sys.stderr)
forked = fork()
if isinstance(forked, Child):
    print("forked", os.waitpid(forked.pid, 0)[1])
leave(0)
"""
    done = run_python(source, env={"PYTHONUNBUFFERED": ""})
    assert (done.returncode, done.stdout) == (0, "forked 0\n")


def test_leaving_although_nobody_reads_stdout() -> None:
    """
    Who should read it hangs, and what is in its buffer cannot be written: that does not keep the process for ever.
    """
    source = """
import contextlib, os
from broadway_sync.runner import leave

reader, writer = os.pipe()
os.set_blocking(writer, False)
for size in (4096, 1):
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, size * b"x")
os.set_blocking(writer, True)
os.dup2(writer, 1)
print("in the buffer")
leave(1)
"""
    assert run_python(source, env={"PYTHONUNBUFFERED": ""}).returncode == 1


def test_leaving_although_something_at_the_exit_hangs() -> None:
    """
    It is no thread, and said all the same.
    """
    source = """
import atexit, threading
from broadway_sync.runner import leave

atexit.register(threading.Event().wait)
leave(1)
"""
    done = run_python(source)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "leaving although what runs at the exit has not ended\n"
