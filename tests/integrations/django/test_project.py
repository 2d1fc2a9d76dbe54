"""
The project of the how-to: its own tests, and what it does with real transactions and a real server of its pages.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import BOUND, Call, eventually, python_env
from tests.integrations.django import support
from tests.integrations.web.support import booted, talking

import shop.views  # isort: skip
from django.db import transaction  # isort: skip
from django.test import Client  # isort: skip
from shop.models import Activity, Invoice, Order, OutboxRow  # isort: skip
from shop.outbox import OutboxProducer  # isort: skip
from shop.pipelines import activities, activity_buffer, invoices  # isort: skip

from broadway_sync import Buffer


def place_order(amount: int) -> Any:
    """
    Place an order as a browser does.
    """
    return Client().post("/orders/", {"email": "a@example.com", "amount": amount})


@pytest.fixture(autouse=True)
def empty_buffer() -> None:
    """
    Take out what an earlier test left in the buffer of the project.
    """
    activity_buffer.take(len(activity_buffer))


def test_commit_pushes(database: Any) -> None:
    """
    A request that is committed ends as a row that the pipeline has written.
    """
    with activities():
        response = place_order(500)
        assert response.status_code == 201
    assert list(Activity.objects.values_list("order_id", "text")) == [(response.json()["order"], "placed")]


def test_rollback_pushes_nothing(database: Any) -> None:
    """
    A request that is rolled back leaves neither an order nor anything in the buffer.
    """
    assert place_order(100_001).status_code == 402
    assert (Order.objects.count(), OutboxRow.objects.count(), len(activity_buffer)) == (0, 0, 0)


def test_push_waits_for_the_outermost_commit(database: Any) -> None:
    """
    Inside of another transaction nothing is pushed before that one is committed.
    """
    with transaction.atomic():
        assert place_order(500).status_code == 201
        assert len(activity_buffer) == 0
    assert len(activity_buffer) == 1


def test_full_buffer_does_not_fail_the_request(database: Any, caplog: Any) -> None:
    """
    The order stands, the log says what was not noted.
    """
    for number in range(1000):
        activity_buffer.push(number)
    assert place_order(500).status_code == 201
    assert "not noted: order" in caplog.text
    assert Order.objects.count() == 1


def test_buffer_of_a_worker_that_ends_does_not_fail_the_request(database: Any, caplog: Any, monkeypatch: Any) -> None:
    """
    Nor does one that is closed already.
    """
    closed = Buffer()
    closed.close()
    monkeypatch.setattr(shop.views, "activity_buffer", closed)
    assert place_order(500).status_code == 201
    assert "not noted: order" in caplog.text
    assert Order.objects.count() == 1


def test_worker_of_the_server_has_time_to_drain() -> None:
    """
    gunicorn kills it later than the pipeline gives up, which is what the log has to say.
    """
    settings = runpy.run_path(str(support.PROJECT / "gunicorn.conf.py"))
    assert min(settings["timeout"], settings.get("graceful_timeout", 30)) > activities().shutdown


def test_outbox_becomes_invoices(database: Any) -> None:
    """
    Rows are taken, invoiced, and gone; what cannot be invoiced stays and says why.
    """
    for amount in (100, 0, 200):
        assert place_order(amount).status_code == 201
    with invoices(producer=(OutboxProducer, {"until_empty": True})) as pipeline:
        assert pipeline.join(BOUND)
    assert sorted(Invoice.objects.values_list("total", flat=True)) == [100, 200]
    assert list(OutboxRow.objects.values_list("order__amount", "failure")) == [(0, "'nothing to pay'")]


def test_two_pipelines_share_the_outbox(make_database: Any) -> None:
    """
    On PostgreSQL no row is taken by both, and none is waited for.
    """
    make_database("postgresql")
    orders = Order.objects.bulk_create([Order(email="a@example.com", amount=1) for _ in range(200)])
    OutboxRow.objects.bulk_create([OutboxRow(order=order) for order in orders])
    barrier = threading.Barrier(2, timeout=BOUND)
    taken: list[int] = []

    def take() -> None:
        producer = OutboxProducer()
        barrier.wait()
        for _ in range(5):
            taken.extend(message.data.pk for message in producer.handle_demand(20))
        support.connections.close_all()

    for call in [Call(take), Call(take)]:
        call.result()
    assert len(taken) == len(set(taken)) == 200


def test_row_that_a_dead_process_has_taken_is_taken_again(database: Any) -> None:
    """
    After the lease, not before.
    """
    from datetime import timedelta

    place_order(100)
    assert len(OutboxProducer().handle_demand(10)) == 1
    assert OutboxProducer().handle_demand(10) == []
    OutboxRow.objects.update(taken_at=OutboxRow.objects.get().taken_at - timedelta(minutes=11))
    assert len(OutboxProducer().handle_demand(10)) == 1


def test_outbox_outlives_a_database_that_is_away(make_database: Any, caplog: Any) -> None:
    """
    The pipeline goes on when the server is back; nothing is lost, and nothing was given up.
    """
    pg = make_database("postgresql", CONN_MAX_AGE=None)
    with invoices() as pipeline:
        place_order(1)
        eventually(Invoice.objects.exists, "the first invoice")
        pg.server.stop()
        eventually(lambda: "the database is away" in caplog.text, "the producer notices")
        pg.server.start()
        support.connections["default"].close()
        place_order(2)
        eventually(lambda: Invoice.objects.count() == 2, "the second invoice")
        assert pipeline.state == "running"
    assert not OutboxRow.objects.exists()


def test_tests_of_the_project_pass(database: Any) -> None:
    """
    ``manage.py test`` with the tests that the how-to shows.
    """
    done = subprocess.run(
        [sys.executable, str(support.PROJECT / "manage.py"), "test", "shop"],
        env=python_env(database.env), cwd=str(support.PROJECT), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Ran 5 tests" in done.stderr


def test_migrations_are_up_to_date(database: Any) -> None:
    """
    The models have no change that the migrations lack.
    """
    from django.core.management import call_command

    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_server_of_pages_stores_activities(database: Any, spawn: Any, tmp_path: Path) -> None:
    """
    gunicorn with the file of the how-to: the pipeline starts in each worker, and drains when that ends.
    """
    pytest.importorskip("gunicorn")
    import http.client
    import urllib.parse

    from tests.brokers.ports import HOST, Port

    port = Port()
    config = talking(support.PROJECT / "gunicorn.conf.py", tmp_path / "gunicorn.conf.py")
    options = ["--config", str(config), "--bind", f"{HOST}:{port.number}"]
    process = spawn("gunicorn", *options, "--chdir", str(support.PROJECT), "config.wsgi", env=database.env)
    body = urllib.parse.urlencode({"email": "a@example.com", "amount": "500"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    def post() -> Any:
        connection = http.client.HTTPConnection(HOST, port.number, timeout=BOUND)
        try:
            connection.request("POST", "/orders/", body, headers)
            return connection.getresponse().status
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    try:
        assert eventually(post, "gunicorn answers", timeout=3 * BOUND) == 201
        assert [post() for _ in range(9)] == [201] * 9
        # gunicorn tells each worker only once to end, and one that has not booted passes it by.
        eventually(lambda: len(booted(process.errors)) == 2, "both workers have booted", timeout=3 * BOUND)
        process.terminate()
        assert process.wait() == 0, process.errors
    finally:
        port.close()
    assert Activity.objects.count() == 10, process.errors
