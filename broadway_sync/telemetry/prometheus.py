"""
Metrics for Prometheus to scrape, with its client library; needs ``pip install 'broadway_sync[prometheus]'``.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from ..errors import ConfigurationError
from ..extras import load
from .metrics import COUNTER, GAUGE, HISTOGRAM, METRICS, RATIO, SECONDS, Labels, Metric
from .reporting.aggregates import Buckets, Key, Samples
from .reporting.listener import Values
from .reporting.names import clean, valid
from .reporting.push import PushReporter, check
from .reporting.reporter import Reporter


class PrometheusReporter(Reporter):
    """
    Shows the metrics of all pipelines of this process to whoever scrapes the registry.

    For several processes behind one page there is :class:`MultiprocessPrometheusReporter`.

    It has no thread: sums are kept while stages work, and read when somebody scrapes. Names begin with *prefix*, times
    are in seconds, as ``broadway_processor_duration_seconds``; percentiles are the server's business
    (``histogram_quantile``). Thread-safe.

    Args:
        registry: A ``CollectorRegistry``; default is the library's own.
        prefix: First part of every name, which begins with a letter.
        per_message: Whether to listen to the events of each message too, for ``message_duration``; they cost more than
            all the others.
        per_thread: Whether each thread is a stage of its own: ``processor_default_0``.

    Raises:
        ConfigurationError: *prefix* is wrong, or the package ``prometheus-client`` is missing.
    """

    name = "prometheus"

    def __init__(
        self,
        registry: Optional[Any] = None,
        prefix: str = "broadway",
        *,
        per_message: bool = False,
        per_thread: bool = False,
    ) -> None:
        super().__init__(Buckets, per_message=per_message, per_thread=per_thread)
        library = load("prometheus_client", "prometheus", "PrometheusReporter")
        self._registry = library.REGISTRY if registry is None else registry
        self._prefix = _clean_prefix(prefix)
        self._families = load("prometheus_client.metrics_core", "prometheus", "PrometheusReporter")

    def _attached(self) -> None:
        self._registry.register(self)

    def _detached(self) -> None:
        self._registry.unregister(self)

    # What a registry asks of a collector.

    def describe(self) -> List[Any]:
        """
        Return the empty families, for the registry's check that nobody else has their names.
        """
        return [self._family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Any]:
        """
        Yield the families that have values.
        """
        series: Dict[Metric, List[Tuple[Labels, Any]]] = {}
        for (metric, labels), value in self._aggregates.counters().items():
            series.setdefault(metric, []).append((labels, value))
        for (metric, labels), counted in self._aggregates.histograms().items():
            series.setdefault(metric, []).append((labels, counted))
        for metric, labels, value in self._gauges.sample():
            series.setdefault(metric, []).append((labels, value))
        for metric in METRICS:
            if metric in series:
                family = self._family(metric)
                for labels, value in series[metric]:
                    _add(family, metric, labels, value)
                yield family

    def _family(self, metric: Metric) -> Any:
        kinds = {
            COUNTER: self._families.CounterMetricFamily,
            GAUGE: self._families.GaugeMetricFamily,
            HISTOGRAM: self._families.HistogramMetricFamily,
        }
        return kinds[metric.kind](_name(self._prefix, metric), metric.text, labels=metric.labels)


class MultiprocessPrometheusReporter(PushReporter):
    """
    The same metrics for several processes that are scraped as one, in the library's own multiprocess mode.

    Each process reports into files in ``PROMETHEUS_MULTIPROC_DIR``, on a thread of the reporter; whoever serves the
    page adds them up (``prometheus_client.multiprocess.MultiProcessCollector``). Counters, histograms and most gauges
    are sums over the processes; times and shares, which do not add up, are those of the process with the greatest.

    Args:
        flush_interval: Seconds between two reports.
        prefix, per_message, per_thread: See :class:`PrometheusReporter`.

    Raises:
        ConfigurationError: An argument is wrong, or the package ``prometheus-client`` is missing, or not in its
            multiprocess mode.
    """

    name = "prometheus"

    def __init__(
        self,
        prefix: str = "broadway",
        *,
        flush_interval: float = 1.0,
        per_message: bool = False,
        per_thread: bool = False,
    ) -> None:
        super().__init__(
            flush_interval=flush_interval, interval=flush_interval, per_message=per_message, per_thread=per_thread
        )
        library = load("prometheus_client", "prometheus", "MultiprocessPrometheusReporter")
        values = load("prometheus_client.values", "prometheus", "MultiprocessPrometheusReporter")
        if not values.ValueClass._multiprocess:
            raise ConfigurationError(
                "MultiprocessPrometheusReporter needs the environment variable PROMETHEUS_MULTIPROC_DIR, an empty "
                "folder, from before prometheus_client is imported"
            )
        prefix = _clean_prefix(prefix)
        self._families = {metric: _make_family(library, _name(prefix, metric), metric) for metric in METRICS}
        self._told: Set[Key] = set()  # the gauges of the last report

    def _send(self, counters: Dict[Key, float], samples: Dict[Key, Samples]) -> None:
        for key, amount in counters.items():
            self._child(key).inc(amount)
        for key, each in samples.items():
            for value in each.values:
                self._child(key).observe(value)

    def _send_gauges(self, values: Values) -> None:
        present = {(metric, labels): value for metric, labels, value in values}
        for key, value in present.items():
            self._child(key).set(value)
        for key in self._told - set(present):  # in files nothing can be removed
            self._child(key).set(0)
        self._told = set(present)

    def _child(self, key: Key) -> Any:
        metric, labels = key
        return self._families[metric].labels(*(valid(label) for label in labels))

    def after_fork_in_child(self) -> None:
        """
        Also forget the parent's gauges.
        """
        super().after_fork_in_child()
        self._told = set()


def _make_family(library: Any, name: str, metric: Metric) -> Any:
    if metric.kind == COUNTER:
        return library.Counter(name, metric.text, metric.labels, registry=None)
    if metric.kind == HISTOGRAM:
        return library.Histogram(name, metric.text, metric.labels, registry=None, buckets=metric.buckets)
    mode = "livemax" if metric.unit in (SECONDS, RATIO) else "livesum"
    return library.Gauge(name, metric.text, metric.labels, registry=None, multiprocess_mode=mode)


def _clean_prefix(prefix: str) -> str:
    cleaned = clean(prefix).replace("-", "_") if isinstance(prefix, str) else ""
    check("prefix", prefix, cleaned[:1].isalpha(), "a str that begins with a letter")
    return cleaned


def _name(prefix: str, metric: Metric) -> str:
    return f"{prefix}_{metric.name}" + ("_seconds" if metric.unit == SECONDS else "")


def _add(family: Any, metric: Metric, labels: Labels, value: Any) -> None:
    labels = tuple(valid(label) for label in labels)
    if metric.kind != HISTOGRAM:
        family.add_metric(labels, value)
        return
    counts, total = value
    bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(counts))), total)
