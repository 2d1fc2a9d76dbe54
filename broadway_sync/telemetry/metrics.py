"""
Every metric of the reporters, declared once: statsd, Prometheus, OpenTelemetry and the manual take them from here.

Counters and histograms come from events, gauges from :meth:`broadway_sync.Pipeline.statistics` or, where the text says
so, from the last event. All of them come from events of chunks, batches and requests, which are few; those that need an
event of each message are off unless asked for.
"""

from __future__ import annotations

from typing import Tuple

import attrs

COUNTER = "counter"
GAUGE = "gauge"
HISTOGRAM = "histogram"

SECONDS = "seconds"
RATIO = "ratio"
MESSAGES = "messages"

Labels = Tuple[str, ...]

_TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@attrs.frozen(eq=False)
class Metric:
    """
    One metric.
    """

    name: str
    """In lower case, with underscores, without unit; each reporter adds what is the custom of its system."""
    kind: str
    """``"counter"``, ``"gauge"`` or ``"histogram"``."""
    unit: str
    """What is counted, or ``"seconds"``, or ``"ratio"`` (0 to 1)."""
    labels: Labels
    """Names of the labels."""
    text: str
    """What it means, in one line."""
    source: str
    """Where the figure comes from."""
    buckets: Tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    def __repr__(self) -> str:
        return f"<Metric {self.name}>"


def _counter(name: str, unit: str, labels: str, text: str, source: str) -> Metric:
    return Metric(name, COUNTER, unit, tuple(labels.split()), text, source)


def _gauge(name: str, unit: str, labels: str, text: str, source: str = "statistics") -> Metric:
    return Metric(name, GAUGE, unit, tuple(labels.split()), text, source)


def _histogram(name: str, unit: str, text: str, source: str) -> Metric:
    buckets = {SECONDS: _TIMES, RATIO: _SHARES}.get(unit, _SIZES)
    return Metric(name, HISTOGRAM, unit, ("pipeline", "stage"), text, source, buckets)


# What comes in and what becomes of it.
INGESTED = _counter(
    "messages_ingested", MESSAGES, "pipeline stage", "messages that processors have begun", "processor.start"
)
ACKNOWLEDGED = _counter(
    "messages_acknowledged",
    MESSAGES,
    "pipeline stage outcome",
    'messages that a stage has acknowledged; outcome is "successful" or "failed"',
    "processor.stop, rejected.batcher, batch_processor.stop",
)
FAILED = _counter(
    "messages_failed",
    MESSAGES,
    "pipeline stage reason",
    'failed messages; reason is the class of the exception, or "failed" after Message.fail',
    "processor.stop, rejected.batcher, batch_processor.stop",
)
HANDLE_FAILED_ERRORS = _counter(
    "handle_failed_errors", "calls", "pipeline", "calls of handle_failed that raised", "handle_failed.exception"
)
RETRIES = _counter(
    "retries", "attempts", "pipeline callback", "attempts that failed and were followed by another", "retry.attempt"
)
RETRIES_GAVE_UP = _counter(
    "retries_gave_up", "calls", "pipeline callback", "calls whose last attempt failed", "retry.gave_up"
)
DEAD_LETTERS = _counter(
    "dead_letters",
    MESSAGES,
    "pipeline",
    "messages written as dead letters",
    "dead_letter.stop, dead_letter.exception",
)
DEAD_LETTER_ERRORS = _counter(
    "dead_letter_errors",
    "calls",
    "pipeline",
    "calls of DeadLetter that left messages to their source: letters could not be written",
    "dead_letter.exception",
)

