"""
``runtime/stage_thread.py``: threads that never end unseen.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from broadway_sync.runtime.stage_thread import StageThread, current_owner

from ..helpers import BOUND, get


def run(body: Any, owner: Any = None) -> Any:
    """
    Run *body* on a stage thread; return the thread and what it reported.
    """
    ends: queue.Queue[Any] = queue.Queue()
    thread = StageThread("a stage", body, lambda *end: ends.put(end), owner)
    thread.start()
    reported, error = get(ends, "the report of the thread")
    thread.join()
    assert reported is thread
    return thread, error


def test_it_is_a_daemon_with_the_name_of_the_stage() -> None:
    """
    An interpreter that ends must not wait for it.
    """
    seen = []
    thread, error = run(lambda: seen.append(threading.current_thread()))
    assert seen == [thread]
    assert (thread.name, thread.daemon, error) == ("a stage", True, None)


@pytest.mark.parametrize("raised", [ValueError("a bug"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_it_reports_whatever_escapes_from_its_body(raised: BaseException) -> None:
    """
    And raises it no further.
    """

    def body() -> None:
        raise raised

    _, error = run(body)
    assert error is raised


def test_a_stage_knows_its_run() -> None:
    """
    Other threads belong to none.
    """
    owner, seen = object(), []
    run(lambda: seen.append(current_owner()), owner)
    assert seen == [owner]
    assert current_owner() is None


def test_a_thread_of_another_class_belongs_to_none() -> None:
    """
    Though it has an attribute of that name, for purposes of its own.
    """
    seen = []
    thread = threading.Thread(target=lambda: seen.append(current_owner()))
    thread.owner = "ada"  # type: ignore[attr-defined]
    thread.start()
    thread.join(BOUND)
    assert seen == [None]
