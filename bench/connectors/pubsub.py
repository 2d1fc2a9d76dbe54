"""
Google Pub/Sub, on its emulator: the client's own tightest loop, and our pipeline.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List

from ..jobs import Figures
from ..settings import Settings
from .job import BODY, BrokerJob, Stretch, Target, empty_or_lost, library, run_pipeline


def prepare(broker: Any, settings: Settings) -> Target:
    """
    Fill a new subscription.
    """
    topic = broker.topic()
    subscription = broker.subscription(topic, ack_deadline_seconds=60)
    broker.publish(topic, [BODY] * settings.messages)
    return {"endpoint": broker.endpoint, "topic": topic, "subscription": subscription}


def check(broker: Any, target: Target) -> None:
    """
    Nothing may be left that can be received; what is leased counts as long as nobody takes the lease away.
    """
    empty_or_lost("messages not acknowledged", len(broker.pull(target["subscription"])))


def clear(broker: Any, target: Target) -> None:
    """
    Remove the subscription and its topic.

    The emulator keeps what was acknowledged until its subscription is gone. After a few runs without this its heap is
    full, and it does nothing but collect garbage, whoever its client is.
    """
    broker.delete_subscription(target["subscription"])
    broker.delete_topic(target["topic"])


def raw(target: Target, settings: Settings) -> Figures:
    """
    ``pull`` and ``acknowledge`` on one thread.
    """
    os.environ["PUBSUB_EMULATOR_HOST"] = target["endpoint"]
    client = library("google.cloud.pubsub_v1").SubscriberClient()
    stretch, last, number = Stretch(settings), settings.messages, 0
    subscription, is_warm = target["subscription"], False
    ack_ids: List[str] = []
    while number < last:
        answer = client.pull(subscription=subscription, max_messages=settings.prefetch)
        ack_ids += [received.ack_id for received in answer.received_messages]
        number += len(answer.received_messages)
        if len(ack_ids) >= settings.acknowledge_every or number >= last:
            client.acknowledge(subscription=subscription, ack_ids=ack_ids)
            ack_ids = []
        if not is_warm and number >= stretch.first:
            is_warm, stretch.first = True, number
            stretch.meter.start()
    stretch.meter.stop()
    client.close()
    return stretch.figures()


def pipeline(target: Target, settings: Settings) -> Figures:
    """
    Our pipeline.
    """
    os.environ["PUBSUB_EMULATOR_HOST"] = target["endpoint"]
    library("google.cloud.pubsub_v1")
    options = {"subscription": target["subscription"], "max_number_of_messages": settings.prefetch}
    producer = library("broadway_sync.connectors.pubsub").PubSubProducer
    return run_pipeline(settings, producer, options, until_acknowledged=True)


JOBS: Dict[str, BrokerJob] = {
    "google-cloud-pubsub": BrokerJob("pubsub", prepare, raw, check, clear),
    "PubSubProducer": BrokerJob("pubsub", prepare, pipeline, check, clear),
}
