"""
RabbitMQ by other means: dramatiq, celery, a consumer of kombu, each the way its own documentation shows it.

All run in one process with as many threads as our pipeline has processors, and acknowledge after the work, as it does.
dramatiq and celery acknowledge each message, and wrap it: their messages name a function and its arguments.
"""

from __future__ import annotations

import os
import uuid
from typing import Any, Dict

from ..jobs import Figures
from ..settings import Settings
from . import rabbitmq
from .job import BrokerJob, Progress, Stretch, Target, library


def address(broker: Any, settings: Settings) -> Target:
    """
    Their queue is filled by ``run``: what a message looks like is theirs.
    """
    return {"url": broker.url, "queue": f"peer-{uuid.uuid4().hex[:12]}"}


def dramatiq(target: Target, settings: Settings) -> Figures:
    """
    A dramatiq worker.
    """
    # Read by dramatiq when it is imported.
    os.environ["dramatiq_queue_prefetch"] = str(settings.prefetch)
    module, rabbit = library("dramatiq"), library("dramatiq.brokers.rabbitmq")
    broker = rabbit.RabbitmqBroker(url=target["url"])
    module.set_broker(broker)
    progress = Progress(settings)

    @module.actor(queue_name=target["queue"], broker=broker)  # type: ignore[untyped-decorator,unused-ignore]
    def work() -> None:
        progress()

    for _ in range(settings.messages):
        work.send()
    worker = module.Worker(broker, worker_threads=settings.concurrency)
    worker.start()
    progress.wait()
    worker.stop()
    broker.close()
    return progress.figures()


def celery(target: Target, settings: Settings) -> Figures:
    """
    A celery worker with the pool of threads: with the one of processes, each message would cross to another process.
    """
    module, state = library("celery"), library("celery.worker.state")
    app = module.Celery("bench", broker=target["url"], backend=None)
    app.conf.update(
        task_acks_late=True,
        task_default_queue=target["queue"],
        task_ignore_result=True,
        worker_prefetch_multiplier=settings.prefetch // settings.concurrency,
    )
    progress = Progress(settings)

    @app.task(name="bench.work")  # type: ignore[untyped-decorator,unused-ignore]
    def work() -> None:
        progress()
        if progress.finished.is_set():
            state.should_stop = 0  # asks the worker to end

    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(settings.messages):
            work.apply_async(producer=producer)
    worker = app.WorkController(
        app=app, pool="threads", concurrency=settings.concurrency, loglevel="ERROR", without_gossip=True,
        without_mingle=True, without_heartbeat=True,
    )  # fmt: skip
    worker.start()
    progress.wait()
    return progress.figures()


def kombu(target: Target, settings: Settings) -> Figures:
    """
    A consumer of kombu on one thread, with one acknowledgement for many messages.
    """
    module = library("kombu")
    stretch, last = Stretch(settings), settings.messages
    every = min(settings.acknowledge_every, settings.prefetch)
    number = 0

    def on_message(message: Any) -> None:
        nonlocal number
        number += 1
        if number % every == 0 or number == last:
            message.ack(multiple=True)
        if number == stretch.first:
            stretch.meter.start()

    with module.Connection(target["url"]) as connection:
        queue = module.Queue(target["queue"], durable=True)
        with module.Consumer(connection, [queue], on_message=on_message, prefetch_count=settings.prefetch):
            while number < last:
                connection.drain_events(timeout=60)
            stretch.meter.stop()
    return stretch.figures()


JOBS: Dict[str, BrokerJob] = {
    "dramatiq": BrokerJob("rabbitmq", address, dramatiq, rabbitmq.check, rabbitmq.clear),
    "celery": BrokerJob("rabbitmq", address, celery, rabbitmq.check, rabbitmq.clear),
    "kombu": BrokerJob("rabbitmq", rabbitmq.prepare, kombu, rabbitmq.check, rabbitmq.clear),
}
