"""
The pipeline itself, in this process: what goes where, and what failures do.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from broadway_sync import Message, NoopAcknowledger
from examples.flights import pipeline as pipeline_module
from examples.flights.pipeline import build_pipeline, rate_limit, rejection_of
from examples.flights.records import Rejection
from examples.flights.report import Counts, Report
from examples.flights.source import check_file
from examples.flights.store import NotStoredError, Store
from tests.helpers import BOUND, unique_name

from .support import locked, row, some_rows, tables, write_file

ROWS = some_rows(400)


class SpyingStore(Store):
    """
    A store that records what it is asked to do.
    """

    calls: List[Tuple[str, List[Any]]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.calls = []

    def save_flights(self, flights: Any) -> None:
        self.calls.append(("flights", list(flights)))
        super().save_flights(flights)

    def save_late_flights(self, flights: Any) -> None:
        self.calls.append(("late", list(flights)))
        super().save_late_flights(flights)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Return a file of flights.
    """
    return write_file(tmp_path / "f.csv", ROWS)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """
    Return the path of a database that is not there yet.
    """
    return tmp_path / "f.sqlite3"


@contextlib.contextmanager
def store_of(path: Path, database: Path, **options: Any) -> Iterator[SpyingStore]:
    """
    Return a store for the rows of one file.
    """
    with contextlib.closing(SpyingStore(str(database), check_file(str(path)).digest, **options)) as store:
        yield store


def run(path: Path, store: Store, **options: Any) -> Counts:
    """
    Import one file.
    """
    name = unique_name("flights")
    with Report(name) as report, build_pipeline(check_file(str(path)), store, name=name, **options) as pipeline:
        assert pipeline.join(timeout=BOUND)
    return report.counts()


def test_every_row_is_in_one_table(path: Path, database: Path) -> None:
    """
    Of ten rows in ``some_rows`` seven are flights, two of these late, and three are rejected.
    """
    with store_of(path, database) as store:
        counts = run(path, store)
    assert (counts.rows, counts.stored, counts.rejected) == (400, 280, 120)
    assert counts.rejected_by_reason == {
        "cancelled: no dep_time": 40,
        "never arrived: no arr_time": 40,
        "malformed: not a number": 40,
    }
    found = tables(database)
    numbers = [r[1] for r in found["flights"]] + [r[1] for r in found["rejected"]]
    assert sorted(numbers) == list(range(2, 402))
    assert found["delays"] == [("EWR", "ATL", 40), ("LGA", "IAH", 40)]
    assert Counter(r[2] for r in found["rejected"]) == counts.rejected_by_reason
    assert found["rejected"][0][4] == ROWS[found["rejected"][0][1] - 2]


def test_batches_hold_one_carrier_and_late_flights_their_own(path: Path, database: Path) -> None:
    """
    The batch key of ``flights`` is the carrier; late flights go to ``delays`` and to nowhere else.
    """
    with store_of(path, database) as store:
        run(path, store)
    stored = {kind: [flights for k, flights in store.calls if k == kind] for kind in ("flights", "late")}
    assert all(len({flight.carrier for _, flight in batch}) == 1 for batch in stored["flights"])
    assert not any(flight.is_late for batch in stored["flights"] for _, flight in batch)
    assert all(flight.is_late for batch in stored["late"] for _, flight in batch)
    assert Counter(number for _, batch in store.calls for number, _ in batch).most_common(1)[0][1] == 1


def test_importing_again_changes_nothing(path: Path, database: Path) -> None:
    """
    All rows are delivered again, and written again in other batches.
    """
    with store_of(path, database) as store:
        run(path, store)
        once = tables(database)
        counts = run(path, store)
    assert (counts.stored, counts.rejected) == (280, 120)
    assert tables(database) == once


def test_a_locked_database_fails_the_batches_and_the_next_run_stores_them(path: Path, database: Path) -> None:
    """
    Neither run loses a row or counts one twice; the tables end as after one clean run.
    """
    with store_of(path, database, lock_timeout=0.01) as store:
        with locked(database):
            counts = run(path, store)
        assert (counts.rows, counts.stored) == (400, 0)
        assert counts.rejected_by_reason == {"not stored: database is locked": 400}
        run(path, store)
    again = tables(database)
    with store_of(path, database.with_name("clean")) as store:
        run(path, store)
    assert again == tables(database.with_name("clean"))


def test_rows_of_a_failed_batch_are_set_aside(path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With the reason of the batch; the next run takes them out again.
    """

    def refuse(flights: Any) -> None:
        raise NotStoredError(__import__("sqlite3").OperationalError("database is locked"))

    with store_of(path, database) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store, "save_late_flights", refuse)
            counts = run(path, store)
        assert counts.rejected_by_reason["not stored: database is locked"] == 80
        found = tables(database)
        assert (len(found["flights"]), len(found["rejected"]), found["delays"]) == (200, 200, [])
        assert found["rejected"][5][4] in ROWS
        run(path, store)
    with store_of(path, database.with_name("clean")) as store:
        run(path, store)
    assert tables(database) == tables(database.with_name("clean"))


def test_a_mistake_in_the_program_rejects_the_row(path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is not mistaken for a bad row, and nothing is lost.
    """

    def parse(line: Any, columns: Any) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(pipeline_module, "parse_flight", parse)
    with store_of(path, database) as store:
        counts = run(path, store)
    assert counts.rejected_by_reason == {"not stored: unexpected KeyError": 400}
    assert len(tables(database)["rejected"]) == 400


def test_reasons_of_messages() -> None:
    """
    A rejection as it is, an exception by its name.
    """
    message = Message(None, NoopAcknowledger.init())
    assert rejection_of(message.fail(Rejection("a", "b"))) == Rejection("a", "b")
    assert rejection_of(message.fail(ValueError("x"))) == Rejection("not stored: unexpected ValueError", "x")


@pytest.mark.parametrize(
    "name_and_content",
    [
        ("quoted line ends", [row(tailnum='"N1\r\nN2"'), row()]),
        ("garbage", ["\x00\x00", row(), "é" * 50, ",", row()]),
    ],
)
def test_strange_lines_reject_themselves_only(database: Path, tmp_path: Path, name_and_content: Any) -> None:
    """
    Each line that is no flight is a rejected row, the lines around it are stored.
    """
    _, rows = name_and_content
    path = write_file(tmp_path / "strange.csv", rows)
    with store_of(path, database) as store:
        counts = run(path, store)
    good = sum(line == row() for line in rows)
    assert counts.stored == good
    assert counts.rows == counts.stored + counts.rejected == check_file(str(path)).row_count
    found = tables(database)
    assert (len(found["flights"]), len(found["rejected"])) == (counts.stored, counts.rejected)


def test_a_rate_is_kept(path: Path, database: Path) -> None:
    """
    From one tenth of a second to the next, not only on the whole.
    """
    started = time.monotonic()
    with store_of(path, database) as store:
        counts = run(path, store, rate=1000)
    assert counts.rows == 400
    assert time.monotonic() - started >= 0.3  # 100 at once, and the last 100 when three windows are over


@pytest.mark.parametrize(("rate", "allowed", "interval"), [(1, 1, 1.0), (25, 3, 0.12), (1000, 100, 0.1)])
def test_a_rate_is_exact(rate: int, allowed: int, interval: float) -> None:
    """
    Also where a tenth of it is no whole number.
    """
    assert rate_limit(rate) == {"allowed_messages": allowed, "interval": interval}
