"""
The whole file, imported by the command as a user runs it, and counted here by other means: csv and sqlite3 only.

Nothing of the example is imported, so that no mistake of it can be made twice.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import sqlite3
from collections import Counter
from typing import Any, Dict, List

import pytest

from .support import SAMPLE, figures, run_demo

TEXTS = ("carrier", "tailnum", "origin", "dest", "time_hour")


@pytest.fixture(scope="module")
def rows() -> List[Dict[str, str]]:
    """
    Return the rows of the file.
    """
    with gzip.open(str(SAMPLE), "rt", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """
    Run the command without any argument; return it and the database that it made.
    """
    folder = tmp_path_factory.mktemp("demo")
    done = run_demo(cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    with contextlib.closing(sqlite3.connect(str(folder / "flights.sqlite3"))) as connection:
        connection.row_factory = sqlite3.Row
        yield done, connection


def typed(row: Dict[str, str]) -> Dict[str, Any]:
    """
    Return a row as the table should have it.
    """
    values: Dict[str, Any] = {name: None if value == "NA" else value for name, value in row.items()}
    return {n: v if n in TEXTS or v is None else int(v) for n, v in values.items()}


def is_flight(row: Dict[str, str]) -> bool:
    """
    Return whether it left and arrived.
    """
    return row["dep_time"] != "NA" and row["arr_time"] != "NA"


def test_the_sample_is_the_whole_month(rows: List[Dict[str, str]]) -> None:
    """
    27,004 rows, each once, in January 2013.
    """
    assert len(rows) == len({tuple(row.values()) for row in rows}) == 27_004
    assert {(row["year"], row["month"]) for row in rows} == {("2013", "1")}


def test_every_flight_is_stored_as_it_is_in_the_file(rows: List[Dict[str, str]], imported: Any) -> None:
    """
    Value by value, in the order of the file.
    """
    _, connection = imported
    stored = [dict(row) for row in connection.execute("SELECT * FROM flights ORDER BY line")]
    assert len({row.pop("source") for row in stored}) == 1
    expected = [{"line": number, **typed(row)} for number, row in enumerate(rows, 2) if is_flight(row)]
    assert stored == expected


def test_every_other_row_is_set_aside_with_its_reason(rows: List[Dict[str, str]], imported: Any) -> None:
    """
    And with its text, from which it can be repaired.
    """
    _, connection = imported
    found = [tuple(row) for row in connection.execute("SELECT line, reason, row FROM rejected ORDER BY line")]
    assert found == [
        (
            number,
            "cancelled: no dep_time" if row["dep_time"] == "NA" else "never arrived: no arr_time",
            ",".join(row.values()),
        )
        for number, row in enumerate(rows, 2)
        if not is_flight(row)
    ]


def test_late_flights_are_counted_by_route(rows: List[Dict[str, str]], imported: Any) -> None:
    """
    More than sixty minutes, each flight once.
    """
    _, connection = imported
    late = [r for r in rows if is_flight(r) and r["arr_delay"] != "NA" and int(r["arr_delay"]) > 60]
    expected = Counter((r["origin"], r["dest"]) for r in late)
    found = {(r["origin"], r["dest"]): r["flights"] for r in connection.execute("SELECT * FROM delays")}
    assert found == expected


def test_the_report_agrees_with_file_and_tables(rows: List[Dict[str, str]], imported: Any) -> None:
    """
    rows in = stored + rejected = 27,004, each row counted once.
    """
    done, connection = imported
    (stored,) = connection.execute("SELECT count(*) FROM flights").fetchone()
    (rejected,) = connection.execute("SELECT count(*) FROM rejected").fetchone()
    assert stored + rejected == len(rows) == 27_004
    report = figures(done.stdout)
    assert report["rows in"] == "27,004"
    assert report["stored"] == f"{stored:,}"
    assert report["rejected"] == f"{rejected:,}"
    reasons = Counter(reason for (reason,) in connection.execute("SELECT reason FROM rejected"))
    assert {reason: report[reason] for reason in reasons} == {reason: f"{n:,}" for reason, n in reasons.items()}
    assert int(report["rows/s"].replace(",", "")) > 0
    timings = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith(" handle_")}
    assert timings["handle_message"][0] == "27,004"
    for name in ("handle_message", "handle_batch"):
        p50, p95, p99 = (float(timings[name][i].replace(",", "")) for i in (1, 3, 5))
        assert 0 < p50 <= p95 <= p99
