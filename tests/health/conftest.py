"""
Fixtures for the tests of health: monitors that end with their test, and no thread of theirs after it.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterator

import pytest

from tests.helpers import BOUND


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """
    Fail a test after which a monitor's thread is alive; daemons are overlooked by the check for all tests.
    """
    yield
    left = [each for each in threading.enumerate() if each.name.startswith("broadway_sync.health")]
    for thread in left:
        thread.join(BOUND)
    assert [thread.name for thread in left if thread.is_alive()] == []


@pytest.fixture
def make_monitor(make_pipeline: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """
    Return a function that makes a monitor on a free port, which is stopped at the end.
    """
    from broadway_sync.runner.health import HealthMonitor

    made = []

    def make(*pipelines: Any, **options: Any) -> HealthMonitor:
        monitor = HealthMonitor(pipelines or None, **{"port": 0, "interval": 0.02, **options})
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.stop()
