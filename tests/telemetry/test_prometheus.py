"""
Metrics for Prometheus: what a real scrape over HTTP reads is what happened.
"""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broadway_sync import ConfigurationError, telemetry
from broadway_sync.connectors.common import events as connectors
from broadway_sync.telemetry.metrics import METRICS
from broadway_sync.telemetry.prometheus import MultiprocessPrometheusReporter, PrometheusReporter
from tests.brokers.spawn import Spawned
from tests.helpers import Call, Gate, eventually, make_handler
from tests.telemetry.support import CONNECTOR, COUNT, FAILED, GOOD, RAISED, oranges, run

PIPELINE = {"pipeline": "fruit"}
PROCESSOR = {**PIPELINE, "stage": "processor_default"}
BATCH_PROCESSOR = {**PIPELINE, "stage": "batch_processor_default"}


class Page:
    """
    What a server of Prometheus reads.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self.types: dict[str, str] = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def scrape(self) -> Page:
        """
        Read it again.
        """
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            text = answer.read().decode("utf-8")
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
        return self

    def value(self, name: str, labels: dict[str, str]) -> float | None:
        """
        Return one value, None if it is not there.
        """
        return self.samples.get((name, frozenset(labels.items())))


@pytest.fixture(scope="module")
def registry() -> Any:
    """
    Return a registry that each test has for itself.
    """
    return prometheus_client.CollectorRegistry()


@pytest.fixture(scope="module")
def page(registry: Any) -> Iterator[Page]:
    """
    Serve the registry.
    """
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    yield Page(server.server_port)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def reporter(registry: Any) -> Iterator[PrometheusReporter]:
    """
    Return an attached reporter.
    """
    with PrometheusReporter(registry) as reporter:
        yield reporter


def test_counters_are_what_happened(page: Page, reporter: PrometheusReporter) -> None:
    """
    Ingested, acknowledged by outcome, failed by reason, batches by trigger.
    """
    run(oranges("fruit"))
    page.scrape()
    assert page.value("broadway_messages_ingested_total", PROCESSOR) == COUNT
    assert page.value("broadway_messages_acknowledged_total", {**PROCESSOR, "outcome": "failed"}) == FAILED + RAISED
    assert page.value("broadway_messages_acknowledged_total", {**BATCH_PROCESSOR, "outcome": "successful"}) == GOOD
    assert page.value("broadway_messages_failed_total", {**PROCESSOR, "reason": "failed"}) == FAILED
    assert page.value("broadway_messages_failed_total", {**PROCESSOR, "reason": "KeyError"}) == RAISED
    assert page.value("broadway_batches_total", {**BATCH_PROCESSOR, "trigger": "size"}) == GOOD // 10
    assert page.value("broadway_batches_total", {**BATCH_PROCESSOR, "trigger": "flush"}) == 1


def test_histograms_have_buckets_for_percentiles(page: Page, reporter: PrometheusReporter) -> None:
    """
    Cumulative, with count and sum; the time of all chunks is the busy time of the stage.
    """
    run(oranges("fruit"))
    page.scrape()
    assert page.types["broadway_processor_duration_seconds"] == "histogram"
    name = "broadway_batch_size"
    buckets = {bound: page.value(f"{name}_bucket", {**BATCH_PROCESSOR, "le": bound}) for bound in ("5.0", "10.0")}
    assert buckets == {"5.0": 0, "10.0": 8}
    assert page.value(f"{name}_bucket", {**BATCH_PROCESSOR, "le": "+Inf"}) == 8
    assert page.value(f"{name}_count", BATCH_PROCESSOR) == 8
    assert page.value(f"{name}_sum", BATCH_PROCESSOR) == GOOD
    assert page.value("broadway_batch_fill_bucket", {**BATCH_PROCESSOR, "le": "0.7"}) == 1
    assert page.value("broadway_processor_duration_seconds_count", PROCESSOR) == COUNT // 5
    busy = page.value("broadway_stage_busy_seconds_total", PROCESSOR)
    assert busy is not None
    assert busy == pytest.approx(page.value("broadway_processor_duration_seconds_sum", PROCESSOR))


def test_gauges_are_those_of_the_moment(
    page: Page, reporter: PrometheusReporter, make_pipeline: Callable[..., Any], gate: Gate
) -> None:
    """
    A pipeline that has ended has none.
    """

    def handle(processor: str, message: Any, context: Any) -> Any:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle), name="fruit").start()
    pipeline.test_batch(range(25))
    gate.arrived()
    page.scrape()
    assert page.value("broadway_in_flight", PIPELINE) == 25
    assert page.value("broadway_stage_threads", PROCESSOR) == 1
    in_hand, waiting = (
        page.value("broadway_stage_in_hand", PROCESSOR),
        page.value("broadway_stage_waiting", {**PIPELINE, "stage": "producer"}),
    )
    assert (in_hand or 0) + (waiting or 0) == 25
    eventually(lambda: (page.scrape().value("broadway_stage_busy_share", PROCESSOR) or 0) > 0.9, "a busy stage")
    gate.open()
    pipeline.stop()
    assert page.scrape().value("broadway_in_flight", PIPELINE) is None
    assert page.value("broadway_stage_busy_share", PROCESSOR) is None
    assert page.value("broadway_messages_ingested_total", PROCESSOR) == 25


def test_connectors(page: Page, reporter: PrometheusReporter, make_pipeline: Callable[..., Any]) -> None:
    """
    How far behind they are, and who is connected; forgotten with the pipeline.
    """
    pipeline = make_pipeline(name="fruit").start()
    metadata = {**CONNECTOR, "topology_name": "fruit"}
    telemetry.execute(connectors.CONNECTION_UP, {}, metadata)
    telemetry.execute(connectors.CONSUMER_LAG, {"lag": 99}, {**metadata, "topic": "a.b", "partition": 0})
    lag = {**PIPELINE, "topic": "a.b", "partition": "0"}
    kafka = {**PIPELINE, "connector": "kafka"}
    assert page.scrape().value("broadway_consumer_lag", lag) == 99
    assert (page.value("broadway_connections_up", kafka), page.value("broadway_connections_down", kafka)) == (1, 0)
    pipeline.stop()
    page.scrape()
    assert page.value("broadway_consumer_lag", lag) is None
    assert page.value("broadway_connections_up", kafka) is None


def test_odd_names_and_reasons(page: Page, reporter: PrometheusReporter) -> None:
    """
    Labels have them as they are, as far as UTF-8 can say it; the page stays readable.
    """
    names = ['Größe "x"\\\n{}', "日本", "a\ud800b"]
    for name in names:
        run(oranges(name))
    page.scrape()
    for name in [*names[:2], "a?b"]:
        labels = {"pipeline": name, "stage": "processor_default"}
        assert page.value("broadway_messages_ingested_total", labels) == COUNT


def test_every_metric_has_a_family_of_its_own(registry: Any) -> None:
    """
    Nothing else can take the names while it is attached; afterwards they are free.
    """
    reporter = PrometheusReporter(registry).attach()
    assert len({family.name for family in reporter.describe()}) == len(METRICS)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusReporter(registry).attach()
    reporter.detach()
    with PrometheusReporter(registry):
        assert reporter.is_attached is False
    assert telemetry.list_handlers() == []


def test_scrapes_while_pipelines_come_and_go(page: Page, reporter: PrometheusReporter) -> None:
    """
    Counters never decrease.
    """

    def work() -> None:
        for _ in range(5):
            run(oranges("fruit"))

    working = Call(work)
    before = 0.0
    while not working.is_done():
        counted = page.scrape().value("broadway_messages_ingested_total", PROCESSOR) or 0
        assert counted >= before
        before = counted
    working.result()
    assert page.scrape().value("broadway_messages_ingested_total", PROCESSOR) == 5 * COUNT


WORKERS = """
import os, sys, threading
import prometheus_client
from prometheus_client import multiprocess
from broadway_sync.telemetry.prometheus import MultiprocessPrometheusReporter
from tests.telemetry.support import oranges, run

