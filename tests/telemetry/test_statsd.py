"""
Metrics in a real statsd daemon: what a user reads there is what happened.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any, Callable

import pytest

from broadway_sync import IterableProducer, Producer, telemetry
from broadway_sync.connectors.common import events as connectors
from broadway_sync.telemetry.statsd import StatsdReporter
from tests.brokers.statsd import Statsd
from tests.helpers import Gate, eventually, make_handler, unique_name
from tests.telemetry.support import CONNECTOR, COUNT, FAILED, GOOD, RAISED, oranges, run, until


@pytest.fixture
def prefix() -> str:
    """
    Return a prefix that no other test uses.
    """
    return unique_name("test")


@pytest.fixture
def report(statsd: Statsd, prefix: str) -> Any:
    """
    Return a function that makes a reporter to the daemon, quick to report; it is detached at the end.
    """
    made: list[StatsdReporter] = []

    def make(**options: Any) -> StatsdReporter:
        defaults = {"prefix": prefix, "interval": 0.05, "flush_interval": 0.05}
        made.append(StatsdReporter(statsd.host, statsd.port, **{**defaults, **options}))
        return made[-1].attach()

    yield make
    for reporter in made:
        reporter.detach()


def timers_when(statsd: Statsd, prefix: str, expected: dict[str, int]) -> dict[str, list[float]]:
    """
    Wait until there are as many values of timers as *expected*; return all of them.
    """
    until(lambda: {name: len(values) for name, values in statsd.timers(prefix).items()}, expected)
    return statsd.timers(prefix)


def test_counters_are_what_happened(statsd: Statsd, report: Callable[..., Any], prefix: str) -> None:
    """
    Ingested, acknowledged by outcome, failed by reason, batches by trigger: after the last report, exactly.
    """
    reporter = report()
    run(oranges("fruit"))
    reporter.detach()
    counters = until(
        lambda: statsd.counters(f"{prefix}.fruit."),
        {
            "processor_default.messages_ingested": COUNT,
            "processor_default.messages_acknowledged.failed": FAILED + RAISED,
            "processor_default.messages_failed.failed": FAILED,
            "processor_default.messages_failed.KeyError": RAISED,
            "batch_processor_default.messages_acknowledged.successful": GOOD,
            "batch_processor_default.batches.size": GOOD // 10,
            "batch_processor_default.batches.flush": 1,
        },
    )
    assert counters["processor_default.stage_busy_seconds"] > 0
    assert not [name for name in counters if "text" in name]


def test_the_server_makes_percentiles_of_times_and_sizes(
    statsd: Statsd, report: Callable[..., Any], prefix: str
) -> None:
    """
    One value for each chunk and each batch, times in milliseconds.
    """
    reporter = report()
    run(oranges("fruit", processors={"default": {"concurrency": 1}}))
    reporter.detach()
    expected = {f"batch_processor_default.batch_{name}": 8 for name in ("size", "fill", "duration")}
    expected["processor_default.processor_duration"] = COUNT // 5
    timers = timers_when(statsd, f"{prefix}.fruit.", expected)
    assert sorted(timers["batch_processor_default.batch_size"]) == [7] + [10] * 7
    assert sorted(timers["batch_processor_default.batch_fill"]) == [0.7] + [1] * 7
    data = statsd.timer_data(f"{prefix}.fruit.")["processor_default.processor_duration"]
    assert 0 < data["upper_50"] <= data["upper_95"] <= data["upper_99"] < 30_000


def test_times_are_milliseconds(
    statsd: Statsd, report: Callable[..., Any], prefix: str, make_pipeline: Callable[..., Any]
) -> None:
    """
    A chunk whose handler waits for 50 ms takes 50 and some.
    """
    reporter = report()
    waiting = threading.Event()

    def handle(processor: str, message: Any, context: Any) -> Any:
        waiting.wait(0.05)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle), name="slow").start()
    pipeline.test_message(1).receive(10)
    pipeline.stop()
    reporter.detach()
    timers = timers_when(statsd, f"{prefix}.slow.", {"processor_default.processor_duration": 1})
    (milliseconds,) = timers["processor_default.processor_duration"]
    assert 49 < milliseconds < 10_000


def test_gauges_show_queues_and_are_zero_afterwards(
    statsd: Statsd, report: Callable[..., Any], prefix: str, make_pipeline: Callable[..., Any], gate: Gate
) -> None:
    """
    While a handler hangs its queue is seen; a pipeline that has ended leaves no figures standing.
    """
    report()

    def handle(processor: str, message: Any, context: Any) -> Any:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle), name="full").start()
    pipeline.test_batch(range(25))
    gate.arrived()
    expected = {"in_flight": 25, "processor_default.stage_threads": 1}
    gauges = until(lambda: statsd.gauges(f"{prefix}.full."), expected)
    assert gauges["processor_default.stage_in_hand"] + gauges["producer.stage_waiting"] == 25
    busy = "processor_default.stage_busy_share"
    eventually(lambda: statsd.gauges(f"{prefix}.full.").get(busy, 0) > 0.9, "a busy stage")
    assert statsd.gauges(f"{prefix}.full.")["processor_default.stage_oldest_seconds"] > 0
    gate.open()
    pipeline.stop()
    names = [name for name in gauges if name != "uptime_seconds"]
    until(lambda: statsd.gauges(f"{prefix}.full."), dict.fromkeys([*names, "uptime_seconds"], 0))


def test_restarts_are_counted(
    statsd: Statsd, report: Callable[..., Any], prefix: str, make_pipeline: Callable[..., Any]
) -> None:
    """
    Of a producer that crashes once.
    """
    report()
    crashed = threading.Event()

    class Crashing(Producer):
        def handle_demand(self, demand: int) -> Any:
            if not crashed.is_set():
                crashed.set()
                raise RuntimeError("crash")
            return []

    make_pipeline(name="crashing", producer={"module": Crashing}, resubscribe_interval=0).start()
    until(lambda: statsd.counters(f"{prefix}.crashing."), {"producer_restarts": 1})


def test_connectors_are_counted(
    statsd: Statsd, report: Callable[..., Any], prefix: str, make_pipeline: Callable[..., Any]
) -> None:
    """
    What they received, what the broker accepted, refused or took back, how far behind they are, who is connected.
    """
    report()
    make_pipeline(name="orders").start()
    metadata = {**CONNECTOR, "topology_name": "orders"}
    other = {**metadata, "name": "p.Broadway.Producer_1"}

    def say(event: Any, measurements: Any = (), **more: Any) -> None:
        telemetry.execute(event, dict(measurements), {**metadata, **more})

    say((*connectors.RECEIVE, "stop"), count=30)
    say((*connectors.RECEIVE, "exception"))
    say((*connectors.CONNECT, "exception"))
    say((*connectors.ACKNOWLEDGE, "stop"), action="commit", count=20, failed=3)
    say((*connectors.ACKNOWLEDGE, "exception"), action="extend", count=4)
    say(connectors.LEASE_LOST, {"count": 2})
    say(connectors.CONNECTION_UP)
    telemetry.execute(connectors.CONNECTION_DOWN, {}, other)
    say(connectors.CONSUMER_LAG, {"lag": 99}, topic="a.b", partition=0)
    say(connectors.CONSUMER_LAG, {"lag": 7}, topic="a.b", partition=1)
    counted = {
        "broker_received.kafka": 30,
        "broker_receive_errors.kafka": 1,
        "broker_connect_errors.kafka": 1,
        "broker_acknowledged.kafka.commit": 17,
        "broker_acknowledge_errors.kafka.commit": 3,
        "broker_acknowledge_errors.kafka.extend": 4,
        "leases_lost.kafka": 2,
    }
    until(lambda: statsd.counters(f"{prefix}.orders."), counted)
    gauges = {"connections_up.kafka": 1, "connections_down.kafka": 1, "consumer_lag.a_b.0": 99, "consumer_lag.a_b.1": 7}
    until(lambda: statsd.gauges(f"{prefix}.orders."), gauges)
    say((*connectors.ASSIGNMENTS_REVOKED, "stop"), partitions=[("a.b", 1)], unfinished=5)
    until(lambda: statsd.gauges(f"{prefix}.orders."), {"consumer_lag.a_b.0": 99, "consumer_lag.a_b.1": 0})
    until(lambda: statsd.counters(f"{prefix}.orders."), {"revoked_unfinished.kafka": 5})


def test_events_of_other_connectors_may_leave_things_out(
    statsd: Statsd, report: Callable[..., Any], prefix: str, make_pipeline: Callable[..., Any]
) -> None:
    """
    The reporter stays attached.
    """
    reporter = report()
    make_pipeline(name="orders").start()
    for event in connectors.METADATA:
        telemetry.execute(event, {}, {"topology_name": "orders"})
    assert {handler.function for handler in telemetry.list_handlers()} == {reporter._heard}
    until(lambda: statsd.counters(f"{prefix}.orders."), {"broker_connect_errors.unknown": 1})


@pytest.mark.parametrize(
    ("style", "written"),
    [
        ("datadog", "{}.messages_failed:{}|c|#env:live,7:7,pipeline:fruit,stage:processor_default,reason:KeyError"),
        ("influx", "{}.messages_failed,env=live,7=7,pipeline=fruit,stage=processor_default,reason=KeyError:{}|c"),
        ("graphite", "{}.messages_failed;env=live;7=7;pipeline=fruit;stage=processor_default;reason=KeyError:{}|c"),
    ],
)
def test_tags(statsd: Statsd, report: Callable[..., Any], prefix: str, style: str, written: str) -> None:
    """
    In the three ways in which servers read them.
    """
    reporter = report(tags=style, constant_tags={"env": "live", 7: 7}, flush_interval=60)
    run(oranges("fruit"))
    reporter.detach()
    line = written.format(prefix, RAISED)
    eventually(lambda: line in "\n".join(statsd.packets(prefix)).split("\n"), line)
    assert statsd.bad_lines() == 0


def test_odd_names_are_cleaned(statsd: Statsd, report: Callable[..., Any], prefix: str) -> None:
    """
    What would break the protocol, or the client, is gone; names that only differ in that stay different.
    """
    names = ["Größe:a|b@c#d", "two words\nand a line", "日本", "中国", "\ud800", "x" * 300, "a.b"]
    reporter = report(flush_interval=60)
    for name in names:
        run(oranges(name))
    reporter.detach()

    def pipelines() -> set[str]:
        return {name.split(".")[0] for name in statsd.counters(f"{prefix}.")}

    eventually(lambda: len(pipelines()) == len(names), f"{len(names)} different pipelines")
    assert {"two_words_and_a_line", "a_b"} <= pipelines()
    assert all(len(name) <= 80 for name in pipelines())
    assert statsd.bad_lines() == 0


def test_packets_are_full_and_small_enough(statsd: Statsd, report: Callable[..., Any], prefix: str) -> None:
    """
    As many lines in each as fit.
    """
    reporter = report(max_packet=512, flush_interval=60)
    run(oranges("fruit"))
    reporter.detach()
    timers_when(
        statsd, f"{prefix}.fruit.", {"batch_processor_default.batch_size": 8, "batch_processor_default.batch_fill": 8}
    )
    sizes = [len(packet) for packet in statsd.packets(prefix)]
    assert max(sizes) <= 512
    assert min(sizes[:-2] or [512]) > 400


def test_a_message_of_its_own_and_each_thread_if_asked(statsd: Statsd, report: Callable[..., Any], prefix: str) -> None:
    """
    ``per_message`` times each handle_message, ``per_thread`` keeps threads apart.
    """
    reporter = report(per_message=True, per_thread=True, flush_interval=60)
    run(oranges("fruit", processors={"default": {"concurrency": 1}}))
    reporter.detach()
    timers_when(statsd, f"{prefix}.fruit.", {"processor_default_0.message_duration": COUNT})


def test_of_too_many_times_a_fair_choice_is_sent(statsd: Statsd, report: Callable[..., Any], prefix: str) -> None:
    """
    A thousand between two reports; the counters are exact all the same.
    """
    reporter = report(flush_interval=60)
    iterable = {"iterable": range(1, 8001)}
    run(oranges("many", producer={"module": (IterableProducer, iterable)}, processors={"default": {"concurrency": 1}}))
    reporter.detach()
    until(lambda: statsd.counters(f"{prefix}.many."), {"processor_default.messages_ingested": 8000})
    timers_when(statsd, f"{prefix}.many.", {"processor_default.processor_duration": 1000})


def test_a_pipeline_that_runs_already_is_reported(
    statsd: Statsd, report: Callable[..., Any], prefix: str, make_pipeline: Callable[..., Any]
) -> None:
    """
    Also how full its batches are.
    """
    pipeline = make_pipeline(name="early", batchers={"default": {"batch_size": 4, "batch_timeout": 60}}).start()
    report()
    pipeline.test_batch(range(4)).collect(4, 10)
    eventually(lambda: "batch_processor_default.batch_fill" in statsd.timers(f"{prefix}.early."), "the batch")
    assert statsd.timers(f"{prefix}.early.")["batch_processor_default.batch_fill"] == [1]


def test_processes_can_be_told_apart(statsd: Statsd, report: Callable[..., Any], prefix: str) -> None:
    """
    By placeholders in the prefix, or in constant tags.
    """
    reporter = report(prefix=f"{prefix}.{{host}}.{{pid}}")
    run(oranges("fruit"))
    reporter.detach()
    host = socket.gethostname().replace(".", "_")
    counted = {"processor_default.messages_ingested": COUNT}
    until(lambda: statsd.counters(f"{prefix}.{host}.{os.getpid()}.fruit."), counted)
    reporter = report(tags="graphite", constant_tags={"worker": "{pid}"}, flush_interval=60)
    run(oranges("fruit"))
    reporter.detach()
    line = f"{prefix}.messages_ingested;worker={os.getpid()};pipeline=fruit;stage=processor_default:{COUNT}|c"
    eventually(lambda: line in "\n".join(statsd.packets(prefix)).split("\n"), line)


def test_gauges_are_zero_after_detach(
    statsd: Statsd, report: Callable[..., Any], prefix: str, make_pipeline: Callable[..., Any]
) -> None:
    """
    Also of pipelines that run on: nobody reports them any more.
    """
    reporter = report()
    make_pipeline(name="orders").start()
    until(lambda: statsd.gauges(f"{prefix}.orders."), {"processor_default.stage_threads": 1})
    reporter.detach()
    until(lambda: statsd.gauges(f"{prefix}.orders."), {"processor_default.stage_threads": 0, "uptime_seconds": 0})
