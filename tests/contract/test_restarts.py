"""
Crashes: producers alone, budgets, restarts of the whole pipeline, giving up, and threads of the library that die.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import queue
import sys
import threading
import time
from typing import Any, Iterable

import pytest

import broadway_sync
from broadway_sync import EndOfStream, Message, PipelineFailedError, Producer
from tests.helpers import (
    BOUND,
    NEVER,
    QUIET,
    Call,
    Feed,
    FeedProducer,
    eventually,
    get,
    make_handler,
    stage_thread,
    stage_threads,
    unique_name,
)


class Peculiar(BaseException):
    """
    An exception that ``except Exception`` does not catch.
    """


class Crashing(Producer):
    """
    A producer that counts its instances and crashes in the given place, always.
    """

    def __init__(self, made: list[int], where: str = "handle_demand", times: float = float("inf")) -> None:
        made.append(len(made) + 1)
        self.made = made
        self.where = where
        self.times = times
        self._crash("constructor")

    def _crash(self, where: str) -> None:
        if where == self.where and len(self.made) <= self.times:
            raise ConnectionError(f"crash {len(self.made)}")

    def init(self) -> None:
        """
        Crash, if this is the place.
        """
        self._crash("init")

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Crash, if this is the place.
        """
        self._crash("handle_demand")
        return []


def feeding(feed: Feed, **options: Any) -> dict[str, Any]:
    """
    Return the producer options for a feed.
    """
    return {"module": (FeedProducer, {"feed": feed}), **options}


# A producer alone


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), Peculiar()], ids=lambda e: type(e).__name__)
def test_producer_restarts_alone(make_pipeline: Any, acks: Any, error: BaseException) -> None:
    """
    A producer that raises, whatever it is, is terminated and made anew; nothing else restarts.
    """
    name = unique_name()
    feed = Feed()
    pipeline = make_pipeline(
        name=name, producer=feeding(feed), batchers={"default": {"batch_size": 1}}, resubscribe_interval=0.01
    ).start()
    get(feed.demands)
    threads = {stage_thread(name, stage) for stage in ("Processor_default_0", "BatchProcessor_default_0")}
    feed.put(acks.message(0), error, acks.message(1))
    assert sorted([acks.next().data, acks.next().data]) == [([0], []), ([1], [])]
    calls = [get(feed.calls) for _ in range(5)]
    assert [c[0] for c in calls] == ["new", "init", "terminate", "new", "init"]
    first, second = feed.instances
    assert [c[1] for c in calls] == [first, first, first, second, second]
    assert first.stage.index == second.stage.index == 0
    assert threads == {stage_thread(name, s) for s in ("Processor_default_0", "BatchProcessor_default_0")}
    assert pipeline.state == "running"


def test_other_producers_go_on(make_pipeline: Any, acks: Any) -> None:
    """
    A crash of one producer leaves the others alone.
    """
    feeds = [Feed(), Feed()]
    waiting = list(feeds)

    def module() -> Producer:
        return FeedProducer(waiting.pop(0) if waiting else feeds[0])

    make_pipeline(producer={"module": module, "concurrency": 2}, resubscribe_interval=0.01).start()
    for feed in feeds:
        get(feed.demands)
    feeds[0].put(RuntimeError("crash"))
    eventually(lambda: len(feeds[0].instances) == 2, "the crashed one is made anew")
    feeds[1].put(acks.message(1))
    feeds[0].put(acks.message(0))
    assert sorted(acks.collect_data(2)[0]) == [0, 1]
    assert len(feeds[1].instances) == 1


