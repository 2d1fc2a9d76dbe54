"""
What is measured: each case is one line of the table.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import attrs

from . import connectors
from .peers import PEERS
from .settings import Settings


@attrs.frozen
class Case:
    """
    One job, and what it is compared with in the same minutes.
    """

    scenario: str
    job: str
    """Key of ``jobs.JOBS``, ``peers.PEERS`` or ``connectors.JOBS``."""

    settings: Settings
    varies: Tuple[str, ...] = ()
    """The settings that are part of the name."""

    baseline: Optional[Tuple[str, Settings]] = None
    """Job and settings of the comparison."""

    compared_with: str = ""
    """What the table calls the comparison."""

    title: str = ""
    """What the table calls the case, if not by its scenario."""

    @property
    def broker(self) -> Optional[str]:
        """
        The broker that it needs, if any.
        """
        return connectors.JOBS[self.job].broker if self.job in connectors.JOBS else None

    @property
    def is_peer(self) -> bool:
        """
        Whether it measures another library.
        """
        return self.job in PEERS or self.job in connectors.PEERS

    @property
    def name(self) -> str:
        """
        What tells this case from all others, in files too.
        """
        settings = [f"{name}={getattr(self.settings, name)}" for name in self.varies]
        return " ".join([self.title or self.scenario, *settings])

    def override(self, **changes: Any) -> Case:
        """
        Return the case with other settings; its comparison follows in all settings that it shares.

        What was changed becomes part of the name, so that the targets of the original no longer apply; the
        amount of work does not.
        """
        settings, changed = self.settings, [name for name in changes if getattr(self.settings, name) != changes[name]]
        baseline = self.baseline
        if baseline is not None:
            shared = {name: changes[name] for name in changed if getattr(settings, name) == getattr(baseline[1], name)}
            baseline = (baseline[0], attrs.evolve(baseline[1], **shared))
        named = (name for name in changed if name not in (*AMOUNTS, *self.varies))
        varies = (*self.varies, *named)
        return attrs.evolve(self, settings=attrs.evolve(settings, **changes), baseline=baseline, varies=varies)


# Settings that say how much is measured, not what.
AMOUNTS = ("messages", "times", "seconds")


def _case(scenario: str, job: str, settings: Settings, varies: str = "", **more: Any) -> Case:
    return Case(scenario, job, settings, tuple(varies.split()), **more)


def _limited(scenario: str, settings: Settings, varies: str, job: str = "pipeline") -> Case:
    """
    Return a case whose yardstick does the same work with the same chunk.
    """
    return _case(scenario, job, settings, varies, baseline=("limit", settings), compared_with="bare loop")


def _changed(scenario: str, before: Settings, compared_with: str, varies: str, **changes: Any) -> Case:
    """
    Return a case that is compared with the same pipeline without *changes*.
    """
    settings = attrs.evolve(before, **changes)
    return _case(scenario, "pipeline", settings, varies, baseline=("pipeline", before), compared_with=compared_with)


def _peer(name: str, settings: Settings, limit: Optional[Settings]) -> Case:
    work = "io" if settings.sleep else "batch"
    baseline = ("limit", limit) if limit is not None else None
    compared_with = "bare loop" if baseline else ""
    return Case("peers", name, settings, (), baseline, compared_with, title=f"peer {work}: {name}")


def _connector(scenario: str, job: str, client: str, settings: Settings, varies: str = "batch_size") -> Case:
    """
    Return a case that is compared with the client's own loop.
    """
    return _case(scenario, job, settings, varies, baseline=(client, settings), compared_with=f"raw {client}")


def _connector_peer(scenario: str, job: str, client: str, settings: Settings, messages: int) -> Case:
    less = attrs.evolve(settings, messages=messages)
    return Case(scenario, job, less, (), (client, less), f"raw {client}", title=f"{scenario}: {job}")


PROC = Settings(concurrency=2, batch_size=0)
BATCH = Settings(concurrency=4, batch_size=100, batch_concurrency=2)
TUNED = attrs.evolve(BATCH, max_demand=1000)
PARTITION = attrs.evolve(BATCH, partition=1, batch_concurrency=4)
IO = Settings(messages=20_000, concurrency=100, batch_size=0, sleep=0.005)
CPU = attrs.evolve(PROC, messages=50_000, sha=1)
LATENCY = Settings(messages=2_000, concurrency=2, batch_concurrency=1)
THREADS_200 = Settings(concurrency=150, batch_concurrency=48)  # with the producer's and the batcher's thread


# The defaults of the connector and of processors; and what its how-to says for many small messages, with a prefetch
# that is several times what the pipeline holds. Kafka's defaults are there to see what they cost, see its how-to.
RABBITMQ = Settings(messages=50_000, concurrency=4, batch_size=0, prefetch=50)
RABBITMQ_TUNED = attrs.evolve(RABBITMQ, concurrency=2, max_demand=100, batch_size=100, prefetch=2000)
KAFKA = Settings(messages=200_000, concurrency=4, batch_size=0)
KAFKA_TUNED = attrs.evolve(KAFKA, max_demand=100)
KAFKA_BATCHES = attrs.evolve(KAFKA, concurrency=2, max_demand=1000, batch_size=500)
SQS = Settings(messages=10_000, concurrency=4, batch_size=0)
SQS_TUNED = attrs.evolve(SQS, batch_size=10)
PUBSUB = Settings(messages=50_000, concurrency=2, max_demand=1000, batch_size=0, prefetch=500)
PUBSUB_TUNED = attrs.evolve(PUBSUB, batch_size=500)


def _keys(keys: int, max_demand: int) -> Case:
    return _limited("batch_keys", attrs.evolve(BATCH, keys=keys, max_demand=max_demand), "keys max_demand")


def _floor(settings: Settings, varies: str, job: str) -> Case:
    """
    Return what *settings* allow at best with bare threads, beside the bare loop.
    """
    case = _limited("floor", settings, varies, job=job)
    return attrs.evolve(case, title=f"floor: {job}")


CASES: Tuple[Case, ...] = (
    _limited("proc", PROC, "concurrency max_demand"),
    _limited("proc", attrs.evolve(PROC, concurrency=10), "concurrency max_demand"),
    _limited("proc_tuned", attrs.evolve(PROC, max_demand=1000), "concurrency max_demand"),
    _limited("batch", BATCH, "max_demand"),
    _limited("batch", attrs.evolve(BATCH, max_demand=100), "max_demand"),
    _limited("batch_tuned", TUNED, "max_demand"),
    _keys(1_000, 10),
    _keys(1_000, 1000),
    _keys(100_000, 10),
    _keys(100_000, 1000),
    _limited("partition", PARTITION, "max_demand"),
    _limited("partition", attrs.evolve(PARTITION, max_demand=1000), "max_demand"),
    _case("io", "pipeline", attrs.evolve(IO, max_demand=1), "max_demand"),
    _case("io", "pipeline", IO, "max_demand"),
    _limited("cpu", CPU, "concurrency"),
    _floor(PROC, "concurrency max_demand", "hand_over"),
    _floor(BATCH, "concurrency max_demand", "hand_over"),
    _floor(attrs.evolve(BATCH, max_demand=100), "concurrency max_demand", "hand_over"),
    _floor(TUNED, "concurrency max_demand", "hand_over"),
    _floor(CPU, "concurrency", "bare_threads"),
    _case("floor", "round_trip", Settings(messages=20_000), title="floor: round_trip"),
    _case("latency", "latency", attrs.evolve(LATENCY, batch_size=0), "batch_size"),
    _case("latency", "latency", LATENCY, "batch_size"),
    _case("rate", "rate", Settings(messages=50_000), "allowed_messages interval"),
    _changed("telemetry", BATCH, "nobody listens", "max_demand", telemetry=1),
    _changed("telemetry", TUNED, "nobody listens", "max_demand", telemetry=1),
    _changed("failures", BATCH, "no failures", "fail_every", fail_every=100),
    _changed("failures", BATCH, "no failures", "fail_every", fail_every=1),
    _case("idle", "idle", THREADS_200),
    _case("start_stop", "start_stop", THREADS_200),
    _limited("soak", attrs.evolve(BATCH, messages=10_000_000), "messages", job="soak"),
    _changed("pinned", BATCH, "all cores", "max_demand", pinned=1),
    *(_peer(name, attrs.evolve(BATCH, messages=100_000), BATCH) for name in PEERS),
    _connector("rabbitmq", "RabbitMQProducer", "pika", RABBITMQ),
    _connector("rabbitmq", "RabbitMQProducer", "pika", RABBITMQ_TUNED),
    _connector_peer("rabbitmq", "kombu", "pika", RABBITMQ_TUNED, 50_000),
    _connector_peer("rabbitmq", "dramatiq", "pika", RABBITMQ_TUNED, 10_000),
    _connector_peer("rabbitmq", "celery", "pika", RABBITMQ_TUNED, 10_000),
    _connector("kafka", "KafkaProducer", "kafka-python", KAFKA, "batch_size max_demand"),
    _connector("kafka", "KafkaProducer", "kafka-python", KAFKA_TUNED, "batch_size max_demand"),
    _connector("kafka", "KafkaProducer", "kafka-python", KAFKA_BATCHES, "batch_size max_demand"),
    _connector_peer("kafka", "arroyo", "kafka-python", KAFKA_BATCHES, 200_000),
    _connector_peer("kafka", "faust", "kafka-python", KAFKA_BATCHES, 50_000),
    _connector("sqs", "SQSProducer", "boto3", SQS),
    _connector("sqs", "SQSProducer", "boto3", SQS_TUNED),
    _connector("pubsub", "PubSubProducer", "google-cloud-pubsub", PUBSUB),
    _connector("pubsub", "PubSubProducer", "google-cloud-pubsub", PUBSUB_TUNED),
    # streamz has one thread: 100 of these messages would take half a second, all of them 100 seconds.
    *(_peer(name, attrs.evolve(IO, batch_size=100), None) for name in PEERS if name != "streamz"),
)


def scenarios() -> List[str]:
    """
    Return the names of the scenarios in the order of the table.
    """
    return list(dict.fromkeys(case.scenario for case in CASES))


# What --quick divides, so that all cases run in a few minutes: enough to see that all is well, too
# little to tell a tenth. Fewer messages than this are few enough.
QUICK = {"messages": 10, "times": 5, "seconds": 2.5}
FEW = 20_000


def quick(case: Case) -> Case:
    """
    Return a short version of the case.
    """
    full = attrs.asdict(case.settings)
    shorter = {name: type(full[name])(full[name] / by) for name, by in QUICK.items()}
    if full["messages"] <= FEW:
        del shorter["messages"]
    return case.override(**shorter)
