"""
gunicorn, with the configuration of the manual: what was answered with 202 is stored, however a worker ends in order.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any, Callable, Iterator, List

import pytest

from tests.helpers import BOUND, eventually
from tests.integrations.web.support import Server, is_installed, requests, require

Make = Callable[..., Server]


@pytest.fixture
def gunicorn() -> Iterator[Make]:
    """
    Return a function that starts gunicorn with the configuration of the manual, and further arguments; it returns when
    so many workers have booted.
    """
    require("gunicorn", is_installed("gunicorn"))
    servers: List[Server] = []

    def start(*arguments: Any, target: str = "clicks:application", workers: int = 2, **options: Any) -> Server:
        server = Server(**options)
        servers.append(server)
        return server.start_gunicorn(*arguments, target, workers=workers)

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_graceful_stop_loses_nothing(gunicorn: Make, worker_class: str, preload: Any) -> None:
    """
    SIGTERM in the middle of requests: every acknowledged one is stored, once, and all processes end.
    """
    server = gunicorn("--worker-class", worker_class, *(("--threads", "1") if worker_class == "sync" else ()), *preload)
    with requests(server) as clients:
        clients.wait_for(200)
        assert server.stop() == 0, server.log
    acknowledged = clients.stop()
    stored = Counter(server.stored())
    assert set(acknowledged) <= set(stored), server.log
    assert set(stored.values()) == {1}
    assert "Traceback" not in server.log, server.log


def test_a_quick_stop(gunicorn: Make) -> None:
    """
    SIGINT, as by Ctrl-C, breaks off requests; those that were acknowledged before are stored.
    """
    server = gunicorn("--worker-class", "sync", "--threads", "1")
    with requests(server) as clients:
        clients.wait_for(200)
        assert server.stop(signal.SIGINT) == 0, server.log
    assert set(clients.stop()) <= set(server.stored()), server.log


def reload(server: Server) -> None:
    """
    Have the workers replaced.
    """
    before = server.workers()
    assert before
    server.process.signal(signal.SIGHUP)
    eventually(lambda: not before & server.workers(), "the old workers end", 3 * BOUND)
    server.wait_until_booted()


def test_reload(gunicorn: Make) -> None:
    """
    SIGHUP in the middle of requests: new workers take over, the old ones store what they have.
    """
    server = gunicorn()
    with requests(server) as clients:
        for _ in range(2):
            clients.wait_for(50)
            reload(server)
        clients.wait_for(50)
        assert server.stop() == 0, server.log
    assert set(clients.stop()) <= set(server.stored()), server.log
    assert "Traceback" not in server.log, server.log


def test_workers_that_are_recycled(gunicorn: Make) -> None:
    """
    Workers that end after ``max_requests`` store what they have.
    """
    server = gunicorn("--max-requests", "30", "--max-requests-jitter", "10")
    with requests(server) as clients:
        clients.wait_for(300)
    acknowledged = clients.stop()
    server.wait_until_booted()
    assert server.stop() == 0, server.log
    assert set(acknowledged) <= set(server.stored()), server.log
    assert server.log.count("Booting worker") > 5
    assert "Traceback" not in server.log, server.log


# An application that says which worker has answered.
TRACED = """
import os
import clicks

def application(environ, start_response):
    return clicks.application(
        environ, lambda status, headers: start_response(status, [*headers, ("X-Worker", str(os.getpid()))])
    )
"""


def test_a_worker_that_is_killed(gunicorn: Make) -> None:
    """
    SIGKILL loses what that worker had in memory, and nothing else; another worker takes its place.
    """
    server = gunicorn(target="traced:application", files={"traced.py": TRACED})
    with requests(server) as clients:
        clients.wait_for(100)
        killed = int(clients.workers[clients.acknowledged[-1]])
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(server.workers() - {killed}) == 2, "two workers", 3 * BOUND)
        server.wait_until_booted()
        clients.wait_for(100)
        assert server.stop() == 0, server.log
    clients.stop()
    lost = set(clients.acknowledged) - set(server.stored())
    assert {clients.workers[path] for path in lost} <= {str(killed)}, server.log
    assert set(clients.workers.values()) > {str(killed)}


def test_the_parent_is_killed(gunicorn: Make) -> None:
    """
    Workers that lose their parent end in order.
    """
    server = gunicorn()
    with requests(server) as clients:
        clients.wait_for(100)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert set(clients.stop()) <= set(server.stored()), server.log


EARLY = """
from clicks import *

start()
"""


def test_a_pipeline_that_was_started_before_the_fork(gunicorn: Make) -> None:
    """
    A worker refuses at the first request, and the log says why and what to do.
    """
    configuration = {"gunicorn.conf.py": "workers = 1\n", "early.py": EARLY}
    server = gunicorn("--preload", target="early:application", workers=1, files=configuration)
    assert server.get("/1").status == 503
    pid, (worker,) = server.process.pid, server.workers()
    assert f"started in process {pid}, before the fork that made this one ({worker})" in server.log
    assert "in the hook post_fork or post_worker_init" in server.log
    assert server.stop() == 0


POST_FORK = """
def post_fork(server, worker):
    from clicks import start
    start()

def worker_exit(server, worker):
    from clicks import drain
    drain()
"""


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_post_fork(gunicorn: Make, preload: Any) -> None:
    """
    The hook ``post_fork`` does as well.
    """
    server = gunicorn(*preload, workers=1, files={"gunicorn.conf.py": POST_FORK})
    with requests(server) as clients:
        clients.wait_for(50)
        assert server.stop() == 0, server.log
    assert set(clients.stop()) <= set(server.stored()), server.log


# What a database does that does not answer.
HUNG = """
import threading
import clicks

clicks.StoreClicks.handle_batch = lambda *arguments: threading.Event().wait()
clicks.pipeline = clicks.Pipeline(
    clicks.StoreClicks(), name="clicks", producer={"module": (clicks.BufferProducer, {"buffer": clicks.clicks})},
    processors={"default": {"concurrency": 1}}, batchers={"default": {"batch_timeout": 0.05}}, shutdown=0.5,
)
application = clicks.application
"""


def test_a_batch_that_hangs(gunicorn: Make) -> None:
    """
    A worker ends when ``shutdown`` is over, and its log says what was left behind, and where.
    """
    server = gunicorn("--workers", "1", target="hung:application", workers=1, files={"hung.py": HUNG})
    assert server.get("/1").status == 202
    assert server.stop() == 0
    assert "DrainTimeoutError: pipeline 'clicks' did not drain within 0.5 seconds: 1 messages" in server.log
    assert "clicks.Broadway.BatchProcessor_default_0" in server.log
