"""
``flask broadway``: the example of the manual, as its readers run it.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

flask = pytest.importorskip("flask", reason="Flask is not installed")
pytest.importorskip("flask_sqlalchemy", reason="Flask-SQLAlchemy is not installed")

from broadway_sync import IterableProducer, Pipeline  # noqa: E402 - after the look for Flask
from broadway_sync.integrations.flask import Broadway, command  # noqa: E402
from broadway_sync.runner import run_flags  # noqa: E402
from tests.brokers.process import Process  # noqa: E402
from tests.helpers import BOUND, eventually, make_handler, python_env, unique_name  # noqa: E402
from tests.integrations.web.support import ROOT, Server, is_installed, requests, require  # noqa: E402

APP = ROOT / "docs" / "examples" / "flask_app"
ORDERS = [{"customer": f"c{number:03}"} for number in range(250)]


class Project:
    """
    A folder with a copy of the example.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(str(APP / "shop.py"), str(folder))
        self.database, self.orders = folder / "shop.sqlite", folder / "orders.jsonl"
        (folder / "settings.cfg").write_text(
            f"SQLALCHEMY_DATABASE_URI = 'sqlite:///{self.database}'\nORDERS = {str(self.orders)!r}\n"
            "SQLALCHEMY_TRACK_MODIFICATIONS = False\n",
            encoding="utf-8",
        )
        self.orders.write_text("".join(f"{json.dumps(order)}\n" for order in ORDERS), encoding="utf-8")
        self.environment = python_env({"SHOP_SETTINGS": str(folder / "settings.cfg"), "FLASK_APP": "shop"})

    def command(self, *arguments: Any) -> List[str]:
        """
        Return the command line of ``flask``.
        """
        return [sys.executable, "-m", "flask", *map(str, arguments)]

    def flask(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        """
        Run ``flask`` to its end.
        """
        return subprocess.run(
            self.command(*arguments), cwd=str(self.folder), env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=5 * BOUND,
        )  # fmt: skip

    def customers(self) -> List[str]:
        """
        Return the customers of the orders in the database.
        """
        with closing(sqlite3.connect(str(self.database), timeout=BOUND)) as database:
            return [customer for (customer,) in database.execute('SELECT customer FROM "order" ORDER BY customer')]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """
    Return a project.
    """
    return Project(tmp_path)


@pytest.fixture
def tables(project: Project) -> None:
    """
    Make the tables of the project.
    """
    done = project.flask("create-tables")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run(project: Project) -> Iterator[Callable[..., Process]]:
    """
    Return a function that starts ``flask broadway run``; its output goes to the file ``log``.
    """
    processes: List[Process] = []

    def start(*arguments: Any) -> Process:
        with open(str(project.folder / "log"), "wb") as log:
            command = project.command("broadway", "run", *arguments)
            processes.append(Process(command, env=project.environment, cwd=project.folder, stdout=log))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.mark.usefixtures("tables")
def test_run(project: Project) -> None:
    """
    The example stores all orders, says so, and exits 0.
    """
    done = project.flask("broadway", "run", "orders", "--max-messages", "10000")
    assert done.returncode == 0, done.stderr
    assert project.customers() == [order["customer"] for order in ORDERS]
    assert "drained" in done.stderr


def test_tests_of_the_manual_pass(project: Project) -> None:
    """
    Those of the example.
    """
    shutil.copy(str(APP / "test_shop.py"), str(project.folder))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = subprocess.run(command, cwd=str(project.folder), env=project.environment, stdout=subprocess.PIPE, timeout=50)
    assert done.returncode == 0, done.stdout.decode()
    assert b"2 passed" in done.stdout


def test_list(project: Project) -> None:
    """
    Names, and what they are for.
    """
    done = project.flask("broadway", "list")
    assert done.stdout == (
        "orders  Stores the orders of a file, one in each line. In real life they come from a broker.\n"
        "clicks  Stores the clicks of a web process.\n"
    )


def test_check(project: Project) -> None:
    """
    All pipelines, or those that are named, are made and drawn.
    """
    done = project.flask("broadway", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pipeline 'orders': " in done.stdout
    assert "producers BufferProducer: concurrency 1" in done.stdout


def test_check_says_what_is_wrong(project: Project) -> None:
    """
    And where; the exit code is 2.
    """
    file = project.folder / "shop.py"
    file.write_text(file.read_text(encoding="utf-8").replace('"concurrency": 4', '"concurency": 4'), encoding="utf-8")
    done = project.flask("broadway", "check")
    assert done.returncode == 2
    text = "target 'orders': processors.default.concurency: unknown option, valid options are: concurrency, max_demand"
    assert done.stderr.startswith(text)
    assert "shop.py, line" in done.stderr
    assert "pipeline 'clicks': " in done.stdout


def shop() -> Any:
    """
    Return an application with two pipelines that nobody ever makes.
    """
    broadway = Broadway(flask.Flask("shop"))
    for name in ("orders", "clicks"):
        broadway.pipeline(name)(lambda: None)
    return broadway._app


def test_check_of_those_that_are_named() -> None:
    """
    Says nothing of others.
    """
    result = shop().test_cli_runner().invoke(args=["broadway", "check", "clicks"])
    assert result.exit_code == 2
    assert result.output == (
        "target 'clicks': pipeline 'clicks': expected a Pipeline, got: None (was `return pipeline` forgotten?)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["other"], "no pipeline is registered as 'other', there are: orders, clicks"),
        (["orders", "--processes", "0"], "--processes: expected an int > 0, got: 0"),
        (["orders", "--max-memory", "lots"], "--max-memory: expected a size in bytes such as 512M or 2G, got: 'lots'"),
        ([], "Missing argument 'NAME...'."),
    ],
)
def test_mistakes_on_the_command_line(arguments: List[str], text: str) -> None:
    """
    Are said in one line, with the exit code for what cannot start.
    """
    result = shop().test_cli_runner().invoke(args=["broadway", "run", *arguments])
    assert (result.exit_code, result.output.splitlines()[-1]) == (2, f"Error: {text}")


def test_options_are_those_of_the_runner() -> None:
    """
    All of them, with their meaning.
    """
    words = shop().test_cli_runner().invoke(args=["broadway", "run", "--help"]).output.split()
    assert [flag.flag for flag in run_flags() if flag.flag not in words] == []


def test_run_in_a_test_is_not_the_end_of_the_process() -> None:
    """
    A command that a test runs has an exit code, and leaves nothing behind that ends the process later, or keeps it from
    being ended.
    """
    broadway = Broadway(flask.Flask("shop"))

    @broadway.pipeline("orders")
    def make_orders() -> Pipeline:
        producer = {"module": (IterableProducer, {"iterable": range(3)})}
        return Pipeline(make_handler(), name=unique_name(), producer=producer, processors={"default": {}})

    before = signal.getsignal(signal.SIGTERM)
    result = broadway._app.test_cli_runner().invoke(args=["broadway", "run", "orders"])
    assert (result.exit_code, signal.getsignal(signal.SIGTERM)) == (0, before)
    assert "broadway_sync.exit" not in [thread.name for thread in threading.enumerate()]


def test_output_that_an_application_replaced_is_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A process of its own leaves in time, also where something hangs.
    """
    monkeypatch.setattr(sys, "stdin", sys.__stdin__)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert command._is_process_ours()


# A source without end that says, when it is terminated, how much it has given.
ENDLESS = """
import os

from broadway_sync import Message, NoopAcknowledger, Pipeline, Producer
from shop import Order, StoreOrders, broadway, create_app, db

class Endless(Producer):
    given = 0

    def handle_demand(self, demand):
        self.given += demand
        return [Message('{"customer": "x"}', NoopAcknowledger.init()) for _ in range(demand)]

    def terminate(self, reason):
        os.write(1, f"given {self.given}\\n".encode())

@broadway.pipeline("endless")
def make_endless():
    return Pipeline(
        StoreOrders(), name="endless", producer={"module": (Endless, {})}, processors={"default": {"concurrency": 2}},
        batchers={"default": {"batch_size": 100}},
    )
"""


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_drains(project: Project, run: Callable[..., Process], processes: int) -> None:
    """
    All that was taken when SIGTERM came is stored, and the exit code is 0.
    """
    (project.folder / "endless.py").write_text(ENDLESS, encoding="utf-8")
    project.environment["FLASK_APP"] = "endless"
    process = run("endless", "--processes", processes)
    eventually(lambda: len(project.customers()) >= 1000, "orders are stored", 5 * BOUND)
    process.signal(signal.SIGTERM)
    code = process.wait()
    log = (project.folder / "log").read_text(encoding="utf-8")
    given = re.findall(r"^given (\d+)$", log, re.MULTILINE)
    assert (code, len(given)) == (0, processes), log
    assert len(project.customers()) == sum(map(int, given)), log


@pytest.fixture
def server(project: Project) -> Iterator[Server]:
    """
    Return a web server for the example.
    """
    server = Server(APP, env={"SHOP_SETTINGS": str(project.folder / "settings.cfg")})
    server.database = project.database
    yield server
    server.close()


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_clicks_of_a_web_process(server: Server, preload: Any) -> None:
    """
    gunicorn, with the configuration of the manual: on SIGTERM all acknowledged clicks are stored, once.
    """
    require("gunicorn", is_installed("gunicorn"))
    server.start_gunicorn(*preload, "shop:create_app()")
    with requests(server) as clients:
        clients.wait_for(100)
        assert server.stop() == 0, server.log
    stored = Counter(server.stored("click"))
    assert set(clients.stop()) <= set(stored), server.log
    assert set(stored.values()) == {1}
    assert "Traceback" not in server.log, server.log
