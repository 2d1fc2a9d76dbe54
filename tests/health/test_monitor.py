"""
The monitor on real pipelines: what probes, the file and the log say of them, and that nothing is left of it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
import threading
import time
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any, List

import pytest

import broadway_sync
from broadway_sync import ConfigurationError, Producer, telemetry
from broadway_sync.connectors.common.events import CONNECTION_DOWN, CONNECTION_UP
from broadway_sync.runner import health as health_module
from broadway_sync.runner.health import HealthMonitor
from broadway_sync.runner.health_file import read_file
from tests.health.support import ask
from tests.helpers import NEVER, Gate, eventually, make_handler


class Doomed(Producer):
    """
    A producer that cannot start, until it is mended.
    """

    is_mended = False

    def init(self) -> None:
        """
        Fail.
        """
        if not Doomed.is_mended:
            raise OSError("no such host")

    def handle_demand(self, demand: int) -> List[Any]:
        """
        Produce nothing.
        """
        return []


@pytest.fixture(autouse=True)
def doomed() -> None:
    """
    Every test begins with a Doomed that is.
    """
    Doomed.is_mended = False


def statuses(monitor: HealthMonitor) -> Any:
    """
    Return what the probes are told.
    """
    return ask(monitor.port, "/livez").status, ask(monitor.port, "/readyz").status


def health_threads() -> List[str]:
    """
    Return the names of the threads of monitors.
    """
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("broadway_sync.health"))


def hanging(gate: Gate) -> Any:
    """
    Return a handler that waits at *gate* with every message.
    """

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        gate.wait(message.data)
        return message

    return make_handler(handle_message=handle_message)


def test_a_life(make_pipeline: Any, make_monitor: Any, gate: Gate, acks: Any) -> None:
    """
    New, running, draining, stopped: live all the time, ready while it runs.
    """
    pipeline = make_pipeline(hanging(gate))
    monitor = make_monitor(pipeline).start()
    seen = [statuses(monitor)]
    pipeline.start()
    seen.append(statuses(monitor))
    pipeline.push_messages([acks.message("x")])
    gate.arrived()
    seen.append(statuses(monitor))
    pipeline.request_stop()
    seen.append(statuses(monitor))
    assert "healthy (draining)" in ask(monitor.port, "/readyz").text
    gate.open()
    pipeline.join()
    seen.append(statuses(monitor))
    assert seen == [(200, 503), (200, 200), (200, 200), (200, 503), (200, 503)]
    assert ask(monitor.port, "/readyz").text == "not ok\nno pipeline is running\n"


def test_a_stall_and_its_end(make_pipeline: Any, make_monitor: Any, gate: Gate, acks: Any, caplog: Any) -> None:
    """
    Neither live nor ready while it lasts; logged once, with the stacks, and once when it is over.
    """
    caplog.set_level(logging.INFO, "broadway_sync")
    pipeline = make_pipeline(hanging(gate)).start()
    monitor = make_monitor(pipeline, stall_after=0.2).start()
    caplog.clear()  # where it answers
    pipeline.push_messages([acks.message("x")])
    gate.arrived()
    eventually(lambda: statuses(monitor) == (503, 503), "the stall is seen")
    stalled = ask(monitor.port, "/livez").text
    assert stalled.startswith(f"not ok\n{pipeline.name}: stalled; 1 messages in flight; none came through yet; ")
    assert f"{pipeline.name}.Broadway.Processor_default_0 has been busy with 1 messages for " in stalled
    eventually(lambda: caplog.records, "it is logged")
    gate.open()
    acks.collect(1)
    eventually(lambda: statuses(monitor) == (200, 200), "the end is seen")
    eventually(lambda: len(caplog.records) >= 3, "the end is logged")
    stall, end, stage_end = caplog.records
    assert [stall.levelname, end.levelname, stage_end.levelname] == ["ERROR", "INFO", "INFO"]
    assert "in handle_message" in stall.getMessage()
    assert "Supervisor" in stall.getMessage()
    assert "no longer stalled" in end.getMessage()


def test_one_that_hangs_among_others_that_go_on(
    make_pipeline: Any, make_monitor: Any, gate: Gate, acks: Any, caplog: Any
) -> None:
    """
    A warning with its stack, and to be seen in the report; the process is live and ready.
    """

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        if message.data == "hang":
            gate.wait()
        return message

    processors = {"default": {"concurrency": 2, "max_demand": 1}}
    pipeline = make_pipeline(make_handler(handle_message=handle_message), processors=processors).start()
    monitor = make_monitor(pipeline, stall_after=0.4).start()
    pipeline.push_messages([acks.message("hang")])
    gate.arrived()

    def go_on() -> Any:
        pipeline.push_messages([acks.message("go on")])
        acks.collect(1)
        return caplog.records

    (record,) = eventually(go_on, "the stage's stall is logged")
    assert record.levelname == "WARNING"
    assert "while others go on" in record.getMessage()
    assert "in handle_message" in record.getMessage()
    go_on()
    assert statuses(monitor) == (200, 200)
    (found,) = ask(monitor.port, "/healthz").json["pipelines"]
    processors_found = [stage["status"] for stage in found["stages"] if stage["kind"] == "processor"]
    assert "stalled" in processors_found
    assert found["status"] == "healthy"


def test_an_open_batch_is_no_stall(make_pipeline: Any, make_monitor: Any, acks: Any) -> None:
    """
    Its messages wait for a timeout that is far away.
    """
    batchers = {"default": {"batch_size": 10, "batch_timeout": NEVER}}
    pipeline = make_pipeline(batchers=batchers).start()
    monitor = make_monitor(pipeline, stall_after=0.05).start()
    pipeline.push_messages(acks.messages("abc"))

    def in_open_batch() -> bool:
        (found,) = ask(monitor.port, "/healthz").json["pipelines"]
        return bool(found["oldest"] > 0.1 and found["in_flight"] == 3)

    eventually(in_open_batch, "they wait for longer than stall_after")
    assert statuses(monitor) == (200, 200)
    pipeline.stop()
    acks.collect(3)


def test_messages_held_back_by_the_rate_limit_are_no_stall(make_pipeline: Any, make_monitor: Any, acks: Any) -> None:
    """
    They wait for an interval that is far away.
    """
    from tests.helpers import Feed, FeedProducer

    feed = Feed()
    feed.put(*acks.messages(range(3)))
    limit = {"allowed_messages": 1, "interval": NEVER}
    pipeline = make_pipeline(producer={"module": (FeedProducer, {"feed": feed}), "rate_limiting": limit}).start()
    monitor = make_monitor(pipeline, stall_after=0.05).start()
    acks.collect(1)

    def held_back() -> bool:
        (found,) = ask(monitor.port, "/healthz").json["pipelines"]
        return bool(found["idle_for"] > 0.1 and found["in_flight"] > 0)

    eventually(held_back, "they are held back for longer than stall_after")
    assert statuses(monitor) == (200, 200)
    with pytest.raises(broadway_sync.DrainTimeoutError):
        pipeline.stop(0)


def test_a_pipeline_that_gave_up(make_pipeline: Any, make_monitor: Any) -> None:
    """
    Neither live nor ready, although another one runs: only a restart of the process helps.
    """
    failed = make_pipeline(producer={"module": Doomed}, max_restarts=0, resubscribe_interval=0)
    monitor = make_monitor(make_pipeline().start(), failed).start()
    failed.start()
    with pytest.raises(broadway_sync.PipelineFailedError):
        failed.join()
    assert statuses(monitor) == (503, 503)
    assert f"{failed.name}: failed" in ask(monitor.port, "/livez").text


def test_one_that_came_to_its_end_does_not_matter_while_another_runs(make_pipeline: Any, make_monitor: Any) -> None:
    """
    A finite one is done; one that has not begun is not ready.
    """
    first, second = make_pipeline(), make_pipeline()
    monitor = make_monitor(first, second).start()
    first.start()
    assert statuses(monitor) == (200, 503)
    second.start()
    assert statuses(monitor) == (200, 200)
    first.stop()
    assert statuses(monitor) == (200, 200)


def test_without_a_connection_it_is_live_but_not_ready(make_pipeline: Any, make_monitor: Any) -> None:
    """
    A restart does not bring the broker back.
    """
    pipeline = make_pipeline().start()
    monitor = make_monitor(pipeline).start()
    producer = pipeline.producer_names()[0]
    metadata = {"topology_name": pipeline.name, "name": producer, "reason": OSError("gone")}
    telemetry.execute(CONNECTION_DOWN, {}, metadata)
    assert statuses(monitor) == (200, 503)
    answer = ask(monitor.port, "/readyz")
    assert answer.text == f"not ok\n{pipeline.name}: {producer} has no connection: OSError: gone\n"
    (found,) = ask(monitor.port, "/healthz").json["pipelines"]
    assert (found["connections_down"], found["pid"]) == ({producer: "OSError: gone"}, os.getpid())
    telemetry.execute(CONNECTION_UP, {}, metadata)
    assert statuses(monitor) == (200, 200)


def test_with_no_pipelines_given_it_watches_what_runs(make_pipeline: Any, make_monitor: Any) -> None:
    """
    Also what is started later; what has stopped is gone.
    """
    monitor = make_monitor().start()
    assert ask(monitor.port, "/readyz").text == "not ok\nno pipeline is running\n"
    first, second = make_pipeline().start(), make_pipeline()
    assert [each["name"] for each in monitor.report().pipelines] == [first.name]
    second.start()
    assert [each["name"] for each in monitor.report().pipelines] == [first.name, second.name]
    assert statuses(monitor) == (200, 200)
    first.stop()
    assert [each["name"] for each in monitor.report().pipelines] == [second.name]


def test_with_no_pipelines_given_it_remembers_what_failed(make_pipeline: Any, make_monitor: Any) -> None:
    """
    However quickly that was; until one of that name runs again.
    """
    options = {"producer": {"module": Doomed}, "max_restarts": 0, "resubscribe_interval": 0}
    monitor = make_monitor(interval=NEVER).start()
    pipeline = make_pipeline(**options).start()
    with pytest.raises(broadway_sync.PipelineFailedError):
        pipeline.join()
    assert broadway_sync.all_running() == []
    assert statuses(monitor) == (503, 503)
    Doomed.is_mended = True
    pipeline.start()
    assert statuses(monitor) == (200, 200)


def test_a_start_that_raised_is_nobodys_health(make_pipeline: Any, make_monitor: Any) -> None:
    """
    Nothing runs, nothing failed.
    """

    class Refusing(broadway_sync.DummyProducer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            raise OSError("no")

    monitor = make_monitor().start()
    with pytest.raises(OSError, match="no"):
        make_pipeline(producer={"module": (Refusing, {})}).start()
    assert monitor.report().pipelines == ()
    assert monitor.report().live


def test_the_file_is_there_from_the_start_to_the_stop(make_pipeline: Any, tmp_path: Path) -> None:
    """
    Written over and over, and removed in the end.
    """
    path = tmp_path / "health.json"
    pipeline = make_pipeline()
    with HealthMonitor(pipeline, file=path, interval=0.02) as monitor:
        first = json.loads(path.read_text(encoding="utf-8"))
        assert (first["live"], first["ready"], monitor.port) == (True, False, None)
        pipeline.start()
        eventually(lambda: read_file(str(path)).ready, "the next report is written")
        later = json.loads(path.read_text(encoding="utf-8"))["timestamp"]
        eventually(lambda: json.loads(path.read_text(encoding="utf-8"))["timestamp"] > later > 0, "and the next")
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_the_path_that_it_had_at_first(make_pipeline: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """
    Daemons change their directory.
    """
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monitor = HealthMonitor(make_pipeline(), file="health.json")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with monitor:
        assert (tmp_path / "health.json").exists()
    assert not (tmp_path / "health.json").exists()


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(make_pipeline: Any, tmp_path: Path) -> None:
    """
    And nothing is left open: neither port nor thread nor telemetry.
    """
    path = tmp_path / "missing" / "health.json"
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monitor = HealthMonitor(make_pipeline(), port=port, file=path)
    with pytest.raises(ConfigurationError) as caught:
        monitor.start()
    assert str(caught.value).startswith(f"health_file: cannot write {path}: ")
    assert_nothing_is_left(port)


def test_a_port_in_use_is_an_error_at_the_start(make_pipeline: Any, tmp_path: Path) -> None:
    """
    No file is left, no thread, no telemetry.
    """
    path = tmp_path / "health.json"
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="health_port: cannot listen on 127.0.0.1 port "):
            HealthMonitor(make_pipeline(), port=taken.getsockname()[1], file=path).start()
    assert_nothing_is_left()
    assert not path.exists()


def assert_nothing_is_left(port: int = 0) -> None:
    """
    No thread, no telemetry handler, and nobody on *port*.
    """
    assert health_threads() == []
    assert telemetry.list_handlers() == []
    if port:
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/livez")


def test_a_disk_that_fills_up_is_logged_once(
    make_pipeline: Any, make_monitor: Any, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    """
    The watcher goes on, and stalls are still seen; when there is room again the file is.
    """
    attempts: List[None] = []
    write = health_module.write_file

    def fail(path: str, report: Any) -> None:
        attempts.append(None)
        raise OSError("no space left on device")

    path = tmp_path / "health.json"
    monitor = make_monitor(make_pipeline().start(), file=path).start()
    monkeypatch.setattr(health_module, "write_file", fail)
    eventually(lambda: len(attempts) > 3, "it tries again")
    assert [record.getMessage() for record in caplog.records] == [
        "[broadway_sync.health.watcher] watching the health failed; it goes on"
    ]
    assert statuses(monitor) == (200, 200)
    monkeypatch.setattr(health_module, "write_file", write)
    before = time.time()
    eventually(lambda: json.loads(path.read_text(encoding="utf-8"))["timestamp"] > before, "it is written again")


def test_stop_is_at_once_and_leaves_nothing(make_pipeline: Any, tmp_path: Path) -> None:
    """
    However long the interval; twice is no matter.
    """
    path = tmp_path / "health.json"
    monitor = HealthMonitor(make_pipeline(), port=0, file=path, interval=NEVER).start()
    assert health_threads() == ["broadway_sync.health.server", "broadway_sync.health.watcher"]
    port = monitor.port
    assert port is not None
    monitor.stop()
    assert_nothing_is_left(port)
    assert not path.exists()
    monitor.stop()


def test_it_can_be_started_once(make_pipeline: Any) -> None:
    """
    And be stopped before that.
    """
    monitor = HealthMonitor(make_pipeline())
    monitor.stop()
    with monitor, pytest.raises(RuntimeError, match="a HealthMonitor can be started once"):
        monitor.start()
    with pytest.raises(RuntimeError, match="a HealthMonitor can be started once"):
        monitor.start()


@pytest.mark.parametrize("given", [True, False], ids=["given", "whatever runs"])
def test_it_keeps_no_pipeline_alive(make_monitor: Any, given: bool) -> None:
    """
    After its stop, although it is there itself.
    """
    pipeline = broadway_sync.Pipeline(
        make_handler(),
        name="short-lived",
        producer={"module": (broadway_sync.DummyProducer, {})},
        processors={"default": {"concurrency": 1}},
    )
    monitor = make_monitor(*([pipeline] if given else []), stall_after=30).start()
    pipeline.start()
    assert statuses(monitor) == (200, 200)
    pipeline.stop()
    monitor.stop()
    gone = weakref.ref(pipeline)
    del pipeline
    eventually(lambda: gc.collect() is not None and gone() is None, "the pipeline is gone")
    assert monitor.report().pipelines == ()


def test_the_watcher_measures_time_by_a_clock_that_does_not_jump(
    make_pipeline: Any, make_monitor: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """
    When the clock on the wall jumps the file is written on, with the new time; nothing stalls.
    """
    path = tmp_path / "health.json"
    monitor = make_monitor(make_pipeline().start(), file=path).start()
    wall = time.time
    for jump in (86_400.0, -86_400.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: wall() + jump)
        eventually(
            lambda jump=jump: abs(json.loads(path.read_text(encoding="utf-8"))["timestamp"] - wall() - jump) < 60,
            "the file has the new time",
        )
        assert read_file(str(path)).live
        assert statuses(monitor) == (200, 200)


def test_one_interval_may_be_longer_than_a_lock_can_wait(make_pipeline: Any) -> None:
    """
    Then it is as long as one can.
    """
    with HealthMonitor(make_pipeline(), interval=1e18):
        assert health_threads() == ["broadway_sync.health.watcher"]


@pytest.mark.parametrize("option", ["stall_after", "interval"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "5", None])
def test_times_are_seconds(make_pipeline: Any, option: str, value: Any) -> None:
    """
    The text names the option, the rule and the value.
    """
    with pytest.raises(ConfigurationError) as caught:
        HealthMonitor(make_pipeline(), **{option: value})
    assert str(caught.value) == f"{option}: expected a finite number of seconds > 0, got: {value!r}"


def test_pipelines_are_pipelines(make_pipeline: Any) -> None:
    """
    Of different names.
    """
    with pytest.raises(ConfigurationError, match="pipelines: expected Pipeline objects, got: 'invoices'"):
        HealthMonitor(["invoices"])  # type: ignore[list-item]
    pipeline = make_pipeline()
    with pytest.raises(ConfigurationError, match=f"pipelines: there are two named '{pipeline.name}'"):
        HealthMonitor([pipeline, make_pipeline(name=pipeline.name)])
    HealthMonitor([pipeline, pipeline])
    HealthMonitor(iter([pipeline, make_pipeline()]))


def test_a_report_may_be_asked_for_from_many_threads(make_pipeline: Any, make_monitor: Any) -> None:
    """
    While pipelines start and stop.
    """
    from tests.helpers import Call

    monitor = make_monitor().start()
    done = threading.Event()

    def report() -> int:
        count = 0
        while not done.is_set():
            monitor.report()
            count += 1
        return count

    calls = [Call(report) for _ in range(4)]
    for _ in range(20):
        make_pipeline().start().stop()
    done.set()
    assert min(call.result() for call in calls) > 0
    assert monitor.report().pipelines == ()


def test_a_watcher_that_stops_its_own_monitor(make_pipeline: Any, make_monitor: Any, gate: Gate, acks: Any) -> None:
    """
    A log handler may do whatever it likes, also on the watcher's thread.
    """
    stopped = threading.Event()

    class Stopper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            monitor.stop()
            stopped.set()

    pipeline = make_pipeline(hanging(gate)).start()
    monitor = make_monitor(pipeline, stall_after=0.05).start()
    logger, handler = logging.getLogger("broadway_sync"), Stopper()
    logger.addHandler(handler)
    try:
        pipeline.push_messages([acks.message("x")])
        gate.arrived()
        eventually(stopped.is_set, "it has stopped itself")
    finally:
        logger.removeHandler(handler)
    gate.open()


def test_pipeline_health_is_the_same_judgement(make_pipeline: Any) -> None:
    """
    Without a monitor.
    """
    pipeline = make_pipeline()
    assert pipeline.health().status == "new"
    pipeline.start()
    found = pipeline.health(stall_after=5.0)
    assert (found.status, found.stall_after, found.is_ready) == ("idle", 5.0, True)
    pipeline.stop()
    assert pipeline.health().status == "stopped"
