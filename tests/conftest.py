"""
Fixtures for every test: no thread may be left behind, no exception may end a thread unseen, no pipeline keeps running.

``BROADWAY_SWITCH_INTERVAL`` (seconds, for example ``1e-6``) makes the interpreter switch threads that often, which
brings out races; ``BROADWAY_TIME_SCALE`` stretches the bounds of ``tests/helpers.py`` on slow machines.

Exceptions in threads are found by pytest itself, which reports them as a warning; warnings are errors here (setup.cfg,
and once more below, so that a run with other options cannot lose the check).

The fixtures of real brokers, proxies and processes are in ``tests/brokers/fixtures.py``.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

# A machine that stands still for a moment is no fault of the example that it tries just then.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

pytest_plugins = ["tests.brokers.fixtures"]

GRACE = 5.0 * float(os.environ.get("BROADWAY_TIME_SCALE", "1"))
"""Seconds that a thread has to end after its test; every one that ends sooner costs only what it takes."""

ONE_TRY = {"contract", "core", "runtime", "topology", "test_stress.py"}
"""Tests in which no program of others takes part; ``--reruns`` (pytest-rerunfailures) is not for them."""


def pytest_configure(config: pytest.Config) -> None:
    """
    Apply the switch interval and make exceptions in threads failures.
    """
    interval = os.environ.get("BROADWAY_SWITCH_INTERVAL")
    if interval:
        sys.setswitchinterval(float(interval))
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnraisableExceptionWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Have the tests of ``ONE_TRY`` fail at their first failure, whatever ``--reruns`` says.
    """
    tests = Path(__file__).resolve().parent
    for item in items:
        if tests in item.path.parents and item.path.relative_to(tests).parts[0] in ONE_TRY:
            item.add_marker(pytest.mark.flaky(reruns=0))


def _library() -> Any:
    """
    Return ``broadway_sync`` if the test imported it: this file must not be what imports it.
    """
    return sys.modules.get("broadway_sync")


def _running() -> list[str]:
    """
    Return the names of the running pipelines.
    """
    library = _library()
    return list(library.all_running()) if library else []


def _stop_pipelines(names: set[str]) -> list[str]:
    """
    Stop what the test left running; return what the pipelines said that would not stop.
    """
    library = _library()
    stuck = []
    for name in names:
        try:
            library.get_pipeline(name).stop(timeout=GRACE)
        except library.DrainTimeoutError as error:
            stuck.append(f"{name}: {error}")
        except library.NotRunningError:
            pass  # it ended by itself just now
    return stuck


def _is_leaked(thread: threading.Thread, before: set[threading.Thread]) -> bool:
    """
    Return whether *thread* belongs to a pipeline, or would keep the interpreter from ending.
    """
    if thread in before or not thread.is_alive() or thread is threading.current_thread():
        return False
    return ".Broadway." in thread.name or not thread.daemon


def _describe(thread: threading.Thread) -> str:
    """
    Return the name of *thread* and where it is.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)) if frame else "  (ended meanwhile)\n"
    return f"{thread.name} (daemon={thread.daemon}):\n{stack}"


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """
    Fail a test after which a thread of a pipeline, or any new thread that is no daemon, is still alive.
    """
    before, running = set(threading.enumerate()), set(_running())
    yield
    stuck = _stop_pipelines(set(_running()) - running)
    leaked = [t for t in threading.enumerate() if _is_leaked(t, before)]
    for thread in leaked:
        thread.join(GRACE)
    alive = [t for t in leaked if t.is_alive()]
    if stuck:
        pytest.fail("the test left pipelines that would not stop:\n" + "\n".join(stuck), pytrace=False)
    if alive:
        text = "\n".join(_describe(t) for t in alive)
        pytest.fail(f"{len(alive)} thread(s) still alive {GRACE} s after the test:\n{text}", pytrace=False)


@pytest.fixture(autouse=True)
def no_handlers_left() -> Iterator[None]:
    """
    Detach the telemetry handlers that a test leaves attached: they would listen to all tests after it.
    """
    library = _library()
    before = {handler.handler_id for handler in library.telemetry.list_handlers()} if library else set()
    yield
    library = _library()
    if library:
        for handler_id in {handler.handler_id for handler in library.telemetry.list_handlers()} - before:
            library.telemetry.detach(handler_id)


@pytest.fixture
def make_pipeline() -> Iterator[Callable[..., Any]]:
    """
    Return a function that makes a pipeline with defaults for what the test does not care about.

    Defaults: a name of its own, a handler that returns what it gets, ``DummyProducer``, one processor, five seconds
    to shut down. Pipelines that still run at the end of the test are stopped.
    """
    import broadway_sync
    from tests.helpers import make_handler, unique_name

    made: list[Any] = []

    def make(handler: Any = None, **options: Any) -> Any:
        defaults: dict[str, Any] = {
            "name": unique_name(),
            "producer": {"module": (broadway_sync.DummyProducer, {})},
            "processors": {"default": {"concurrency": 1}},
            "shutdown": 5.0,
        }
        pipeline = broadway_sync.Pipeline(handler or make_handler(), **{**defaults, **options})
        made.append(pipeline)
        return pipeline

    yield make
    for pipeline in made:
        try:
            pipeline.stop()
        except broadway_sync.DrainTimeoutError:
            pass  # the check for leaked threads says whether anything hangs for good


@pytest.fixture
def crashes_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let all crashes of producers count as crashes of one second, however much time a busy machine has between them.
    """
    from broadway_sync.core.restart_intensity import RestartIntensity
    from broadway_sync.topology import topology

    monkeypatch.setattr(topology, "RestartIntensity", lambda most, seconds: RestartIntensity(most, 1000.0 * seconds))


@pytest.fixture
def gates(make_pipeline: Callable[..., Any]) -> Iterator[Callable[[], Any]]:
    """
    Return a function that makes gates; all are opened at the end of the test, before its pipelines are stopped.
    """
    from tests.helpers import Gate

    made: list[Any] = []

    def make() -> Any:
        made.append(Gate())
        return made[-1]

    yield make
    for gate in made:
        gate.open()


@pytest.fixture
def gate(gates: Callable[[], Any]) -> Any:
    """
    Return one gate.
    """
    return gates()


@pytest.fixture
def acks() -> Any:
    """
    Return a recording acknowledger.
    """
    from tests.helpers import RecordingAcknowledger

    return RecordingAcknowledger()
