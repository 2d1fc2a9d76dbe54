"""
A fault of the library itself: the stage's span ends with ``exception``, and the error goes on to the supervisor.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple

import pytest

from broadway_sync import telemetry
from broadway_sync.core.batch_accumulator import Batch
from broadway_sync.topology.batch_processor_stage import BatchProcessorStage
from broadway_sync.topology.batcher_stage import BatcherStage
from broadway_sync.topology.dispatcher import Channel
from broadway_sync.topology.processor_stage import ProcessorStage

from ..helpers import RecordingAcknowledger
from .support import make_settings, messages


class Bug(Exception):
    """
    What the library raises.
    """


@pytest.fixture
def events() -> Iterator[List[Tuple[Any, Any]]]:
    """
    The events of all stages, with their metadata.
    """
    seen: List[Tuple[Any, Any]] = []
    names = [
        ("broadway", stage, moment)
        for stage in ("processor", "batcher", "batch_processor")
        for moment in ("start", "stop", "exception")
    ]
    telemetry.attach_many(
        "crashes", names, lambda event, measurements, metadata, config: seen.append((event, metadata))
    )
    yield seen
    telemetry.detach("crashes")


def raise_bug(*_: Any) -> None:
    """
    Stand for a method of the library with a fault.
    """
    raise Bug("in the library")


def check(events: List[Tuple[Any, Any]], stage: str, members: List[Any]) -> None:
    """
    The span of *stage* has begun, and ended with the exception.
    """
    assert [event for event, _ in events] == [("broadway", stage, "start"), ("broadway", stage, "exception")]
    (_, start), (_, end) = events
    assert type(end["reason"]) is Bug
    assert end["messages"] == start["messages"] == members
    assert end["telemetry_span_context"] is start["telemetry_span_context"]


def make_batcher() -> BatcherStage:
    """
    Return a batcher.
    """
    return BatcherStage("b", "the batcher", make_settings(batchers={"b": {}}), lambda: None)


def test_a_processor(
    events: List[Tuple[Any, Any]], acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its step crashes.
    """
    stage = ProcessorStage(0, "the processor", make_settings(), Channel(1, lambda: None), {})
    monkeypatch.setattr(stage, "_step", raise_bug)
    members = messages(acks, 2)
    with pytest.raises(Bug):
        stage._observed_step(members)
    check(events, "processor", members)


def test_a_batcher(
    events: List[Tuple[Any, Any]], acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It crashes on the processor's thread.
    """
    stage = make_batcher()
    monkeypatch.setattr(stage, "_add_all", raise_bug)
    members = messages(acks, 2)
    with pytest.raises(Bug):
        stage.add(members, None)
    check(events, "batcher", members)


def test_a_batch_processor(
    events: List[Tuple[Any, Any]], acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It crashes when it settles a batch.
    """
    batcher = make_batcher()
    stage = BatchProcessorStage(0, "the batch processor", batcher._settings, batcher)
    monkeypatch.setattr(stage, "_settle", raise_bug)
    batch = Batch("default", None, 0.0, None)
    batch.messages = messages(acks, 2)
    with pytest.raises(Bug):
        stage._step(batch)
    check(events, "batch_processor", batch.messages)
