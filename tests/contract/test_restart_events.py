"""
Telemetry of restarts: who restarted, why, and how often.
"""

from __future__ import annotations

import time
from typing import Any, Iterable

import pytest

from broadway_sync import EndOfStream, Message, PipelineFailedError, Producer, telemetry
from broadway_sync.telemetry.events import METADATA, PRODUCER_RESTART, TOPOLOGY_RESTART
from tests.helpers import BOUND, NEVER, Feed, FeedProducer, eventually, make_handler, unique_name

CRASHES_UNTIL_A_RESTART = 3
"""Of a single producer: two are allowed in a second, the third restarts the pipeline."""


class Crash(BaseException):
    """
    What the producers of this file raise: nothing that ``except Exception`` catches.
    """


class Crashing(Producer):
    """
    A producer that raises the exceptions of a list, one at each demand, and then has nothing more.
    """

    def __init__(self, crashes: list[BaseException], where: str = "handle_demand") -> None:
        self.crashes = crashes
        self.where = where

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

    def _crash(self, where: str) -> None:
        if where == self.where and self.crashes:
            raise self.crashes.pop(0)


class Recorder:
    """
    The restart events of one pipeline, as ``(event, measurements, metadata)``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Any] = []

    def __call__(self, event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        if metadata["topology_name"] == self.name:
            self.events.append((event, dict(measurements), dict(metadata)))

    def of(self, event: Any) -> list[Any]:
        """
        Return the metadata of one event, in order.
        """
        return [metadata for kind, _, metadata in list(self.events) if kind == event]


@pytest.fixture
def recorder() -> Recorder:
    """
    Return a recorder for the pipeline that has its name.
    """
    recorder = Recorder(unique_name())
    telemetry.attach_many(recorder.name, [PRODUCER_RESTART, TOPOLOGY_RESTART], recorder)
    return recorder


def crashing(make_pipeline: Any, recorder: Recorder, count: int, where: str = "handle_demand", **options: Any) -> Any:
    """
    Start a pipeline whose producer crashes *count* times; return it and the crashes.
    """
    crashes: list[BaseException] = [Crash(number) for number in range(count)]
    producer = {"module": (Crashing, {"crashes": list(crashes), "where": where})}
    defaults = {"name": recorder.name, "producer": producer, "resubscribe_interval": 0.0}
    return make_pipeline(**{**defaults, **options}).start(), crashes


def test_names_of_the_events() -> None:
    """
    The events have the names that reporters rely on, and the manual lists them.
    """
    assert PRODUCER_RESTART == ("broadway", "producer", "restart")
    assert TOPOLOGY_RESTART == ("broadway", "topology", "restart")
    assert {PRODUCER_RESTART, TOPOLOGY_RESTART} <= set(METADATA)


@pytest.mark.parametrize("where", ["init", "handle_demand"])
def test_restart_of_a_producer(make_pipeline: Any, recorder: Recorder, where: str) -> None:
    """
    A producer that is made again is an event, with its name and what it crashed of.
    """
    before = time.time_ns()
    pipeline, crashes = crashing(make_pipeline, recorder, 2, where)
    eventually(lambda: len(recorder.events) == 2, "two restarts")
    assert [m["reason"] for m in recorder.of(PRODUCER_RESTART)] == crashes
    for _, measurements, metadata in recorder.events:
        assert before <= measurements["system_time"] <= time.time_ns()
        assert metadata["name"] == f"{recorder.name}.Broadway.Producer_0"
        assert metadata["topology_name"] == recorder.name
    assert pipeline.test_message(1).receive(BOUND)
    assert len(recorder.events) == 2
    counted = [stage.restarts for stage in pipeline.statistics().stages if stage.kind == "producer"]
    assert counted == [2]


def test_which_producer(make_pipeline: Any, recorder: Recorder) -> None:
    """
    Of several producers the event names the one that crashed.
    """
    feeds = [Feed(), Feed()]
    waiting = list(feeds)

    def module() -> Producer:
        return FeedProducer(waiting.pop(0) if waiting else feeds[0])

    make_pipeline(name=recorder.name, producer={"module": module, "concurrency": 2}, resubscribe_interval=0.0).start()
    eventually(lambda: all(feed.instances for feed in feeds), "two producers")
    crashed = eventually(lambda: feeds[1].instances[0].started and feeds[1].instances[0], "the second one is up")
    feeds[1].put(Crash())
    eventually(lambda: recorder.events, "a restart")
    assert [metadata["name"] for metadata in recorder.of(PRODUCER_RESTART)] == [crashed.stage.name]


@pytest.mark.usefixtures("crashes_add_up")
def test_restart_of_the_pipeline(make_pipeline: Any, recorder: Recorder) -> None:
    """
    Past the producer's budget it is the pipeline that restarts: one event, with the last crash.
    """
    before = time.time_ns()
    pipeline, crashes = crashing(make_pipeline, recorder, CRASHES_UNTIL_A_RESTART, max_restarts=5)
    eventually(lambda: recorder.of(TOPOLOGY_RESTART), "a restart of the pipeline")
    assert [m["reason"] for m in recorder.of(PRODUCER_RESTART)] == crashes[:-1]
    (metadata,) = recorder.of(TOPOLOGY_RESTART)
    assert metadata["reason"] is crashes[-1]
    assert metadata["name"].startswith(recorder.name)
    measurements = [m for event, m, _ in recorder.events if event == TOPOLOGY_RESTART]
    assert before <= measurements[0]["system_time"] <= time.time_ns()
    eventually(lambda: pipeline.statistics().restarts == 1, "statistics count it")
    assert pipeline.test_message(1).receive(BOUND)
    pipeline.stop()
    assert len(recorder.of(TOPOLOGY_RESTART)) == 1


def test_no_event_without_a_restart(make_pipeline: Any, recorder: Recorder, acks: Any) -> None:
    """
    A start, a failing message, a stop, a natural end and a second start are no restarts.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        raise Crash

    feed = Feed(acks.messages([1]), closed=True)
    pipeline = make_pipeline(
        make_handler(handle_message=handle_message),
        name=recorder.name,
        producer={"module": (FeedProducer, {"feed": feed})},
    )
    for _ in range(2):
        pipeline.start()
        assert pipeline.join(BOUND)
    pipeline.stop()
    assert recorder.events == []


