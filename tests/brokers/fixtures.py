"""
Fixtures of the brokers. A broker starts with the first test that wants it and serves the whole session; each test makes
its own queue, topic or subscription there. A test may stop, kill or pause it: afterwards it is brought up again.

``BROADWAY_REQUIRE_BROKERS=1``: a broker that cannot be started here is a failure, not a skip.
``BROADWAY_BROKER_TESTS=contract``: of the tests that need a broker, only those in files named ``*contract*`` run.
``BROADWAY_KAFKA=4.1``: the fixture ``kafka`` is that version.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator

import pytest

from tests.brokers.broker import Broker
from tests.brokers.elasticmq import ElasticMQ
from tests.brokers.kafka import Kafka, chosen_version
from tests.brokers.kafka_mock import KafkaMock
from tests.brokers.ministack import MiniStack
from tests.brokers.ports import HOST
from tests.brokers.postgresql import PostgreSQL
from tests.brokers.process import SCALE
from tests.brokers.proxy import Proxy
from tests.brokers.pubsub import PubSub
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.spawn import Spawned
from tests.brokers.statsd import Statsd

BROKER_FIXTURES = {"rabbitmq", "kafka", "kafka41", "make_kafka_mock", "elasticmq", "ministack", "pubsub"}
BROKER_FIXTURES |= {"postgresql", "statsd"}

TEST_BOUND = 180 * SCALE
"""Seconds after which a test with a broker is ended as hanging."""

_started: list[Broker] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Leave out what ``BROADWAY_BROKER_TESTS`` leaves out; give tests that may have to start a broker more time.
    """
    chosen = os.environ.get("BROADWAY_BROKER_TESTS", "all")
    if chosen not in ("all", "contract"):
        raise pytest.UsageError(f"BROADWAY_BROKER_TESTS: expected all or contract, got: {chosen!r}")
    left_out = [item for item in items if chosen == "contract" and _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    for item in items:
        if _needs_broker(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_BOUND))


def _needs_broker(item: pytest.Item) -> bool:
    """
    Whether a test has the fixture of a broker, or a parameter that names it.
    """
    call = getattr(item, "callspec", None)
    parameters = [value for value in call.params.values() if isinstance(value, str)] if call is not None else []
    return bool(BROKER_FIXTURES.intersection([*getattr(item, "fixturenames", ()), *parameters]))


def _is_left_out(item: pytest.Item) -> bool:
    return _needs_broker(item) and "contract" not in item.path.name


def require(missing: str | None) -> None:
    """
    Skip, or fail where brokers are required, if something is missing.
    """
    if missing is None:
        return
    if os.environ.get("BROADWAY_REQUIRE_BROKERS") == "1":
        pytest.fail(f"BROADWAY_REQUIRE_BROKERS=1, but {missing}", pytrace=False)
    pytest.skip(missing)


def _serve(broker: Any) -> Iterator[Any]:
    _started.append(broker)
    try:
        yield broker.start()
    finally:
        _started.remove(broker)
        broker.close()


@pytest.fixture(autouse=True)
def brokers_are_revived() -> Iterator[None]:
    """
    Bring up what the test left stopped or paused.
    """
    yield
    for broker in _started:
        broker.revive()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """
    RabbitMQ.
    """
    require(RabbitMQ.missing())
    yield from _serve(RabbitMQ())


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """
    Kafka 3.9, or the version in ``BROADWAY_KAFKA``.
    """
    require(Kafka.missing(chosen_version()))
    yield from _serve(Kafka(chosen_version()))


@pytest.fixture(scope="session")
def kafka41() -> Iterator[Kafka]:
    """
    Kafka 4.1.
    """
    require(Kafka.missing("4.1"))
    yield from _serve(Kafka("4.1"))


@pytest.fixture(scope="session")
def elasticmq() -> Iterator[ElasticMQ]:
    """
    ElasticMQ, durable.
    """
    require(ElasticMQ.missing())
    yield from _serve(ElasticMQ())


@pytest.fixture(scope="session")
def ministack() -> Iterator[MiniStack]:
    """
    ministack.
    """
    require(MiniStack.missing())
    yield from _serve(MiniStack())


@pytest.fixture(scope="session")
def pubsub() -> Iterator[PubSub]:
    """
    Google's Pub/Sub emulator.
    """
    require(PubSub.missing())
    yield from _serve(PubSub())


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """
    PostgreSQL.
    """
    require(PostgreSQL.missing())
    yield from _serve(PostgreSQL())


@pytest.fixture(scope="session")
def statsd() -> Iterator[Statsd]:
    """
    The statsd daemon.
    """
    require(Statsd.missing())
    yield from _serve(Statsd())


@pytest.fixture
def make_kafka_mock() -> Iterator[Callable[..., KafkaMock]]:
    """
    Return a function that starts a mock cluster of Kafka; its arguments are those of ``KafkaMock``.
    """
    require(KafkaMock.missing())
    made: list[KafkaMock] = []

    def make(*arguments: Any, **options: Any) -> KafkaMock:
        made.append(KafkaMock(*arguments, **options))
        return made[-1].start()

    yield make
    for mock in made:
        mock.close()


@pytest.fixture
def make_proxy() -> Iterator[Callable[..., Proxy]]:
    """
    Return a function that puts a proxy before a port of this machine: ``make_proxy(rabbitmq.port)``.
    """
    made: list[Proxy] = []

    def make(port: int, host: str = HOST, listen: int | None = None) -> Proxy:
        made.append(Proxy(host, port, listen))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Spawned]]:
    """
    Return a function that runs a module, a file or source code in a process; its arguments are those of ``Spawned``.
    """
    made: list[Spawned] = []

    def start(target: str, *arguments: Any, env: dict[str, str] | None = None) -> Spawned:
        made.append(Spawned(target, *arguments, env=env))
        return made[-1]

    yield start
    for process in made:
        process.close()
