"""
The tables, and how a batch gets into them once, however often it is delivered.

Each row of a file is found in exactly one of two tables, by (source, line): the digest of the file and the number of
the line. Writing a row again replaces it by itself, so that a file may be imported any number of times, also after an
import that was killed at any point. A row that could not be stored in one run and is stored in the next moves over.

========== ============================================ ==========================================================
table      key                                          columns
========== ============================================ ==========================================================
flights    source, line                                 the columns of the file
rejected   source, line                                 reason, detail, row: the text of the line
delays     origin, dest                                 flights: how many of this route were late, in all sources
========== ============================================ ==========================================================
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from operator import attrgetter
from typing import Any, Callable, Iterable, Optional, Sequence, Set, Tuple

from .records import COLUMNS, LATE_MINUTES, Flight, Line, Rejection

NOT_STORED = "not stored: "
"""How the reasons begin that speak of the database or the program, not of the row."""

# Marks a database as ours, so that a wrong --database is noticed before anything is written to it.
APPLICATION_ID = 0x464C5953
SCHEMA_VERSION = 1

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS flights (
    source TEXT NOT NULL,
    line INTEGER NOT NULL,
    year INTEGER NOT NULL,
    month INTEGER NOT NULL,
    day INTEGER NOT NULL,
    dep_time INTEGER NOT NULL,
    sched_dep_time INTEGER NOT NULL,
    dep_delay INTEGER NOT NULL,
    arr_time INTEGER NOT NULL,
    sched_arr_time INTEGER NOT NULL,
    arr_delay INTEGER,
    carrier TEXT NOT NULL,
    flight INTEGER NOT NULL,
    tailnum TEXT,
    origin TEXT NOT NULL,
    dest TEXT NOT NULL,
    air_time INTEGER,
    distance INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    time_hour TEXT NOT NULL,
    PRIMARY KEY (source, line)
) WITHOUT ROWID""",
    f"CREATE INDEX IF NOT EXISTS late_flights ON flights (origin, dest) WHERE arr_delay > {LATE_MINUTES}",
    """
CREATE TABLE IF NOT EXISTS delays (
    origin TEXT NOT NULL,
    dest TEXT NOT NULL,
    flights INTEGER NOT NULL,
    PRIMARY KEY (origin, dest)
) WITHOUT ROWID""",
    """
CREATE TABLE IF NOT EXISTS rejected (
    source TEXT NOT NULL,
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    row TEXT NOT NULL,
    PRIMARY KEY (source, line)
) WITHOUT ROWID""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

SAVE_FLIGHT = f"REPLACE INTO flights (source, line, {', '.join(COLUMNS)}) VALUES (?, ?{', ?' * len(COLUMNS)})"
# What was set aside because the database was locked is stored now.
FORGET_REJECTION = "DELETE FROM rejected WHERE source = ? AND line = ?"
# Counted from the rows each time, never added to: the number is right however often a row was delivered.
COUNT_LATE_FLIGHTS = f"""
REPLACE INTO delays
SELECT origin, dest, count(*) FROM flights WHERE arr_delay > {LATE_MINUTES} AND origin = ? AND dest = ?
GROUP BY origin, dest"""
# A row that an earlier run stored stays stored when this run fails to store it again.
SAVE_REJECTION = """
REPLACE INTO rejected SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM flights WHERE source = ?1 AND line = ?2)"""


class UnusableDatabaseError(Exception):
    """
    The database cannot be written to, or is somebody else's; the text says why, in one line.
    """


class NotStoredError(Exception):
    """
    A transaction failed for good and left nothing behind; carries the :class:`Rejection` for its rows.
    """

    def __init__(self, error: sqlite3.Error) -> None:
        super().__init__(f"{NOT_STORED}{error}")
        self.rejection = Rejection(str(self))


class Store:
    """
    The tables of one database, for the rows of one source.

    Thread-safe: all threads share one connection, one transaction at a time, which is all that SQLite allows for
    writing whichever way it is done. The journal is a write-ahead log, so that others can read while the import runs,
    and that a commit needs no fsync: a killed process loses nothing that it committed; a power cut may lose the last
    commits, which the next import brings back.

    Args:
        path: The database, made if it is not there.
        source: Names the content of the file that is imported.
        lock_timeout: Seconds for which a transaction is tried again while another program locks the database.

    Raises:
        UnusableDatabaseError: It cannot be opened, is locked, or was not made by this program; then it is as it was.
    """

    def __init__(self, path: str, source: str, *, lock_timeout: float = 5.0) -> None:
        self._source = source
        self._lock_timeout = lock_timeout
        # Guards _connection, from BEGIN to COMMIT; not held in the pauses between two attempts. Innermost lock.
        self._mutex = threading.Lock()
        self.broken: Optional[sqlite3.Error] = None
        """The first error that waiting does not mend (the disk is full), or None."""
        try:
            # Absolute, so that a name like ":memory:" means a file, too. SQLite's own waiting for locks is turned off.
            self._connection = sqlite3.connect(
                os.path.abspath(path), timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise UnusableDatabaseError(f"cannot use the database {path!r}: {error}") from error
        try:
            self._retry_while_locked(self._prepare)
        except (sqlite3.Error, UnusableDatabaseError) as error:
            self.close()
            raise UnusableDatabaseError(f"cannot use the database {path!r}: {error}") from error

    def save_flights(self, flights: Sequence[Tuple[int, Flight]]) -> None:
        """
        Store flights by the numbers of their lines, in one transaction.

        Raises:
            NotStoredError: The database stayed locked, or cannot be written to. None of the flights was stored.
        """
        self._write(lambda: self._put_flights(flights))

    def save_late_flights(self, flights: Sequence[Tuple[int, Flight]]) -> None:
        """
        Store flights and count the late ones of their routes, in one transaction.

        Raises:
            NotStoredError: As for :meth:`save_flights`; the counts are as before, too.
        """

        def save() -> None:
            self._put_flights(flights)
            self._connection.executemany(COUNT_LATE_FLIGHTS, _routes(flights))

        self._write(save)

    def save_rejected(self, rejected: Iterable[Tuple[Line, Rejection]]) -> None:
        """
        Set lines aside with their reasons, in one transaction; a line that an earlier run stored stays stored.

        Raises:
            NotStoredError: As for :meth:`save_flights`.
        """
        rows = [(self._source, line.number, why.reason, why.detail, line.text) for line, why in rejected]
        self._write(lambda: self._connection.executemany(SAVE_REJECTION, rows))

    def close(self) -> None:
        """
        Close the connection; nobody may be writing any more.
        """
        self._connection.close()

    def _put_flights(self, flights: Sequence[Tuple[int, Flight]]) -> None:
        rows = [(self._source, number, *_values(flight)) for number, flight in flights]
        self._connection.executemany(SAVE_FLIGHT, rows)
        self._connection.executemany(FORGET_REJECTION, [row[:2] for row in rows])

    def _write(self, work: Callable[[], object]) -> None:
        try:
            self._retry_while_locked(lambda: self._transaction(work))
        except sqlite3.Error as error:
            if not _is_locked(error) and self.broken is None:
                self.broken = error
            raise NotStoredError(error) from error

    def _transaction(self, work: Callable[[], object]) -> None:
        with self._mutex:
            # IMMEDIATE: to meet a lock here, and not half way.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                work()
                self._connection.execute("COMMIT")
            finally:
                # SQLite has rolled back by itself after some errors.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _retry_while_locked(self, attempt: Callable[[], None]) -> None:
        """
        Try until it succeeds, fails for another reason, or the time is up; the pauses double, with jitter.
        """
        deadline = time.monotonic() + self._lock_timeout
        pause = FIRST_PAUSE
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _prepare(self) -> None:
        _check_owner(self._connection)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._transaction(lambda: [self._connection.execute(statement) for statement in SCHEMA])


def _check_owner(connection: sqlite3.Connection) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    is_new = not (application_id or version or tables)
    if not is_new and (application_id, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise UnusableDatabaseError("it was made by another program")


def _is_locked(error: sqlite3.Error) -> bool:
    # Python < 3.11 has the code of the error in its text only.
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


_plain_values = attrgetter(*(column for column in COLUMNS if column != "time_hour"))


def _values(flight: Flight) -> Tuple[Any, ...]:
    """
    The values in the order of COLUMNS, whose last one is the only one that SQLite has no type for.
    """
    return (*_plain_values(flight), flight.time_hour.isoformat().replace("+00:00", "Z"))


def _routes(flights: Iterable[Tuple[int, Flight]]) -> Set[Tuple[str, str]]:
    return {(flight.origin, flight.dest) for _, flight in flights}
