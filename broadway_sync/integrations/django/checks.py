"""
System checks: what is commonly wrong, and can be told for sure.

``check_setting``, ``check_started`` and ``check_connections`` run with every command. ``check_pipelines`` makes the
pipelines, to see how many threads they have: ``manage.py check --deploy`` and ``manage.py runpipeline`` do that.
"""

from __future__ import annotations

import os
from typing import Any, Iterator, List, Optional

import django
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's names
from django.db import connections

from ...errors import ConfigurationError
from ...pipeline import Pipeline
from ...registry import all_running
from ...runner.targets import load, resolve
from .pipelines import SETTING, pipeline_targets


def check_setting(**kwargs: Any) -> List[CheckMessage]:
    """
    E001: ``BROADWAY_PIPELINES`` is not what it must be. E002: one of its paths leads nowhere.
    """
    try:
        targets = pipeline_targets()
    except ConfigurationError as error:
        hint = f"{SETTING} = {{'orders': 'shop.pipelines.orders'}}"
        return [Error(str(error), hint=hint, id="broadway_sync.E001")]
    return [message for name, target in targets.items() for message in _check_path(name, target)]


def _check_path(name: str, target: Any) -> Iterator[CheckMessage]:
    if not isinstance(target, str):
        return
    try:
        resolve(target)
    except Exception as error:  # the project's code, at import: anything may come
        text = str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
        hint = "Correct the path, or mend what its module does when it is imported."
        yield Error(f"{SETTING}[{name!r}]: {text}", hint=hint, id="broadway_sync.E002")


def check_started(**kwargs: Any) -> List[CheckMessage]:
    """
    W001: a pipeline runs before anybody can have asked for it, so it also runs where nobody wants it.
    """
    twice = " It runs twice here: in the process that serves, and in the one that watches the files."
    is_reloading = os.environ.get("RUN_MAIN") == "true"
    return [
        Warning(
            f"pipeline {name!r} was started while Django was set up, by an import or AppConfig.ready(): so it runs in "
            f"every management command too, and before the fork of a server that loads the project first."
            f"{twice if is_reloading else ''}",
            hint="Start it where the process begins its work: `manage.py runpipeline`, or the server's hook for a new "
            "worker.",
            id="broadway_sync.W001",
        )
        for name in all_running()
    ]


def check_connections(**kwargs: Any) -> List[CheckMessage]:
    """
    W002: connections are kept, and nobody looks whether they still live before they are used.
    """
    if django.VERSION < (4, 1) or not getattr(settings, SETTING, None):
        return []
    return [
        Warning(
            f"DATABASES[{connection.alias!r}] keeps connections (CONN_MAX_AGE is "
            f"{connection.settings_dict['CONN_MAX_AGE']}) without health checks: after a restart of the server the "
            "first callback on each thread of a pipeline fails.",
            hint="Set CONN_HEALTH_CHECKS to True.",
            id="broadway_sync.W002",
        )
        for connection in connections.all()
        if _is_kept(connection) and not connection.settings_dict["CONN_HEALTH_CHECKS"]
    ]


def _is_kept(connection: Any) -> bool:
    return bool(connection.vendor != "sqlite" and connection.settings_dict["CONN_MAX_AGE"] != 0)


def check_pipelines(**kwargs: Any) -> List[CheckMessage]:
    """
    E003: no pipeline can be made. Else the checks of :func:`check_threads`.
    """
    try:
        targets = pipeline_targets()
    except ConfigurationError:
        return []  # E001 says so
    messages: List[CheckMessage] = []
    for name, target in targets.items():
        try:
            messages += check_threads(name, load(target))
        except ConfigurationError as error:
            text = f"{SETTING}[{name!r}]: {error}"
            messages.append(Error(text, hint="The text says where.", id="broadway_sync.E003"))
    return messages


def check_threads(name: str, pipeline: Pipeline) -> List[CheckMessage]:
    """
    W003: more threads than a pool has connections. W004: several writers on SQLite, which lets one write at a time.
    W005: every callback that uses the database connects anew.
    """
    threads = count_threads(pipeline)
    messages: List[Optional[CheckMessage]] = []
    for connection in connections.all():
        messages.append(_check_pool(name, threads, connection))
        messages.append(_check_sqlite(name, threads, connection))
        messages.append(_check_age(name, connection))
    return [message for message in messages if message is not None]


def count_threads(pipeline: Pipeline) -> int:
    """
    Return how many threads of a pipeline run callbacks, and so may each have a connection.
    """
    return sum(stage["concurrency"] for stages in pipeline.topology().values() for stage in stages)


def _check_pool(name: str, threads: int, connection: Any) -> Optional[CheckMessage]:
    size = _pool_size(connection)
    if size is None or size >= threads:
        return None
    option = "max" if connection.vendor == "oracle" else "max_size"
    return Warning(
        f"pipeline {name!r} has {threads} threads that may use a database, the pool of "
        f"DATABASES[{connection.alias!r}] has {size} connections: callbacks wait for one, and fail when that takes too "
        "long; a producer keeps the one that it has.",
        hint=f"Set {option!r} in OPTIONS['pool'] to {threads} or more for processes that run it, or lower its "
        "concurrency.",
        id="broadway_sync.W003",
    )


def _pool_size(connection: Any) -> Optional[int]:
    """
    Return how many connections Django's own pool may have; None without one.
    """
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if not pool or connection.vendor not in ("postgresql", "oracle"):
        return None
    given = pool if isinstance(pool, dict) else {}
    if connection.vendor == "oracle":
        return int(given.get("max", 2))
    # psycopg_pool: what is not given is as many as min_size, of which the default is 4.
    return int(given.get("max_size") or given.get("min_size", 4))


def _check_sqlite(name: str, threads: int, connection: Any) -> Optional[CheckMessage]:
    if connection.vendor != "sqlite" or threads < 2:
        return None
    given = connection.settings_dict["OPTIONS"]
    # Without it a transaction that reads before it writes fails at once, however long the timeout is.
    has_mode = django.VERSION < (5, 1) or str(given.get("transaction_mode")).upper() in ("IMMEDIATE", "EXCLUSIVE")
    if "timeout" in given and has_mode:
        return None
    mode = ", 'transaction_mode': 'IMMEDIATE'" if django.VERSION >= (5, 1) else ""
    return Warning(
        f"pipeline {name!r} has {threads} threads, and DATABASES[{connection.alias!r}] is SQLite, where one connection "
        "writes at a time: callbacks may fail with `database is locked`.",
        hint=f"Set OPTIONS to {{'timeout': 30{mode}}}, or let one batch processor do all the writing.",
        id="broadway_sync.W004",
    )


def _check_age(name: str, connection: Any) -> Optional[CheckMessage]:
    given = connection.settings_dict
    if connection.vendor == "sqlite" or given["ENGINE"] == "django.db.backends.dummy":  # files, and no database at all
        return None
    if given["CONN_MAX_AGE"] != 0 or given["OPTIONS"].get("pool"):
        return None
    return Warning(
        f"every callback of pipeline {name!r} that uses DATABASES[{connection.alias!r}] opens a connection for itself, "
        "as CONN_MAX_AGE is 0.",
        hint="Set CONN_MAX_AGE to 60, and CONN_HEALTH_CHECKS to True, for processes that run pipelines.",
        id="broadway_sync.W005",
    )