def test_messages_handed_over_survive(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    What a producer handed over before its crash is still processed and acknowledged.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    feed = Feed([*acks.messages(range(7)), RuntimeError("crash"), *acks.messages(range(7, 9))])
    make_pipeline(
        make_handler(handle_message=handle_message), producer=feeding(feed), resubscribe_interval=0.01
    ).start()
    eventually(lambda: len(feed.instances) == 2, "a second producer")
    gate.open()
    assert acks.collect_data(9) == (list(range(9)), [])


def test_crash_with_a_surplus(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    Messages handed over beyond the demand survive the crash of their producer, too.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    answers: list[Any] = [acks.messages(range(100))]

    class Generous(Producer):
        def init(self) -> None:
            made.put(self)
            self.stage.wake()

        def handle_demand(self, demand: int) -> Iterable[Message]:
            if answers:
                return answers.pop()
            return []

        def crash(self) -> Iterable[Message]:
            raise RuntimeError

    made: queue.Queue[Any] = queue.Queue()
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer={"module": Generous, "transformer": None},
        resubscribe_interval=0.01,
    ).start()
    producer = get(made)
    gate.arrived()
    producer.handle_demand = lambda demand: producer.crash()
    gate.open()
    get(made)
    assert sorted(acks.collect_data(100)[0]) == list(range(100))
    assert pipeline.state == "running"


def test_resubscribe_interval(make_pipeline: Any) -> None:
    """
    Between the crash of a producer and its next demand lies ``resubscribe_interval``.
    """
    interval = 0.3
    times: queue.Queue[float] = queue.Queue()

    class Once(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            times.put(time.monotonic())
            if times.qsize() == 1:
                raise RuntimeError("crash")
            return []

    make_pipeline(producer={"module": Once}, resubscribe_interval=interval).start()
    eventually(lambda: times.qsize() >= 2, "the next demand")
    assert -(times.get() - times.get()) >= interval * 0.95


def test_full_demand_after_a_restart(make_pipeline: Any, acks: Any) -> None:
    """
    A new producer is asked for all that its predecessor left unmet, no more.
    """
    feed = Feed(acks.messages(range(3)))
    make_pipeline(
        producer=feeding(feed),
        processors={"default": {"concurrency": 2, "max_demand": 4}},
        resubscribe_interval=0.01,
    ).start()
    acks.collect(3)
    feed.put(RuntimeError("crash"))
    eventually(lambda: len(feed.instances) == 2 and feed.instances[1].started, "a second producer")
    feed.put(*acks.messages(range(100)))
    acks.collect(100)
    while not feed.demands.empty():
        assert feed.demands.get() <= 8


@pytest.mark.parametrize("where", ["constructor", "init"])
def test_producer_that_cannot_start_at_first(make_pipeline: Any, where: str) -> None:
    """
    A constructor or ``init`` that raises is a crash like any other: ``start`` does not raise, the next try succeeds.
    """
    made: list[int] = []
    pipeline = make_pipeline(
        producer={"module": (Crashing, {"made": made, "where": where, "times": 2})}, resubscribe_interval=0.01
    ).start()
    eventually(lambda: len(made) == 3, "the third try")
    assert pipeline.test_message(1).receive(BOUND)
    assert pipeline.state == "running"


def test_factory_that_raises_at_first(make_pipeline: Any) -> None:
    """
    A factory that raises, or returns no producer, is such a crash, too.
    """
    answers: list[Any] = [RuntimeError("no broker"), "no producer"]
    made: queue.Queue[Any] = queue.Queue()

    def factory() -> Any:
        if not answers:
            made.put(FeedProducer(Feed()))
            return made.queue[-1]
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    pipeline = make_pipeline(producer={"module": factory}, resubscribe_interval=0.01).start()
    get(made)
    assert pipeline.state == "running"


def test_terminate_that_raises_at_a_crash(make_pipeline: Any, acks: Any) -> None:
    """
    A ``terminate`` that raises too does not keep the producer from restarting.
    """

    class Stubborn(FeedProducer):
        def terminate(self, reason: Any) -> None:
            raise RuntimeError("cannot terminate")

    feed = Feed([RuntimeError("crash"), acks.message(1)])
    make_pipeline(producer={"module": (Stubborn, {"feed": feed})}, resubscribe_interval=0.01).start()
    assert acks.collect_data(1) == ([1], [])


def test_stop_between_a_crash_and_the_restart(make_pipeline: Any, acks: Any) -> None:
    """
    A stop during the pause after a crash does not wait for it, and makes no new producer.
    """
    feed = Feed([RuntimeError("crash")])
    pipeline = make_pipeline(producer=feeding(feed), resubscribe_interval=NEVER, shutdown=NEVER).start()
    assert [get(feed.calls)[0] for _ in range(3)] == ["new", "init", "terminate"]
    pipeline.push_messages(acks.messages([1]))
    before = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - before < BOUND
    assert len([i for i in feed.instances if i.started]) == 1
    assert acks.all_data() == [1]


# Budgets


@pytest.mark.usefixtures("crashes_add_up")
@pytest.mark.parametrize(("max_restarts", "expected"), [(0, 3), (1, 6), (3, 12)])
@pytest.mark.parametrize("where", ["handle_demand", "init"])
def test_giving_up(make_pipeline: Any, max_restarts: int, expected: int, where: str) -> None:
    """
    One producer is restarted twice in a second, the pipeline ``max_restarts`` times; then it fails from the cause.
    """
    made: list[int] = []
    name = unique_name()
    pipeline = make_pipeline(
        name=name,
        producer={"module": (Crashing, {"made": made, "where": where})},
        resubscribe_interval=0,
        max_restarts=max_restarts,
        max_seconds=6 * BOUND,
    ).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert type(caught.value.__cause__) is ConnectionError
    assert str(caught.value.__cause__) == f"crash {expected}"
    assert len(made) == expected
    assert pipeline.state == "failed"
    assert name in str(caught.value)
    assert stage_threads(name) == []
    assert broadway_sync.all_running() == []


@pytest.mark.usefixtures("crashes_add_up")
@pytest.mark.parametrize(("times", "state"), [(4, "running"), (12, "failed")])
def test_budget_of_several_producers(make_pipeline: Any, times: int, state: str) -> None:
    """
    The budget of the producers grows with their number: two of them may restart four times in two seconds.
    """
    made: list[int] = []
    pipeline = make_pipeline(
        producer={"module": (Crashing, {"made": made, "times": times}), "concurrency": 2},
        resubscribe_interval=0,
        max_restarts=0,
    ).start()
    if state == "failed":
        with pytest.raises(PipelineFailedError):
            pipeline.join(BOUND)
    else:
        eventually(lambda: len(made) > times, "all crashes")
        assert pipeline.join(QUIET) is False
    assert pipeline.state == state


def test_budget_in_time(make_pipeline: Any, acks: Any) -> None:
    """
    Restarts that lie further apart than the budget's seconds never add up.
    """
    feed = Feed([*(RuntimeError(f"crash {n}") for n in range(4)), acks.message(1)])
    pipeline = make_pipeline(producer=feeding(feed), resubscribe_interval=0.6, max_restarts=0).start()
    assert acks.collect_data(1) == ([1], [])
    assert pipeline.state == "running"
    assert len(feed.instances) == 5


def test_restarts_far_apart_never_add_up(make_pipeline: Any) -> None:
    """
    Restarts of the whole pipeline that lie further apart than ``max_seconds`` allow go on for ever.
    """
    made: list[int] = []
    pipeline = make_pipeline(
        producer={"module": (Crashing, {"made": made})},
        resubscribe_interval=0.02,
        max_restarts=1,
        max_seconds=0.03,
    ).start()
    eventually(lambda: len(made) >= 20, "many restarts")
    assert pipeline.state == "running"
    pipeline.stop()
    assert pipeline.join(0) is True


@pytest.mark.usefixtures("crashes_add_up")
def test_whole_restart(make_pipeline: Any, acks: Any) -> None:
    """
    Past the producers' budget the whole pipeline restarts and works on.
    """
    made: list[int] = []
    name = unique_name()
    pipeline = make_pipeline(
        name=name,
        producer={"module": (Crashing, {"made": made, "times": 4})},
        resubscribe_interval=0,
        max_restarts=1,
        max_seconds=6 * BOUND,
    ).start()
    eventually(lambda: len(made) == 5, "the fifth producer")
    eventually(lambda: pipeline.state == "running", "running")
    assert pipeline.test_message(1).receive(BOUND)
    pipeline.stop()
    assert len(made) == 5


@pytest.mark.usefixtures("crashes_add_up")
def test_whole_restart_lets_the_stages_finish(make_pipeline: Any, acks: Any) -> None:
    """
    A restart of the whole pipeline first handles and acknowledges what was handed over, and flushes open batches.
    """
    crashes = [RuntimeError(f"crash {n}") for n in range(3)]
    feed = Feed([*acks.messages(range(7)), *crashes])
    triggers: list[Any] = []

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        triggers.append(([m.data for m in messages], batch_info.trigger))
        return messages

    pipeline = make_pipeline(
        make_handler(handle_batch=handle_batch),
        producer=feeding(feed),
        batchers={"default": {"batch_size": 5, "batch_timeout": NEVER}},
        resubscribe_interval=0,
        max_restarts=1,
        max_seconds=6 * BOUND,
    ).start()
    assert acks.collect_data(7) == (list(range(7)), [])
    assert triggers == [([0, 1, 2, 3, 4], "size"), ([5, 6], "flush")]
    feed.put(*acks.messages(range(7, 12)))
    assert acks.collect_data(5) == (list(range(7, 12)), [])
    assert pipeline.state == "running"


@pytest.mark.usefixtures("crashes_add_up")
def test_whole_restart_past_a_hung_handler(make_pipeline: Any, acks: Any, gate: Any) -> None:
    """
    A handler that hangs delays a restart by ``shutdown`` at most; its message is left behind, and the rest goes on.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "hangs":
            gate.wait(threading.current_thread())
        return message

    feed = Feed([acks.message("hangs"), *(RuntimeError(f"crash {n}") for n in range(3))])
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        producer=feeding(feed),
        resubscribe_interval=0,
        max_restarts=1,
        max_seconds=6 * BOUND,
        shutdown=0.3,
    ).start()
    abandoned = gate.arrived()
    eventually(lambda: len(feed.instances) == 4 and feed.instances[3].started, "the restart")
    feed.put(*acks.messages(range(10)))
    assert acks.collect_data(10) == (list(range(10)), [])
    gate.open()
    abandoned.join(BOUND)
    assert not abandoned.is_alive()
    feed.put(acks.message(10))
    assert acks.collect_data(1) == ([10], [])
    pipeline.stop(BOUND)
    assert acks.all_data() == list(range(11))


def test_failing_pipeline_drains_what_it_holds(make_pipeline: Any, acks: Any) -> None:
    """
    A pipeline that gives up drains first: what was handed over is acknowledged, open batches are flushed.
    """
    feed = Feed([*acks.messages(range(8)), *(RuntimeError(f"crash {n}") for n in range(50))])
    pipeline = make_pipeline(
        producer=feeding(feed),
        batchers={"default": {"batch_timeout": NEVER}},
        resubscribe_interval=0,
        max_restarts=0,
    ).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    assert acks.all_data() == list(range(8))
    assert pipeline.state == "failed"


def test_stop_of_a_failed_pipeline(make_pipeline: Any) -> None:
    """
    Stopping a pipeline that failed does nothing and hides nothing.
    """
    pipeline = make_pipeline(
        producer={"module": (Crashing, {"made": []})}, resubscribe_interval=0, max_restarts=0
    ).start()
    eventually(lambda: pipeline.state == "failed", "failed")
    assert pipeline.stop() is None
    assert pipeline.state == "failed"
    with pytest.raises(PipelineFailedError):
        pipeline.join(0)


def test_pushing_while_the_whole_pipeline_restarts(make_pipeline: Any, acks: Any) -> None:
    """
    A restart is no stop: messages pushed at any moment of it are accepted, and acknowledged.
    """
    for _ in range(20):
        feed = Feed(RuntimeError(f"crash {n}") for n in range(11))
        pipeline = make_pipeline(
            producer=feeding(feed), resubscribe_interval=0, max_seconds=6 * BOUND, batchers={"default": {}}
        ).start()
        for number in range(100):
            pipeline.push_messages(acks.messages([number]))
        eventually(lambda feed=feed: len(feed.instances) >= 12, "all restarts")
        pipeline.stop()
        assert sorted(acks.all_data()) == list(range(100))
        acks.acks.clear()


def push_steadily(pipeline: Any, acks: Any, accepted: list[int]) -> None:
    """
    Push numbers until that is refused, never more than 50 ahead of the acknowledgements; record those accepted.
    """
    for number in itertools.count():
        pipeline.push_messages(acks.messages([number]))
        accepted.append(number)
        while len(accepted) - sum(len(a.successful) for a in list(acks.acks)) > 50:
            if pipeline.state not in ("running", "draining"):
                break
            time.sleep(0.001)


def test_stop_while_the_whole_pipeline_restarts(make_pipeline: Any, acks: Any) -> None:
    """
    A stop that meets a restart drains all the same: every push that was accepted is acknowledged, within the deadline.
    """
    for _ in range(20):
        made: list[int] = []
        pipeline = make_pipeline(
            producer={"module": (Crashing, {"made": made})},
            processors={"default": {"concurrency": 2}},
            batchers={"default": {"batch_timeout": 0.005}},
            resubscribe_interval=0,
            max_restarts=10**6,
            shutdown=BOUND,
        ).start()
        accepted: list[int] = []

        call = Call(push_steadily, pipeline, acks, accepted)
        eventually(lambda accepted=accepted, made=made: len(accepted) > 10 and len(made) > 5, "some restarts")
        pipeline.stop()
        with pytest.raises(broadway_sync.NotRunningError):
            call.result()
        assert sorted(acks.all_data()) == accepted
        acks.acks.clear()


def test_giving_up_under_load(make_pipeline: Any, acks: Any) -> None:
    """
    A pipeline that gives up acknowledges every push that it accepted before.
    """
    for _ in range(10):
        pipeline = make_pipeline(
            producer={"module": (Crashing, {"made": []})},
            batchers={"default": {"batch_timeout": 0.005}},
            resubscribe_interval=0.001,
            max_restarts=1,
            max_seconds=6 * BOUND,
        ).start()
        accepted: list[int] = []

        call = Call(push_steadily, pipeline, acks, accepted)
        with pytest.raises(PipelineFailedError):
            pipeline.join(BOUND)
        with pytest.raises(broadway_sync.NotRunningError):
            call.result()
        assert sorted(acks.all_data()) == accepted
        acks.acks.clear()


@pytest.mark.usefixtures("crashes_add_up")
def test_exhausted_producer_is_not_made_again(make_pipeline: Any, acks: Any) -> None:
    """
    A restart of the whole pipeline does not make a producer again that was exhausted.
    """
    ended, crashing = Feed(acks.messages([0]), closed=True), Feed()
    feeds = {0: ended, 1: crashing}
    counter = itertools.count()

    def module() -> Producer:
        number = next(counter)
        return FeedProducer(feeds[number] if number < 2 else crashing)

    pipeline = make_pipeline(
        producer={"module": module, "concurrency": 2},
        resubscribe_interval=0,
        max_restarts=1,
        max_seconds=6 * BOUND,
    ).start()
    assert acks.collect_data(1) == ([0], [])
    get(crashing.demands)
    crashing.put(*(RuntimeError(f"crash {n}") for n in range(5)))
    crashing.put(acks.message(1))
    assert acks.collect_data(1) == ([1], [])
    assert len(ended.instances) + len(crashing.instances) == 7
    crashing.close()
    assert pipeline.join(BOUND)
    assert acks.all_data() == [0, 1]


def test_exhausted_while_another_gives_up(make_pipeline: Any, acks: Any) -> None:
    """
    ``EndOfStream`` is no crash and uses up no budget.
    """

    class Ending(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            raise EndOfStream

    for _ in range(5):
        pipeline = make_pipeline(producer={"module": Ending, "concurrency": 4}, max_restarts=0).start()
        assert pipeline.join(BOUND) is True
        assert pipeline.state == "stopped"


@pytest.mark.usefixtures("crashes_add_up")
def test_failed_pipeline_may_be_started_again(make_pipeline: Any) -> None:
    """
    A pipeline that gave up may be started again once the cause is gone.
    """
    made: list[int] = []
    pipeline = make_pipeline(
        producer={"module": (Crashing, {"made": made, "times": 3})}, resubscribe_interval=0, max_restarts=0
    ).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    pipeline.start()
    assert pipeline.test_message(1).receive(BOUND)
    pipeline.stop()
    assert pipeline.join(0) is True


# Threads of the library


class Killed(BaseException):
    """
    What kills a thread of the library.
    """


def kill(thread: threading.Thread) -> None:
    """
    Raise ``Killed`` in *thread* as soon as it runs Python code again; wait first until it is parked somewhere.
    """
    if sys.version_info[:2] == (3, 11) and sys.gettrace() is not None:
        pytest.skip("CPython 3.11 spins when an exception is set in a parked thread while others are traced")
    eventually(lambda: _place(thread), "the thread has started")
    places: list[Any] = []
    while len(places) < 5:  # one look alone could meet a thread that a busy machine keeps waiting
        place = _place(thread)
        places = [*places, place] if place in places[-1:] else [place]
        threading.Event().wait(0.01)
    done = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Killed))
    assert done == 1


def _place(thread: threading.Thread) -> Any:
    """
    Return where *thread* is: an instruction of the library or of Python; None if it has not started.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    return frame and (frame.f_code, frame.f_lasti)  # not the frame: a producer that polls comes back to the same wait


POKES = itertools.count()

STAGES = ["Processor_default_0", "Batcher_default", "BatchProcessor_default_0", "Producer_0"]


def push_until(pipeline: Any, acks: Any, condition: Any, what: str) -> list[Any]:
    """
    Push messages one by one until *condition* holds; return the data of those that were accepted.
    """
    accepted: list[Any] = []

    def push() -> bool:
        data = ("poke", next(POKES))
        try:
            pipeline.push_messages(acks.messages([data]))
            accepted.append(data)
        except broadway_sync.NotRunningError:
            pass
        return bool(condition())

    eventually(push, what)
    return accepted


@pytest.mark.parametrize("stage", STAGES)
def test_thread_that_dies(make_pipeline: Any, acks: Any, caplog: Any, stage: str) -> None:
    """
    A thread of the library that dies is logged and replaced; the pipeline works on and acknowledges nothing twice.
    """
    name = unique_name()
    pipeline = make_pipeline(
        name=name,
        producer=feeding(Feed()),
        batchers={"default": {"batch_size": 2, "batch_timeout": 0.02}},
        max_seconds=6 * BOUND,
        shutdown=6 * BOUND,
    ).start()
    pipeline.push_messages(acks.messages(["first"]))
    acks.collect(1)
    before = time.monotonic()
    victim = stage_thread(name, stage)
    with caplog.at_level(logging.INFO, "broadway_sync"):
        kill(victim)
        push_until(pipeline, acks, lambda: not victim.is_alive() or _is_logged(caplog), "the thread is hit")
        eventually(lambda: _is_logged(caplog), "it is logged")
    eventually(lambda: pipeline.state == "running", "running")
    last = push_until(pipeline, acks, lambda: pipeline.state == "running", "a push is accepted")[-1]
    eventually(lambda: last in acks.all_data(), "the pipeline works on")
    pipeline.stop()
    assert time.monotonic() - before < 3 * BOUND, "the restart waited for the thread that is dead"
    data = acks.all_data()
    assert len(data) == len(set(data))


def _is_logged(caplog: Any) -> bool:
    """
    Return whether an error about ``Killed`` was logged.
    """
    return any(
        r.levelno >= logging.ERROR and r.exc_info and isinstance(r.exc_info[1], Killed) for r in caplog.records
    )


def test_threads_that_die_use_up_the_budget(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    Threads that die more often than ``max_restarts`` end the pipeline, from that cause.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name, max_restarts=1, max_seconds=6 * BOUND).start()
    for number in range(2):
        if number:
            eventually(lambda: "restarted" in caplog.text, "the restart is over")
        victim = stage_thread(name, "Processor_default_0")
        kill(victim)
        push_until(pipeline, acks, lambda victim=victim: not victim.is_alive(), "the thread dies")
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, Killed)
    assert pipeline.state == "failed"


def test_other_threads_that_die(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    Whichever other thread the library runs, when it dies too, a stop still returns and the name is free.
    """
    stages = tuple(STAGES)
    count = len(_other_threads(make_pipeline, stages))
    for number in range(count):
        name = unique_name()
        pipeline = make_pipeline(name=name, batchers={"default": {}}, producer=limited_feed(), shutdown=1.0).start()
        others = [t for t in stage_threads(name) if not t.name.endswith(stages)]
        kill(sorted(others, key=lambda t: t.name)[number])
        pipeline.request_stop()
        try:
            pipeline.stop()
        except broadway_sync.DrainTimeoutError:
            pass  # that is an end, too
        assert name not in broadway_sync.all_running()
        assert pipeline.state in ("stopped", "failed")


def limited_feed() -> dict[str, Any]:
    """
    Return producer options that make the library start every kind of thread that it has.
    """
    return feeding(Feed(), rate_limiting={"allowed_messages": 5, "interval": 1})


def _other_threads(make_pipeline: Any, stages: tuple[str, ...]) -> list[str]:
    """
    Return the names of the threads that are no stages.
    """
    name = unique_name()
    with make_pipeline(name=name, batchers={"default": {}}, producer=limited_feed()):
        return [t.name for t in stage_threads(name) if not t.name.endswith(stages)]
