"""
Fixtures of the tests of PubSubProducer.
"""

from __future__ import annotations

from typing import Any, Callable

import pytest

from broadway_sync.connectors.pubsub import PubSubProducer
from tests.brokers.pubsub import PubSub
from tests.connectors.pubsub.support import LEASE, QUICK
from tests.connectors.recorder import Recorder


@pytest.fixture
def emulator(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> PubSub:
    """
    Return the emulator; the client library of this process finds it by its environment variable.
    """
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.endpoint)
    return pubsub


@pytest.fixture
def topic(emulator: PubSub) -> str:
    """
    Return a fresh topic.
    """
    return emulator.topic()


@pytest.fixture
def subscription(emulator: PubSub, topic: str) -> str:
    """
    Return a fresh subscription of the topic, with short leases.
    """
    return emulator.subscription(topic, ack_deadline_seconds=LEASE)


@pytest.fixture
def start(make_pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return a function that starts a pipeline on a subscription.
    """

    def start(subscription: str, handler: Any = None, producers: int = 1, **settings: Any) -> Any:
        given = settings.pop("options", {})
        module = (PubSubProducer, {"subscription": subscription, **QUICK, **given})
        producer = {"module": module, "concurrency": producers}
        return make_pipeline(handler or Recorder(), producer=producer, **settings).start()

    return start
