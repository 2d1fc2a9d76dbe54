"""
The fixtures that watch every test: each of them fails a test that does what it watches for.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests import conftest
from tests.helpers import python_env

LEAKS = """
import sys
import threading

import pytest

import broadway_sync
from tests.helpers import make_handler


def start(name, daemon):
    thread = threading.Thread(target=threading.Event().wait, args=(2,), name=name, daemon=daemon)
    thread.start()


def test_stage_thread():
    start("left.Broadway.Processor_default_0", daemon=True)


def test_thread_that_is_no_daemon():
    start("left behind", daemon=False)


def test_daemon_of_somebody_else():
    start("not ours", daemon=True)


def test_exception_in_a_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()


def pipeline(name, **callbacks):
    return broadway_sync.Pipeline(
        make_handler(**callbacks),
        name=name,
        producer={"module": broadway_sync.DummyProducer},
        processors={"default": {"concurrency": 1}},
    )


def test_pipeline_left_running():
    pipeline("forgotten").start()


def test_that_it_was_stopped():
    assert broadway_sync.all_running() == []


def test_pipeline_that_hangs():
    entered = threading.Event()

    def handle_message(processor, message, context):
        entered.set()
        threading.Event().wait(2)
        return message

    pipeline("stuck", handle_message=handle_message).start().test_message(1)
    assert entered.wait(10)


def test_switch_interval():
    assert abs(sys.getswitchinterval() - 1e-4) < 1e-6
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: Any) -> str:
    """
    Return the output of a run of these tests under this project's conftest.
    """
    path = tmp_path_factory.mktemp("leaks") / "test_leaks.py"
    path.write_text(LEAKS)
    (path.parent / "pytest.ini").write_text("[pytest]\n")
    here = str(Path(__file__).resolve().parent.parent)
    env = python_env({"BROADWAY_TIME_SCALE": "0.02", "BROADWAY_SWITCH_INTERVAL": "1e-4"})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "tests.conftest", "-p", "no:cacheprovider", str(path)],
        capture_output=True,
        text=True,
        env={**env, "PYTHONPATH": f"{here}:{env['PYTHONPATH']}", "PYTEST_ADDOPTS": "", "COLUMNS": "300"},
        cwd=str(path.parent),
        timeout=60,
    )
    return done.stdout + done.stderr


EXPECTED = {
    "test_stage_thread": ("error", "left.Broadway.Processor_default_0"),
    "test_thread_that_is_no_daemon": ("error", "left behind"),
    "test_daemon_of_somebody_else": ("passed", ""),
    "test_exception_in_a_thread": ("failed", "ZeroDivisionError"),
    "test_pipeline_left_running": ("passed", ""),
    "test_that_it_was_stopped": ("passed", ""),
    "test_pipeline_that_hangs": ("error", "stuck"),
    "test_switch_interval": ("passed", ""),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_outcome(report: str, name: str) -> None:
    """
    A leak or an exception fails its test, with a text that names what was left; everything else passes.
    """
    outcomes = {outcome.lower() for outcome in re.findall(rf"::{name} (PASSED|FAILED|ERROR)", report)}
    outcome, text = EXPECTED[name]
    assert outcome in outcomes, report
    assert (outcome == "passed") == (outcomes == {"passed"}), report
    assert text in report


@attrs.define
class Item:
    """
    What is asked of a test when it is collected.
    """

    path: Path
    markers: list[Any] = attrs.Factory(list)

    def add_marker(self, marker: Any) -> None:
        self.markers.append(marker)


def test_tests_of_the_core_have_one_try(tmp_path: Path) -> None:
    """
    ``--reruns`` is for tests in which programs of others take part.
    """
    tests = Path(__file__).resolve().parent
    core = [Item(tests / "core" / "test_demand.py"), Item(tests / "test_stress.py")]
    others = [
        Item(tests / "health" / "test_fork.py"),
        Item(tests / "test_brokers.py"),
        Item(tmp_path / "core" / "test.py"),
    ]
    conftest.pytest_collection_modifyitems([*core, *others])
    assert [marker.kwargs for item in core for marker in item.markers] == [{"reruns": 0}] * 2
    assert [item.markers for item in others] == [[]] * 3
