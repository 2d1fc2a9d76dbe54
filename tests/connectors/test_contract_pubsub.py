"""
The contract of connectors, on Google's Pub/Sub emulator.
"""

from __future__ import annotations

import uuid
from typing import Any, Callable, Dict, List, Tuple, Type

import pytest

from broadway_sync import Producer
from broadway_sync.connectors.pubsub import PubSubProducer
from broadway_sync.testing import ConnectorContract
from tests.brokers.ports import HOST
from tests.connectors.proxied import BACKOFF, ProxiedHarness
from tests.helpers import SCALE


class PubSubHarness(ProxiedHarness):
    """
    A subscription with the shortest deadline that there is, and a proxy before the emulator.

    The service does not tell how many messages a subscription has. Another subscription of the same topic does, once it
    was brought to a snapshot of the first one.
    """

    redelivery_timeout = 20.0 * SCALE
    lease = 10.0
    # A pull that finds nothing waits so long, and cannot be ended.
    linger = 4.0
    drop_options = {"on_failure": "ack"}

    def __init__(self, pubsub: Any, proxy: Any) -> None:
        self.pubsub = pubsub
        super().__init__(proxy)
        self.topic = pubsub.topic()
        self.subscription = pubsub.subscription(self.topic, ack_deadline_seconds=10)
        self.mirror = pubsub.subscription(self.topic)

    def publish(self, data: List[str]) -> None:
        self.pubsub.publish(self.topic, data)

    def producer(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        options = {
            "subscription": self.subscription,
            "max_number_of_messages": 50,
            "receive_interval": 0.05,
            "receive_timeout": self.linger,
            "on_failure": "nack",
            **BACKOFF,
        }
        return PubSubProducer, options

    def remaining(self) -> int:
        snapshot = f"projects/{self.pubsub.project}/snapshots/snapshot-{uuid.uuid4().hex}"
        with self.pubsub.subscriber() as client:
            client.create_snapshot(request={"name": snapshot, "subscription": self.subscription})
            client.seek(request={"subscription": self.mirror, "snapshot": snapshot})
            client.delete_snapshot(request={"snapshot": snapshot})
        return len(self.pubsub.take(self.mirror))


class TestPubSub(ConnectorContract):
    """
    All of it, but for credentials, which the emulator does not know.
    """

    @pytest.fixture
    def harness(self, pubsub: Any, make_proxy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> PubSubHarness:
        """
        Return a harness with a subscription of its own.
        """
        proxy = make_proxy(pubsub.port)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"{HOST}:{proxy.port}")
        return PubSubHarness(pubsub, proxy)
