"""
Dead letters in a table of a database.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import Any, Callable, Optional, Sequence, Tuple

from ..errors import ConfigurationError
from ..rules import mistake, takes
from .letter import Letter
from .text import origin_text

COLUMNS = (
    "failed_at", "pipeline", "stage", "reason", "traceback", "attempts", "origin", "content_type", "body",
)  # fmt: skip
"""What the table must have; ``body`` takes bytes, ``attempts`` an int, everything else text."""

_STYLES = {"qmark": "?", "format": "%s", "pyformat": "%s", "numeric": ":{}", "named": ":{}"}
_NAME = re.compile(r'[^\s"\';]+')


class TableLetters:
    """
    Inserts into a table, through any module that follows Python's DB-API (PEP 249).

    Accepted means committed: all letters of a lot in one transaction. A connection is opened for each lot and closed
    after it, which suits failures, that are rare; for many give connections of a pool, such as SQLAlchemy's
    ``engine.raw_connection``.
    """

    def __init__(
        self, connect: Callable[[], Any], table: str = "dead_letters", *, paramstyle: Optional[str] = None
    ) -> None:
        """
        Args:
            connect: Returns a connection; called on the threads of stages.
            table: Its name, perhaps with a schema.
            paramstyle: Of the database's module; found out by itself unless connections are wrapped.

        Raises:
            ConfigurationError: One of them is not that.
        """
        if not takes(0)(connect):
            raise mistake("connect", f"expected a function without arguments, got: {connect!r}")
        if not isinstance(table, str) or not _NAME.fullmatch(table):
            raise mistake("table", f"expected the name of a table, got: {table!r}")
        if paramstyle is not None and paramstyle not in _STYLES:
            raise mistake("paramstyle", f"expected one of {', '.join(_STYLES)}, got: {paramstyle!r}")
        self._connect = connect
        self._table = table
        self._paramstyle = paramstyle

    def __repr__(self) -> str:
        return f"TableLetters({self._table!r})"

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Insert *letters*.

        Raises:
            Exception: What the database's module raises; none of them are in the table.
        """
        connection = self._connect()
        try:
            connection.cursor().executemany(self._statement(connection), [_row(letter) for letter in letters])
            connection.commit()
        except BaseException:
            with suppress(Exception):  # of a connection that was lost: what matters is the first error
                connection.rollback()
            raise
        finally:
            with suppress(Exception):  # by now the letters are in the table, or not
                connection.close()

    def _statement(self, connection: Any) -> str:
        mark = _STYLES[self._paramstyle or _paramstyle(connection)]
        marks = ", ".join(mark.format(number) for number in range(1, len(COLUMNS) + 1))
        return f"INSERT INTO {self._table} ({', '.join(COLUMNS)}) VALUES ({marks})"


def _row(letter: Letter) -> Tuple[Any, ...]:
    return (
        letter.failed_at.isoformat(),
        letter.pipeline,
        letter.stage,
        letter.reason,
        letter.traceback,
        letter.attempts,
        origin_text(letter.origin),
        letter.content_type,
        letter.body,
    )


def _paramstyle(connection: Any) -> str:
    """
    Return what the module of *connection* says about itself.
    """
    # SQLAlchemy wraps connections and says what is inside.
    connection = getattr(connection, "driver_connection", None) or connection
    for cls in type(connection).__mro__:
        name = cls.__module__
        while name:  # of mysql.connector.connection.MySQLConnection it is mysql.connector that knows
            style = getattr(sys.modules.get(name), "paramstyle", None)
            if style in _STYLES:
                return str(style)
            name = name.rpartition(".")[0]
    raise ConfigurationError(f"paramstyle: cannot tell it from a {type(connection)!r}, please give it")
