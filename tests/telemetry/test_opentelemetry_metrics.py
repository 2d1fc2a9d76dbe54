"""
Metrics through OpenTelemetry's SDK: what a reader collects is what happened.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from broadway_sync import ConfigurationError
from broadway_sync.telemetry.opentelemetry import OpenTelemetryReporter
from tests.helpers import Gate, eventually, make_handler
from tests.telemetry.support import COUNT, FAILED, GOOD, RAISED, oranges, run

PIPELINE = {"pipeline": "fruit"}
PROCESSOR = {**PIPELINE, "stage": "processor_default"}
BATCH_PROCESSOR = {**PIPELINE, "stage": "batch_processor_default"}


class Meter:
    """
    A meter provider and what it has collected.
    """

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])
        self.metrics: dict[str, Any] = {}

    def collect(self) -> Meter:
        """
        Collect again.
        """
        data: Any = self._reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else ()
        self.metrics = {
            metric.name: metric for each in resources for scope in each.scope_metrics for metric in scope.metrics
        }
        return self

    def point(self, name: str, attributes: dict[str, str]) -> Any:
        """
        Return one data point, None if it is not there.
        """
        points = self.metrics[name].data.data_points if name in self.metrics else ()
        return next((point for point in points if dict(point.attributes) == attributes), None)

    def value(self, name: str, attributes: dict[str, str]) -> Any:
        """
        Return the value of a counter or gauge.
        """
        point = self.point(name, attributes)
        return None if point is None else point.value


@pytest.fixture
def meter() -> Iterator[Meter]:
    """
    Return a meter provider of this test.
    """
    meter = Meter()
    yield meter
    meter.provider.shutdown()


def test_counters_are_what_happened(meter: Meter) -> None:
    """
    After the last report, exactly.
    """
    with OpenTelemetryReporter(meter.provider):
        run(oranges("fruit"))
    meter.collect()
    assert meter.value("broadway.messages_ingested", PROCESSOR) == COUNT
    assert meter.value("broadway.messages_acknowledged", {**PROCESSOR, "outcome": "failed"}) == FAILED + RAISED
    assert meter.value("broadway.messages_acknowledged", {**BATCH_PROCESSOR, "outcome": "successful"}) == GOOD
    assert meter.value("broadway.messages_failed", {**PROCESSOR, "reason": "KeyError"}) == RAISED
    assert meter.metrics["broadway.messages_failed"].unit == "{message}"
    assert meter.metrics["broadway.batches"].unit == "{batch}"
    assert meter.metrics["broadway.stage_busy"].unit == "s"


def test_histograms_have_fitting_buckets(meter: Meter) -> None:
    """
    The SDK's own are made for milliseconds.
    """
    with OpenTelemetryReporter(meter.provider):
        run(oranges("fruit"))
    meter.collect()
    sizes = meter.point("broadway.batch_size", BATCH_PROCESSOR)
    assert (sizes.count, sizes.sum, sizes.min, sizes.max) == (8, GOOD, 7, 10)
    times = meter.point("broadway.processor_duration", PROCESSOR)
    assert times.count == COUNT // 5
    assert times.explicit_bounds[0] == 0.001
    assert meter.metrics["broadway.processor_duration"].unit == "s"


def test_gauges_are_observed(meter: Meter, make_pipeline: Callable[..., Any], gate: Gate) -> None:
    """
    When the SDK collects; a pipeline that has ended has none, and neither has a reporter that is detached.
    """

    def handle(processor: str, message: Any, context: Any) -> Any:
        gate.wait()
        return message

    with OpenTelemetryReporter(meter.provider):
        pipeline = make_pipeline(make_handler(handle_message=handle), name="fruit").start()
        pipeline.test_batch(range(25))
        gate.arrived()
        eventually(lambda: meter.collect().value("broadway.in_flight", PIPELINE) == 25, "messages in flight")
        assert meter.value("broadway.stage_threads", PROCESSOR) == 1
        assert meter.value("broadway.stage_in_hand", PROCESSOR) >= 1
        gate.open()
        pipeline.stop()
        eventually(lambda: meter.collect().value("broadway.in_flight", PIPELINE) is None, "no pipeline")
        make_pipeline(name="other").start()
        eventually(lambda: meter.collect().value("broadway.in_flight", {"pipeline": "other"}) == 0, "another one")
    assert meter.collect().value("broadway.in_flight", {"pipeline": "other"}) is None


def test_it_can_be_attached_again(meter: Meter) -> None:
    """
    With the same instruments.
    """
    reporter = OpenTelemetryReporter(meter.provider)
    for _ in range(2):
        with reporter:
            run(oranges("fruit"))
    assert meter.collect().value("broadway.messages_ingested", PROCESSOR) == 2 * COUNT


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error says what to install.
    """
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ConfigurationError, match=r"opentelemetry\.metrics, .*'broadway_sync\[opentelemetry\]'"):
        OpenTelemetryReporter()
