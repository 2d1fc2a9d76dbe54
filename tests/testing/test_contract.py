"""
A good connector passes the contract.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple, Type

import pytest

from broadway_sync import Producer
from broadway_sync.testing import ConnectorContract, ConnectorHarness
from tests.helpers import SCALE
from tests.testing.memory import LOGGER, PASSWORD, Broker, MemoryProducer


class MemoryHarness(ConnectorHarness):
    """
    A broker in memory for each test.
    """

    count = 60
    is_ordered = True
    timeout = 10.0 * SCALE
    redelivery_timeout = 5.0 * SCALE
    stop_timeout = 2.0 * SCALE
    quiet = 0.1 * SCALE
    lease = 3.0 * SCALE
    drop_options = {"on_failure": "ack"}
    loggers = (LOGGER,)
    secrets = (PASSWORD, "wr0ng")
    refusal = "ACCESS refused"

    def __init__(self, producer_class: Type[Producer] = MemoryProducer) -> None:
        self.broker = Broker(self.lease or 0)
        self.producer_class = producer_class

    def publish(self, data: List[str]) -> None:
        self.broker.publish(data)

    def producer(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        return self.producer_class, {"broker": self.broker, "password": PASSWORD}

    def wrong_credentials(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        return self.producer_class, {"broker": self.broker, "password": "wr0ng"}

    def remaining(self) -> int:
        return self.broker.remaining()

    def acknowledgements(self) -> int:
        return self.broker.acknowledgements

    def cut(self) -> None:
        self.broker.cut()

    def stall(self) -> None:
        self.broker.is_passing.clear()

    def resume(self) -> None:
        self.broker.is_passing.set()

    def take_down(self) -> None:
        self.broker.is_up = False
        self.broker.cut()

    def bring_up(self) -> None:
        self.broker.is_up = True


class TestGoodConnector(ConnectorContract):
    """
    Every test passes, none is skipped.
    """

    @pytest.fixture
    def harness(self) -> MemoryHarness:
        """
        Return a harness with a broker of its own.
        """
        return MemoryHarness()


class DroppingHarness(MemoryHarness):
    """
    Options with which failed messages are gone.
    """

    redelivers_failed = False

    def producer(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        cls, options = super().producer()
        return cls, {**options, "on_failure": "ack"}


def test_connector_whose_failures_are_gone() -> None:
    """
    Passes too, with a harness that says so; and not with one that does not.
    """
    ConnectorContract().test_failed_messages(DroppingHarness())
    harness = DroppingHarness()
    harness.redelivers_failed, harness.timeout, harness.redelivery_timeout = True, 0.2, 0.2
    with pytest.raises(AssertionError, match="6 of 60 messages were not handled"):
        ConnectorContract().test_failed_messages(harness)


def test_connector_that_delivers_again_what_should_be_gone() -> None:
    """
    The other way round it is caught as well.
    """
    harness = MemoryHarness()
    harness.redelivers_failed = False
    with pytest.raises(AssertionError, match="6 messages were delivered in another number than expected"):
        ConnectorContract().test_failed_messages(harness)
