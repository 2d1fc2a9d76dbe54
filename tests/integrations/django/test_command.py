"""
``manage.py runpipeline``: what it takes, what it says, and what it is as a process.
"""

from __future__ import annotations

import io
import signal
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.helpers import BOUND, eventually
from tests.integrations.django import pipelines, support

from django.core.management import CommandError, call_command  # isort: skip
from django.test.utils import override_settings  # isort: skip
from shop.models import Invoice, Order, OutboxRow  # isort: skip
from shop.outbox import OutboxProducer  # isort: skip
from shop.pipelines import invoices  # isort: skip

NAMES = "invoices, slow, stuck, crashing"


# ---- in this process: what is wrong with the command line


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], f"which pipeline? BROADWAY_PIPELINES has: {NAMES}; name some, or --all"),
        (["invoces"], f"BROADWAY_PIPELINES has no pipeline 'invoces', there are: {NAMES}; did you mean 'invoices'?"),
        (["slow", "nowhere"], f"BROADWAY_PIPELINES has no pipeline 'nowhere', there are: {NAMES}"),
        (["slow", "--all"], "--all and names: give one or the other"),
        (["slow", "--processes", "0"], "--processes: expected an int > 0, got: 0"),
        (["slow", "--shutdown", "soon"], "--shutdown: expected a finite number of seconds >= 0, got: 'soon'"),
        (["slow", "--reload", "--processes", "2"], "--reload: is for development and one process, got processes: 2"),
    ],
)
def test_wrong_command_line(arguments: list[str], text: str) -> None:
    """
    Nothing is run, the text says what is wrong, and the exit code is 2.
    """
    with pytest.raises(CommandError) as caught:
        call_command("runpipeline", *arguments)
    assert str(caught.value) == text
    assert caught.value.returncode == 2


def test_no_pipelines_in_the_settings() -> None:
    """
    The error names the setting.
    """
    with override_settings(BROADWAY_PIPELINES={}), pytest.raises(CommandError, match="BROADWAY_PIPELINES has no pip"):
        call_command("runpipeline", "--all")
    with override_settings(BROADWAY_PIPELINES=[]), pytest.raises(CommandError, match="expected a mapping of names"):
        call_command("runpipeline", "--list")


def test_list() -> None:
    """
    ``--list`` prints the names and where they lead.
    """
    output = io.StringIO()
    with override_settings(BROADWAY_PIPELINES={"a": "shop.pipelines.invoices", "b": "x:y"}):
        call_command("runpipeline", "--list", stdout=output)
    assert output.getvalue() == "a  shop.pipelines:invoices\nb  x:y\n"


def test_call_command(make_database: Any) -> None:
    """
    Called by code the command returns when all was drained, and raises SystemExit when not; signals are as they were.
    """
    make_database("sqlite")
    before = signal.getsignal(signal.SIGTERM)
    OutboxRow.objects.create(order=Order.objects.create(email="a@example.com", amount=1))
    finite = {"all": lambda: invoices(producer=(OutboxProducer, {"until_empty": True}))}
    with override_settings(BROADWAY_PIPELINES={**finite, "crashing": pipelines.crashing}):
        call_command("runpipeline", "all")
        assert Invoice.objects.count() == 1
        with pytest.raises(SystemExit) as caught:
            call_command("runpipeline", "crashing")
    assert caught.value.code == 3
    assert signal.getsignal(signal.SIGTERM) is before
    assert [thread.name for thread in threading.enumerate() if thread.name == "broadway_sync.exit"] == []


# ---- processes


