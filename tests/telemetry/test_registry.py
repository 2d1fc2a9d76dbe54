"""
``telemetry/registry.py``: what stages look at before they build anything for an event.
"""

from __future__ import annotations

from typing import Any

from broadway_sync import telemetry
from broadway_sync.telemetry.registry import heard

MESSAGE, BATCHER = ("broadway", "processor", "message"), ("broadway", "batcher")


def ignore(*args: Any) -> None:
    """
    Listen, and do nothing.
    """


def test_a_span_is_heard_while_a_handler_is_attached_to_one_of_its_events() -> None:
    """
    Others are not, so nothing is built for them.
    """
    assert not heard
    telemetry.attach("one", (*MESSAGE, "stop"), ignore)
    telemetry.attach_many("two", [(*BATCHER, "start"), (*MESSAGE, "start")], ignore)
    assert heard == {BATCHER, MESSAGE}
    telemetry.detach("two")
    assert heard == {MESSAGE}
    telemetry.detach("one")
    assert not heard


def test_a_handler_that_raises_is_heard_no_more() -> None:
    """
    It was detached.
    """

    def broken(*args: Any) -> None:
        raise ValueError("broken")

    telemetry.attach("broken", (*MESSAGE, "stop"), broken)
    telemetry.execute((*MESSAGE, "stop"), {}, {})
    assert not heard
