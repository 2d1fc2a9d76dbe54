"""
RabbitMQ: pika's own tightest loop, and our pipeline.
"""

from __future__ import annotations

from typing import Any, Dict

from ..jobs import Figures
from ..settings import Settings
from .job import BODY, BrokerJob, Stretch, Target, empty_or_lost, library, run_pipeline


def prepare(broker: Any, settings: Settings) -> Target:
    """
    Fill a new queue.
    """
    queue = broker.queue()
    broker.publish(queue, [BODY] * settings.messages)
    return {"url": broker.url, "queue": queue}


def check(broker: Any, target: Target) -> None:
    """
    The queue must be empty: what was not acknowledged is ready again when the consumer has gone.
    """
    empty_or_lost("messages not acknowledged", broker.ready_count(target["queue"]))


def clear(broker: Any, target: Target) -> None:
    """
    Remove the queue.
    """
    broker.delete_queue(target["queue"])


def raw(target: Target, settings: Settings) -> Figures:
    """
    ``BlockingConnection.consume``, the quickest of pika's ways, with one acknowledgement for many messages.
    """
    pika = library("pika")
    stretch, last = Stretch(settings), settings.messages
    every = min(settings.acknowledge_every, settings.prefetch)
    connection = pika.BlockingConnection(pika.URLParameters(target["url"]))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=settings.prefetch)
    number = 0
    for method, _, _ in channel.consume(target["queue"]):
        number += 1
        if number % every == 0 or number == last:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if number == stretch.first:
            stretch.meter.start()
        elif number == last:
            break
    stretch.meter.stop()
    connection.close()
    return stretch.figures()


def pipeline(target: Target, settings: Settings) -> Figures:
    """
    Our pipeline.
    """
    library("pika")
    options = {
        "queue": target["queue"],
        "connection": target["url"],
        "qos": {"prefetch_count": settings.prefetch},
        "on_failure": "reject",
    }
    producer = library("broadway_sync.connectors.rabbitmq").RabbitMQProducer
    return run_pipeline(settings, producer, options, until_acknowledged=True)


JOBS: Dict[str, BrokerJob] = {
    "pika": BrokerJob("rabbitmq", prepare, raw, check, clear),
    "RabbitMQProducer": BrokerJob("rabbitmq", prepare, pipeline, check, clear),
}
