"""
Google's own Pub/Sub emulator: a jar of the Cloud SDK (``google-cloud-cli-pubsub-emulator``).
"""

from __future__ import annotations

import importlib.util
import os
import urllib.request
import warnings
from pathlib import Path
from typing import Any, Iterable

from tests.brokers.broker import READY_BOUND, Broker, java, java_missing, unique
from tests.brokers.ports import HOST
from tests.brokers.process import SCALE

INSTALLED = Path("/usr/lib/google-cloud-sdk/platform/pubsub-emulator/lib")
REQUEST_SIZE = 500
"""Messages in one request to publish; 1000 are allowed."""

PATTERN = "cloud-pubsub-emulator-*-all.jar"


def _jar() -> Path | None:
    """
    Return the emulator: what ``BROADWAY_PUBSUB_EMULATOR`` names (the jar or its folder), or where Debian puts it.
    """
    place = Path(os.environ.get("BROADWAY_PUBSUB_EMULATOR") or INSTALLED)
    if place.is_file():
        return place
    return max(place.glob(PATTERN), default=None)


class PubSub(Broker):
    """
    One emulator. Everything is in memory: after ``stop()`` or ``kill()`` topics and subscriptions are gone.

    What it does not do as Google's service: filters are ignored, ``delivery_attempt`` is 0 without a dead letter
    policy, retry policies are kept roughly, exactly-once subscriptions redeliver late.
    """

    name = "PubSub"
    project = "test-project"

    def __init__(self) -> None:
        super().__init__()
        self.host = HOST
        self.port, self._iam_port = self.reserve(), self.reserve()

    @classmethod
    def missing(cls) -> str | None:
        """
        Java, the jar, and the client.
        """
        if _jar() is None:
            return "needs Google's Pub/Sub emulator; BROADWAY_PUBSUB_EMULATOR says where its jar is"
        try:
            found = importlib.util.find_spec("google.cloud.pubsub_v1")
        except ModuleNotFoundError:  # of a parent package
            found = None
        return java_missing() if found else "needs google-cloud-pubsub (the extra pubsub)"

    def command(self) -> list[str]:
        """
        The emulator.
        """
        addresses = [f"--host={HOST}", f"--port={self.port}", f"--iam_port={self._iam_port}"]
        return [*java("768m"), "-jar", str(_jar()), *addresses]

    def is_ready(self) -> bool:
        """
        Whether it answers HTTP on its port.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.endpoint}/", timeout=2 * SCALE) as answer:
            return bool(answer.status == 200)

    # ---- what tests ask of it

    @property
    def endpoint(self) -> str:
        """
        The address for clients, the value of ``PUBSUB_EMULATOR_HOST``.
        """
        return f"{HOST}:{self.port}"

    # The clients of the API itself, which the others wrap: they need no PUBSUB_EMULATOR_HOST, nor are changed by it.

    def publisher(self) -> Any:
        """
        Return a client for topics; use it as a context manager.
        """
        import grpc
        from google.pubsub_v1 import PublisherClient
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

        return PublisherClient(transport=PublisherGrpcTransport(channel=grpc.insecure_channel(self.endpoint)))

    def subscriber(self, port: int | None = None) -> Any:
        """
        Return a client for subscriptions, at another port if it has to go through a proxy; use it as a context manager.
        """
        import grpc
        from google.pubsub_v1 import SubscriberClient
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        channel = grpc.insecure_channel(f"{HOST}:{port or self.port}")
        return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    def topic(self) -> str:
        """
        Make a topic and return its path.
        """
        path = f"projects/{self.project}/topics/{unique('topic')}"
        self.create_topic(path)
        return path

    def subscription(self, topic: str, **options: Any) -> str:
        """
        Make a subscription of the topic and return its path.

        *options* are fields of the API's ``Subscription``: ``ack_deadline_seconds=10``,
        ``enable_message_ordering=True``, ``enable_exactly_once_delivery=True``, ``dead_letter_policy={...}``.
        """
        path = f"projects/{self.project}/subscriptions/{unique('subscription')}"
        self.create_subscription(path, topic, **options)
        return path

    def create_subscription(self, path: str, topic: str, **options: Any) -> None:
        """
        Make a subscription of a given name: again, after a restart.
        """
        with self.subscriber() as subscriber:
            subscriber.create_subscription(request={"name": path, "topic": topic, **options})

    def create_topic(self, path: str) -> None:
        """
        Make a topic of a given name: again, after a restart.
        """
        with self.publisher() as publisher:
            publisher.create_topic(name=path)

    def delete_subscription(self, path: str) -> None:
        """
        Remove a subscription, and the messages that it had, acknowledged or not.
        """
        with self.subscriber() as subscriber:
            subscriber.delete_subscription(subscription=path)

    def delete_topic(self, path: str) -> None:
        """
        Remove a topic.
        """
        with self.publisher() as publisher:
            publisher.delete_topic(topic=path)

    def publish(
        self, topic: str, data: Iterable[bytes | str], *, ordering_key: str = "", **attributes: str
    ) -> list[str]:
        """
        Publish messages and return their ids when the emulator has them all.

        They go one request after the other, in order, without the threads and batches of ``PublisherClient``.

        Args:
            topic: The path of the topic.
            data: One message each.
            ordering_key: The key of all of them; none if empty.
            attributes: Of all of them.
        """
        common = {"ordering_key": ordering_key, "attributes": attributes}
        messages = [{**common, "data": item.encode() if isinstance(item, str) else item} for item in data]
        ids: list[str] = []
        with self.publisher() as publisher:
            for first in range(0, len(messages), REQUEST_SIZE):
                request = {"topic": topic, "messages": messages[first : first + REQUEST_SIZE]}
                ids += publisher.publish(request=request, timeout=READY_BOUND).message_ids
        return ids

    def pull(self, subscription: str, count: int = 1000) -> list[Any]:
        """
        Receive up to *count* messages that are there now, without waiting and without acknowledging them.
        """
        with self.subscriber() as subscriber:
            request = {"subscription": subscription, "max_messages": count, "return_immediately": True}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # return_immediately: wanted here
                return list(subscriber.pull(request=request, timeout=READY_BOUND).received_messages)

    def take(self, subscription: str) -> list[Any]:
        """
        Receive and acknowledge all messages that are there now.
        """
        taken: list[Any] = []
        with self.subscriber() as subscriber:
            while True:
                received = self.pull(subscription)
                if not received:
                    return taken
                taken += received
                ack_ids = [message.ack_id for message in received]
                subscriber.acknowledge(subscription=subscription, ack_ids=ack_ids)
