"""
``topology/producer_stage.py``: demand, emit and the life of the instances. What producers may do is tested in
tests/contract; here it is what happens at the edges, between threads.
"""

from __future__ import annotations

import math
import queue
import threading
from typing import Any, Callable, Iterable, List

import pytest

from broadway_sync import EndOfStream, Message, NotRunningError, Producer
from broadway_sync.options import ProcessorOptions
from broadway_sync.runtime.wait_list import Latch
from broadway_sync.topology.dispatcher import Dispatcher
from broadway_sync.topology.processor_stage import ProcessorStage
from broadway_sync.topology.producer_stage import ProducerStage, make_factory

from ..helpers import NEVER, Call, RecordingAcknowledger, eventually, get
from .support import make_settings, messages


class Puppet(Producer):
    """
    Does what the test puts into its queue: each answer of ``handle_demand``, or what it raises.
    """

    poll_interval = NEVER
    buffer_size = 1

    def __init__(self) -> None:
        self.answers: queue.Queue[Any] = queue.Queue()
        self.calls: queue.Queue[Any] = queue.Queue()

    def handle_demand(self, demand: int) -> Iterable[Any]:
        self.calls.put(demand)
        answer = get(self.answers, "an answer for handle_demand")
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def prepare_for_draining(self) -> Iterable[Any]:
        self.calls.put("prepare_for_draining")
        return ()

    def terminate(self, reason: Any) -> None:
        self.calls.put(("terminate", reason))


class Scene:
    """
    A producer stage with a source, and nobody who takes from it.
    """

    def __init__(self, allows: Iterable[bool] = (), make: Callable[[], Any] = Puppet, **options: Any) -> None:
        settings = make_settings(resubscribe_interval=0, **options)
        self.dispatcher = Dispatcher(ProcessorOptions(concurrency=1, max_demand=4), 1, None, "a pipeline")
        (self.source,) = self.dispatcher.sources
        self.drained = Latch()
        self.instances: queue.Queue[Any] = queue.Queue()
        answers = iter(allows)
        self.stage = ProducerStage(
            0, "the producer", settings, lambda: self._made(make), self.source, lambda: next(answers), self.drained
        )

    def _made(self, make: Callable[[], Any]) -> Any:
        instance = make()
        self.instances.put(instance)
        return instance

    def run(self) -> Call:
        return Call(self.stage.run)

    def ready(self) -> List[Any]:
        """
        Return what was handed over and not taken.
        """
        return [message.data for chunk in self.dispatcher.channels[0].ready for message in chunk[1]]


def draining(scene: Any) -> Any:
    """
    Return the function that says whether the stage drains, which ends waits.
    """
    return lambda: scene.stage.is_draining


class TestDemand:
    """
    When a producer is asked, and for how much.
    """

    def test_it_is_asked_for_what_is_unmet(self, acks: RecordingAcknowledger) -> None:
        """
        And again when credit comes back, not before.
        """
        scene = Scene()
        call = scene.run()
        puppet = get(scene.instances)
        assert get(puppet.calls) == 4
        puppet.answers.put(messages(acks, 4))
        eventually(lambda: scene.source.producer.parked, "it waits for demand")
        assert puppet.calls.empty()
        scene.source.returned.append(3)
        scene.source.producer.wake()
        assert get(puppet.calls) == 3
        scene.stage.drain("shutdown")
        puppet.answers.put(())
        assert get(puppet.calls) == "prepare_for_draining"
        scene.drained.open()
        call.result()
        assert get(puppet.calls) == ("terminate", "shutdown")

    def test_a_wake_up_that_comes_before_the_answer_counts(self, acks: RecordingAcknowledger) -> None:
        """
        The source got something while the producer was busy with too little: it is asked again at once.
        """
        scene = Scene()
        call = scene.run()
        puppet = get(scene.instances)
        get(puppet.calls)
        puppet.stage.wake()
        puppet.answers.put(messages(acks, 1))
        assert get(puppet.calls) == 3
        puppet.answers.put(EndOfStream())
        scene.drained.open()
        call.result()
        assert scene.stage.is_exhausted
        assert get(puppet.calls) == ("terminate", "normal")

    def test_waits_end_with_a_wake_up_or_when_it_is_over(self) -> None:
        """
        ``wait`` says whether it was early; each wake-up ends one wait.
        """
        stage, is_over = Scene().stage, threading.Event()
        assert stage.wait(0, is_over.is_set) is False
        assert stage.wait(-1, is_over.is_set) is False
        waiting = Call(stage.wait, math.inf, is_over.is_set)
        eventually(lambda: stage._alarm.parked, "it waits")
        stage.wake()
        assert waiting.result() is True
        assert stage.wait(0, is_over.is_set) is False
        is_over.set()
        assert stage.wait(NEVER, is_over.is_set) is True

    def test_on_the_producers_thread_a_wake_up_of_before_counts(self) -> None:
        """
        The source got something after the last demand: the wait ends at once, and the next one does not.
        """
        early: queue.Queue[bool] = queue.Queue()

        class Waits(Puppet):
            def handle_demand(self, demand: int) -> Iterable[Any]:
                self.stage.wake()
                early.put(self.stage.wait(NEVER))
                early.put(self.stage.wait(0))
                raise EndOfStream

        scene = Scene(make=Waits)
        scene.drained.open()
        scene.run().result()
        assert [get(early), get(early)] == [True, False]


