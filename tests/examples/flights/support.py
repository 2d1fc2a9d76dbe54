"""
Files of flights made to order, the demo as a process, and the tables that it leaves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Sequence, Tuple

from tests.helpers import SCALE, python_env

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "examples" / "flights" / "flights-2013-01.csv.gz"
END = 40.0 * SCALE
"""Seconds within which a demo has ended."""

VALUES = {
    "year": "2013",
    "month": "1",
    "day": "31",
    "dep_time": "517",
    "sched_dep_time": "515",
    "dep_delay": "2",
    "arr_time": "2400",
    "sched_arr_time": "2349",
    "arr_delay": "11",
    "carrier": "UA",
    "flight": "1545",
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "air_time": "227",
    "distance": "1400",
    "hour": "5",
    "minute": "15",
    "time_hour": "2013-01-31T10:00:00Z",
}
HEADER = ",".join(VALUES)


def row(**changes: str) -> str:
    """
    Return one row of a good flight, with some values changed.
    """
    return ",".join({**VALUES, **changes}.values())


def some_rows(count: int) -> List[str]:
    """
    Return rows of which seven in ten are flights, two of these late, and three are to be rejected.
    """
    kinds = [
        {},
        {"carrier": "B6", "dest": "BOS"},
        {"carrier": "DL", "dest": "ATL"},
        {"carrier": "AA", "dest": "MIA", "tailnum": "NA"},
        {"carrier": "B6", "arr_delay": "NA", "air_time": "NA"},
        {"carrier": "DL", "dest": "ATL", "arr_delay": "61"},
        {"carrier": "UA", "origin": "LGA", "arr_delay": "600"},
        {"dep_time": "NA", "dep_delay": "NA", "arr_time": "NA", "arr_delay": "NA", "air_time": "NA"},
        {"arr_time": "NA", "arr_delay": "NA", "air_time": "NA"},
        {"distance": "far"},
    ]
    return [row(flight=str(number), **kinds[number % len(kinds)]) for number in range(count)]


def write_file(path: Path, rows: Sequence[str], *, header: str = HEADER, end: str = "\r\n") -> Path:
    """
    Write a file of flights.
    """
    path.write_bytes("".join(line + end for line in [header, *rows]).encode())
    return path


def tables(database: Path) -> Any:
    """
    Return all rows of all tables, in the order of their keys.
    """
    with contextlib.closing(sqlite3.connect(str(database))) as connection:
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names}


def count(database: Path, table: str) -> int:
    """
    Return how many rows a table has; none if it is not there yet, or not to be read just now.
    """
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(str(database))) as connection:
        try:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """
    Hold the write lock of a database.
    """
    with contextlib.closing(sqlite3.connect(str(database), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def command(*arguments: object) -> List[str]:
    """
    Return the command line of the demo.
    """
    return [sys.executable, "-W", "error", "-m", "examples.flights", *map(str, arguments)]


def environment(**extra: str) -> "dict[str, str]":
    """
    Return the environment in which the demo finds itself and the library, wherever it runs.
    """
    env = python_env()
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(ROOT)])
    return {**env, **extra}


def run_demo(*arguments: object, cwd: Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    """
    Run the demo to its end.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options}
    return subprocess.run(command(*arguments), cwd=str(cwd), timeout=END, universal_newlines=True, **options)


@contextlib.contextmanager
def started_demo(*arguments: object, cwd: Path, **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """
    Start the demo; whatever happens, it is gone afterwards.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options}
    process = subprocess.Popen(command(*arguments), cwd=str(cwd), universal_newlines=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: "subprocess.Popen[str]", *signals: signal.Signals) -> Tuple[int, str, str]:
    """
    Send signals; return the exit status and the rest of the output.
    """
    for number in signals:
        process.send_signal(number)
    out, err = process.communicate(timeout=END)
    return process.returncode, out or "", err or ""


def figures(output: str) -> "dict[str, str]":
    """
    Return the lines of the table at the end: ``{"rows in": "27,004", ...}``.
    """
    return dict(line.strip().rsplit(None, 1) for line in output.splitlines() if "  " in line.strip())
