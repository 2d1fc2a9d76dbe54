"""
The tutorial, followed to the letter: its commands, its files, its output.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import pytest

from tests.helpers import SCALE, eventually, python_env

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.rst"
EXAMPLES = ROOT / "docs" / "examples" / "tutorial"
FILE = ROOT / "examples" / "flights" / "flights-2013-01.csv.gz"
END = 40.0 * SCALE
"""Seconds within which any command has ended."""

ALL = "{'flights': 26468, 'rejected': 536}\n"


class Said(NamedTuple):
    """
    A command of the tutorial, and the output that stands below it in the same block.
    """

    command: str
    output: str


def read_page() -> Dict[int, List[Said]]:
    """
    Return the commands of the tutorial by the number of the step; 0 is what comes before the first.
    """
    steps: Dict[int, List[Said]] = {0: []}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        title = re.match(r"(\d)\. \w", line)
        if title:
            steps[int(title[1])] = []
        elif line.startswith("    $ "):
            steps[max(steps)].append(Said(line[6:], ""))
        elif line.startswith("    ") and steps[max(steps)] and not line.startswith(("    :", "     ")):
            said = steps[max(steps)].pop()
            steps[max(steps)].append(Said(said.command, said.output + line[4:] + "\n"))
    return steps


SAID = read_page()


class Shell:
    """
    A terminal in a folder of its own, in which ``python`` and ``broadway-sync`` are those of this checkout.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: List[subprocess.Popen[str]] = []
        commands = folder / ".venv" / "bin"
        commands.mkdir(parents=True)
        for name, words in (("python", ""), ("broadway-sync", " -m broadway_sync")):
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error{words} "$@"\n', encoding="utf-8")
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        no_plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}  # which may have options of some
        self._environment = python_env({"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **no_plugins})

    def copy(self, name: str, to: str = "flights.py", *, is_quick: bool = False) -> None:
        """
        Do what the reader does with an editor; without the rate limit where it only makes the test longer.
        """
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        if is_quick:
            text, count = re.subn(r".*rate_limiting.*\n", "", text)
            assert count == 1
        (self.folder / to).write_text(text, encoding="utf-8")

    def start(self, command: str) -> subprocess.Popen[str]:
        """
        Begin a command.
        """
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}" if command.startswith(("python ", "broadway-sync ")) else command],
            cwd=str(self.folder),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        self.processes.append(process)
        return process

    def run(self, command: str, code: int = 0) -> str:
        """
        Run a command to its end, which must be *code*; return what it printed.
        """
        process = self.start(command)
        printed, errors = process.communicate(timeout=END)
        assert process.returncode == code, f"{command}: {process.returncode}\n{printed}{errors}"
        return printed

    def rows(self) -> int:
        """
        Return how many flights are stored.
        """
        if not (self.folder / "flights.sqlite3").exists():
            return 0
        found = re.search(r"'flights': (\d+)", self.run(SAID[4][3].command))
        assert found is not None
        return int(found[1])

    def sql(self, statement: str) -> None:
        """
        Execute a statement in the database, whose tables are made if they are not there.
        """
        self.run(SAID[4][3].command)
        with contextlib.closing(sqlite3.connect(str(self.folder / "flights.sqlite3"))) as connection, connection:
            connection.execute(statement)

    def close(self) -> None:
        """
        End what a failed test left.
        """
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """
    Return a shell in a folder that is prepared as the tutorial says.
    """
    assert [said.command.split()[0] for said in SAID[0]] == ["python3", ".", "pip", "cp"]
    assert SAID[0][3].command == f"cp CLONE/{FILE.relative_to(ROOT)} ."
    shell = Shell(tmp_path)
    shutil.copy(str(FILE), str(tmp_path))
    yield shell
    shell.close()


def expected(name: str) -> str:
    """
    Return an output that the tutorial includes from a file.
    """
    return (EXAMPLES / name).read_text(encoding="utf-8")


def test_extra_of_the_tutorial_is_one() -> None:
    """
    What the tutorial installs exists.
    """
    extra = re.search(r"CLONE\[(\w+)\]", SAID[0][2].command)
    assert extra is not None
    assert re.search(rf"^{extra[1]} =$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("step", [1, 2])
def test_reading_and_parsing(shell: Shell, step: int) -> None:
    """
    Steps 1 and 2 print what stands below them.
    """
    (said,) = SAID[step]
    shell.copy(f"step_{step}.py")
    assert shell.run(said.command) == expected(f"step_{step}.out")


def test_storing_and_storing_twice(shell: Shell) -> None:
    """
    Step 3 stores all flights; a second run, at the beginning of step 4, stores them once more.
    """
    (said,) = SAID[3]
    shell.copy("step_3.py")
    assert shell.run(said.command) == said.output == ALL
    again = SAID[4][0]
    assert shell.run(again.command) == again.output


def test_killing(shell: Shell) -> None:
    """
    Step 4: killed in the middle and run again, the import has each row once; another run changes nothing.
    """
    _, remove, kill, look, finish, once_more = SAID[4]
    shell.copy("step_3.py")
    shell.run(SAID[3][0].command)
    shell.copy("step_4.py")
    shell.run(remove.command)
    begin, _, rest = kill.command.partition(" & ")
    assert re.fullmatch(r"sleep \d; kill -9 \$!", rest)
    process = shell.start(begin)
    eventually(shell.rows, "some rows", timeout=END)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    printed = shell.run(look.command)
    assert re.sub(r"\d+", "N", printed) == re.sub(r"\d+", "N", look.output)
    assert 0 < shell.rows() < 26468
    assert shell.run(finish.command) == finish.output == ALL
    assert shell.run(once_more.command) == once_more.output == ALL


def free_port() -> int:
    """
    Return a port that nobody listens on.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answer(url: str) -> Any:
    """
    Return status and text of an HTTP answer, None while there is none.
    """
    try:
        with urllib.request.urlopen(url, timeout=END) as response:
            return response.status, response.read().decode()
    except OSError:
        return None


def test_running_as_a_service(shell: Shell) -> None:
    """
    Step 5: ``check`` draws, ``run`` answers and can be looked into, a signal drains, and the next run goes on.
    """
    check, remove, run, activate, ready, dump, kill, run_again, look = SAID[5][:9]
    assert activate == SAID[0][1]
    shell.copy("step_5.py")
    assert shell.run(check.command) == expected("step_5.out")
    shell.run(f"touch flights.sqlite3; {remove.command}")
    port = str(free_port())
    assert "8080" in run.command
    process = shell.start(run.command.replace("8080", port))
    eventually(shell.rows, "some rows", timeout=END)
    curl, url = ready.command.split()
    assert curl == "curl"
    assert answer(url.replace("8080", port)) == (200, "ok\n")
    seen = shell.run(dump.command.replace("PID", str(process.pid)))
    assert "flights.Broadway.Processor_default_0" in seen
    shell.run(kill.command.replace("PID", str(process.pid)))
    _, errors = process.communicate(timeout=END)
    assert process.returncode == 0, errors
    assert f"[{process.pid}]" in errors, "the number of the process is in each line of the log"
    assert 0 < shell.rows() < 26468
    shell.copy("step_5.py", is_quick=True)
    shell.run(run_again.command)
    assert shell.run(look.command) == look.output == ALL


def test_watching(shell: Shell) -> None:
    """
    Step 5: the program says every ten seconds how far it is; here everything is ten times as fast.
    """
    remove, watch = SAID[5][9:]
    shell.copy("step_5.py")
    program = (shell.folder / "flights.py").read_text(encoding="utf-8")
    for slow, fast in (('"interval": 0.1', '"interval": 0.01'), ("timeout=10.0", "timeout=1.0")):
        assert program.count(slow) == 1
        program = program.replace(slow, fast)
    (shell.folder / "flights.py").write_text(program, encoding="utf-8")
    shell.run(f"touch flights.sqlite3; {remove.command}")
    *lines, last = shell.run(watch.command).splitlines(keepends=True)
    *shown, shown_last = watch.output.splitlines(keepends=True)
    assert last == shown_last == ALL
    assert {re.sub(r"\d+", "N", line) for line in lines} == {re.sub(r"\d+", "N", line) for line in shown}


def test_tests(shell: Shell) -> None:
    """
    Step 6: the tests pass.
    """
    (said,) = SAID[6]
    shell.copy("step_6.py")
    shell.copy("test_flights.py", "test_flights.py")
    assert "6 passed" in shell.run(f"{said.command} -p no:cacheprovider")


def test_trying_again_and_setting_aside(shell: Shell) -> None:
    """
    Step 7: a broken row that comes later is set aside with its reason; the tests of this step pass.
    """
    append, again, look, test = SAID[7]
    shell.copy("step_6.py", is_quick=True)
    assert shell.run(again.command) == ALL
    shell.copy("step_7.py")
    shell.run(append.command)
    assert shell.run(again.command) == again.output
    assert shell.run(look.command) == look.output
    assert shell.run(again.command) == again.output, "what was set aside is done"
    assert shell.run(look.command) == look.output
    shell.copy("test_flights_7.py", "test_flights.py")
    assert "7 passed" in shell.run(f"{test.command} -p no:cacheprovider")


def test_giving_up(shell: Shell) -> None:
    """
    Step 7: a database that takes no flights ends the service with exit code 3, and the next run has them all.
    """
    run_again, look = SAID[5][7:9]
    assert "exit code 3" in PAGE.read_text(encoding="utf-8")
    shell.copy("step_7.py", is_quick=True)
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON flights BEGIN SELECT RAISE(ABORT, 'no more'); END"
    shell.sql(refuse)
    shell.run(run_again.command, code=3)
    assert shell.rows() == 0
    shell.sql("DROP TRIGGER refuse")
    shell.run(run_again.command)
    assert shell.run(look.command) == ALL


def test_length_of_the_program() -> None:
    """
    It has as many lines as the first paragraph says.
    """
    said = re.search(r"seven steps and (\d+) lines", PAGE.read_text(encoding="utf-8"))
    assert said is not None
    assert int(said[1]) == len((EXAMPLES / "step_7.py").read_text(encoding="utf-8").splitlines())


def parts(name: str) -> List[str]:
    """
    Return the statements of a step, without the imports.
    """
    blocks = re.split(r"\n\n\n", (EXAMPLES / name).read_text(encoding="utf-8").strip())
    return blocks[1:]


@pytest.mark.parametrize("step", range(2, 8))
def test_nothing_changes_unsaid(step: int) -> None:
    """
    What is new in a step, a class or a function, is shown in its section, by name or between two markers.
    """
    text = PAGE.read_text(encoding="utf-8")
    included = re.findall(rf"tutorial/step_{step}\.py\n((?:   :.*\n)+)", text)
    before = set(parts(f"step_{step - 1}.py"))
    for block in parts(f"step_{step}.py"):
        if block not in before:
            assert any(_shows(options, block, step) for options in included), f"step {step} does not show:\n{block}"


def _shows(options: str, block: str, step: int) -> bool:
    """
    Return whether one ``literalinclude`` shows *block*, or the part of it that is new.
    """
    found = dict(re.findall(r":([\w-]+): (.+)", options))
    name = re.match(r"(?:class|def) (\w+)", block)
    if "pyobject" in found:
        return name is not None and found["pyobject"].split(".")[0] == name[1]
    text = (EXAMPLES / f"step_{step}.py").read_text(encoding="utf-8")
    start = text.index(found["start-at"]) if "start-at" in found else 0
    end = text.index(found["end-before"], start) if "end-before" in found else len(text)
    return block in text[start:end]
