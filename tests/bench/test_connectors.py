"""
The scenarios of connectors: each case runs on a real broker, and finds out when something is not acknowledged.
"""

from __future__ import annotations

from typing import Any, Iterator

import attrs
import pytest

from bench import __main__ as command
from bench import brokers, connectors, runner
from bench.meter import OtherLoad, busy_seconds, seconds_of_process
from bench.scenarios import CASES, Case
from bench.settings import Settings
from tests.brokers.kafka import Kafka
from tests.brokers.ministack import MiniStack
from tests.brokers.pubsub import PubSub
from tests.brokers.rabbitmq import RabbitMQ

SMALL = Settings(messages=600, concurrency=2)


def cases_of(broker: str) -> Any:
    """
    Mark a test to run for each case on this broker.
    """
    cases = [case for case in CASES if case.broker == broker]
    assert cases
    return pytest.mark.parametrize("case", cases, ids=lambda case: f"{case.name} {case.job}")


@pytest.fixture(autouse=True)
def no_broker_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    The benchmark uses the brokers of the tests.
    """
    monkeypatch.setattr(brokers, "started", {})
    yield


def check_case(case: Case, broker: Any) -> None:
    """
    Run the case with few messages: it brings a rate, compared with that of the client's own loop.
    """
    assert case.broker is not None
    brokers.started[case.broker] = broker
    assert case.baseline is not None
    baseline = (case.baseline[0], attrs.evolve(case.baseline[1], messages=SMALL.messages))
    small = attrs.evolve(case.override(messages=SMALL.messages), baseline=baseline)
    result = runner.run_case(small, 1, say=lambda text: None)
    if result.skipped:
        pytest.skip(result.skipped)
    assert not result.error
    assert result.runs[0]["rate"] > 0 and result.runs[0]["ratio"] > 0


@cases_of("rabbitmq")
def test_case_on_rabbitmq(case: Case, rabbitmq: RabbitMQ) -> None:
    """
    pika, our pipeline, and what else people use.
    """
    check_case(case, rabbitmq)


@cases_of("kafka")
def test_case_on_kafka(case: Case, kafka: Kafka) -> None:
    """
    kafka-python, our pipeline, and what else people use.
    """
    check_case(case, kafka)


@cases_of("ministack")
def test_case_on_sqs(case: Case, ministack: MiniStack) -> None:
    """
    boto3 and our pipeline.
    """
    check_case(case, ministack)


@cases_of("pubsub")
def test_case_on_pubsub(case: Case, pubsub: PubSub) -> None:
    """
    google-cloud-pubsub and our pipeline.
    """
    check_case(case, pubsub)


def test_messages_left_in_the_queue_fail_a_run(rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A loop that takes fewer messages than there are is found out, and the queue is removed all the same.
    """
    targets = []

    def prepare(broker: Any, settings: Settings) -> Any:
        target = connectors.rabbitmq.prepare(broker, attrs.evolve(settings, messages=settings.messages + 3))
        targets.append(target["queue"])
        return target

    brokers.started["rabbitmq"] = rabbitmq
    monkeypatch.setitem(connectors.JOBS, "pika", attrs.evolve(connectors.JOBS["pika"], prepare=prepare))
    with pytest.raises(runner.JobFailedError, match="pika: messages not acknowledged: 3"):
        runner.run_job("pika", attrs.evolve(SMALL, prefetch=50, batch_size=100))
    assert targets[0] not in rabbitmq.ctl("list_queues", "name")


def test_acknowledged_messages_do_not_fill_the_emulator(pubsub: PubSub) -> None:
    """
    It keeps them for as long as their subscription is there: after some runs it would do nothing but collect garbage.
    """
    brokers.started["pubsub"] = pubsub
    with pubsub.subscriber() as subscriber:
        before = list(subscriber.list_subscriptions(project=f"projects/{pubsub.project}"))
        for job in ("google-cloud-pubsub", "PubSubProducer"):
            runner.run_job(job, attrs.evolve(SMALL, prefetch=100, batch_size=100))
        assert list(subscriber.list_subscriptions(project=f"projects/{pubsub.project}")) == before


def test_missing_broker_skips_its_scenarios(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With what it needs.
    """
    monkeypatch.setattr(RabbitMQ, "missing", classmethod(lambda cls: "needs a rabbit"))
    case = next(case for case in CASES if case.broker == "rabbitmq")
    assert runner.run_case(case, 3, say=lambda text: None).skipped == "needs a rabbit"


def test_peers_can_be_left_out() -> None:
    """
    ``--no-peers`` leaves the client's own loop and our pipeline.
    """
    cases = command._cases(["rabbitmq", "kafka"], False, {}, with_peers=False)
    assert {case.job for case in cases} == {"RabbitMQProducer", "KafkaProducer"}
    assert {case.baseline[0] for case in cases if case.baseline} == {"pika", "kafka-python"}
    everything = command._cases(["rabbitmq", "kafka"], False, {}, with_peers=True)
    assert {"celery", "dramatiq", "kombu", "arroyo", "faust"} <= {case.job for case in everything}


@pytest.mark.skipif(busy_seconds() is None, reason="needs /proc")
def test_load_of_the_broker_is_not_that_of_others(kafka: Kafka) -> None:
    """
    What the broker uses belongs to the measured work.
    """
    before = seconds_of_process(kafka.pid)
    assert before > 0
    load = OtherLoad(kafka.pid)
    kafka.produce(kafka.topic(), [b"x" * 100] * 2000)
    used = seconds_of_process(kafka.pid) - before
    assert used > 0
    assert load.cpu_before >= before
    assert seconds_of_process(2**22 + 1) == 0.0