class TestEmit:
    """
    What sources push.
    """

    def test_room_that_opens_between_two_looks_is_not_missed(self, acks: RecordingAcknowledger) -> None:
        """
        Room is what is outstanding less what processors have in hand. An emitter that reads the first, is held up while
        a chunk is put down, and then reads the second, sees less room than there is: it must be woken all the same.
        """
        scene = Scene()
        source, stage = scene.source, scene.stage
        processor = ProcessorStage(0, "the processor", stage.settings, scene.dispatcher.channel_of(0), {})
        scene.dispatcher.processors = [processor]
        source.offer(messages(acks, 1))
        processor.chunk = scene.dispatcher.channels[0].take()
        real = source.in_hand

        def put_down_in_between() -> int:
            if not source.emitters.parked:
                return 0  # as if nobody had taken the chunk yet: there is no room, the emitter has to wait
            if processor.chunk is not None:
                processor._put_down(processor.chunk, 1)
            return real()

        source.in_hand = put_down_in_between  # type: ignore[method-assign]
        Call(stage.emit, messages(acks, 1), 1, lambda: stage.is_draining).result()
        assert source.outstanding() == 1

    def test_a_drain_ends_the_wait(self, acks: RecordingAcknowledger) -> None:
        """
        Nothing of what was emitted is taken.
        """
        scene = Scene()
        scene.source.offer(messages(acks, 1))
        emitting = Call(scene.stage.emit, messages(acks, 1), 1, draining(scene))
        eventually(lambda: scene.source.emitters.parked, "the emitter waits")
        scene.stage.drain("shutdown")
        with pytest.raises(NotRunningError, match="drains"):
            emitting.result()
        assert scene.source.outstanding() == 1

    def test_a_source_that_closes_ends_the_wait(self, acks: RecordingAcknowledger) -> None:
        """
        The producer has reached its end.
        """
        scene = Scene()
        scene.source.offer(messages(acks, 1))
        emitting = Call(scene.stage.emit, messages(acks, 1), 1, draining(scene))
        eventually(lambda: scene.source.emitters.parked, "the emitter waits")
        scene.source.close()
        with pytest.raises(NotRunningError):
            emitting.result()

    def test_the_end_of_its_instance_ends_the_wait(self, acks: RecordingAcknowledger) -> None:
        """
        Who emits through an instance that has crashed must not wait for room that is its successor's.
        """
        scene = Scene(allows=[True])
        call = scene.run()
        first = get(scene.instances)
        get(first.calls)
        first.stage.emit(messages(acks, 1))
        emitting = Call(first.stage.emit, messages(acks, 1))
        eventually(lambda: scene.source.emitters.parked, "the emitter waits")
        first.answers.put(LookupError("no broker"))
        with pytest.raises(NotRunningError):
            emitting.result()
        get(scene.instances).answers.put(EndOfStream())
        scene.drained.open()
        call.result()
        assert scene.ready() == [0]

    def test_an_instance_that_was_terminated_emits_nothing(self, acks: RecordingAcknowledger) -> None:
        """
        Its successor does; the old one's wake-ups wake nobody.
        """
        scene = Scene(allows=[True])
        call = scene.run()
        first = get(scene.instances)
        first.answers.put(LookupError("no broker"))
        second = get(scene.instances)
        assert get(second.calls) == 4
        with pytest.raises(NotRunningError):
            first.stage.emit(messages(acks, 1))
        assert (first.stage.draining, second.stage.draining) == (True, False)
        first.stage.wake()
        assert scene.stage._wakes == 0
        second.stage.emit(messages(acks, 1))
        assert scene.ready() == [0]
        second.answers.put(EndOfStream())
        scene.drained.open()
        call.result()


