"""
``run`` and its parts, called from code.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from broadway_sync import IterableProducer
from broadway_sync.runner import RunOptions, run
from broadway_sync.runner.cli import main
from broadway_sync.runner.logs import LogHandler, say
from broadway_sync.runner.service import Service
from broadway_sync.runner.wakeup import Wakeup
from tests.helpers import Call, RecordingAcknowledger, run_python

Make = Callable[..., Any]

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


def test_run_on_another_thread(make_pipeline: Make) -> None:
    """
    Is an error that says so.
    """
    with pytest.raises(RuntimeError, match="signals can be handled on the main thread only"):
        Call(run, make_pipeline()).result()


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