@pytest.mark.usefixtures("crashes_add_up")
def test_crash_that_is_not_followed_by_a_restart(make_pipeline: Any, recorder: Recorder) -> None:
    """
    A pipeline that gives up restarts no more: the crash that ended it is no event of a restart.
    """
    pipeline, crashes = crashing(make_pipeline, recorder, 100, max_restarts=1, max_seconds=NEVER)
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert len(recorder.of(TOPOLOGY_RESTART)) == 1
    reasons = [metadata["reason"] for metadata in recorder.of(PRODUCER_RESTART)]
    assert caught.value.__cause__ not in reasons
    assert len(reasons) == 2 * (CRASHES_UNTIL_A_RESTART - 1)


def test_crash_during_a_stop(make_pipeline: Any, recorder: Recorder, gate: Any) -> None:
    """
    A producer that crashes while a stop has begun is not made again.
    """

    class Late(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            gate.wait(self)
            raise Crash

    pipeline = make_pipeline(name=recorder.name, producer={"module": Late}).start()
    producer = gate.arrived()
    pipeline.request_stop()
    eventually(lambda: producer.stage.draining, "the producer is told of the stop")
    gate.open()
    assert pipeline.join(BOUND)
    assert recorder.events == []


def test_end_of_stream_is_no_crash(make_pipeline: Any, recorder: Recorder) -> None:
    """
    A producer that is exhausted is not restarted.
    """

    class Finite(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            raise EndOfStream

    with make_pipeline(name=recorder.name, producer={"module": Finite}) as pipeline:
        assert pipeline.join(BOUND)
    assert recorder.events == []


@pytest.mark.usefixtures("crashes_add_up")
def test_handler_that_raises(make_pipeline: Any, caplog: Any) -> None:
    """
    A handler of these events that raises is detached like any other; the restart takes place.
    """
    recorder = Recorder(unique_name())

    def broken(*args: Any) -> None:
        raise Crash

    telemetry.attach_many(recorder.name, [PRODUCER_RESTART, TOPOLOGY_RESTART], broken)
    pipeline, _ = crashing(make_pipeline, recorder, CRASHES_UNTIL_A_RESTART, max_restarts=5)
    eventually(lambda: pipeline.statistics().restarts == 1, "a restart")
    assert pipeline.test_message(1).receive(BOUND)
    assert "was detached" in caplog.text
    assert [h for h in telemetry.list_handlers() if h.handler_id == recorder.name] == []


def test_from_a_handler_of_the_event(make_pipeline: Any) -> None:
    """
    A handler of the event may ask the pipeline how it is, or give it up.
    """
    recorder = Recorder(unique_name())
    states: list[Any] = []

    def give_up(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        states.append((pipeline.statistics().restarts, pipeline.state))
        pipeline.fail(metadata["reason"])

    telemetry.attach(recorder.name, TOPOLOGY_RESTART, give_up)
    pipeline, _ = crashing(make_pipeline, recorder, 100, max_restarts=5)
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, Crash)
    assert len(states) == 1
