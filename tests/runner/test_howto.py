"""
The how-to keeps its word: its example is run, and ``check`` prints what it shows.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest

from broadway_sync.runner.exit_codes import ExitCode
from broadway_sync.runner.options import run_flags
from tests.runner.support import Runner

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "run"
TEXT = (ROOT / "docs" / "howto" / "run.rst").read_text(encoding="utf-8")


@pytest.fixture
def example(folder: Path) -> Iterator[Any]:
    """
    Return a function that runs a command in a copy of the example.
    """
    shutil.copytree(EXAMPLE / "shop", folder / "shop")
    started: list[Runner] = []

    def run(*arguments: str) -> Runner:
        started.append(Runner(folder, *arguments))
        return started[-1]

    yield run
    for each in started:
        each.close()


def test_run(example: Any, folder: Path) -> None:
    """
    Stores what is in the file; exit code 0.
    """
    lines = [json.dumps({"number": number, "amount": 2 * number}) + "\n" for number in range(250)]
    (folder / "invoices.jsonl").write_text("".join(lines), encoding="utf-8")
    process = example("run", "shop.invoices:pipeline")
    assert process.end() == 0, process
    database = sqlite3.connect(folder / "invoices.db")
    stored = database.execute("SELECT number, amount FROM invoices ORDER BY number").fetchall()
    database.close()
    assert stored == [(number, 2 * number) for number in range(250)]


def test_check(example: Any) -> None:
    """
    Prints the topology that the page shows.
    """
    process = example("check", "shop.invoices:pipeline")
    assert process.end() == 0, process
    assert process.output == (EXAMPLE / "check.out").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="needs os.mkfifo and POSIX signals")
def test_signal(example: Any, folder: Path) -> None:
    """
    What was read is stored before it ends.
    """
    os.mkfifo(folder / "invoices.jsonl")
    process = example("run", "shop.invoices:pipeline")
    with open(folder / "invoices.jsonl", "w", encoding="utf-8") as writer:
        writer.write('{"number": 1, "amount": 2}\n' * 1000)
        writer.flush()
        process.wait_for_output("running invoices")
        process.signal()
    assert process.end() == 0, process
    assert process.output.count("drained") == 1


def test_exit_codes_are_those_of_the_page() -> None:
    """
    In its table, and in its order of badness.
    """
    for code in ExitCode:
        assert f"\n   * - {code.value}\n" in TEXT
    assert "in the order " + ", ".join(str(code.value) for code in ExitCode) in " ".join(TEXT.split())


def test_options_of_the_page_exist() -> None:
    """
    None is spelled wrong.
    """
    flags = {flag.flag for flag in run_flags()}
    named = {word.strip("`,.:;()") for word in TEXT.replace("``", " ").split() if word.startswith("--")}
    assert {name for name in named if name.strip("-")} <= flags
