"""
Monitors and fork: one that was started before belongs to the parent alone, one that is started after it works.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PROLOGUE = """
import http.client, os, sys, threading, warnings
import broadway_sync
from broadway_sync import DummyProducer, Pipeline, telemetry
from broadway_sync.runner.health import HealthMonitor

class Handler:
    def handle_message(self, processor, message, context):
        return message

def make():
    return Pipeline(Handler(), name="forked", producer={"module": (DummyProducer, {})}, processors={"default": {}})

def ask(port, path="/readyz"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()

def fork(child):
    # 3.12 and later warn of a fork with threads, which is what happens to people.
    warnings.simplefilter("ignore", DeprecationWarning)
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if sys.version_info >= (3, 9) else os.waitpid(pid, 0)[1]
"""


def run(source: str) -> str:
    """
    Run a script after the prologue; return what it printed.
    """
    done = run_python(PROLOGUE + source, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_started_after_the_fork_it_works(tmp_path: Path) -> None:
    """
    In a worker, as in any process.
    """
    source = """
def child():
    pipeline = make()
    with HealthMonitor(pipeline, port=0, file=PATH) as monitor, pipeline:
        assert ask(monitor.port) == 200
    for thread in threading.enumerate()[1:]:
        thread.join(10)  # of the request: its client has the answer before it ends
    assert [t.name for t in threading.enumerate()] == ["MainThread"]

print(fork(child))
"""
    assert run(source.replace("PATH", repr(str(tmp_path / "health.json")))) == "0\n"


def test_started_before_the_fork_it_is_the_parents(tmp_path: Path) -> None:
    """
    The child neither holds the port nor listens nor removes the file, and may have a monitor of its own, on that port.
    """
    source = """
import socket
path = PATH
pipeline = make()
monitor = HealthMonitor(pipeline, port=0, file=path, interval=0.05).start()
port = monitor.port
pipeline.start()
stop = monitor.stop

def child():
    assert telemetry.list_handlers() == [], telemetry.list_handlers()
    stop()
    assert os.path.exists(path)
    mine = make()
    with HealthMonitor(mine, port=0) as own, mine:
        assert own.port != port
        assert ask(own.port) == 200
    assert ask(port) == 200  # the parent's

print(fork(child))
assert ask(port) == 200
assert os.path.exists(path)

hold_r, hold_w = os.pipe()
ready_r, ready_w = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(hold_w)
    os.write(ready_w, b"x")  # its hooks of the fork have run
    os.read(hold_r, 1)
    os._exit(0)
os.read(ready_r, 1)
pipeline.stop()
monitor.stop()
with HealthMonitor(make(), port=port):  # while the child is alive: it does not hold the port
    pass
os.close(hold_w)
os.waitpid(pid, 0)
print(os.path.exists(path))
"""
    assert run(source.replace("PATH", repr(str(tmp_path / "health.json")))) == "0\nFalse\n"
