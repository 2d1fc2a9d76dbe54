"""
The contract of connectors, on Apache Kafka.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Tuple, Type

import pytest

from broadway_sync import Producer
from broadway_sync.connectors.kafka import KafkaProducer
from broadway_sync.testing import ConnectorContract
from tests.connectors.proxied import BACKOFF, ProxiedHarness
from tests.helpers import SCALE

SECRET, WRONG = "s3cret-of-the-contract", "wr0ng-for-the-contract"
PARTITIONS = 4

# The client leaves the sockets of failed attempts to bootstrap to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class KafkaHarness(ProxiedHarness):
    """
    A topic of four partitions, and a proxy before the broker.

    What remains is what lies behind the committed offsets.
    """

    redelivery_timeout = 20.0 * SCALE
    # A member that does not poll for so long loses its partitions; one whose heartbeats stop loses them before.
    lease = 4.0
    redelivers_failed = False
    secrets = (SECRET, WRONG)
    refusal = "authentic|sasl"

    def __init__(self, kafka: Any, proxy: Any) -> None:
        self.kafka = kafka
        super().__init__(proxy)
        self.topic = kafka.topic(partitions=PARTITIONS)
        self.group = kafka.group()
        from kafka import KafkaConsumer, TopicPartition

        # Only asks; it never joins the group.
        self.consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=self.group, enable_auto_commit=False)
        self.partitions = [TopicPartition(self.topic, number) for number in range(PARTITIONS)]

    def close(self) -> None:
        """
        Close the consumer that asks.
        """
        self.consumer.close()

    def publish(self, data: List[str]) -> None:
        self.kafka.produce(self.topic, data)

    def producer(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        options = {
            "hosts": self.kafka.proxy_bootstrap,
            "group_id": self.group,
            "topics": [self.topic],
            "group_config": {
                "session_timeout_seconds": 3.0,
                "heartbeat_rate_seconds": 0.3,
                "rebalance_timeout_seconds": self.lease,
                "revoke_timeout_seconds": 1.0,
                "rejoin_delay_seconds": 0.1,
            },
            # An option that the client takes and, without TLS, does not use.
            "client_config": {"extra_config": {"ssl_password": SECRET}},
            **BACKOFF,
        }
        return KafkaProducer, options

    def wrong_credentials(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        cls, options = self.producer()
        sasl = ("plain", self.kafka.user, WRONG)
        return cls, {**options, "hosts": self.kafka.sasl_bootstrap, "client_config": {"sasl": sasl}}

    def remaining(self) -> int:
        ends = self.consumer.end_offsets(self.partitions)
        return sum(end - (self.consumer.committed(partition) or 0) for partition, end in ends.items())


class TestKafka(ConnectorContract):
    """
    All of it, but for the options of a single message, of which there are none.
    """

    @pytest.fixture
    def harness(self, kafka: Any, make_proxy: Callable[..., Any]) -> Iterator[KafkaHarness]:
        """
        Return a harness with a topic and a group of its own.
        """
        harness = KafkaHarness(kafka, make_proxy(kafka.proxied_port, listen=kafka.proxy_port))
        yield harness
        harness.close()
