"""
Metrics through OpenTelemetry's meter.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Callable, Dict, Iterable, List, Optional

from ...extras import load
from ..metrics import COUNTER, GAUGE, METRICS, RATIO, SECONDS, Labels, Metric
from ..reporting.aggregates import Key, Samples
from ..reporting.listener import Values
from ..reporting.names import valid
from ..reporting.push import PushReporter

# Seconds for which one sample serves: the SDK asks for each gauge by itself.
_FRESH = 0.1


class OpenTelemetryReporter(PushReporter):
    """
    Reports the metrics of all pipelines of this process to a meter.

    Names are ``broadway.<metric>``, the unit of times is ``s``. Counters and histograms reach the meter on a thread of
    the reporter, gauges are observed when the SDK collects. Thread-safe.

    Args:
        meter_provider: Default is the global one, also if the application sets it later.
        flush_interval: Seconds between two reports to the meter.
        per_message: Whether to listen to the events of each message too, for ``message_duration``; they cost more than
            all the others.
        per_thread: Whether each thread is a stage of its own: ``processor_default_0``.

    Raises:
        ConfigurationError: The package ``opentelemetry-api`` is missing.
    """

    name = "opentelemetry"

    def __init__(
        self,
        meter_provider: Optional[Any] = None,
        *,
        flush_interval: float = 1.0,
        per_message: bool = False,
        per_thread: bool = False,
    ) -> None:
        super().__init__(
            flush_interval=flush_interval, interval=flush_interval, per_message=per_message, per_thread=per_thread
        )
        self._api = load("opentelemetry.metrics", "opentelemetry", "OpenTelemetryReporter")
        self._meter = self._api.get_meter("broadway_sync", meter_provider=meter_provider)
        self._instruments: Dict[Metric, Any] = {}
        # Guards the sample.
        self._sample_lock = threading.Lock()
        self._sample: Dict[Metric, List[Any]] = {}
        self._sampled_at = 0.0

    def _attached(self) -> None:
        if not self._instruments:  # an instrument is for ever
            self._instruments = {metric: self._make(metric) for metric in METRICS}

    def _make(self, metric: Metric) -> Any:
        name, unit = f"broadway.{metric.name}", _unit(metric)
        if metric.kind == COUNTER:
            return self._meter.create_counter(name, unit, metric.text)
        if metric.kind == GAUGE:
            return self._meter.create_observable_gauge(name, [self._observer(metric)], unit, metric.text)
        try:
            buckets = {"explicit_bucket_boundaries_advisory": metric.buckets}
            return self._meter.create_histogram(name, unit, metric.text, **buckets)
        except TypeError:  # an API without that advice
            return self._meter.create_histogram(name, unit, metric.text)

    def _observer(self, metric: Metric) -> Callable[[Any], Iterable[Any]]:
        return lambda options: self._look().get(metric, ())

    def _look(self) -> Dict[Metric, List[Any]]:
        """
        Return the gauges, as observations; on the thread of the SDK that collects.
        """
        if not self.is_attached:
            return {}
        with self._sample_lock:
            if monotonic() - self._sampled_at > _FRESH:
                self._sample = {}
                for metric, labels, value in self._gauges.sample():
                    observation = self._api.Observation(value, _attributes(metric, labels))
                    self._sample.setdefault(metric, []).append(observation)
                self._sampled_at = monotonic()
            return self._sample

    def _send(self, counters: Dict[Key, float], samples: Dict[Key, Samples]) -> None:
        for (metric, labels), amount in counters.items():
            self._instruments[metric].add(amount, _attributes(metric, labels))
        for (metric, labels), each in samples.items():
            attributes = _attributes(metric, labels)
            for value in each.values:
                self._instruments[metric].record(value, attributes)

    def _send_gauges(self, values: Values) -> None:
        """
        They are observed.
        """

    def after_fork_in_child(self) -> None:
        """
        Also renew the lock of the sample.
        """
        super().after_fork_in_child()
        self._sample_lock = threading.Lock()
        self._sample, self._sampled_at = {}, 0.0


def _attributes(metric: Metric, labels: Labels) -> Dict[str, str]:
    return {name: valid(value) for name, value in zip(metric.labels, labels)}


def _unit(metric: Metric) -> str:
    """
    Return the unit as OpenTelemetry's conventions have it.
    """
    known = {SECONDS: "s", RATIO: "1", "batches": "{batch}"}
    return known.get(metric.unit, "{" + metric.unit.rstrip("s") + "}")
