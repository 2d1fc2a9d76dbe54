"""
The contract of connectors, on ElasticMQ, which speaks SQS.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple, Type

import pytest

from broadway_sync import Producer
from broadway_sync.connectors.sqs import SQSProducer
from broadway_sync.testing import ConnectorContract
from tests.connectors.proxied import BACKOFF, ProxiedHarness

SECRET = "s3cret-of-the-contract"


class SQSHarness(ProxiedHarness):
    """
    A queue whose messages are invisible for four seconds, and a proxy before the server.
    """

    lease = 4.0
    # A receive waits so long for a message, and cannot be ended.
    linger = 1.0
    drop_options = {"on_failure": "ack"}
    secrets = (SECRET,)

    def __init__(self, server: Any, proxy: Any) -> None:
        self.server = server
        super().__init__(proxy)
        self.queue_url = server.queue(VisibilityTimeout=4)

    def publish(self, data: List[str]) -> None:
        self.server.send(self.queue_url, data)

    def producer(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        options = {
            "queue_url": self.queue_url,
            "wait_time_seconds": 1,
            "receive_interval": 0.05,
            "on_failure": ("nack", 0),
            **BACKOFF,
            "config": {**self.server.client_options(self.proxy.port), "aws_secret_access_key": SECRET},
        }
        return SQSProducer, options

    def remaining(self) -> int:
        return sum(self.server.counts(self.queue_url))


class TestElasticMQ(ConnectorContract):
    """
    All of it, but for credentials, which the server does not check.
    """

    @pytest.fixture
    def harness(self, elasticmq: Any, make_proxy: Callable[..., Any]) -> SQSHarness:
        """
        Return a harness with a queue of its own.
        """
        return SQSHarness(elasticmq, make_proxy(elasticmq.port))