# How long it takes, and how full batches are.
PROCESSOR_DURATION = _histogram(
    "processor_duration",
    SECONDS,
    "time of one chunk in a processor: handled, and acknowledged as far as it goes to no batcher",
    "processor.stop",
)
MESSAGE_DURATION = _histogram(
    "message_duration", SECONDS, "time of one handle_message; only with per_message=True", "processor.message.stop"
)
BATCH_DURATION = _histogram(
    "batch_duration",
    SECONDS,
    "time of one batch in a batch processor, acknowledgement included",
    "batch_processor.stop",
)
BATCH_SIZE = _histogram("batch_size", MESSAGES, "messages of a batch", "batch_processor.stop")
BATCH_FILL = _histogram(
    "batch_fill", RATIO, "messages of a batch by its batch_size, where that is a number", "batch_processor.stop"
)
BATCHES = _counter(
    "batches", "batches", "pipeline stage trigger", 'batches, by trigger: "size", "timeout" or "flush"',
    "batch_processor.stop",
)  # fmt: skip
BUSY_TIME = _counter(
    "stage_busy", SECONDS, "pipeline stage", "time for which threads of a stage were busy, added up when they are done",
    "processor.stop, batch_processor.stop",
)  # fmt: skip

# Restarts.
PRODUCER_RESTARTS = _counter(
    "producer_restarts", "restarts", "pipeline", "producers that crashed and were made again", "producer.restart"
)
TOPOLOGY_RESTARTS = _counter(
    "topology_restarts", "restarts", "pipeline", "restarts of all stages of a pipeline", "topology.restart"
)

# Connectors.
RECEIVED = _counter(
    "broker_received", MESSAGES, "pipeline connector", "messages that a connector received", "receive.stop"
)
RECEIVE_ERRORS = _counter(
    "broker_receive_errors", "requests", "pipeline connector", "requests for messages that failed", "receive.exception"
)
CONNECT_ERRORS = _counter(
    "broker_connect_errors", "attempts", "pipeline connector", "attempts to connect that failed", "connect.exception"
)
BROKER_ACKNOWLEDGED = _counter(
    "broker_acknowledged", MESSAGES, "pipeline connector action", "messages whose acknowledgement a broker accepted",
    "acknowledge.stop",
)  # fmt: skip
BROKER_REFUSED = _counter(
    "broker_acknowledge_errors", MESSAGES, "pipeline connector action",
    "messages whose acknowledgement was refused, or did not get there", "acknowledge.stop, acknowledge.exception",
)  # fmt: skip
LEASES_LOST = _counter(
    "leases_lost", MESSAGES, "pipeline connector", "messages that were not acknowledged in time and will come again",
    "lease.lost",
)  # fmt: skip
REVOKED_UNFINISHED = _counter(
    "revoked_unfinished", MESSAGES, "pipeline connector",
    "unfinished messages of partitions that moved away: they will be delivered again", "assignments_revoked.stop",
)  # fmt: skip
CONSUMER_LAG = _gauge(
    "consumer_lag", MESSAGES, "pipeline topic partition", "messages in a partition that are not finished yet",
    "consumer_lag (last event, of the last minute)",
)  # fmt: skip
CONNECTIONS_UP = _gauge(
    "connections_up", "producers", "pipeline connector", "producers with a connection",
    "connection.up, connection.down (last events)",
)  # fmt: skip
CONNECTIONS_DOWN = _gauge(
    "connections_down", "producers", "pipeline connector", "producers whose connection is lost",
    "connection.up, connection.down (last events)",
)  # fmt: skip

# What a pipeline is doing.
IN_FLIGHT = _gauge("in_flight", MESSAGES, "pipeline", "messages that were taken from producers and are not through")
IDLE = _gauge("idle", SECONDS, "pipeline", "time since the last message was through")
UPTIME = _gauge("uptime", SECONDS, "pipeline", "time since the start")
THREADS = _gauge("stage_threads", "threads", "pipeline stage", "threads of a stage")
WAITING = _gauge("stage_waiting", MESSAGES, "pipeline stage", "messages that wait at a stage: the depth of its queue")
IN_HAND = _gauge("stage_in_hand", MESSAGES, "pipeline stage", "messages that the callbacks of a stage work on")
OLDEST = _gauge("stage_oldest", SECONDS, "pipeline stage", "time since the oldest message of a stage reached it")
BUSY_SHARE = _gauge(
    "stage_busy_share", RATIO, "pipeline stage", "share of its time for which a stage was busy since the last look",
    "statistics, processor.stop, batch_processor.stop",
)  # fmt: skip

METRICS: Tuple[Metric, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Metric))
"""All of them."""
