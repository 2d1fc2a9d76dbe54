"""
``runtime/supervisor.py``: with generations, stages and an owner that are not real, and threads that are.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any, Dict, Iterable, Iterator, List, Optional

import pytest

from broadway_sync import DrainTimeoutError
from broadway_sync.core.restart_intensity import RestartIntensity
from broadway_sync.runtime import stage_thread
from broadway_sync.runtime.supervisor import RESUMES, ThreadSupervisor, describe_threads, hanging
from broadway_sync.runtime.wait_list import Latch

from ..helpers import BOUND, NEVER, assert_quiet, eventually, get


class FakeStage:
    """
    A stage whose thread does what the test says: ``end()``, or ``crash(error)``.
    """

    def __init__(self, name: str, left: int = 0) -> None:
        self.name = name
        self.left = left
        self.runs: queue.Queue[threading.Thread] = queue.Queue()
        self.is_abandoned = False
        self._orders: queue.Queue[Optional[BaseException]] = queue.Queue()

    def run(self) -> None:
        self.runs.put(threading.current_thread())
        order = self._orders.get(timeout=6 * BOUND)
        if order is not None:
            raise order

    def end(self) -> None:
        self._orders.put(None)

    def crash(self, error: BaseException) -> None:
        self._orders.put(error)

    def abandon(self) -> int:
        self.is_abandoned = True
        return self.left


class FakeGeneration:
    """
    Stages, and a diary of what the supervisor asks for.
    """

    def __init__(self, stages: Iterable[FakeStage], producers: Iterable[FakeStage] = (), ends: bool = True) -> None:
        self.stages = list(stages)
        self.producers = list(producers)
        self.diary: queue.Queue[Any] = queue.Queue()
        self._ends = ends

    def drain(self, reason: str) -> None:
        self.diary.put(("drain", reason))
        if self._ends:
            for stage in self.stages:
                stage.end()

    def flush(self) -> None:
        self.diary.put("flush")

    def close_sources(self) -> None:
        self.diary.put("close_sources")

    def stage_ended(self, stage: FakeStage) -> int:
        self.diary.put(("ended", stage.name))
        return 0

    def abandon(self, stages: Iterable[FakeStage]) -> int:
        stages = list(stages)
        self.diary.put(("abandon", sorted(stage.name for stage in stages)))
        return sum(stage.abandon() for stage in stages)

    def late(self, stages: Iterable[FakeStage]) -> int:
        return 0


class FakeOwner:
    """
    Hands out the generations that it was given, and notes the rest.
    """

    def __init__(self, generations: Iterable[Any]) -> None:
        self._generations = list(generations)
        self.diary: queue.Queue[Any] = queue.Queue()
        self.end: queue.Queue[Any] = queue.Queue()
        self.left_over = False
        self.left = 0

    def build(self, *, is_last: bool) -> Any:
        self.diary.put(("build", is_last))
        generation = self._generations.pop(0)
        if isinstance(generation, BaseException):
            raise generation
        return generation

    def thread_ends(self, stage: str) -> None:
        pass

    def begin_restart(self) -> None:
        self.diary.put("begin_restart")

    def begin_stop(self) -> None:
        self.diary.put("begin_stop")

    def has_left_over(self) -> bool:
        return self.left_over

    def leave_behind(self) -> int:
        left, self.left = self.left, 0
        return left

    def ended(self, cause: Optional[BaseException], error: Optional[DrainTimeoutError]) -> None:
        self.end.put((cause, error))


class Scene:
    """
    A supervisor and what it supervises.
    """

    def __init__(self, *generations: Any, restarts: int = 3, shutdown: float = NEVER) -> None:
        self.generations = list(generations)
        self.owner = FakeOwner(generations)
        intensity = RestartIntensity(restarts, NEVER)
        self.supervisor = ThreadSupervisor("x.Supervisor", "x", self.owner, intensity, shutdown)

    def start(self) -> None:
        self.supervisor.start()

    def ended(self) -> Any:
        """
        Wait for the end; return the cause and the error of the drain.
        """
        end = get(self.owner.end, "the end of the supervisor")
        for thread in threading.enumerate():
            if getattr(thread, "owner", None) is self.owner and not isinstance(end[1], DrainTimeoutError):
                thread.join(BOUND)
        return end

    def expect(self, *entries: Any) -> None:
        """
        Read the owner's diary.
        """
        for entry in entries:
            assert get(self.owner.diary, f"{entry} in the owner's diary") == entry


def expect(generation: FakeGeneration, *entries: Any) -> None:
    """
    Read a generation's diary.
    """
    for entry in entries:
        assert get(generation.diary, f"{entry} in the generation's diary") == entry


def stages(*names: str) -> List[FakeStage]:
    """
    Return a stage for each name.
    """
    return [FakeStage(name) for name in names]


@pytest.fixture
def release() -> Iterator[List[FakeStage]]:
    """
    Stages that hang: their threads end after the test.
    """
    hanging: List[FakeStage] = []
    yield hanging
    for stage in hanging:
        stage.end()


class TestEnd:
    """
    Without crashes.
    """

    def test_all_stages_run_on_threads_of_their_names(self) -> None:
        """
        Each belongs to the owner, and the supervisor has a thread too.
        """
        scene = Scene(FakeGeneration(stages("a", "b")))
        scene.start()
        threads = [get(stage.runs) for stage in scene.generations[0].stages]
        assert [(t.name, t.daemon, t.owner) for t in threads] == [("a", True, scene.owner), ("b", True, scene.owner)]
        assert set(scene.supervisor.stacks()) == {"a", "b", "x.Supervisor"}
        assert "get(" in scene.supervisor.stacks()["a"]
        scene.supervisor.stop(BOUND)
        assert scene.ended() == (None, None)
        assert scene.supervisor.stacks() == {}

    def test_a_natural_end(self) -> None:
        """
        Each stage's end is passed on to the generation; with the last one all is over. Nobody is told to stop.
        """
        generation = FakeGeneration(stages("a", "b"))
        scene = Scene(generation)
        scene.start()
        generation.stages[1].end()
        expect(generation, ("ended", "b"))
        assert_quiet(scene.owner.end, "one stage still runs", 0.05)
        generation.stages[0].end()
        expect(generation, ("ended", "a"))
        assert scene.ended() == (None, None)
        scene.expect(("build", False))
        assert scene.owner.diary.empty()

    def test_a_stop(self) -> None:
        """
        The owner knows first, then the generation drains.
        """
        scene = Scene(FakeGeneration(stages("a")))
        scene.start()
        scene.supervisor.stop(BOUND)
        assert scene.ended() == (None, None)
        scene.expect(("build", False), "begin_stop")
        expect(scene.generations[0], ("drain", "shutdown"), ("ended", "a"))

    def test_what_is_left_when_all_threads_have_ended_gets_a_generation_of_its_own(self) -> None:
        """
        Once; what is still there after that is left behind, and said so.
        """
        first, last = FakeGeneration(stages("a")), FakeGeneration(stages("b"))
        scene = Scene(first, last)
        scene.owner.left_over, scene.owner.left = True, 7
        scene.start()
        first.stages[0].end()
        get(last.stages[0].runs)
        last.stages[0].end()
        cause, error = scene.ended()
        scene.expect(("build", False), ("build", True))
        assert cause is None
        assert isinstance(error, DrainTimeoutError)
        assert str(error) == "pipeline 'x' did not drain: 7 messages were left behind, neither acknowledged nor failed"


class TestTimeIsUp:
    """
    Drains that do not come to their end.
    """

    def test_nine_tenths_of_the_time_are_the_producers(self, release: List[FakeStage]) -> None:
        """
        After half of it open batches are flushed, then sources closed without them; at the end threads are given up.
        """
        generation = FakeGeneration(stages("a", "b"), ends=False)
        generation.stages[0].left = 5
        release += generation.stages[:1]
        scene = Scene(generation)
        scene.owner.left = 2
        scene.start()
        scene.supervisor.stop(2)
        expect(generation, ("drain", "shutdown"), "flush", "close_sources")
        generation.stages[1].end()
        expect(generation, ("ended", "b"), ("abandon", ["a"]))
        cause, error = scene.ended()
        assert (cause, generation.stages[0].is_abandoned) == (None, True)
        text = "pipeline 'x' did not drain within 2 seconds: 7 messages were left behind, neither acknowledged nor "
        assert str(error).startswith(f"{text}failed; thread a had not ended, it was at:\n")
        assert "in run" in str(error)

    def test_a_thread_that_was_given_up_may_end_later(self, release: List[FakeStage]) -> None:
        """
        Nobody minds, even if it crashes.
        """
        generation = FakeGeneration(stages("a"), ends=False)
        scene = Scene(generation)
        scene.start()
        thread = get(generation.stages[0].runs)
        scene.supervisor.stop(0.0)
        assert isinstance(scene.ended()[1], DrainTimeoutError)
        generation.stages[0].crash(LookupError("too late"))
        thread.join(BOUND)
        assert not thread.is_alive()
        assert_quiet(scene.owner.end, "it ended once", 0.05)

    def test_of_two_stops_the_earlier_deadline_holds(self, release: List[FakeStage]) -> None:
        """
        Whichever comes first.
        """
        for first, second in ((NEVER, 0.1), (0.1, NEVER)):
            generation = FakeGeneration(stages("a"), ends=False)
            release += generation.stages
            scene = Scene(generation)
            scene.start()
            scene.supervisor.stop(first)
            scene.supervisor.stop(second)
            assert "within 0.1 seconds" in str(scene.ended()[1])

    def test_a_stop_without_end_may_take_more_than_a_lock_can_wait(self) -> None:
        """
        Any number of seconds is fine.
        """
        scene = Scene(FakeGeneration(stages("a")))
        scene.start()
        scene.supervisor.stop(threading.TIMEOUT_MAX * 10)
        assert scene.ended() == (None, None)


class TestCrash:
    """
    Threads that die.
    """

    def test_a_stage_that_dies_is_resumed_and_the_pipeline_restarts(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        It gets another thread to finish what it has; when all have ended the next generation starts.
        """
        first, second = FakeGeneration(stages("a", "b"), ends=False), FakeGeneration(stages("a", "b"))
        scene = Scene(first, second)
        scene.start()
        thread, error = get(first.stages[0].runs), LookupError("a bug")
        first.stages[0].crash(error)
        scene.expect(("build", False), "begin_restart")
        expect(first, ("drain", "restart"))
        assert get(first.stages[0].runs) is not thread
        for stage in first.stages:
            stage.end()
        scene.expect(("build", False))
        get(second.stages[0].runs)
        scene.supervisor.stop(BOUND)
        assert scene.ended() == (None, None)
        (crash, restarted) = caplog.records
        assert crash.getMessage() == "[a] a thread of the library died: the pipeline restarts"
        assert crash.exc_info and crash.exc_info[1] is error
        assert (restarted.levelno, restarted.getMessage()) == (
            logging.WARNING,
            "[x.Supervisor] the pipeline was restarted",
        )

    def test_a_producer_that_crashed_too_often_is_not_resumed(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        The next generation makes it again.
        """
        producer, other = stages("producer", "other")
        first, second = FakeGeneration([producer, other], [producer]), FakeGeneration(stages("producer"))
        scene = Scene(first, second)
        scene.start()
        get(producer.runs)
        producer.crash(LookupError("no broker"))
        expect(first, ("drain", "restart"), ("ended", "producer"), ("ended", "other"))
        assert producer.runs.empty()
        get(second.stages[0].runs)
        scene.supervisor.stop(BOUND)
        assert scene.ended() == (None, None)
        assert caplog.records[0].getMessage() == "[producer] a producer crashed too often: the pipeline restarts"

    def test_too_many_crashes_are_the_end(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        It drains what it holds; the cause is handed on.
        """
        first, second = FakeGeneration(stages("a")), FakeGeneration(stages("a", "b"))
        scene = Scene(first, second, restarts=1)
        scene.start()
        first.stages[0].crash(LookupError("first"))
        get(second.stages[0].runs)
        error = LookupError("second")
        second.stages[0].crash(error)
        expect(second, ("drain", "failed"))
        assert {get(second.diary), get(second.diary)} == {("ended", "a"), ("ended", "b")}  # on threads of their own
        assert scene.ended() == (error, None)
        scene.expect(("build", False), "begin_restart", ("build", False), "begin_stop")
        assert "too many restarts, the pipeline gives up" in caplog.records[-1].getMessage()

    def test_a_stage_that_dies_again_and_again_is_not_resumed_for_ever(self) -> None:
        """
        A fault that kills every thread must not keep a drain from coming to its end.
        """
        generation = FakeGeneration(stages("a"), ends=False)
        scene = Scene(generation)
        scene.start()
        scene.supervisor.stop(BOUND)
        for number in range(1 + RESUMES):
            get(generation.stages[0].runs)
            generation.stages[0].crash(LookupError(f"death {number}"))
        assert scene.ended() == (None, None)
        assert generation.stages[0].runs.empty()

    def test_a_crash_while_it_stops_changes_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        The stage is resumed, as its messages have to be finished, and the end is a stop.
        """
        generation = FakeGeneration(stages("a", "b"), ends=False)
        scene = Scene(generation)
        scene.start()
        get(generation.stages[0].runs)
        scene.supervisor.stop(BOUND)
        expect(generation, ("drain", "shutdown"))
        generation.stages[0].crash(LookupError("a bug"))
        get(generation.stages[0].runs)
        for stage in generation.stages:
            stage.end()
        assert scene.ended() == (None, None)
        assert [r.getMessage() for r in caplog.records] == [
            "[a] a thread of the library died: the pipeline is stopping"
        ]

    def test_a_stop_during_a_restart_is_the_end(self) -> None:
        """
        No other generation is started.
        """
        generation = FakeGeneration(stages("a", "b"), ends=False)
        scene = Scene(generation)
        scene.start()
        generation.stages[0].crash(LookupError("a bug"))
        scene.expect(("build", False), "begin_restart")
        scene.supervisor.stop(BOUND)
        scene.expect("begin_stop")
        expect(generation, ("drain", "restart"), ("drain", "shutdown"))
        for stage in generation.stages:
            stage.end()
        assert scene.ended() == (None, None)
        assert scene.owner.diary.empty()

    def test_one_crash_too_many_during_a_restart_is_the_end(self) -> None:
        """
        With the last crash as the cause.
        """
        generation = FakeGeneration(stages("a", "b"), ends=False)
        scene = Scene(generation, restarts=1)
        scene.start()
        generation.stages[0].crash(LookupError("first"))
        expect(generation, ("drain", "restart"))
        error = LookupError("second")
        generation.stages[1].crash(error)
        expect(generation, ("drain", "failed"))
        for stage in generation.stages:  # each has a new thread, to finish what it has
            stage.end()
        assert scene.ended() == (error, None)

    def test_a_restart_that_does_not_drain_goes_on_without_those_that_hang(
        self, release: List[FakeStage], caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        That is logged; the stop that comes later knows nothing of it.
        """
        producer, hanging = stages("producer", "hanging")
        hanging.left = 3
        release.append(hanging)
        first, second = FakeGeneration([producer, hanging], [producer], ends=False), FakeGeneration(stages("a"))
        scene = Scene(first, second, shutdown=0.1)
        scene.start()
        producer.crash(LookupError("no broker"))
        get(second.stages[0].runs, "the next generation")
        hanging.end()
        scene.supervisor.stop(BOUND)
        assert scene.ended() == (None, None)
        assert hanging.is_abandoned
        texts = [r.getMessage() for r in caplog.records]
        assert any("did not drain within 0.1 seconds: 3 messages were left behind" in text for text in texts)


class TestFailure:
    """
    What goes wrong in the supervisor's own business.
    """

    def test_a_system_without_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        start() raises, and the threads that could be started end again.
        """
        generation = FakeGeneration(stages("a", "b", "c"))
        scene = Scene(generation)
        start, started = threading.Thread.start, []

        def limited(thread: threading.Thread) -> None:
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        monkeypatch.setattr(stage_thread.StageThread, "start", limited)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            scene.start()
        expect(generation, ("drain", "shutdown"), ("abandon", ["a", "b", "c"]))
        for thread in started:
            thread.join(BOUND)
            assert not thread.is_alive()

    def test_a_first_generation_that_cannot_be_built(self) -> None:
        """
        start() raises, nothing was started.
        """
        scene = Scene(LookupError("no generation"))
        with pytest.raises(LookupError):
            scene.start()
        assert scene.supervisor.stacks() == {}

    def test_its_own_death_is_the_end_of_the_pipeline(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        A generation that cannot be built after a restart: those who wait are told, and it is logged as a bug.
        """
        first, error = FakeGeneration(stages("a", "b")), LookupError("no second generation")
        scene = Scene(first, error)
        scene.start()
        first.stages[0].crash(LookupError("a bug"))
        assert scene.ended() == (error, None)
        assert caplog.records[-1].getMessage() == ("[x.Supervisor] the supervisor died: this is a bug in broadway_sync")

    def test_a_death_with_threads_at_work_stops_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        They drain, and what they hold is counted.
        """
        generation = FakeGeneration(stages("a", "b"))
        scene = Scene(generation)
        error = LookupError("a bug in the supervisor")

        def stage_ended(stage: Any) -> None:
            raise error

        monkeypatch.setattr(generation, "stage_ended", stage_ended)
        scene.start()
        threads: Dict[str, Any] = {stage.name: get(stage.runs) for stage in generation.stages}
        generation.stages[0].end()
        assert scene.ended() == (error, None)
        expect(generation, ("drain", "shutdown"), ("abandon", ["b"]))
        threads["b"].join(BOUND)
        assert not threads["b"].is_alive()


def test_of_the_threads_that_have_not_ended_those_in_code_of_others_hang() -> None:
    """
    The library's own threads wait for those.
    """
    latch = Latch()
    waiting = threading.Thread(target=latch.wait, daemon=True)
    stuck, go_on = threading.Event(), threading.Event()
    foreign = threading.Thread(target=lambda: (stuck.set(), go_on.wait(BOUND)), daemon=True)
    waiting.start()
    foreign.start()
    try:
        assert stuck.wait(BOUND)
        eventually(lambda: latch._waiters.parked, "the thread waits")
        assert hanging([waiting, foreign]) == [foreign]
        assert hanging([waiting]) == []
        assert hanging([]) == []
    finally:
        go_on.set()
        latch.open()
        foreign.join(BOUND)
        waiting.join(BOUND)


def test_threads_are_described_by_their_stacks() -> None:
    """
    Those that have ended too.
    """
    thread = threading.Thread(target=lambda: None, name="over")
    thread.start()
    thread.join()
    described = describe_threads([threading.current_thread(), thread])
    assert described["over"] == "  (ended)\n"
    assert "test_threads_are_described_by_their_stacks" in described[threading.current_thread().name]
