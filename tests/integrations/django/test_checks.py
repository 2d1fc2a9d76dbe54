"""
The system checks: each finds what it is for, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import BOUND, eventually, python_env
from tests.integrations.django import pipelines, support

from django.core import checks  # isort: skip
from django.test.utils import override_settings  # isort: skip

from broadway_sync import BatcherOptions, Pipeline
from broadway_sync.integrations.django.checks import count_threads

PROJECT = {"invoices": "shop.pipelines.invoices"}
before_pools = pytest.mark.skipif(support.django.VERSION < (5, 1), reason="Django has pools from 5.1 on")
before_health_checks = pytest.mark.skipif(support.django.VERSION < (4, 1), reason="needs CONN_HEALTH_CHECKS")


def found(*, deploy: bool = False) -> list[Any]:
    """
    Return what the checks of this app find.
    """
    messages: list[Any] = checks.run_checks(tags=["broadway_sync"], include_deployment_checks=deploy)
    return messages


def ids(messages: list[Any]) -> list[str]:
    """
    Return the ids without the app's label. Every message has a hint.
    """
    assert all(message.hint for message in messages)
    return [message.id.replace("broadway_sync.", "") for message in messages]


@pytest.fixture
def quiet_sqlite(make_database: Any) -> Any:
    """
    Return a database that no check has anything against.
    """
    return make_database("sqlite")


def test_project_of_the_manual_is_in_order(quiet_sqlite: Any) -> None:
    """
    Nothing is found.
    """
    with override_settings(BROADWAY_PIPELINES=PROJECT):
        assert found(deploy=True) == []


@pytest.mark.parametrize(
    "setting, expected, text",
    [
        ([], "E001", "expected a mapping of names"),
        ({"a": 1}, "E001", "BROADWAY_PIPELINES['a']: expected the path"),
        ({"a": "shop.nowhere.a"}, "E002", "BROADWAY_PIPELINES['a']: shop.nowhere:a: there is no module 'shop.nowhere'"),
        ({"a": "shop.pipelines.a"}, "E002", "has no 'a'"),
    ],
)
def test_wrong_setting(quiet_sqlite: Any, setting: Any, expected: str, text: str) -> None:
    """
    E001 for what is no mapping of names to paths, E002 for paths that lead nowhere.
    """
    with override_settings(BROADWAY_PIPELINES=setting):
        messages = found()
    assert ids(messages) == [expected]
    assert text in messages[0].msg
    assert messages[0].is_serious()


def test_module_that_raises(quiet_sqlite: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """
    E002 says what a module raised when it was imported.
    """
    (tmp_path / "raising_pipelines.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with override_settings(BROADWAY_PIPELINES={"a": "raising_pipelines.a"}):
        messages = found()
    assert ids(messages) == ["E002"]
    assert "ZeroDivisionError: division by zero" in messages[0].msg


def test_pipelines_are_not_made_by_every_command(quiet_sqlite: Any) -> None:
    """
    Only ``check --deploy`` calls the functions; E003 says what they raised or returned.
    """
    calls: list[int] = []

    def raising() -> Pipeline:
        calls.append(1)
        raise LookupError("no such table")

    with override_settings(BROADWAY_PIPELINES={"a": raising, "b": lambda: None}):
        assert found() == [] and calls == []
        messages = found(deploy=True)
    assert ids(messages) == ["E003", "E003"] and calls == [1]
    assert "LookupError: no such table" in messages[0].msg
    assert "expected it to return a Pipeline, got: None" in messages[1].msg


def test_pipeline_that_runs_already(quiet_sqlite: Any, make_pipeline: Any, monkeypatch: Any) -> None:
    """
    W001 names a pipeline that runs while the checks do; under autoreload it says that it runs twice.
    """
    monkeypatch.delenv("RUN_MAIN", raising=False)
    pipeline = make_pipeline().start()
    (message,) = found()
    assert message.id == "broadway_sync.W001"
    assert f"pipeline {pipeline.name!r} was started while Django was set up" in message.msg
    assert "runs twice" not in message.msg
    monkeypatch.setenv("RUN_MAIN", "true")
    (message,) = found()
    assert "runs twice" in message.msg
    pipeline.stop()
    assert found() == []


@before_health_checks
@pytest.mark.parametrize(
    "options, is_found",
    [
        ({"CONN_MAX_AGE": 60}, True),
        ({"CONN_MAX_AGE": None}, True),
        ({"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}, False),
        ({"CONN_MAX_AGE": 0}, False),
    ],
)
def test_kept_connections_without_health_checks(make_database: Any, options: Any, is_found: bool) -> None:
    """
    W002, for databases on a server whose connections are kept.
    """
    make_database("postgresql", **options)
    with override_settings(BROADWAY_PIPELINES=PROJECT):
        assert ids(found()) == ["W002"] * is_found
    with override_settings(BROADWAY_PIPELINES={}):
        assert found() == []  # whoever has no pipelines decides for himself


@before_pools
@pytest.mark.parametrize(
    "pool, size",
    [
        (True, 4),
        ({"min_size": 1, "max_size": 3}, 3),
        ({"min_size": 2}, 2),
        ({"min_size": 2, "max_size": None}, 2),
        ({}, None),
    ],
)
def test_pool_smaller_than_the_threads(make_database: Any, pool: Any, size: Any) -> None:
    """
    W003 counts producers, processors, batchers and batch processors against what psycopg's pool has.
    """
    pytest.importorskip("psycopg_pool")
    make_database("postgresql", OPTIONS={"pool": pool})
    threads = count_threads(pipelines.slow())
    assert threads == 3  # a producer, a processor, a batch processor
    with override_settings(BROADWAY_PIPELINES={"many": many_threads}):
        messages = [message for message in found(deploy=True) if message.id != "broadway_sync.W005"]
    assert ids(messages) == ["W003"] * (size is not None)
    if size is not None:
        assert f"has 5 threads that may use a database, the pool of DATABASES['default'] has {size}" in messages[0].msg
        assert "Set 'max_size' in OPTIONS['pool'] to 5 or more" in messages[0].hint


def many_threads() -> Pipeline:
    """
    A pipeline of five threads: one for the producer, two processors, two batch processors.
    """
    return Pipeline(
        pipelines.StoreOrders(),
        name="many",
        producer={"module": (pipelines.CrashingProducer, {})},
        processors={"default": {"concurrency": 2}},
        batchers={"default": BatcherOptions(), "other": BatcherOptions()},
    )


@before_pools
def test_pool_that_is_large_enough(make_database: Any) -> None:
    """
    Nothing is found.
    """
    pytest.importorskip("psycopg_pool")
    make_database("postgresql", OPTIONS={"pool": {"min_size": 1, "max_size": 5}})
    with override_settings(BROADWAY_PIPELINES={"many": many_threads}):
        assert found(deploy=True) == []


def test_sqlite_with_many_writers(make_database: Any) -> None:
    """
    W004, unless transactions wait for each other.
    """
    make_database("sqlite", OPTIONS={})
    with override_settings(BROADWAY_PIPELINES={"many": many_threads}):
        (message,) = found(deploy=True)
        assert ids([message]) == ["W004"]
        assert "pipeline 'many' has 5 threads" in message.msg
        assert "'timeout': 30" in message.hint
        assert ("'transaction_mode': 'IMMEDIATE'" in message.hint) is (support.django.VERSION >= (5, 1))


def test_connections_for_one_callback_only(make_database: Any) -> None:
    """
    W005, for databases on a server with Django's default of CONN_MAX_AGE.
    """
    make_database("postgresql")
    with override_settings(BROADWAY_PIPELINES={"many": many_threads}):
        assert ids(found(deploy=True)) == ["W005"]
        assert found() == []


def test_project_without_a_database(quiet_sqlite: Any) -> None:
    """
    What Django puts into the place of a database that is not configured connects to nothing.
    """
    with support.use_database({"ENGINE": "django.db.backends.dummy", "NAME": ""}):
        with override_settings(BROADWAY_PIPELINES={"many": many_threads}):
            assert found(deploy=True) == []


# ---- in processes of their own

READY = """
from django.apps import AppConfig
class Config(AppConfig):
    name = "eager"
    def ready(self):
        from broadway_sync.integrations.django import load_pipeline
        load_pipeline("invoices").start()
