"""
The contract of connectors, on RabbitMQ.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Tuple, Type

import pytest

from broadway_sync import Producer
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from broadway_sync.testing import ConnectorContract, wait_until
from tests.connectors.proxied import BACKOFF, ProxiedHarness

USER, PASSWORD, WRONG = "contract", "s3cret-of-the-contract", "wr0ng-for-the-contract"


class RabbitMQHarness(ProxiedHarness):
    """
    A durable queue, and a proxy before the broker.
    """

    is_ordered = True
    # A consumer that misses two heartbeats is disconnected.
    lease = 4.0
    drop_options = {"on_failure": "reject"}
    secrets = (PASSWORD, WRONG)
    refusal = "authentic|credentials|access.refused"

    def __init__(self, rabbitmq: Any, proxy: Any) -> None:
        self.rabbitmq = rabbitmq
        super().__init__(proxy)
        self.queue = rabbitmq.queue()

    def publish(self, data: List[str]) -> None:
        self.rabbitmq.publish(self.queue, data)

    def producer(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        return self._producer(PASSWORD)

    def wrong_credentials(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        return self._producer(WRONG)

    def _producer(self, password: str) -> Tuple[Type[Producer], Dict[str, Any]]:
        url = self.rabbitmq.url_of(self.proxy.port, user=USER, password=password)
        options = {
            "queue": self.queue,
            "connection": f"{url}?heartbeat=2",
            "on_failure": "reject_and_requeue",
            **BACKOFF,
        }
        return RabbitMQProducer, options

    def remaining(self) -> int:
        return sum(self.rabbitmq.counts(self.queue))


@pytest.fixture(scope="module")
def user(rabbitmq: Any) -> Iterator[str]:
    """
    Make a user whose password appears nowhere else.
    """
    rabbitmq.ctl("add_user", USER, PASSWORD)
    rabbitmq.ctl("set_permissions", USER, ".*", ".*", ".*")
    yield USER
    rabbitmq.ctl("delete_user", USER)


class TestRabbitMQ(ConnectorContract):
    """
    All of it.
    """

    @pytest.fixture
    def harness(self, rabbitmq: Any, user: str, make_proxy: Callable[..., Any]) -> Iterator[RabbitMQHarness]:
        """
        Return a harness with a queue of its own.
        """
        harness = RabbitMQHarness(rabbitmq, make_proxy(rabbitmq.port))
        yield harness
        wait_until(lambda: rabbitmq.consumer_count(harness.queue) == 0, harness.timeout, "no consumer is left")
        rabbitmq.delete_queue(harness.queue)
