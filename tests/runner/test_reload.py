"""
``--reload``: while developing, a process starts afresh when a source file changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

from broadway_sync.runner.reload import SourceFiles, command_line
from tests.runner.support import Runner

SOURCE = """
from tests.runner import apps

def shown(number):
    apps.say({text!r})
    apps.time.sleep(0.01)

pipeline = apps.make(shown, "developed")
"""

GATED = """
from tests.runner import apps

pipeline = apps.gated()
"""


class Module:
    """
    A source file that is changed while a process runs it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._time = 1_000_000_000
        self.write(SOURCE.format(text="first"))

    def write(self, source: str) -> None:
        """
        Change it; its time changes too, however coarse the file system's are.
        """
        new = self.path.with_suffix(".new")
        new.write_text(source, encoding="utf-8")
        self._time += 10
        os.utime(new, (self._time, self._time))
        new.replace(self.path)


@pytest.fixture
def module(folder: Path) -> Module:
    """
    Return a module in the folder of the runner.
    """
    return Module(folder / "developed.py")


@pytest.fixture
def started(folder: Path, module: Module) -> Iterator[Runner]:
    """
    Return a runner of the module.
    """
    runner = Runner(folder, "run", "developed:pipeline", "--reload", env={"PYTHONDONTWRITEBYTECODE": "1"})
    yield runner
    runner.close()


@pytest.mark.skipif(os.name == "nt", reason="needs os.exec of POSIX")
def test_change_starts_afresh(started: Runner, module: Module) -> None:
    """
    The same process id, the new code; what was in hand is acknowledged before.
    """
    started.wait_for("first")
    module.write(SOURCE.format(text="second"))
    started.wait_for("second")
    assert {entry[0] for entry in started.said("second")} == {str(started.process.pid)}
    assert len(started.said("ok")) >= len(started.said("first"))
    assert "developed.py has changed: draining, then starting afresh" in started.output
    assert started.stop() == 0, started


@pytest.mark.skipif(os.name == "nt", reason="needs os.exec of POSIX")
def test_code_that_goes_elsewhere(started: Runner, module: Module) -> None:
    """
    Is found again.
    """
    started.wait_for("first")
    for text in ("second", "third"):
        module.write(SOURCE.format(text=text) + "\napps.os.chdir(apps.os.sep)\n")
        started.wait_for(text)
    assert started.stop() == 0, started


@pytest.mark.skipif(os.name == "nt", reason="needs os.exec of POSIX")
def test_mistake_waits_to_be_mended(started: Runner, module: Module) -> None:
    """
    Also one that keeps the module from being imported.
    """
    started.wait_for("first")
    module.write("def unfinished(:\n")
    started.wait_for_output("waiting for a source file to change")
    assert "SyntaxError" in started.output
    module.write(SOURCE.format(text="mended"))
    started.wait_for("mended")
    assert started.stop() == 0, started


@pytest.mark.skipif(os.name == "nt", reason="needs os.exec of POSIX")
@pytest.mark.parametrize(
    "statement, place",
    [
        ("import prices", "prices.py"),
        ("import prices", "prices/__init__.py"),
        ("from shop import prices", "shop/prices.py"),
    ],
)
def test_module_that_is_missing_may_come(started: Runner, module: Module, statement: str, place: str) -> None:
    """
    Whoever imports what he is about to write need not touch what he has written.
    """
    (started.folder / "shop").mkdir()
    (started.folder / "shop" / "__init__.py").touch()
    os.utime(started.folder / "shop", (1, 1))  # long ago, however coarse the file system's times are
    started.wait_for("first")
    module.write(f"{statement}\n{SOURCE.format(text='mended')}")
    started.wait_for_output("waiting for a source file to change")
    file = started.folder / place
    file.parent.mkdir(exist_ok=True)
    file.touch()
    started.wait_for("mended")
    assert started.stop() == 0, started


@pytest.mark.skipif(os.name == "nt", reason="needs os.exec of POSIX")
def test_target_that_is_missing_may_come(folder: Path) -> None:
    """
    The same for the module of the target itself, and in a package.
    """
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    started = Runner(folder, "run", "shop.late:pipeline", "--reload", env={"PYTHONDONTWRITEBYTECODE": "1"})
    started.wait_for_output("waiting for a source file to change")
    (folder / "shop" / "late.py").write_text(SOURCE.format(text="came"), encoding="utf-8")
    started.wait_for("came")
    assert started.stop() == 0, started
    started.close()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_signal_ends_the_waiting(started: Runner, module: Module) -> None:
    """
    Exit code 2: it could not start.
    """
    started.wait_for("first")
    module.write("import no_such_module\n")
    started.wait_for_output("waiting for a source file to change")
    assert started.stop() == 2, started


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_signal_while_it_drains_for_a_change(started: Runner, module: Module) -> None:
    """
    Means the end: nothing starts afresh.
    """
    started.wait_for("first")
    module.write(GATED)
    started.wait_for("in")
    module.write(SOURCE.format(text="second"))
    started.wait_for_output("has changed: draining", count=2)
    started.signal()
    started.wait_for_output("SIGTERM: draining")
    started.open_gate()
    assert started.end() == 0, started
    assert not started.said("second")


def test_reload_is_for_one_process(folder: Path) -> None:
    """
    With workers it is refused.
    """
    started = Runner(folder, "run", "developed:pipeline", "--reload", "--processes", "2")
    assert started.end() == 2
    assert started.output == "broadway-sync: --reload: is for development and one process, got processes: 2\n"
    started.close()


def test_only_changes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Not the first look, nor a module that was imported since.
    """
    module = Module(tmp_path / "looked_at.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    sources = SourceFiles()
    assert sources.changed() is None
    spec = type(sys)("looked_at")
    spec.__file__ = str(module.path)
    monkeypatch.setitem(sys.modules, "looked_at", spec)
    assert sources.changed() is None
    module.write("1")
    assert sources.changed() == str(module.path)
    assert sources.changed() is None
    module.path.unlink()
    assert sources.changed() == str(module.path)


def test_modules_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whatever somebody has put into the list of modules is asked, and may answer as it likes.
    """

    class Settings(dict):  # type: ignore[type-arg]
        __getattr__ = dict.__getitem__

    monkeypatch.setitem(sys.modules, "looked_at", Settings())
    sources = SourceFiles()
    assert sources.changed() is None


def test_command_line_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As Python keeps it, from 3.10 on.
    """
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "x", "run"], raising=False)
    assert command_line() == [sys.executable, "-X", "dev", "-m", "x", "run"]


def test_command_line_before_python_3_10(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    From what is left of it: a module, or a script.
    """
    monkeypatch.delattr(sys, "orig_argv", raising=False)
    monkeypatch.setattr("subprocess._args_from_interpreter_flags", lambda: ["-B"])
    monkeypatch.setattr(sys, "argv", ["/somewhere/broadway-sync", "run", "x:y"])
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    main.__spec__ = None
    assert command_line() == [sys.executable, "-B", "/somewhere/broadway-sync", "run", "x:y"]
    main.__spec__ = type("Spec", (), {"name": "broadway_sync.__main__"})
    assert command_line() == [sys.executable, "-B", "-m", "broadway_sync", "run", "x:y"]
