"""
``topology/processor_stage.py``: chunks in, outcomes out. What callbacks may do is tested in tests/contract; here it is
how a processor deals with its channel, its source and its batchers.
"""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from broadway_sync.options import ProcessorOptions
from broadway_sync.topology.batcher_stage import BatcherStage
from broadway_sync.topology.dispatcher import Dispatcher
from broadway_sync.topology.processor_stage import ProcessorStage

from ..helpers import NEVER, Call, Gate, RecordingAcknowledger, eventually, make_handler
from .support import data, make_settings, messages


class Scene:
    """
    A dispatcher with one source, one processor, and batchers of batches of two.
    """

    def __init__(self, handler: Any = None, batchers: Any = (), **options: Any) -> None:
        processor = ProcessorOptions(concurrency=1, **{"max_demand": 2, "min_demand": 0, **options})
        each = {"batch_size": 2, "batch_timeout": NEVER, "max_demand": 2}
        settings = make_settings(handler, processors={"p": processor}, batchers=dict.fromkeys(batchers, each))
        self.dispatcher = Dispatcher(processor, 1, None, "a pipeline")
        self.batchers: Dict[str, BatcherStage] = {
            key: BatcherStage(key, key, settings, self.dispatcher.wake_processors) for key in batchers
        }
        self.dispatcher.hold_while_full(self.batchers.values())
        (self.source,) = self.dispatcher.sources
        self.stage = ProcessorStage(0, "the processor", settings, self.dispatcher.channel_of(0), self.batchers)
        self.dispatcher.processors = [self.stage]


@pytest.fixture
def gate() -> Gate:
    """
    Where the handler of a test waits.
    """
    return Gate()


def waits(gate: Gate) -> Any:
    """
    Return a handler that waits at *gate* with each message.
    """

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        gate.wait(message.data)
        return message

    return make_handler(handle_message=handle_message)


def test_it_gives_back_the_credit_of_each_chunk(acks: RecordingAcknowledger) -> None:
    """
    When the chunk is through; it ends when the channel is closed and empty.
    """
    scene = Scene()
    scene.source.offer(messages(acks, 5))
    assert scene.source.outstanding() == 5
    scene.source.close()
    scene.stage.run()
    assert (scene.source.outstanding(), scene.stage.chunk) == (0, None)
    assert [data(ack.successful) for ack in acks.acks] == [[0, 1], [2, 3], [4]]


def test_messages_without_a_partition_are_settled_and_not_handled(acks: RecordingAcknowledger) -> None:
    """
    ``handle_failed`` sees them, ``handle_message`` does not.
    """
    seen: List[Any] = []
    handler = make_handler(
        handle_message=lambda processor, message, context: seen.append(message.data) or message,
        handle_failed=lambda members, context: seen.append(data(members)) or members,
    )
    scene = Scene(handler, partition_by=lambda message: -message.data)
    scene.source.offer(messages(acks, 3))
    scene.source.close()
    scene.stage.run()
    assert seen == [0, [1, 2]]
    assert [ack.data for ack in acks.acks] == [([0], []), ([], [1, 2])]


def test_what_it_has_in_hand_can_be_seen(gate: Gate, acks: RecordingAcknowledger) -> None:
    """
    It is outstanding, and does not take up room for emit.
    """
    scene = Scene(waits(gate))
    scene.source.offer(messages(acks, 3))
    call = Call(scene.stage.run)
    gate.arrived()
    assert (scene.source.outstanding(), scene.source.in_hand()) == (3, 2)
    gate.open()
    scene.source.close()
    call.result()
    assert (scene.source.outstanding(), scene.source.in_hand()) == (0, 0)


def test_who_waits_for_room_to_emit_learns_of_each_chunk(gate: Gate, acks: RecordingAcknowledger) -> None:
    """
    When it is taken and when it is put down: room is counted from two numbers, which are not read at one moment.
    """
    scene = Scene(waits(gate))
    looks: List[Any] = []

    def look() -> bool:
        looks.append((scene.source.outstanding(), scene.source.in_hand()))
        return looks[-1] == (0, 0)

    scene.source.offer(messages(acks, 2))
    emitter = Call(scene.source.emitters.wait_for, look)
    eventually(lambda: scene.source.emitters.parked, "the emitter waits")
    call = Call(scene.stage.run)
    gate.arrived()
    eventually(lambda: (2, 2) in looks, "it has looked when the chunk was taken")
    gate.open()
    assert emitter.result() is True
    scene.source.close()
    call.result()


