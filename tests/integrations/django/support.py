"""
A Django project in this process: that of the how-to, with a database that each test chooses.

Importing this sets Django up, with the settings beside this file. Database connections are the one thing that
changes: ``use_database`` points the alias ``default`` somewhere else.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest

import broadway_sync

django = pytest.importorskip("django", reason="needs django")

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "docs" / "examples" / "django_project"
SETTINGS = "tests.integrations.django.settings"

sys.path.insert(0, str(PROJECT))
os.environ["DJANGO_SETTINGS_MODULE"] = SETTINGS
django.setup()
del os.environ["DJANGO_SETTINGS_MODULE"]  # processes of other tests are none of Django's

from django.db import connections  # noqa: E402
from django.test.utils import setup_test_environment  # noqa: E402

from broadway_sync.integrations.django.connections import care  # noqa: E402

setup_test_environment(debug=False)
# Pipelines of other tests in this process are to be as they are without Django; see the fixture `cared_for`.
broadway_sync.remove_around(care)


class Database:
    """
    A database that has the project's tables, as an entry of ``DATABASES`` and as variables for processes.
    """

    def __init__(self, kind: str, options: dict[str, Any], server: Any = None) -> None:
        self.kind = kind
        self.options = options
        self.server = server

    @property
    def name(self) -> str:
        """
        Its name, or file.
        """
        return str(self.options["NAME"])

    @property
    def env(self) -> dict[str, str]:
        """
        What the settings of the project want to find in the environment.
        """
        if self.kind == "sqlite":
            return {"SQLITE_FILE": self.name}
        names = {"PGDATABASE": "NAME", "PGUSER": "USER", "PGPASSWORD": "PASSWORD", "PGHOST": "HOST", "PGPORT": "PORT"}
        return {variable: str(self.options[name]) for variable, name in names.items()}


def sqlite_options(path: Path) -> dict[str, Any]:
    """
    Return the entry of ``DATABASES`` for a file.
    """
    options: dict[str, Any] = {"timeout": 30}
    if django.VERSION >= (5, 1):
        options["transaction_mode"] = "IMMEDIATE"
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": options}


def postgresql_options(server: Any, name: str) -> dict[str, Any]:
    """
    Return the entry of ``DATABASES`` for a database of a server.
    """
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": server.user,
        "PASSWORD": server.password,
        "HOST": server.host,
        "PORT": str(server.port),
    }


@contextmanager
def use_database(options: dict[str, Any]) -> Iterator[None]:
    """
    Make this entry the ``default`` of ``DATABASES``, for connections that are made from now on.
    """
    connections.all()  # Django fills in defaults with the first connection
    before = connections.settings["default"]
    _forget()
    connections.settings["default"] = {**_defaults(), **options}
    try:
        yield
    finally:
        _forget()
        connections.settings["default"] = before


def _defaults() -> dict[str, Any]:
    return {
        "ATOMIC_REQUESTS": False,
        "AUTOCOMMIT": True,
        "CONN_HEALTH_CHECKS": False,
        "CONN_MAX_AGE": 0,
        "OPTIONS": {},
        "TIME_ZONE": None,
        "USER": "",
        "PASSWORD": "",
        "HOST": "",
        "PORT": "",
        "TEST": {"CHARSET": None, "COLLATION": None, "MIGRATE": True, "MIRROR": None, "NAME": None},
    }


def _forget() -> None:
    connection = connections["default"]
    connection.close()
    if connection.settings_dict["OPTIONS"].get("pool"):
        connection.close_pool()
    del connections["default"]
