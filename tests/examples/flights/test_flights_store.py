"""
Each row in one table, once; each late flight counted, once; all of a batch or nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from examples.flights import store as store_module
from examples.flights.records import COLUMNS, Flight, Line, Rejection, parse_flight
from examples.flights.store import NotStoredError, Store, UnusableDatabaseError

from .support import locked, row, tables

REJECTION = Rejection("malformed: not a number", "distance: 'far'")


def flight(**changes: str) -> Flight:
    """
    Return a flight with some values changed.
    """
    return parse_flight(Line(2, row(**changes).encode()))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """
    Return the path of a database that is not there yet.
    """
    return tmp_path / "f.sqlite3"


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    """
    Return a store that hardly waits for locks.
    """
    with contextlib.closing(Store(str(database), "abc", lock_timeout=0.01)) as store:
        yield store


def test_a_flight_is_stored_column_by_column(store: Store, database: Path) -> None:
    """
    The table has the columns of the file, by name.
    """
    store.save_flights([(7, flight(tailnum="NA"))])
    with contextlib.closing(sqlite3.connect(str(database))) as connection:
        connection.row_factory = sqlite3.Row
        stored = dict(connection.execute("SELECT * FROM flights").fetchone())
    assert stored.pop("source") == "abc"
    assert stored.pop("line") == 7
    assert tuple(stored) == COLUMNS
    assert stored.pop("tailnum") is None
    assert [str(value) for value in stored.values()] == [v for v in row().split(",") if v != "N14228"]


def test_storing_again_changes_nothing(store: Store, database: Path) -> None:
    """
    Redelivered rows are neither stored nor counted twice, in whichever batches they come.
    """
    late = [(n, flight(arr_delay="100", dest="BOS" if n % 3 else "ATL")) for n in range(2, 12)]
    store.save_late_flights(late)
    store.save_flights([(50, flight())])
    once = tables(database)
    store.save_late_flights(late[4:])
    store.save_late_flights(late[:7])
    store.save_flights([(50, flight())])
    assert tables(database) == once
    assert once["delays"] == [("EWR", "ATL", 3), ("EWR", "BOS", 7)]


def test_only_late_flights_are_counted(store: Store, database: Path) -> None:
    """
    A flight that is in time leaves the count of its route alone.
    """
    store.save_flights([(2, flight())])
    store.save_late_flights([(3, flight(arr_delay="61"))])
    assert tables(database)["delays"] == [("EWR", "IAH", 1)]


def test_equal_lines_are_two_rows(store: Store, database: Path) -> None:
    """
    What a row is goes by its line, not by its content.
    """
    store.save_flights([(2, flight()), (3, flight())])
    assert len(tables(database)["flights"]) == 2


def test_sources_do_not_touch_each_other(store: Store, database: Path) -> None:
    """
    The same line of another file is another row; the late flights of all files are counted.
    """
    store.save_late_flights([(2, flight(arr_delay="100"))])
    with contextlib.closing(Store(str(database), "def")) as other:
        other.save_late_flights([(2, flight(arr_delay="100"))])
        other.save_rejected([(Line(3, b"x"), REJECTION)])
    found = tables(database)
    assert [r[:2] for r in found["flights"]] == [("abc", 2), ("def", 2)]
    assert found["delays"] == [("EWR", "IAH", 2)]


def test_rejected_rows_are_kept_with_reason_and_text(store: Store, database: Path) -> None:
    """
    Also when they are rejected again.
    """
    for _ in range(2):
        store.save_rejected([(Line(4, b"\xff,\0\r\n"), REJECTION)])
    assert tables(database)["rejected"] == [("abc", 4, REJECTION.reason, REJECTION.detail, "\\xff,\\x00")]


def test_a_row_that_is_stored_after_all_leaves_rejected(store: Store, database: Path) -> None:
    """
    Set aside by a run that met a lock, stored by the next: the tables are as after one clean run.
    """
    for number in (2, 3, 4):
        store.save_rejected([(Line(number, b"x"), Rejection("not stored: database is locked"))])
    store.save_flights([(2, flight())])
    store.save_late_flights([(3, flight(arr_delay="100"))])
    found = tables(database)
    assert [r[1] for r in found["flights"]] == [2, 3]
    assert [r[1] for r in found["rejected"]] == [4]


def test_a_row_that_is_stored_does_not_become_rejected(store: Store, database: Path) -> None:
    """
    Stored by one run, met a lock in the next: it stays in the one table that it is in.
    """
    store.save_flights([(2, flight())])
    before = tables(database)
    store.save_rejected([(Line(2, b"x"), Rejection("not stored: database is locked"))])
    assert tables(database) == before


def test_a_locked_database_fails_the_batch_and_leaves_nothing(store: Store, database: Path) -> None:
    """
    When the time is up; the lock is no reason to end the import.
    """
    with locked(database):
        for save in (store.save_flights, store.save_late_flights):
            with pytest.raises(NotStoredError) as caught:
                save([(2, flight(arr_delay="100"))])
            assert caught.value.rejection == Rejection("not stored: database is locked")
        with pytest.raises(NotStoredError):
            store.save_rejected([(Line(2, b"x"), REJECTION)])
    assert store.broken is None
    assert not any(tables(database).values())


class Pauses:
    """
    Stands in for the clock of the store: records its pauses, and does *then* in the third.
    """

    def __init__(self, then: Any) -> None:
        self.now = 0.0
        self.pauses: List[float] = []
        self.then = then

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)
        if len(self.pauses) == 3:
            self.then()


def test_a_lock_that_goes_away_is_waited_out(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The batch is tried again, after pauses that grow, and stored.
    """
    with contextlib.closing(Store(str(database), "abc")) as store, contextlib.ExitStack() as stack:
        stack.enter_context(locked(database))
        clock = Pauses(then=stack.pop_all().close)
        monkeypatch.setattr(store_module, "time", clock)
        store.save_flights([(2, flight())])
    assert len(clock.pauses) == 3
    for pause, longest in zip(clock.pauses, (0.05, 0.1, 0.2)):
        assert longest / 2 <= pause <= longest
    assert len(tables(database)["flights"]) == 1