def test_it_waits_for_room_in_every_batcher_before_it_takes_a_chunk(acks: RecordingAcknowledger) -> None:
    """
    Whichever batcher the messages will go to is not known before; then it goes on.
    """
    scene = Scene(batchers=("a", "b"))
    full = scene.batchers["b"]
    full.add(messages(acks, 4), None)
    assert full.is_full
    members = messages(acks, 2, batcher="a")
    scene.source.offer(members)
    call = Call(scene.stage.run)
    eventually(lambda: scene.dispatcher.channels[0].idle.parked, "the processor waits")
    assert scene.source.in_hand() == 0
    running = full.inboxes[0].get_nowait()
    assert running is not None
    full.finished(0, running)
    scene.source.close()
    call.result()
    batch = scene.batchers["a"].inboxes[0].get_nowait()
    assert batch is not None
    assert batch.messages == members


def test_given_up_in_a_callback_it_acknowledges_nothing(gate: Gate, acks: RecordingAcknowledger) -> None:
    """
    It counts the chunk in hand, handles none of its other messages, and ends when the callback returns.
    """
    scene = Scene(waits(gate))
    scene.source.offer(messages(acks, 3))
    call = Call(scene.stage.run)
    assert gate.arrived() == 0
    assert scene.stage.abandon() == 2
    gate.open()
    call.result()
    acks.assert_nothing("it was given up")
    assert data(scene.dispatcher.remove_all()[0]) == [2]


def test_given_up_before_the_gate_of_a_batcher_it_ends(acks: RecordingAcknowledger) -> None:
    """
    And takes nothing, also when there is room again.
    """
    scene = Scene(batchers=("a",))
    scene.batchers["a"].add(messages(acks, 4), None)
    scene.source.offer(messages(acks, 2))
    call = Call(scene.stage.run)
    eventually(lambda: scene.dispatcher.channels[0].idle.parked, "the processor waits")
    assert scene.stage.abandon() == 0
    scene.batchers["a"].abandon()
    scene.dispatcher.abandon()
    call.result()
    assert data(scene.dispatcher.remove_all()[0]) == [0, 1]


def test_all_processors_that_wait_for_room_end_when_one_has_taken_the_last_chunk(acks: RecordingAcknowledger) -> None:
    """
    The channel was closed while they waited: nobody puts anything that would wake them.
    """
    scene = Scene(batchers=("a",))
    channel, batcher = scene.dispatcher.channels[0], scene.batchers["a"]
    batcher.add(messages(acks, 4), None)
    scene.source.offer(messages(acks, 2))
    scene.source.close()
    calls = [Call(channel.take) for _ in range(3)]
    eventually(lambda: len(channel.idle.parked) == 3, "all processors wait")
    running = batcher.inboxes[0].get_nowait()
    assert running is not None
    batcher.finished(0, running)
    taken = [call.result() for call in calls]
    assert sorted(chunk is None for chunk in taken) == [False, True, True]


def test_no_processor_is_woken_for_a_chunk_for_which_there_is_no_room(acks: RecordingAcknowledger) -> None:
    """
    It would find the gate shut and wait again.
    """
    scene = Scene(batchers=("a",))
    channel, batcher = scene.dispatcher.channels[0], scene.batchers["a"]
    call = Call(channel.take)
    eventually(lambda: channel.idle.parked, "the processor waits")
    (ticket,) = channel.idle.parked
    batcher.add(messages(acks, 4), None)
    scene.source.offer(messages(acks, 2))
    assert list(channel.idle.parked) == [ticket]
    running = batcher.inboxes[0].get_nowait()
    assert running is not None
    batcher.finished(0, running)
    assert call.result() is not None


def test_who_takes_the_place_of_a_thread_that_died_writes_off_its_chunk(
    acks: RecordingAcknowledger, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The credit comes back, the messages are left to their source, the rest is handled.
    """
    scene = Scene()
    scene.source.offer(messages(acks, 3))
    scene.stage.chunk = scene.dispatcher.channels[0].take()  # the thread that took it is no more
    scene.source.close()
    scene.stage.run()
    assert [ack.data for ack in acks.acks] == [([2], [])]
    assert scene.source.outstanding() == 0
    assert "a thread died with 2 messages in hand" in caplog.text
