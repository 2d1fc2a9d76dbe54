"""
``topology/run.py``: what is handed from one generation to the next, and what is not.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterable, List

import pytest

from broadway_sync import DrainTimeoutError, Message, NoopAcknowledger, NotRunningError, Producer
from broadway_sync.topology import run as module
from broadway_sync.topology.topology import Topology

from ..helpers import BOUND, Call, Gate, RecordingAcknowledger, eventually, make_handler

Make = Callable[..., Any]


class Crashes(Producer):
    """
    Gives one message, then crashes until it has crashed too often.
    """

    def __init__(self, diary: List[Any], go_on: threading.Event) -> None:
        self._diary = diary
        self._go_on = go_on

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Return the first message, raise once it is being handled.
        """
        if not self._diary:
            self._diary.append("first")
            return [Message("first", NoopAcknowledger.init())]
        self._go_on.wait(BOUND)
        if len(self._diary) > 3:  # the next generation
            return ()
        self._diary.append("crash")
        raise LookupError("no broker")


@pytest.fixture
def restarting(make_pipeline: Make, gate: Gate, crashes_add_up: None) -> Any:
    """
    A pipeline in the middle of a restart: the old generation has a message in hand until the gate opens.
    """
    go_on, handled = threading.Event(), []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        handled.append(message.data)
        if message.data == "first":
            gate.wait()
        return message

    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": (Crashes, {"diary": [], "go_on": go_on})},
        resubscribe_interval=0,
    ).start()
    gate.arrived()
    go_on.set()
    eventually(lambda: pipeline._run._carried is not None, "the pipeline restarts")
    pipeline.handled = handled
    return pipeline


def test_what_is_pushed_during_a_restart_is_handled_by_the_next_generation(
    restarting: Any, gate: Gate, acks: RecordingAcknowledger
) -> None:
    """
    In its order, before anything that is pushed later.
    """
    for number in range(3):
        restarting.push_messages([acks.message(number)])
    gate.open()
    eventually(lambda: restarting._run._carried is None, "the next generation is there")
    restarting.push_messages([acks.message(3)])
    assert acks.collect_data(4) == ([0, 1, 2, 3], [])
    assert restarting.handled == ["first", 0, 1, 2, 3]


def test_what_is_pushed_during_a_restart_is_handled_before_a_stop(
    restarting: Any, gate: Gate, acks: RecordingAcknowledger
) -> None:
    """
    It was taken, so it does not stay behind; what comes after the stop has begun is not taken.
    """
    restarting.push_messages([acks.message(1)])
    stopping = Call(restarting.stop, BOUND)
    eventually(lambda: restarting.state == "draining", "the stop has begun")
    with pytest.raises(NotRunningError):
        restarting.push_messages([acks.message(2)])
    gate.open()
    stopping.result()
    assert acks.all_data() == [1]


def test_a_push_that_meets_the_end_of_a_generation_waits_for_the_next(
    make_pipeline: Make, acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The sources close between the push's look and its hand-over; then it finds that the pipeline restarts.
    """
    pipeline = make_pipeline().start()
    run = pipeline._run
    dispatcher = run._topology.dispatcher

    def closes(messages: List[Message]) -> None:
        run.begin_restart()
        raise NotRunningError("all sources are closed")

    monkeypatch.setattr(dispatcher, "push", closes)
    pipeline.push_messages([acks.message(1)])
    assert acks.acks == []
    pipeline.stop()
    assert acks.all_data() == [1]


def test_a_stop_that_does_not_come_to_its_end_says_where_it_is(
    make_pipeline: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Only a child of ``prepare_for_start`` that hangs when it is stopped gets it there: nothing is left behind then.
    """
    monkeypatch.setattr(module, "GRACE", 0.05)

    class Child:
        def start(self) -> None:
            pass

        def stop(self) -> None:
            gate.wait("the child")

    class WithChild(Producer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            return [Child()], options

    pipeline = make_pipeline(producer={"module": (WithChild, {})}).start()
    with pytest.raises(DrainTimeoutError) as caught:
        pipeline.stop(0.05)
    assert gate.arrived() == "the child"
    assert "did not end in time; thread " in str(caught.value)
    assert "Supervisor is at:" in str(caught.value)
    assert "gate.wait" in str(caught.value)
    gate.open()
    assert pipeline.join(BOUND) is True
    assert pipeline.state == "stopped"


def test_a_push_does_not_overtake_what_was_pushed_during_the_restart(
    restarting: Any, gate: Gate, acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Not even one that comes just when the next generation takes over.
    """
    carry_over, pushes = Topology.carry_over, []

    def pushed_in_between(topology: Topology, pushed: List[Message], held: List[Message]) -> None:
        if not pushes:
            pushes.append(Call(restarting.push_messages, [acks.message("later")]))
            threading.Event().wait(0.05)  # time enough to overtake; it may also have to wait
        carry_over(topology, pushed, held)

    monkeypatch.setattr(Topology, "carry_over", pushed_in_between)
    restarting.push_messages([acks.message("before")])
    gate.open()
    assert acks.collect_data(2) == (["before", "later"], [])
    pushes[0].result()


class Callers(list):  # type: ignore[type-arg]
    """
    The callers of ``stop()`` that wait. The first that leaves looks whether others are there, and is held up right
    after that; those others leave meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: List[threading.Thread] = []
        self.looked, self.go_on = threading.Event(), threading.Event()

    def pop(self, index: Any = -1) -> Any:
        self.first.append(threading.current_thread())
        if self.first[0] is not threading.current_thread():
            assert self.looked.wait(BOUND)
        return super().pop(index)

    def __len__(self) -> int:
        length = super().__len__()
        if threading.current_thread() in self.first[:1] and not self.looked.is_set():
            self.looked.set()
            assert self.go_on.wait(BOUND)
        return length


def test_two_stops_that_raise_at_once_have_told_the_error(
    make_pipeline: Make, gate: Gate, acks: RecordingAcknowledger
) -> None:
    """
    Each raises what was left behind; a third one, after them, returns quietly.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.push_messages(acks.messages([1]))
    gate.arrived()
    callers = pipeline._run._callers_of_stop = Callers()
    calls = [Call(pipeline.stop, 0.2) for _ in range(2)]
    assert callers.looked.wait(BOUND)
    eventually(lambda: any(call.is_done() for call in calls), "the other one has raised")
    callers.go_on.set()
    for call in calls:
        with pytest.raises(DrainTimeoutError):
            call.result()
    assert pipeline.stop() is None
    gate.open()
