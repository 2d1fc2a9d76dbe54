"""
``runtime/frames.py``: looking at threads that run must not crash the interpreter.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any, List

import pytest

from broadway_sync.runner.dump import dump_text
from broadway_sync.runtime.frames import no_collection
from broadway_sync.runtime.supervisor import describe_threads, hanging

from ..helpers import BOUND, QUIET, Call, run_python

STOPS = """
import gc, logging, sys
from broadway_sync import DrainTimeoutError, DummyProducer, Handler, Pipeline
sys.setswitchinterval(1e-6)
gc.set_threshold(20)
logging.disable(logging.CRITICAL)

class Same(Handler):
    def handle_message(self, processor, message, context):
        return message

pipeline = Pipeline(
    Same(), name="inv", producer={"module": DummyProducer}, processors={"default": {"concurrency": 2}}
)
for _ in range(200):
    pipeline.start()
    try:
        pipeline.stop(0)
    except DrainTimeoutError:
        pass
    pipeline.stacks()
print("alive")
"""


def test_stops_without_time_while_threads_run() -> None:
    """
    What they are doing is looked at while they do it.
    """
    done = run_python(STOPS)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.parametrize(
    "look", [lambda: hanging([]), lambda: describe_threads([]), lambda: dump_text([])], ids=["hang", "stacks", "dump"]
)
def test_nothing_is_collected_meanwhile(monkeypatch: pytest.MonkeyPatch, look: Any) -> None:
    """
    Wherever frames of other threads are asked for.
    """
    seen: List[bool] = []
    monkeypatch.setattr(sys, "_current_frames", lambda: seen.append(gc.isenabled()) or {})
    look()
    assert (seen, gc.isenabled()) == ([False], True)


def test_a_collector_that_is_off_stays_off() -> None:
    """
    That is the program's decision.
    """
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_first_through_does_not_let_the_collector_loose() -> None:
    """
    Whoever comes while another thread looks has the collector away for as long as it takes itself.
    """
    go_on, seen = threading.Event(), []

    def look() -> None:
        with no_collection():
            assert go_on.wait(BOUND)
            seen.append(gc.isenabled())

    with no_collection():
        call = Call(look)
        call.thread.join(QUIET)  # it may come in here
    go_on.set()
    call.result()
    assert (seen, gc.isenabled()) == ([False], True)


FORKS = """
import gc, os, threading
from broadway_sync.runtime.frames import no_collection
inside, go_on = threading.Event(), threading.Event()

def look():
    with no_collection():
        inside.set()
        go_on.wait()

thread = threading.Thread(target=look)
thread.start()
inside.wait()
child = os.fork()
if not child:
    with no_collection():
        pass
    os._exit(0 if gc.isenabled() else 3)
print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
go_on.set()
thread.join()
"""


def test_fork_while_a_thread_looks() -> None:
    """
    The child may look itself, and its collector is at work.
    """
    done = run_python(FORKS)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
