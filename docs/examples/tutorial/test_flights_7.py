import json
import sqlite3

import flights
import pytest

from broadway_sync import DummyProducer

ROW = {
    "year": "2013", "month": "1", "day": "1", "dep_time": "517", "arr_time": "830", "arr_delay": "11",
    "carrier": "UA", "flight": "1545", "origin": "EWR", "dest": "IAH",
}  # fmt: skip


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # dead letters go there
    return str(tmp_path / "test.sqlite3")


@pytest.fixture
def pipeline(database):
    with flights.make_pipeline(database, producer={"module": (DummyProducer, {})}) as pipeline:
        yield pipeline


def test_flight_is_stored(pipeline, database):
    successful, failed = pipeline.test_message(ROW, metadata={"line": 2}).receive(timeout=10)
    assert successful[0].data == ("2013-01-01", "UA", 1545, "EWR", "IAH", 11)
    assert flights.Store(database).counts() == {"flights": 1, "rejected": 0}


@pytest.mark.parametrize(("column", "reason"), [("dep_time", "cancelled"), ("arr_time", "never arrived")])
def test_row_that_is_no_flight_is_rejected(pipeline, database, column, reason):
    successful, failed = pipeline.test_message({**ROW, column: "NA"}, metadata={"line": 2}).receive(timeout=10)
    assert (failed[0].status, failed[0].reason) == ("failed", reason)
    assert flights.Store(database).counts() == {"flights": 0, "rejected": 1}


def test_row_that_breaks_the_parser_is_set_aside(pipeline, database):
    successful, failed = pipeline.test_message({**ROW, "day": "32"}, metadata={"line": 2}).receive(timeout=10)
    assert failed[0].status == "error"
    assert flights.Store(database).counts() == {"flights": 0, "rejected": 1}
    with open("dead_letters.jsonl", encoding="utf-8") as file:
        (letter,) = [json.loads(line) for line in file]
    assert letter["origin"] == {"line": 2}
    assert json.loads(letter["body"]) == {**ROW, "day": "32"}


def test_database_that_is_busy_for_a_moment(pipeline, database, monkeypatch):
    attempts = []
    save_flights = flights.Store.save_flights

    def save_at_the_third_attempt(store, rows):
        attempts.append(rows)
        if len(attempts) < 3:
            raise sqlite3.OperationalError("database is locked")
        save_flights(store, rows)

    monkeypatch.setattr(flights.Store, "save_flights", save_at_the_third_attempt)
    successful, failed = pipeline.test_message(ROW, metadata={"line": 2}).receive(timeout=10)
    assert len(successful) == 1
    assert len(attempts) == 3
    assert flights.Store(database).counts() == {"flights": 1, "rejected": 0}


def test_row_that_comes_twice_is_stored_once(pipeline, database):
    pipeline.test_batch([ROW, ROW], metadata={"line": 2}, batch_mode="flush").collect(2, timeout=10)
    assert flights.Store(database).counts() == {"flights": 1, "rejected": 0}


def test_rows_that_are_done_are_not_read_again():
    assert [line for line, row in flights.read_rows(done={2, 4})][:3] == [3, 5, 6]
