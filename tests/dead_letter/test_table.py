"""
Letters in a table: SQLite and PostgreSQL, with the tables that the manual shows.
"""

from __future__ import annotations

import importlib
import json
import sqlite3
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any, Callable

import pytest

from broadway_sync import ConfigurationError, IterableProducer
from broadway_sync.dead_letter import DeadLetter, TableLetters
from tests.dead_letter.support import UnluckyError, failing_handler, letter
from tests.helpers import BOUND, SCALE, python_env

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
COLUMNS = "failed_at, pipeline, stage, reason, traceback, attempts, origin, content_type, body"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """
    Return a database of SQLite with the table.
    """
    path = tmp_path / "dead.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript((EXAMPLES / "dead_letters_sqlite.sql").read_text())
    connection.close()
    return path


def rows(database: Path, columns: str = COLUMNS) -> list[Any]:
    """
    Return what is in the table.
    """
    connection = sqlite3.connect(database)
    try:
        return connection.execute(f"SELECT {columns} FROM dead_letters ORDER BY id").fetchall()
    finally:
        connection.close()


def test_a_row_for_each_letter(database: Path) -> None:
    """
    With everything that a letter has; bytes are bytes.
    """
    first, second = letter(b"\x00\xff", topic="a"), letter("zwei", UnluckyError())
    TableLetters(lambda: sqlite3.connect(database)).write([first, second])
    found = rows(database)
    assert found[0] == (
        first.failed_at.isoformat(),
        "pipeline",
        "stage",
        "reason",
        "",
        1,
        '{"topic": "a"}',
        "application/octet-stream",
        b"\x00\xff",
    )
    assert (found[1][3], found[1][8]) == (second.reason, b"zwei")


def test_a_lot_is_in_the_table_or_not(database: Path) -> None:
    """
    One row that the table refuses keeps the others out; the connection is closed all the same.
    """
    made: list[Any] = []

    def connect() -> Any:
        made.append(sqlite3.connect(database))
        return made[-1]

    connection = sqlite3.connect(database)
    connection.execute("CREATE UNIQUE INDEX once ON dead_letters (body)")
    connection.close()
    writer = TableLetters(connect)
    with pytest.raises(sqlite3.IntegrityError):
        writer.write([letter(b"one"), letter(b"one")])
    assert rows(database) == []
    writer.write([letter(b"one"), letter(b"two")])
    assert len(rows(database)) == 2
    for each in made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            each.execute("SELECT 1")


def test_the_error_is_that_of_the_statement(database: Path) -> None:
    """
    And not that a connection which was lost takes nothing back.
    """

    class Lost(sqlite3.Connection):
        def rollback(self) -> None:
            raise sqlite3.InterfaceError("the connection is closed")

    connection = sqlite3.connect(database, factory=Lost)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        TableLetters(lambda: connection, "no").write([letter()])


def test_letters_that_are_in_the_table_are_accepted(database: Path) -> None:
    """
    Whatever the end of the connection is like: they would be written again.
    """

    class Rude(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            raise sqlite3.InterfaceError("the server has gone away")

    TableLetters(lambda: sqlite3.connect(database, factory=Rude)).write([letter(b"one")])
    assert len(rows(database)) == 1


def test_all_failures_of_a_pipeline_are_in_the_table(make_pipeline: Any, acks: Any, database: Path) -> None:
    """
    From several threads.
    """
    dead_letter = DeadLetter(TableLetters(lambda: sqlite3.connect(database, timeout=BOUND)))
    pipeline = make_pipeline(
        failing_handler(dead_letter, lambda number: number % 10 == 0),
        producer={"module": (IterableProducer, {"iterable": acks.messages(range(500))})},
        processors={"default": {"concurrency": 4}},
    )
    with pipeline:
        assert pipeline.join(BOUND)
    assert sorted(int(body) for (body,) in rows(database, "body")) == list(range(0, 500, 10))
    assert len(acks.all_data()) == 500


WRITER = """
import sqlite3, sys, threading
from tests.dead_letter.support import letter
from broadway_sync.dead_letter import TableLetters
path, process = sys.argv[1:]
writer = TableLetters(lambda: sqlite3.connect(path, timeout=30))
def write(thread):
    for number in range(10):
        writer.write([letter(f"{process} {thread} {number} {part}") for part in range(3)])
threads = [threading.Thread(target=write, args=(thread,)) for thread in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_several_threads_and_processes_write_to_one_table(database: Path) -> None:
    """
    As far as the database lets them; every letter is there once.
    """
    command = [sys.executable, "-c", WRITER, str(database)]
    processes = [subprocess.Popen([*command, str(number)], env=python_env()) for number in range(2)]
    assert [process.wait(30 * SCALE) for process in processes] == [0, 0]
    bodies = sorted(body for (body,) in rows(database, "body"))
    assert bodies == sorted(
        f"{p} {t} {n} {part}".encode() for p in range(2) for t in range(3) for n in range(10) for part in range(3)
    )


class Connection:
    """
    A connection of no known module, which records what it is asked.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def cursor(self) -> Any:
        """
        Be one's own cursor.
        """
        return self

    def executemany(self, statement: str, values: Any) -> None:
        """
        Record.
        """
        self.asked.append((statement, values))

    def __getattr__(self, name: str) -> Any:
        if name in ("commit", "rollback", "close"):
            return lambda: self.asked.append(name)
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("style", "values"),
    [
        ("qmark", "?, ?, ?, ?, ?, ?, ?, ?, ?"),
        ("format", "%s, %s, %s, %s, %s, %s, %s, %s, %s"),
        ("pyformat", "%s, %s, %s, %s, %s, %s, %s, %s, %s"),
        ("numeric", ":1, :2, :3, :4, :5, :6, :7, :8, :9"),
        ("named", ":1, :2, :3, :4, :5, :6, :7, :8, :9"),
    ],
)
def test_every_module_has_its_own_marks(style: str, values: str) -> None:
    """
    By PEP 249.
    """
    connection = Connection()
    TableLetters(lambda: connection, "app.dead", paramstyle=style).write([letter()])
    (statement, _), *rest = connection.asked
    assert statement == f"INSERT INTO app.dead ({COLUMNS}) VALUES ({values})"
    assert rest == ["commit", "close"]


