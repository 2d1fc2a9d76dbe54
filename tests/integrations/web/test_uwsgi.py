"""
uWSGI, with the configuration of the manual: what was answered with 202 is stored, however a worker ends in order.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from typing import Any, Callable, Iterator, List

import pytest

from tests.helpers import BOUND, eventually
from tests.integrations.web.support import Server, requests, require, script

UWSGI = script("uwsgi")

Make = Callable[..., Server]


@pytest.fixture
def uwsgi() -> Iterator[Make]:
    """
    Return a function that starts uWSGI with the configuration of the manual, and further arguments.
    """
    require("uWSGI", UWSGI)
    servers: List[Server] = []

    def start(*arguments: Any, processes: int = 2, is_lazy: bool = True, **options: Any) -> Server:
        server = Server(**options)
        servers.append(server)
        file = server.folder / "uwsgi.ini"
        file.write_text(file.read_text(encoding="utf-8").replace(":8000", f":{server.port}"), encoding="utf-8")
        server.start([str(UWSGI), "--ini", "uwsgi.ini", "--processes", str(processes), *map(str, arguments)])
        if is_lazy:
            wait_until_booted(server, processes)
        return server

    yield start
    for server in servers:
        server.close()


def wait_until_booted(server: Server, processes: int = 2) -> None:
    """
    Wait until all workers have loaded the application: uWSGI's signals pass by those that have not.
    """

    def is_booted() -> bool:
        log = server.log
        assert server.process.is_alive, log
        workers = server.workers()
        return len(workers) == processes and workers <= set(map(int, re.findall(r"WSGI app 0 .* pid: (\d+)", log)))

    eventually(is_booted, "all workers have booted", 3 * BOUND)


def test_a_graceful_stop_loses_nothing(uwsgi: Make) -> None:
    """
    SIGTERM in the middle of requests: every acknowledged one is stored, once, and all processes end.
    """
    server = uwsgi()
    with requests(server) as clients:
        clients.wait_for(200)
        assert server.stop() == 0, server.log
    stored = Counter(server.stored())
    assert set(clients.stop()) <= set(stored), server.log
    assert set(stored.values()) == {1}
    assert "Traceback" not in server.log, server.log


def reload(server: Server) -> None:
    """
    Have the workers replaced, uWSGI's own process too.
    """
    before = server.workers()
    assert len(before) == 2
    server.process.signal(signal.SIGHUP)
    eventually(lambda: not before & server.workers(), "the old workers end", 3 * BOUND)
    wait_until_booted(server)


def test_reload(uwsgi: Make) -> None:
    """
    SIGHUP in the middle of requests: new workers take over, the old ones store what they have.
    """
    server = uwsgi()
    with requests(server) as clients:
        for _ in range(2):
            clients.wait_for(50)
            reload(server)
        clients.wait_for(50)
        assert server.stop() == 0, server.log
    assert set(clients.stop()) <= set(server.stored()), server.log
    assert "Traceback" not in server.log, server.log


def test_workers_that_are_recycled(uwsgi: Make) -> None:
    """
    Workers that end after ``max-requests`` store what they have.
    """
    server = uwsgi("--max-requests", "80", "--min-worker-lifetime", "0")
    with requests(server) as clients:
        clients.wait_for(300)
    acknowledged = clients.stop()
    wait_until_booted(server)
    assert server.stop() == 0, server.log
    assert set(acknowledged) <= set(server.stored()), server.log
    assert server.log.count("Respawned uWSGI worker") >= 2
    assert "Traceback" not in server.log, server.log


# An application that says which worker has answered.
TRACED = """
import os
import clicks_uwsgi

def application(environ, start_response):
    return clicks_uwsgi.application(
        environ, lambda status, headers: start_response(status, [*headers, ("X-Worker", str(os.getpid()))])
    )
"""


def test_a_worker_that_is_killed(uwsgi: Make) -> None:
    """
    SIGKILL loses what that worker had in memory, and nothing else; another worker takes its place.
    """
    server = uwsgi("--module", "traced:application", files={"traced.py": TRACED})
    with requests(server) as clients:
        clients.wait_for(100)
        killed = int(clients.workers[clients.acknowledged[-1]])
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(server.workers() - {killed}) == 2, "two workers", 3 * BOUND)
        wait_until_booted(server)
        clients.wait_for(100)
        assert server.stop() == 0, server.log
    clients.stop()
    lost = set(clients.acknowledged) - set(server.stored())
    assert {clients.workers[path] for path in lost} <= {str(killed)}, server.log
    assert set(clients.workers.values()) > {str(killed)}


PRELOADED = """
[uwsgi]
http-socket = 127.0.0.1:8000
chdir = %d
module = clicks_uwsgi:application
master = true
need-app = true
"""


def test_starting_in_the_master_is_refused(uwsgi: Make) -> None:
    """
    Without ``lazy-apps`` the application does not load, and the log says why and what to do.
    """
    with pytest.raises(AssertionError, match="was about to start in uWSGI's master: threads do not survive the fork"):
        uwsgi(files={"uwsgi.ini": PRELOADED})  # ends before it has booted


POSTFORK = """
import os
import uwsgi
from uwsgidecorators import postfork

import clicks
from clicks import application

clicks.clicks.push("/of the master")

@postfork
def start():
    assert len(clicks.clicks) == 0, "what the buffer held belongs to the master"
    clicks.start()
    uwsgi.atexit = clicks.drain
    os.write(2, b"started in a worker\\n")
"""


def test_postfork(uwsgi: Make) -> None:
    """
    An application that is loaded once, in the master, starts its pipeline in a function decorated with ``postfork``.
    """
    files = {"uwsgi.ini": PRELOADED.replace("clicks_uwsgi", "preloaded"), "preloaded.py": POSTFORK}
    server = uwsgi("--hook-master-start", "unix_signal:15 gracefully_kill_them_all", files=files, is_lazy=False)
    server.wait_for_log("started in a worker", 2)
    with requests(server) as clients:
        clients.wait_for(50)
        assert server.stop() == 0, server.log
    assert set(clients.stop()) <= set(server.stored()), server.log
    assert "/of the master" not in server.stored()
    assert "Traceback" not in server.log, server.log


# What a database does that does not answer.
HUNG = """
import threading
import clicks

clicks.StoreClicks.handle_batch = lambda *arguments: threading.Event().wait()
clicks.pipeline = clicks.Pipeline(
    clicks.StoreClicks(), name="clicks", producer={"module": (clicks.BufferProducer, {"buffer": clicks.clicks})},
    processors={"default": {"concurrency": 1}}, batchers={"default": {"batch_timeout": 0.05}}, shutdown=0.5,
)
from clicks_uwsgi import application
"""


def test_a_batch_that_hangs(uwsgi: Make) -> None:
    """
    A worker ends when ``shutdown`` is over, and its log says what was left behind, and where.
    """
    server = uwsgi("--module", "hung:application", processes=1, files={"hung.py": HUNG})
    assert server.get("/1").status == 202
    assert server.stop() == 0
    assert "DrainTimeoutError: pipeline 'clicks' did not drain within 0.5 seconds: 1 messages" in server.log
