"""
Kafka by other means: arroyo and faust, each the way its own documentation shows it.

arroyo is built on confluent-kafka, whose network code and protocol are written in C; faust runs on an event loop.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from typing import Any, Dict

from ..jobs import Figures
from ..settings import Settings
from . import kafka
from .job import BrokerJob, Progress, Target, library


def arroyo(target: Target, settings: Settings) -> Figures:
    """
    A stream processor that runs a function and commits once a second.
    """
    types, processing = library("arroyo.types"), library("arroyo.processing.processor")
    strategies, backend = library("arroyo.processing.strategies"), library("arroyo.backends.kafka")
    commit = library("arroyo.commit")
    progress = Progress(settings)

    def work(message: Any) -> None:
        progress()
        if progress.finished.is_set():
            processor.signal_shutdown()

    class Factory(strategies.ProcessingStrategyFactory):  # type: ignore[misc,name-defined,unused-ignore]
        def create_with_partitions(self, commit: Any, partitions: Any) -> Any:
            return strategies.RunTask(work, strategies.CommitOffsets(commit))

    config = library("arroyo.backends.kafka.configuration").build_kafka_consumer_configuration(
        {}, bootstrap_servers=[target["bootstrap"]], group_id=target["group"], auto_offset_reset="earliest"
    )
    consumer = backend.KafkaConsumer(config)
    topic, policy = types.Topic(target["topic"]), commit.ONCE_PER_SECOND
    processor = processing.StreamProcessor(consumer, topic, Factory(), policy, join_timeout=60.0)
    processor.run()
    progress.wait()
    return progress.figures()


def faust(target: Target, settings: Settings) -> Figures:
    """
    An app with one agent.
    """
    module = library("faust")
    logging.disable(logging.WARNING)
    progress = Progress(settings)
    app = module.App(
        target["group"], broker=f"kafka://{target['bootstrap']}", value_serializer="raw", key_serializer="raw",
        store="memory://", web_enabled=False, datadir=tempfile.mkdtemp(), consumer_auto_offset_reset="earliest",
        topic_partitions=kafka.PARTITIONS, topic_replication_factor=1,
    )  # fmt: skip

    @app.agent(app.topic(target["topic"], value_type=bytes))  # type: ignore[untyped-decorator,unused-ignore]
    async def work(stream: Any) -> None:
        async for _ in stream:
            progress()

    async def run() -> None:
        await app.start()
        while not progress.finished.is_set():
            await asyncio.sleep(0.05)
        progress.wait()
        await app.stop()

    app.loop.run_until_complete(run())
    return progress.figures()


JOBS: Dict[str, BrokerJob] = {
    "arroyo": BrokerJob("kafka", kafka.prepare, arroyo, kafka.check, kafka.clear),
    "faust": BrokerJob("kafka", kafka.prepare, faust, kafka.check, kafka.clear),
}