@pytest.fixture
def manage(spawn: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return a function that runs a command of the project in a process, on a database.
    """

    def start(database: Any, *arguments: Any, **env: str) -> Any:
        environment = {"DJANGO_SETTINGS_MODULE": support.SETTINGS, **database.env, **env}
        return spawn(str(support.PROJECT / "manage.py"), *arguments, env=environment)

    return start


@pytest.fixture
def sqlite(make_database: Any) -> Any:
    """
    Return a SQLite database, for what is the same on all.
    """
    return make_database("sqlite")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_drains(manage: Callable[..., Any], database: Any, number: signal.Signals) -> None:
    """
    What was begun is stored, the exit code is 0, and no connection is left.
    """
    process = manage(database, "runpipeline", "slow")
    for _ in range(3):
        process.wait_for("stored")
    process.signal(number)
    assert process.wait() == 0, process.errors
    assert Order.objects.count() == len(process.lines) >= 3
    if database.kind == "postgresql":
        support.connections["default"].close()
        eventually(lambda: database.server.backends(database.name) == set(), "no connection is left")


def test_messages_left_behind(manage: Callable[..., Any], sqlite: Any) -> None:
    """
    A drain that runs out of time ends with code 1, and says where it hung.
    """
    process = manage(sqlite, "runpipeline", "stuck", "--shutdown", "0.5")
    process.wait_for("stuck with 0")
    process.terminate()
    assert process.wait() == 1
    assert "in stuck" in process.errors and "handle_message" in process.errors


def test_pipeline_that_gives_up(manage: Callable[..., Any], sqlite: Any) -> None:
    """
    It ends with code 3.
    """
    process = manage(sqlite, "runpipeline", "crashing")
    assert process.wait() == 3
    assert "the source is gone" in process.errors


def test_pipeline_that_cannot_be_made(manage: Callable[..., Any], sqlite: Any, tmp_path: Path) -> None:
    """
    What the project's code raised is shown, and the code is 2.
    """
    settings = "from tests.integrations.django.settings import *\nBROADWAY_PIPELINES = {'a': 'broken.make'}\n"
    (tmp_path / "broken.py").write_text("def make():\n    return 1 / 0\n")
    (tmp_path / "broken_settings.py").write_text(settings)
    paths = f"{tmp_path}:{support.ROOT}"
    process = manage(sqlite, "runpipeline", "a", DJANGO_SETTINGS_MODULE="broken_settings", PYTHONPATH=paths)
    assert process.wait() == 2
    assert "ZeroDivisionError: division by zero" in process.errors and "broken.py" in process.errors


@pytest.mark.parametrize("path", ["nowhere.make", "mistaken.make"])
def test_project_that_fails_its_checks(manage: Callable[..., Any], sqlite: Any, tmp_path: Path, path: str) -> None:
    """
    Nothing can be started then either: the code is 2, as for whatever does not mend itself.
    """
    settings = f"from tests.integrations.django.settings import *\nBROADWAY_PIPELINES = {{'a': '{path}'}}\n"
    (tmp_path / "mistaken.py").write_text("def make(\n")
    (tmp_path / "mistaken_settings.py").write_text(settings)
    paths = f"{tmp_path}:{support.ROOT}"
    process = manage(sqlite, "runpipeline", "a", DJANGO_SETTINGS_MODULE="mistaken_settings", PYTHONPATH=paths)
    assert process.wait() == 2
    assert "(broadway_sync.E002) BROADWAY_PIPELINES['a']" in process.errors


def test_checks_of_the_pipeline_are_shown(manage: Callable[..., Any], sqlite: Any, tmp_path: Path) -> None:
    """
    What the checks have against a pipeline is said when it starts, unless it is silenced.
    """
    settings = "from tests.integrations.django.settings import *\nDATABASES['default']['OPTIONS'] = {}\n"
    (tmp_path / "hasty.py").write_text(settings)
    (tmp_path / "silent.py").write_text(settings + "SILENCED_SYSTEM_CHECKS = ['broadway_sync.W004']\n")
    for name, is_shown in (("hasty", True), ("silent", False)):
        paths = f"{tmp_path}:{support.ROOT}"
        process = manage(sqlite, "runpipeline", "slow", DJANGO_SETTINGS_MODULE=name, PYTHONPATH=paths)
        process.wait_for("stored")
        process.terminate()
        assert process.wait() == 0
        assert ("(broadway_sync.W004)" in process.errors) is is_shown


def test_several_pipelines_in_one_process(manage: Callable[..., Any], sqlite: Any) -> None:
    """
    All are drained; a limit of messages ends the process too.
    """
    order = Order.objects.create(email="a@example.com", amount=100)
    OutboxRow.objects.create(order=order)
    process = manage(sqlite, "runpipeline", "slow", "invoices", "--max-messages", "4")
    assert process.wait() == 0, process.errors
    assert [invoice.order_id for invoice in Invoice.objects.all()] == [order.pk]


def test_several_processes_share_the_outbox(manage: Callable[..., Any], make_database: Any) -> None:
    """
    Each worker has connections of its own; each row makes one invoice; all drain together.
    """
    pg = make_database("postgresql")
    orders = Order.objects.bulk_create([Order(email="a@example.com", amount=n) for n in range(1, 101)])
    OutboxRow.objects.bulk_create([OutboxRow(order=order) for order in orders])
    process = manage(pg, "runpipeline", "invoices", "--processes", "2")
    eventually(lambda: Invoice.objects.count() == 100, "all invoices are there", timeout=3 * BOUND)
    process.terminate()
    assert process.wait() == 0, process.errors
    assert not OutboxRow.objects.exists()
    support.connections["default"].close()
    eventually(lambda: pg.server.backends(pg.name) == set(), "no connection is left")


POOL = """
from tests.integrations.django.settings import *
DATABASES["default"].update(CONN_MAX_AGE=0, CONN_HEALTH_CHECKS=False, OPTIONS={"pool": {"min_size": 1, "max_size": 9}})
INSTALLED_APPS.append("early")
"""
EARLY = """
from django.apps import AppConfig
class Config(AppConfig):
    name = "early"
    def ready(self):
        from django.db import connection
        connection.ensure_connection()
"""


@pytest.mark.skipif(support.django.VERSION < (5, 1), reason="Django has pools from 5.1 on")
def test_workers_do_not_inherit_a_pool(manage: Callable[..., Any], make_database: Any, tmp_path: Path) -> None:
    """
    Connections, and the threads of a pool, that a project has before the fork are gone by then.
    """
    pytest.importorskip("psycopg_pool")
    pg = make_database("postgresql")
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "__init__.py").touch()
    (tmp_path / "early" / "apps.py").write_text(EARLY)
    (tmp_path / "pooled.py").write_text(POOL)
    OutboxRow.objects.create(order=Order.objects.create(email="a@example.com", amount=1))
    env = {"DJANGO_SETTINGS_MODULE": "pooled", "PYTHONPATH": f"{tmp_path}:{support.ROOT}"}
    process = manage(pg, "runpipeline", "invoices", "--processes", "2", **env)
    eventually(Invoice.objects.exists, "the invoice", timeout=3 * BOUND)
    process.terminate()
    assert process.wait() == 0, process.errors
    assert "should have no threads" not in process.errors and "Traceback" not in process.errors, process.errors