"""


def manage(*arguments: str, env: dict[str, str], cwd: Path = support.PROJECT) -> Any:
    """
    Run a command of the project.
    """
    return subprocess.run(
        [sys.executable, str(support.PROJECT / "manage.py"), *arguments],
        env=python_env(env), cwd=str(cwd), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
    )  # fmt: skip


@pytest.fixture
def eager(quiet_sqlite: Any, tmp_path: Path) -> dict[str, str]:
    """
    Return the environment of a project with an app that starts a pipeline in ``ready()``.
    """
    (tmp_path / "eager").mkdir()
    (tmp_path / "eager" / "__init__.py").write_text("")
    (tmp_path / "eager" / "apps.py").write_text(READY)
    (tmp_path / "eager_settings.py").write_text("from config.settings import *\nINSTALLED_APPS.append('eager')\n")
    paths = f"{tmp_path}:{python_env()['PYTHONPATH']}"
    return {**quiet_sqlite.env, "DJANGO_SETTINGS_MODULE": "eager_settings", "PYTHONPATH": paths}


def test_pipeline_started_by_ready_is_found_by_every_command(eager: dict[str, str]) -> None:
    """
    A project that does so hears of it.
    """
    done = manage("check", env=eager)
    assert done.returncode == 0, done.stderr
    assert "(broadway_sync.W001) pipeline 'invoices' was started while Django was set up" in done.stderr
    assert "HINT: Start it where the process begins its work" in done.stderr


def test_pipeline_started_by_ready_runs_twice_under_runserver(eager: Any, spawn: Any) -> None:
    """
    Where the files are watched there are two processes, and the check says so in the one that serves.
    """
    process = spawn(str(support.PROJECT / "manage.py"), "runserver", "127.0.0.1:0", env=eager)
    eventually(lambda: "It runs twice here" in process.errors, "the check's text", timeout=3 * BOUND)
    assert "(broadway_sync.W001) pipeline 'invoices'" in process.errors


def test_every_id_is_in_the_manual() -> None:
    """
    The how-to has a row for each check, and for no other.
    """
    import re

    source = (Path(support.broadway_sync.__file__).parent / "integrations" / "django" / "checks.py").read_text()
    page = (support.ROOT / "docs" / "howto" / "django.rst").read_text()
    assert set(re.findall(r"id=\"broadway_sync\.([EW]\d+)\"", source)) == set(re.findall(r"``([EW]\d{3})``", page))