def test_the_waiting_has_an_end(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No pause is longer than a second, and all of them no longer than the timeout.
    """
    clock = Pauses(then=lambda: None)
    with contextlib.closing(Store(str(database), "abc", lock_timeout=20.0)) as store, locked(database):
        monkeypatch.setattr(store_module, "time", clock)
        with pytest.raises(NotStoredError):
            store.save_flights([(2, flight())])
    assert 18.0 < clock.now <= 20.0
    assert max(clock.pauses) <= 1.0


def test_an_error_half_way_leaves_nothing(store: Store, database: Path) -> None:
    """
    A batch is one transaction, and the next one works.
    """
    broken = flight(arr_delay="100")
    object.__setattr__(broken, "distance", None)
    with pytest.raises(NotStoredError, match="NOT NULL"):
        store.save_late_flights([(2, flight(arr_delay="100")), (3, broken)])
    assert not any(tables(database).values())
    assert isinstance(store.broken, sqlite3.IntegrityError)
    store.save_late_flights([(2, flight(arr_delay="100"))])
    assert tables(database)["delays"] == [("EWR", "IAH", 1)]


def test_a_full_disk_is_remembered(store: Store, database: Path) -> None:
    """
    Waiting does not mend it: the import can be ended.
    """
    connection = store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NotStoredError, match="full"):
        store.save_flights([(n, flight()) for n in range(1000)])
    assert str(store.broken) == "database or disk is full"
    assert not any(tables(database).values())


def test_threads_write_side_by_side(database: Path) -> None:
    """
    However short the time that they would wait for others; nothing is lost, nothing counted wrongly, nobody gives up.
    """
    errors: List[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 20):
                shared.save_late_flights([(number, flight(arr_delay="100"))])
                shared.save_rejected([(Line(number + 1000, b"x"), REJECTION)])
        except BaseException as error:
            errors.append(error)  # asserted below

    with contextlib.closing(Store(str(database), "abc", lock_timeout=0.001)) as shared:
        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 100, 200, 290)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    found = tables(database)
    assert found["delays"] == [("EWR", "IAH", len(found["flights"]))]
    assert (len(found["flights"]), len(found["rejected"])) == (80, 80)


def refuse(path: Path) -> str:
    """
    Return why a database cannot be used; check that it is as it was.
    """
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UnusableDatabaseError) as caught:
        Store(str(path), "abc", lock_timeout=0.01)
    assert (path.read_bytes() if path.is_file() else None) == before
    return str(caught.value).replace(repr(str(path)), "DATABASE")


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """
    And left as it is.
    """
    (tmp_path / "text").write_text("year,month\n" * 500)
    assert refuse(tmp_path / "text") == "cannot use the database DATABASE: file is not a database"
    assert refuse(tmp_path) == "cannot use the database DATABASE: unable to open database file"
    assert refuse(tmp_path / "no" / "f.db") == "cannot use the database DATABASE: unable to open database file"


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE flights (x)", "PRAGMA application_id = 5", "PRAGMA user_version = 9"]
)
def test_the_database_of_another_program_is_refused(database: Path, statement: str) -> None:
    """
    And left as it is, also when its tables have the same names.
    """
    with contextlib.closing(sqlite3.connect(str(database))) as connection:
        connection.execute(statement)
    assert refuse(database) == "cannot use the database DATABASE: it was made by another program"


def test_an_empty_file_becomes_a_database(database: Path) -> None:
    """
    As for SQLite itself.
    """
    database.touch()
    Store(str(database), "abc").close()
    assert set(tables(database)) == {"flights", "delays", "rejected"}


def test_a_database_that_is_locked_all_the_time_is_refused(store: Store, database: Path) -> None:
    """
    When the time is up.
    """
    with locked(database):
        assert refuse(database) == "cannot use the database DATABASE: database is locked"


def test_a_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    ``:memory:`` would be one empty database for each thread.
    """
    monkeypatch.chdir(tmp_path)
    Store(":memory:", "abc").close()
    assert set(tables(tmp_path / ":memory:")) == {"flights", "delays", "rejected"}
