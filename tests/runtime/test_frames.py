"""
``runtime/frames.py``: looking at threads that run must not crash the interpreter.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, List

import pytest

from broadway_sync.runner.dump import dump_text
from broadway_sync.runtime.frames import no_collection
from broadway_sync.runtime.supervisor import describe_threads, hanging

from ..helpers import run_python

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
