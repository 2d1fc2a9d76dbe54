"""
The watcher of logs and telemetry, and the inventory of threads and sockets.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from typing import Any

import pytest

from broadway_sync import telemetry
from broadway_sync.testing import Inventory, Watcher
from tests.helpers import unique_name


def test_watcher_collects_the_library_s_records_and_warnings_of_others() -> None:
    """
    The library and the loggers that were named from DEBUG on, everybody else from WARNING on; levels are restored.
    """
    own, named, below = (logging.getLogger(name) for name in ("broadway_sync", "off_x", "off_x.y"))
    other, alike = logging.getLogger("other"), logging.getLogger("off_xyz")
    levels = [own.level, named.level]
    with Watcher(["off_x"]) as watcher:
        own.debug("1")
        named.info("2")
        below.warning("3 %s", "three")
        other.warning("4")
        other.info("not this")
        alike.info("nor this")
    own.error("nor that")
    assert [record.getMessage() for record in watcher.records] == ["1", "2", "3 three", "4"]
    assert watcher.complaints() == ["3 three"]
    assert [own.level, named.level] == levels


def test_watcher_shows_everything_as_text() -> None:
    """
    Records with their tracebacks, and events with measurements and metadata.
    """
    event = ("off_x", unique_name())
    with Watcher(events=[event]) as watcher:
        try:
            raise ValueError("in the traceback")
        except ValueError:
            logging.getLogger("broadway_sync").exception("in the text")
        telemetry.execute(event, {"measured": 1}, {"meta": "data"})
    telemetry.execute(event, {"measured": 2}, {})
    (log_source, log_text), (event_source, event_text) = list(watcher.texts())
    assert log_source == "a record of the logger 'broadway_sync'"
    assert log_text.startswith("in the text\nTraceback") and "ValueError: in the traceback" in log_text
    assert event_source == f"the telemetry event {event!r}"
    assert event_text == "{'measured': 1} {'meta': 'data'}"
    assert watcher.emitted == [(event, {"measured": 1}, {"meta": "data"})]


def test_watcher_sees_pipelines(make_pipeline: Any) -> None:
    """
    The events of the library need not be named.
    """
    with Watcher() as watcher, make_pipeline() as pipeline:
        pipeline.test_message(1).receive(10)
    assert ("broadway", "processor", "message", "stop") in [event for event, _, _ in watcher.emitted]
    assert watcher.complaints() == []


def test_inventory_names_new_threads() -> None:
    """
    Those that are alive and were not there before, but for those that are ignored.
    """
    inventory, everything = Inventory(["pool-"]), Inventory()
    end = threading.Event()
    names = ["connector.Poller", "pool-1"]
    threads = [threading.Thread(target=end.wait, name=name, daemon=True) for name in names]
    for thread in threads:
        thread.start()
    assert inventory.new_threads() == ["connector.Poller"]
    assert everything.new_threads() == names
    end.set()
    for thread in threads:
        thread.join()
    assert everything.new_threads() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sockets are counted on Linux only")
def test_inventory_counts_new_sockets() -> None:
    """
    Open ones beyond those that were.
    """
    inventory = Inventory()
    left, right = socket.socketpair()
    assert inventory.new_sockets() == 2
    left.close()
    right.close()
    assert inventory.new_sockets() == 0