reporter = MultiprocessPrometheusReporter(flush_interval=60).attach()
for number in range(3):
    child = os.fork()
    if child == 0:
        run(oranges("fruit"))
        reporter.detach()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    multiprocess.mark_process_dead(child)
registry = prometheus_client.CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
print(server.server_port)
sys.stdin.read()
"""


def test_several_processes_on_one_page(spawn: Callable[..., Spawned], tmp_path: Path) -> None:
    """
    In multiprocess mode counters and histograms are sums over all workers, also those that have ended.
    """
    source = WORKERS.replace("sys.stdin.read()", "threading.Event().wait(60)")
    process = spawn(source, env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    page = Page(int(process.line())).scrape()
    assert page.value("broadway_messages_ingested_total", PROCESSOR) == 3 * COUNT
    assert page.value("broadway_messages_failed_total", {**PROCESSOR, "reason": "KeyError"}) == 3 * RAISED
    assert page.value("broadway_batch_size_count", BATCH_PROCESSOR) == 3 * 8
    assert page.value("broadway_batch_size_sum", BATCH_PROCESSOR) == 3 * GOOD


GAUGES = """
import sys, threading
import prometheus_client
from prometheus_client import multiprocess
from broadway_sync import DummyProducer, Pipeline
from broadway_sync.telemetry.prometheus import MultiprocessPrometheusReporter
from tests.helpers import Gate, make_handler

gate = Gate()
def handle(processor, message, context):
    gate.wait()
    return message

reporter = MultiprocessPrometheusReporter(flush_interval=60).attach()
pipeline = Pipeline(
    make_handler(handle_message=handle), name="fruit", producer={"module": (DummyProducer, {})},
    processors={"default": {"concurrency": 1}},
).start()
pipeline.test_batch(range(25))
gate.arrived()
registry = prometheus_client.CollectorRegistry()
multiprocess.MultiProcessCollector(registry)

def page():
    assert reporter.flush(10)
    return {sample.name: sample.value for family in registry.collect() for sample in family.samples}

print(int(page()["broadway_in_flight"]))
gate.open()
pipeline.stop()
print(int(page()["broadway_in_flight"]))
"""


def test_gauges_of_several_processes(spawn: Callable[..., Spawned], tmp_path: Path) -> None:
    """
    Are zero when their pipeline has ended: files cannot be taken back.
    """
    process = spawn(GAUGES, env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    assert (process.line(), process.line()) == ("25", "0")
    assert process.wait() == 0, process.errors


def test_without_the_multiprocess_mode() -> None:
    """
    The error says what is missing.
    """
    with pytest.raises(ConfigurationError) as caught:
        MultiprocessPrometheusReporter()
    assert str(caught.value) == (
        "MultiprocessPrometheusReporter needs the environment variable PROMETHEUS_MULTIPROC_DIR, an empty folder, from "
        "before prometheus_client is imported"
    )


@pytest.mark.parametrize("prefix", ["", "9lives", None])
def test_a_prefix_that_no_name_can_begin_with(prefix: Any) -> None:
    """
    Before a server refuses the whole page.
    """
    with pytest.raises(ConfigurationError, match="prefix: expected a str that begins with a letter, got: "):
        PrometheusReporter(prefix=prefix)


@pytest.mark.parametrize("cls", [PrometheusReporter, MultiprocessPrometheusReporter])
def test_without_the_client_library(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error says what to install.
    """
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'broadway_sync\[prometheus\]'"):
        cls()
