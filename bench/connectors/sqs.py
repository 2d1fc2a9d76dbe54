"""
Amazon SQS, on ministack: boto3's own tightest loop, and our pipeline.
"""

from __future__ import annotations

from typing import Any, Dict

from ..jobs import Figures
from ..settings import Settings
from .job import BODY, BrokerJob, Stretch, Target, empty_or_lost, library, run_pipeline

MOST = 10
"""What one request may receive or delete."""


def prepare(broker: Any, settings: Settings) -> Target:
    """
    Fill a new queue.
    """
    queue = broker.queue(VisibilityTimeout=60)
    broker.send(queue, [BODY.decode()] * settings.messages)
    return {"queue": queue, "client": broker.client_options()}


def check(broker: Any, target: Target) -> None:
    """
    Nothing may be left, in flight neither.
    """
    empty_or_lost("messages not deleted", sum(broker.counts(target["queue"])))


def clear(broker: Any, target: Target) -> None:
    """
    Remove the queue.
    """
    broker.own_client.delete_queue(QueueUrl=target["queue"])


def raw(target: Target, settings: Settings) -> Figures:
    """
    Receive ten, delete ten, on one thread.
    """
    boto3 = library("boto3")
    stretch, last, number = Stretch(settings), settings.messages, 0
    client, queue = boto3.client("sqs", **target["client"]), target["queue"]
    is_warm = False
    while number < last:
        answer = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=MOST, WaitTimeSeconds=1)
        messages = answer.get("Messages", ())
        entries = [{"Id": str(at), "ReceiptHandle": one["ReceiptHandle"]} for at, one in enumerate(messages)]
        if entries:
            client.delete_message_batch(QueueUrl=queue, Entries=entries)
        number += len(entries)
        if not is_warm and number >= stretch.first:
            is_warm, stretch.first = True, number
            stretch.meter.start()
    stretch.meter.stop()
    return stretch.figures()


def pipeline(target: Target, settings: Settings) -> Figures:
    """
    Our pipeline.
    """
    library("boto3")
    options = {"queue_url": target["queue"], "config": target["client"], "max_number_of_messages": MOST}
    producer = library("broadway_sync.connectors.sqs").SQSProducer
    return run_pipeline(settings, producer, options, until_acknowledged=True)


JOBS: Dict[str, BrokerJob] = {
    "boto3": BrokerJob("ministack", prepare, raw, check, clear),
    "SQSProducer": BrokerJob("ministack", prepare, pipeline, check, clear),
}