class TestCrash:
    """
    Instances that raise.
    """

    def test_the_last_crash_is_raised_when_there_were_too_many(self) -> None:
        """
        The instance is terminated with the crash. The source is open until the supervisor has decided what follows: a
        push must meet a pipeline that restarts, not one that has ended.
        """
        scene, error = Scene(allows=[False]), LookupError("no broker")
        call = scene.run()
        puppet = get(scene.instances)
        puppet.answers.put(error)
        with pytest.raises(LookupError) as caught:
            call.result()
        assert caught.value is error
        assert (scene.source.is_closed, scene.stage.is_exhausted) == (False, False)
        assert [get(puppet.calls), get(puppet.calls)] == [4, ("terminate", error)]

    def test_an_end_of_stream_with_wrong_messages_is_a_crash_like_any_other(self) -> None:
        """
        The instance is terminated and made again; the stream has not ended.
        """
        scene = Scene(allows=[True])
        call = scene.run()
        first = get(scene.instances)
        first.answers.put(EndOfStream(["no message"]))
        second = get(scene.instances)
        assert get(first.calls) == 4
        what, reason = get(first.calls)
        assert (what, type(reason), scene.stage.is_exhausted) == ("terminate", TypeError, False)
        second.answers.put(EndOfStream())
        scene.drained.open()
        call.result()
        assert scene.stage.is_exhausted

    @pytest.mark.parametrize("answer", [None, NotRunningError("the client is closed"), ["no message"], 7])
    def test_whatever_is_no_answer_is_a_crash(self, answer: Any) -> None:
        """
        Nothing at all, no messages, and an error that the library uses itself.
        """
        scene = Scene(allows=[False])
        call = scene.run()
        get(scene.instances).answers.put(answer)
        with pytest.raises((TypeError, NotRunningError)):
            call.result()
        assert (scene.source.outstanding(), scene.ready()) == (0, [])

    def test_a_crash_after_a_stop_was_asked_for_is_the_end(self) -> None:
        """
        Also before the supervisor had its turn to begin the drain.
        """
        scene, crash = Scene(), LookupError("no broker")
        call = scene.run()
        puppet = get(scene.instances)
        assert get(puppet.calls) == 4
        scene.stage.is_stopping = True
        puppet.answers.put(crash)
        eventually(lambda: scene.source.is_closed, "it brings nothing more")
        scene.stage.drain("shutdown")
        scene.drained.open()
        call.result()
        assert get(puppet.calls) == ("terminate", crash)

    def test_a_drain_during_the_pause_after_a_crash_is_the_end(self) -> None:
        """
        No other instance is made.
        """
        scene = Scene(allows=[True])
        scene.stage.settings = make_settings(resubscribe_interval=NEVER)
        call = scene.run()
        puppet = get(scene.instances)
        puppet.answers.put(LookupError("no broker"))
        eventually(lambda: scene.stage._alarm.parked, "it waits")
        scene.stage.drain("shutdown")
        scene.drained.open()
        call.result()
        assert scene.instances.empty()

    def test_messages_that_come_after_it_was_given_up_are_dropped(self, acks: RecordingAcknowledger) -> None:
        """
        The thread ends quietly: the source delivers them again.
        """
        scene = Scene()
        call = scene.run()
        puppet = get(scene.instances)
        get(puppet.calls)
        assert scene.stage.abandon() == 0
        puppet.answers.put(messages(acks, 2))
        call.result()
        assert (scene.source.outstanding(), scene.ready()) == (0, [])

    def test_what_a_lazy_answer_gave_before_it_raised_is_handed_over(self, acks: RecordingAcknowledger) -> None:
        """
        Then it is a crash.
        """

        def lazy() -> Iterable[Message]:
            yield from messages(acks, 2)
            raise LookupError("half way")

        scene = Scene(allows=[False])
        call = scene.run()
        get(scene.instances).answers.put(lazy())
        with pytest.raises(LookupError):
            call.result()
        assert scene.ready() == [0, 1]


class TestFactory:
    """
    How instances are made.
    """

    def test_from_a_class_with_options_or_from_a_callable(self) -> None:
        """
        A new one each time.
        """

        class Takes(Producer):
            def __init__(self, what: str) -> None:
                self.what = what

        from_class, from_callable = make_factory((Takes, {"what": "x"})), make_factory(lambda: Takes("y"))
        assert [producer.what for producer in (from_class(), from_callable())] == ["x", "y"]  # type: ignore[attr-defined]
        assert from_class() is not from_class()

    def test_something_else_is_a_mistake(self) -> None:
        """
        Found when it is made, as the callable could not be called before.
        """
        with pytest.raises(TypeError, match="must give a Producer, got: 'a str'"):
            make_factory(lambda: "a str")()
