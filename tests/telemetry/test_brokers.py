"""
Metrics, spans and the logging filter with real brokers: what their connectors say is understood.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Iterator

import prometheus_client
import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from broadway_sync import Message, Pipeline, around, logs
from broadway_sync.connectors.kafka import KafkaProducer
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from broadway_sync.telemetry.opentelemetry import Tracing
from broadway_sync.telemetry.prometheus import PrometheusReporter
from tests.helpers import BOUND, Gate, eventually
from tests.telemetry.support import until

LONG = 4 * BOUND
"""Seconds for what takes a Kafka group its time to form."""

log = logging.getLogger("application")


class Watched:
    """
    Everything that watches pipelines, and what it saw.
    """

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.logged: list[str] = []

    def headers(self) -> tuple[int, dict[str, str]]:
        """
        Return the trace id of a sender, and the headers that it writes.
        """
        sent: dict[str, str] = {}
        with self.provider.get_tracer("sender").start_as_current_span("send") as span:
            propagate.inject(sent)
        return span.get_span_context().trace_id, sent

    def traces(self) -> set[int]:
        """
        Return the traces to which calls of handle_message belong.
        """
        spans = self._exporter.get_finished_spans()
        return {span.context.trace_id for span in spans if span.name.startswith("handle_message")}

    def values(self) -> dict[str, float]:
        """
        Return all metrics: ``"name label label"``, without the pipeline and the prefix.
        """
        found = {}
        for family in self.registry.collect():
            for sample in family.samples:
                labels = [value for name, value in sorted(sample.labels.items()) if name != "pipeline"]
                found[" ".join([sample.name[len("broadway_") :], *labels])] = sample.value
        return found


class Ids(logging.Handler):
    """
    Keeps the ids of messages about which something is logged.
    """

    def __init__(self, ids: list[str]) -> None:
        super().__init__()
        self._ids = ids

    def emit(self, record: Any) -> None:
        """
        Keep one.
        """
        self._ids.append(record.message_id)


class Handler:
    """
    Waits for a gate, logs, and fails what is called "bad".
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        self._gate.wait()
        log.warning("handling")
        return message.fail("bad") if message.data == b"bad" else message


@pytest.fixture
def watched() -> Iterator[Watched]:
    """
    Watch all pipelines of a test.
    """
    watched = Watched()
    handler = Ids(watched.logged)
    handler.addFilter(logs.ContextFilter())
    log.addHandler(handler)
    with PrometheusReporter(watched.registry):
        yield watched
    log.removeHandler(handler)
    around.remove_around(logs._HOOK)


@pytest.fixture
def start(watched: Watched, gate: Gate) -> Iterator[Callable[[Any], Pipeline]]:
    """
    Return a function that starts the pipeline of a producer.
    """
    made: list[Pipeline] = []

    def start(producer: Any) -> Pipeline:
        pipeline = Pipeline(
            Handler(gate),
            name="orders",
            producer={"module": producer},
            processors={"default": {"concurrency": 1}},
            around=Tracing(watched.provider),
        )
        made.append(pipeline)
        return pipeline.start()

    yield start
    gate.open()
    for pipeline in made:
        pipeline.stop(timeout=20)


def test_rabbitmq(rabbitmq: Any, watched: Watched, start: Callable[[Any], Pipeline], gate: Gate) -> None:
    """
    Connection, deliveries, acknowledgements by action; the sender's trace; the id of the message.
    """
    queue = rabbitmq.queue()
    trace, headers = watched.headers()
    rabbitmq.publish(queue, [b"good", b"good", b"bad"], headers=headers, message_id="m1")
    options = {
        "queue": queue,
        "connection": rabbitmq.url,
        "on_failure": "reject",
        "metadata": ["headers", "message_id"],
    }
    pipeline = start((RabbitMQProducer, options))
    gate.arrived()
    until(watched.values, {"connections_up rabbitmq": 1, "connections_down rabbitmq": 0, "in_flight": 3})
    gate.open()
    expected = {
        "broker_received_total rabbitmq": 3,
        "broker_acknowledged_total ack rabbitmq": 2,
        "broker_acknowledged_total reject rabbitmq": 1,
        "messages_acknowledged_total successful processor_default": 2,
        "messages_failed_total failed processor_default": 1,
    }
    until(watched.values, expected)
    assert watched.traces() == {trace}
    assert watched.logged == ["m1"] * 3
    pipeline.stop()
    assert "connections_up rabbitmq" not in watched.values()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # of kafka-python
def test_kafka(kafka: Any, watched: Watched, start: Callable[[Any], Pipeline], gate: Gate) -> None:
    """
    The lag, while it is there and afterwards; commits; the sender's trace; topic, partition and offset as the id.
    """
    topic = kafka.topic()
    trace, headers = watched.headers()
    with kafka.producer() as producer:
        for _ in range(3):
            producer.send(topic, b"good", headers=[(name, value.encode()) for name, value in headers.items()])
    options = {"hosts": kafka.bootstrap, "topics": [topic], "group_id": kafka.group()}
    start((KafkaProducer, {**options, "offset_reset_policy": "earliest"}))
    eventually(lambda: watched.values().get(f"consumer_lag 0 {topic}") == 3, "the lag", LONG)
    assert watched.values()["connections_up kafka"] == 1
    gate.open()
    eventually(lambda: watched.values().get(f"consumer_lag 0 {topic}") == 0, "no lag", LONG)
    eventually(lambda: watched.values().get("broker_acknowledged_total commit kafka") == 3, "commits", LONG)
    assert watched.values()["broker_received_total kafka"] == 3
    assert watched.traces() == {trace}
    assert watched.logged == [f"{topic}-0-{offset}" for offset in range(3)]
