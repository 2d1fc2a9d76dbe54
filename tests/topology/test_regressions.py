"""
Faults that stages had once, where only their insides show them.
"""

from __future__ import annotations

from typing import Any

import pytest

from broadway_sync import NotRunningError, PipelineFailedError
from broadway_sync.topology.batch_processor_stage import BatchProcessorStage
from broadway_sync.topology.topology import Topology

from ..helpers import BOUND, NEVER, Call, RecordingAcknowledger, eventually, get
from .support import data, make_settings, messages
from .test_producer_stage import Scene


def test_emit_that_waits_over_a_crash_is_refused(acks: RecordingAcknowledger) -> None:
    """
    An ``emit`` of an instance that crashes while it waits for room raises, and none of its messages is taken.
    """
    scene = Scene(allows=[True])
    call = scene.run()
    puppet = get(scene.instances)
    get(puppet.calls, "the demand")
    puppet.stage.emit(acks.messages(["taken"]))
    waiting = Call(puppet.stage.emit, acks.messages(["refused"]))
    eventually(lambda: scene.source.emitters.parked, "the emit waits for room")
    puppet.answers.put(ValueError("connection lost"))
    with pytest.raises(NotRunningError):
        waiting.result()
    assert scene.ready() == ["taken"]
    get(scene.instances, "the next instance").answers.put(())
    scene.drained.open()
    scene.stage.drain("shutdown")
    call.result()


def test_wait_over_a_crash_ends(acks: RecordingAcknowledger) -> None:
    """
    A thread in ``wait()`` of an instance that crashes is woken.
    """
    scene = Scene(allows=[True])
    call = scene.run()
    puppet = get(scene.instances)
    get(puppet.calls, "the demand")
    waiting = Call(puppet.stage.wait, NEVER)
    eventually(lambda: scene.stage._alarm.parked, "the thread waits")
    puppet.answers.put(ValueError("connection lost"))
    assert waiting.result() is True
    get(scene.instances, "the next instance").answers.put(())
    scene.drained.open()
    scene.stage.drain("shutdown")
    call.result()


def test_thread_that_dies_past_the_budget_is_not_waited_for(
    make_pipeline: Any, acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A batch processor that dies when no restart is left ends the pipeline at once, not after ``shutdown`` seconds.
    """

    def raise_bug(*_: Any) -> None:
        raise ValueError("a bug in the library")

    monkeypatch.setattr(BatchProcessorStage, "_settle", raise_bug)
    pipeline = make_pipeline(batchers={"default": {"batch_size": 1}}, max_restarts=0, shutdown=6 * BOUND).start()
    pipeline.push_messages(messages(acks, 1))
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)


def test_what_comes_while_stages_are_given_up_is_left_for_the_next_generation(acks: RecordingAcknowledger) -> None:
    """
    No processor takes it: given up, it would drop it.
    """
    topology = Topology(make_settings(), None, set())
    (processor,) = topology.dispatcher.processors
    call = Call(processor.run)
    eventually(lambda: topology.dispatcher.channels[0].idle.parked, "the processor waits")

    class RateLimit:
        def abandon(self) -> int:
            topology.dispatcher.push(messages(acks, 1))
            call.result()
            return 0

    assert topology.abandon([processor, RateLimit()]) == 0
    assert data(topology.dispatcher.remove_all()[0]) == [0]


def test_what_goes_on_while_stages_are_given_up_is_counted(acks: RecordingAcknowledger) -> None:
    """
    A processor that hands on its chunk in the middle of it: nobody counted those messages, nor claimed them.
    """
    topology = Topology(make_settings(batchers={"default": {"batch_timeout": NEVER}}), None, set())
    (processor,), (batcher,) = topology._processors, topology._batchers.values()
    members = messages(acks, 3)
    processor.chunk = (topology.dispatcher.sources[0], list(members), False)
    give_up = batcher.abandon

    def goes_on() -> int:
        left = give_up()
        batcher.add(members, None)
        processor.chunk = None
        return left

    batcher.abandon = goes_on  # type: ignore[method-assign]
    assert topology.abandon([*topology._batch_processors, batcher, processor]) == 3
    assert all(message.is_acknowledged() for message in members)


def test_batch_that_a_given_up_stage_has_just_taken_is_counted(acks: RecordingAcknowledger) -> None:
    """
    Its thread has taken it out and not noted it yet: it was in neither place.
    """
    topology = Topology(make_settings(batchers={"default": {"batch_size": 3}}), None, set())
    (batcher,) = topology._batchers.values()
    batcher.add(messages(acks, 3), None)
    batch = batcher.inboxes[0].get()
    assert batch is not None
    assert topology.abandon([*topology._batch_processors, batcher]) == 3
