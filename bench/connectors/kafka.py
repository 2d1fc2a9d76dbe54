"""
Kafka: kafka-python's own tightest loop, and our pipeline.
"""

from __future__ import annotations

import time
from typing import Any, Dict

from ..jobs import Figures
from ..settings import Settings
from .job import BODY, BrokerJob, Stretch, Target, empty_or_lost, library, run_pipeline

PARTITIONS = 4
COMMIT_INTERVAL = 5.0
"""Seconds between two commits: the default of the pipeline, and of Kafka's own automatic commits."""


def prepare(broker: Any, settings: Settings) -> Target:
    """
    Fill the partitions of a new topic, all with as many records.
    """
    topic = broker.topic(PARTITIONS)
    with broker.producer(linger_ms=50, batch_size=1 << 16) as producer:
        for number in range(settings.messages):
            producer.send(topic, BODY, partition=number % PARTITIONS)
    return {"bootstrap": broker.bootstrap, "topic": topic, "group": broker.group()}


def check(broker: Any, target: Target) -> None:
    """
    What is committed must be the end.
    """
    ends, committed = broker.end_offsets(target["topic"]), broker.committed(target["group"], target["topic"])
    empty_or_lost("committed offsets, ends", None if committed == ends else (committed, ends))


def clear(broker: Any, target: Target) -> None:
    """
    Remove the topic.
    """
    broker.delete_topic(target["topic"])


def raw(target: Target, settings: Settings) -> Figures:
    """
    ``poll``, and ``commit`` every few seconds and at the end.
    """
    kafka = library("kafka")
    stretch, last, number = Stretch(settings), settings.messages, 0
    consumer = kafka.KafkaConsumer(
        target["topic"], bootstrap_servers=target["bootstrap"], group_id=target["group"],
        auto_offset_reset="earliest", enable_auto_commit=False,
    )  # fmt: skip
    is_warm = False
    committed_at = time.monotonic()
    while number < last:
        for records in consumer.poll(timeout_ms=1000).values():
            number += len(records)
        if not is_warm and number >= stretch.first:
            is_warm, stretch.first = True, number
            stretch.meter.start()
        if time.monotonic() - committed_at >= COMMIT_INTERVAL:
            consumer.commit()
            committed_at = time.monotonic()
    consumer.commit()
    stretch.meter.stop()
    consumer.close()
    return stretch.figures()


def pipeline(target: Target, settings: Settings) -> Figures:
    """
    Our pipeline.
    """
    library("kafka")
    options = {
        "hosts": target["bootstrap"],
        "group_id": target["group"],
        "topics": [target["topic"]],
        "offset_commit_on_ack": False,
        "offset_commit_interval": COMMIT_INTERVAL,
        "offset_reset_policy": "earliest",
    }
    producer = library("broadway_sync.connectors.kafka").KafkaProducer
    return run_pipeline(settings, producer, options, until_acknowledged=False)


JOBS: Dict[str, BrokerJob] = {
    "kafka-python": BrokerJob("kafka", prepare, raw, check, clear),
    "KafkaProducer": BrokerJob("kafka", prepare, pipeline, check, clear),
}