def test_a_connection_that_is_wrapped_needs_the_style() -> None:
    """
    The error says so; one that SQLAlchemy has wrapped is looked into.
    """
    connection = Connection()
    with pytest.raises(ConfigurationError, match="paramstyle: cannot tell it from a <class .*Connection'>"):
        TableLetters(lambda: connection).write([letter()])
    assert connection.asked == ["rollback", "close"]
    connection.driver_connection = sqlite3.connect(":memory:")  # type: ignore[attr-defined]
    TableLetters(lambda: connection).write([letter()])
    connection.driver_connection.close()
    assert "VALUES (?, " in connection.asked[2][0]


@pytest.mark.parametrize("name", ["vendor_of_databases", "vendor_of_databases.connector"])
def test_the_module_may_be_part_of_a_package(monkeypatch: Any, name: str) -> None:
    """
    As ``mysql.connector`` is, whose connections are of ``mysql.connector.connection``.
    """
    for each in ("vendor_of_databases", "vendor_of_databases.connector", "vendor_of_databases.connector.connection"):
        monkeypatch.setitem(sys.modules, each, types.ModuleType(each))
    sys.modules[name].paramstyle = "pyformat"  # type: ignore[attr-defined]
    cls = type("Connection", (Connection,), {"__module__": "vendor_of_databases.connector.connection"})
    connection = cls()
    TableLetters(lambda: connection).write([letter()])
    assert "VALUES (%s, " in connection.asked[0][0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((3,), "connect: expected a function without arguments, got: 3"),
        ((print, "a; DROP TABLE b"), "table: expected the name of a table, got: 'a; DROP TABLE b'"),
        ((print, ""), "table: expected the name of a table, got: ''"),
    ],
)
def test_a_mistake_is_named(arguments: Any, text: str) -> None:
    """
    Before there is anything to write.
    """
    with pytest.raises(ConfigurationError) as caught:
        TableLetters(*arguments)
    assert str(caught.value) == text


def test_a_style_that_there_is_not() -> None:
    """
    The five of PEP 249.
    """
    with pytest.raises(ConfigurationError, match="paramstyle: expected one of qmark, format, pyformat, numeric, named"):
        TableLetters(dict, paramstyle="dollar")


@pytest.fixture(params=["psycopg", "psycopg2"])
def connect(request: Any, postgresql: Any) -> Callable[[], Any]:
    """
    Return a function that connects to an empty database of PostgreSQL with the table.
    """
    module = pytest.importorskip(request.param)
    url = postgresql.url_of(postgresql.database())
    connection = module.connect(url)
    connection.cursor().execute((EXAMPLES / "dead_letters_postgresql.sql").read_text())
    connection.commit()
    connection.close()
    return lambda: importlib.import_module(request.param).connect(url)


def selected(connect: Callable[[], Any], columns: str) -> list[Any]:
    """
    Return what is in the table of PostgreSQL.
    """
    connection = connect()
    try:
        cursor = connection.cursor()
        cursor.execute(f"SELECT {columns} FROM dead_letters ORDER BY id")
        return list(cursor.fetchall())
    finally:
        connection.close()


def test_postgresql_takes_everything(connect: Callable[[], Any]) -> None:
    """
    Also what it dislikes: NUL in texts.
    """
    letters = [letter(b"\x00\xff", "a\x00b", topic="a\x00", count=10**40), letter("\x00ü", UnluckyError())]
    TableLetters(connect).write(letters)
    first, second = selected(connect, "body, reason, origin, attempts, failed_at")
    assert bytes(first[0]) == b"\x00\xff"
    assert first[1] == "a\\x00b"
    origin = first[2] if isinstance(first[2], dict) else json.loads(first[2])
    assert origin == {"topic": "a\\x00", "count": hex(10**40)}
    assert first[4] == letters[0].failed_at
    assert bytes(second[0]) == b"\x00\xc3\xbc"


def test_postgresql_from_many_threads(connect: Callable[[], Any]) -> None:
    """
    Each lot has a connection of its own, and none is left.
    """
    writer = TableLetters(connect)
    threads = [threading.Thread(target=writer.write, args=([letter(str(n))],)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert {bytes(body) for (body,) in selected(connect, "body")} == {str(n).encode() for n in range(10)}
