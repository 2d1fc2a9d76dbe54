"""
Databases with the project's tables: a file of SQLite, and one on a real PostgreSQL server.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

KINDS = ["sqlite", "postgresql"]


@pytest.fixture(autouse=True)
def cared_for() -> Iterator[None]:
    """
    Put the care of connections around pipelines, as the app does in a process that is Django's alone.
    """
    from broadway_sync import around
    from broadway_sync.integrations.django.connections import care

    around.add_ours(care)
    yield
    around.remove_around(care)


def migrate(options: dict[str, Any]) -> None:
    """
    Make the project's tables.
    """
    from django.core.management import call_command

    from tests.integrations.django.support import use_database

    with use_database(options):
        call_command("migrate", verbosity=0)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Return a file with all tables and no rows.
    """
    from tests.integrations.django.support import sqlite_options

    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    migrate(sqlite_options(path))
    return path


@pytest.fixture(scope="session")
def postgresql_template(postgresql: Any) -> str:
    """
    Return the name of a database with all tables and no rows.
    """
    from tests.integrations.django.support import postgresql_options

    name: str = postgresql.database()
    migrate(postgresql_options(postgresql, name))
    return name


@pytest.fixture
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """
    Return a function that makes a database of a kind, and changes to its entry in ``DATABASES``.
    """
    from tests.integrations.django.support import Database, postgresql_options, sqlite_options, use_database

    contexts: list[Any] = []
    databases: list[Any] = []

    def make(kind: str, **changes: Any) -> Any:
        if kind == "sqlite":
            path = tmp_path / "db.sqlite3"
            shutil.copyfile(str(request.getfixturevalue("sqlite_template")), str(path))
            databases.append(Database(kind, {**sqlite_options(path), **changes}))
        else:
            server = request.getfixturevalue("postgresql")
            name = server.database(request.getfixturevalue("postgresql_template"))
            databases.append(Database(kind, {**postgresql_options(server, name), **changes}, server))
        contexts.append(use_database(databases[-1].options))
        contexts[-1].__enter__()
        return databases[-1]

    yield make
    for context in reversed(contexts):
        context.__exit__(None, None, None)
    for database in databases:
        if database.server is not None:
            database.server.revive()
            database.server.drop_database(database.name)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, make_database: Callable[..., Any]) -> Any:
    """
    Return a database of each kind.
    """
    return make_database(request.param)


@pytest.fixture
def pg(make_database: Callable[..., Any]) -> Any:
    """
    Return a database on PostgreSQL whose connections are kept for as long as they are good.
    """
    return make_database("postgresql", CONN_MAX_AGE=None)
