"""
The producer on a Kafka that does what the test tells it.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Iterator

import pytest

from broadway_sync import ConfigurationError, Message, NoopAcknowledger, Pipeline, PipelineFailedError, telemetry
from broadway_sync.connectors.kafka import KafkaProducer
from broadway_sync.connectors.kafka.client import GroupError, UnavailableError
from broadway_sync.connectors.kafka.rebalances import Rebalances
from broadway_sync.errors import ConnectorError
from tests.connectors.kafka.fake import FakeKafka
from tests.connectors.kafka.support import Seen, consuming
from tests.helpers import BOUND, QUIET, SCALE, Gate, eventually

A, B, C, D = (("topic", number) for number in range(4))


@pytest.fixture(params=[2, 3], ids=["as 2.x", "as 3.x"])
def version(request: Any) -> int:
    """
    Return which client is imitated.
    """
    return int(request.param)


def running(kafka: FakeKafka, handler: Any, **options: Any) -> Any:
    """
    Run a pipeline on the fake.
    """
    group_config = {"rejoin_delay_seconds": 0.01, "revoke_timeout_seconds": 5.0, **options.pop("group_config", {})}
    given = {"client": kafka.client, "group_config": group_config, "backoff_min": 0.01, "backoff_max": 0.02, **options}
    return consuming("localhost", "topic", "group", handler, **given)


def committed(kafka: FakeKafka, **expected: int) -> None:
    """
    Wait until these offsets are committed, by number of the partition.
    """
    wanted = {("topic", int(name[1:])): offset for name, offset in expected.items()}
    eventually(lambda: {key: kafka.committed.get(key) for key in wanted} == wanted, f"{wanted} of {kafka.committed}")


class Gated(Seen):
    """
    A handler that waits at a gate for some offsets.
    """

    def __init__(self, *offsets: int) -> None:
        super().__init__()
        self.door = Gate()
        self._offsets = offsets

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Remember, and wait for those.
        """
        super().handle_message(processor, message, context)
        if message.metadata["offset"] in self._offsets:
            self.door.wait(message.metadata["offset"])
        return message


@pytest.fixture
def heard() -> Iterator[dict[str, list[Any]]]:
    """
    Yield measurements and metadata of the connector's events, by the event's name.
    """
    events: dict[str, list[Any]] = {}
    names = [
        ("connect", "start"), ("connect", "stop"), ("connect", "exception"), ("receive", "stop"),
        ("acknowledge", "stop"), ("acknowledge", "exception"), ("assignments_revoked", "stop"),
        ("assignments_revoked", "exception"),
        ("connection", "up"), ("connection", "down"), ("consumer_lag",),
    ]  # fmt: skip

    def note(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        events.setdefault(".".join(event[1:]), []).append((measurements, metadata))

    telemetry.attach_many("heard", [("broadway", *name) for name in names], note)
    yield events
    telemetry.detach("heard")


# ---- configuration


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"partition_by": lambda message: 0}, "partition_by"),
        ({"processors": {"default": {"partition_by": lambda message: 0}}}, "processors.default.partition_by"),
        ({"batchers": {"b": {"partition_by": lambda message: 0}}}, "batchers.b.partition_by"),
    ],
)
def test_own_partition_by_is_refused(options: Any, name: str) -> None:
    """
    A ``partition_by`` of the user would break the order within partitions.
    """
    module = (KafkaProducer, {"hosts": "h", "group_id": "g", "topics": ["t"]})
    given = {"processors": {"default": {}}, "producer": {"module": module}, "name": "refused", **options}
    with pytest.raises(ConfigurationError) as caught:
        Pipeline(Seen(), **given).start()
    expected = f"{name}: cannot be set with KafkaProducer, which sets it by topic and partition"
    assert str(caught.value) == expected


def test_a_function_that_makes_a_producer_is_refused() -> None:
    """
    Without ``prepare_for_start`` nothing would keep the order within partitions.
    """
    options = {"hosts": "h", "group_id": "g", "topics": ["t"], "client": FakeKafka().client}
    producer = {"module": lambda: KafkaProducer(**options)}
    pipeline = Pipeline(Seen(), name="function", producer=producer, processors={"default": {}}, max_restarts=0)
    with pytest.raises(PipelineFailedError, match="expected \\(KafkaProducer, \\{options\\}\\)"), pipeline:
        pipeline.join(BOUND)


def test_foreign_messages_find_a_processor() -> None:
    """
    Messages that others push, or tests, have no partition, and are handled all the same.
    """
    kafka = FakeKafka(A)
    with running(kafka, Seen(), batchers={"default": {"batch_timeout": 0.01}}) as pipeline:
        message = Message(b"x", NoopAcknowledger.init(), metadata={"topic": "t", "partition": 0, "offset": 0})
        pipeline.push_messages([message])
        ref = pipeline.test_message(b"y", metadata={"topic": "t", "partition": 0, "offset": 1})
        successful, failed = ref.receive(BOUND)
        assert ([m.data for m in successful], failed) == ([b"y"], [])


# ---- delivery and commits


def test_a_telemetry_handler_may_stop_the_pipeline() -> None:
    """
    On the consumer's thread too: it only begins the stop, which needs that thread.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 50)
    seen, ready = Seen(), threading.Event()
    states: list[str] = []

    def stop(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        assert ready.wait(BOUND)
        pipeline.stop()
        states.append(pipeline.state)

    telemetry.attach("stop", ("broadway", "acknowledge", "start"), stop)
    with running(kafka, seen) as pipeline:
        ready.set()
        assert pipeline.join(BOUND)
    assert states[0] == "draining"
    assert kafka.committed[A] == len(seen.values)


def test_all_and_the_end_committed(version: int, heard: Any) -> None:
    """
    Everything is delivered once, in order, and the end committed before the client is closed.
    """
    kafka = FakeKafka(A, B, version=version)
    kafka.produce(A, 500)
    kafka.produce(B, 300, step=3)
    seen = Seen(fails=lambda message: message.data == b"7")
    with running(kafka, seen):
        eventually(lambda: len(seen.values) == 800, "all")
    assert seen.offsets == {A: list(range(500)), B: list(range(0, 900, 3))}
    assert kafka.committed == {A: 500, B: 898}
    assert kafka.calls[-1] == "close"
    assert sum(metadata["count"] for _, metadata in heard["receive.stop"]) == 800
    assert heard["connection.up"][0][1]["connector"] == "kafka"


def test_commits_are_coalesced() -> None:
    """
    Many messages make few commits.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 3000)
    seen, since = Seen(), time.monotonic()
    with running(kafka, seen):
        eventually(lambda: len(seen.values) == 3000, "all")
        committed(kafka, p0=3000)
    assert len(kafka.commits) <= 2 + 20 * (time.monotonic() - since)
    offsets = [points[A] for points in kafka.commits]
    assert offsets == sorted(offsets)


def test_commit_that_fails(caplog: Any, heard: Any) -> None:
    """
    A commit that fails is said once and made up for.
    """
    kafka = FakeKafka(A)
    kafka.fail(
        "commit", UnavailableError("too slow"), UnavailableError("too slow"), GroupError("moving"), ValueError("odd")
    )
    kafka.produce(A, 10)
    with running(kafka, Seen()):
        committed(kafka, p0=10)
    assert caplog.text.count("a commit failed") == 2
    assert "too slow" in caplog.text and "odd" in caplog.text and "moving" not in caplog.text
    assert len(heard["acknowledge.exception"]) == 4


def test_long_receive_interval() -> None:
    """
    However long a poll may take, what is acknowledged is committed soon, and a stop waits for neither.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 3)
    with running(kafka, Seen(), receive_interval=1000.0) as pipeline:
        committed(kafka, p0=3)
        since = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - since < 5 * SCALE


def test_short_receive_interval() -> None:
    """
    However short a poll may be, it is no busy loop.
    """
    kafka = FakeKafka(A)
    with running(kafka, Seen(), receive_interval=1e-6):
        eventually(lambda: kafka.clients and kafka.clients[0].polls > 2, "polls")
        since, before = time.monotonic(), kafka.clients[0].polls
        time.sleep(0.5)
        assert kafka.clients[0].polls - before < 200 * (time.monotonic() - since)  # however long the sleep was


def test_back_pressure() -> None:
    """
    While handlers hang only so much is fetched, everything is paused, and polling goes on.
    """
    kafka = FakeKafka(A, B)
    kafka.produce(A, 8_000)
    kafka.produce(B, 8_000)
    seen = Gated(0)
    with running(kafka, seen):
        seen.door.arrived()
        client = kafka.clients[0]
        eventually(lambda: client.asleep == {A, B}, "both paused")
        polls, fetched = client.polls, dict(client.positions)
        assert max(fetched.values()) <= 4000 + 2000 + 40
        eventually(lambda: client.polls > polls + 1, "more polls")
        assert client.positions == fetched
        seen.door.open()
        eventually(lambda: len(seen.values) == 16_000, "all", 3 * BOUND)


def test_partitions_between_half_and_full_are_no_busy_loop() -> None:
    """
    A partition that is paused until it is down to half is not asked again and again meanwhile, although it is not full.
    """
    kafka = FakeKafka(A, B)
    kafka.produce(A, 1_900)
    seen = Gated(0)
    with running(kafka, seen):
        seen.door.arrived()
        client = kafka.clients[0]
        eventually(lambda: client.positions[A] == 1_900, "all of it")
        kafka.produce(A, 6_100)  # so that 5,900 are fetched, and not just as many as may wait
        eventually(lambda: client.asleep == {A}, "paused")
        kafka.order("revoke", [B])  # the other one may hold as much as both before
        since, before = time.monotonic(), client.polls
        time.sleep(0.5)
        assert client.polls - before < 20 * (time.monotonic() - since) + 5  # however long the sleep was
        assert client.asleep == {A}
        seen.door.open()
        eventually(lambda: len(seen.values) == 8_000, "all", 3 * BOUND)


def test_lag(heard: Any) -> None:
    """
    The lag is what the log has beyond the first unfinished message.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 20)
    seen = Gated(0)
    with running(kafka, seen):
        seen.door.arrived()
        eventually(lambda: heard.get("consumer_lag"), "a lag")
        seen.door.open()
    measurements, metadata = heard["consumer_lag"][0]
    assert measurements == {"lag": 20}
    assert (metadata["topic"], metadata["partition"]) == A


def test_lag_of_what_holds_no_messages(heard: Any) -> None:
    """
    Offsets without a message, at which the client is past, are no lag; nor is there one where nothing is to be read.
    """
    kafka = FakeKafka(A, B)
    kafka.produce(A, 20)
    kafka.produce(B, 5)
    kafka.committed[B] = 5
    seen = Seen()
    with running(kafka, seen):
        committed(kafka, p0=20)
        kafka.gaps[A] = 3  # markers of transactions
        kafka.clients[0].positions[A] += 3
        heard.pop("consumer_lag", None)
        eventually(lambda: len(heard.get("consumer_lag", ())) >= 4, "lags")
    assert {(metadata["partition"], measurements["lag"]) for measurements, metadata in heard["consumer_lag"][2:4]} == {
        (0, 0), (1, 0)
    }  # fmt: skip


# ---- positions


def test_reset_at_each_assignment() -> None:
    """
    With ``begin_offset="reset"`` the committed offset does not count, and nothing that follows it comes first.
    """
    kafka = FakeKafka(A)
    kafka.committed[A] = 5
    kafka.produce(A, 10)
    seen = Seen()
    with running(kafka, seen, begin_offset="reset"):
        eventually(lambda: len(seen.values) == 10, "all")
    assert seen.offsets[A] == list(range(10))


def test_reset_of_a_partition_that_is_revoked_before(version: int) -> None:
    """
    A partition that is revoked before its position was reset, and comes back at once, is still to be reset.
    """
    kafka = FakeKafka(version=version)
    kafka.committed[A] = 5
    kafka.produce(A, 10)
    seen = Seen()
    with running(kafka, seen, begin_offset="reset"):
        kafka.order("twice", [A])
        eventually(lambda: seen.values and seen.values[-1] == b"9", "the last one")
    assert seen.offsets[A] == list(range(10))


def test_latest() -> None:
    """
    ``"latest"`` without a committed offset begins at the end.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 10)
    seen = Seen()
    with running(kafka, seen, offset_reset_policy="latest"):
        kafka.wait_for_rebalance()
        eventually(lambda: kafka.clients[0].positions, "a position")
        kafka.produce(A, 1)
        eventually(lambda: seen.values, "the new one")
    assert seen.offsets[A] == [10]


def test_latest_and_a_rebalance(version: int) -> None:
    """
    ``"latest"`` counts once: what comes while a partition that has brought nothing yet is revoked, and comes back at
    once, is not skipped.
    """
    kafka = FakeKafka(A, version=version)
    kafka.produce(A, 10)
    seen = Seen()
    with running(kafka, seen, offset_reset_policy="latest"):
        eventually(lambda: kafka.clients and kafka.clients[0].positions, "a position")
        kafka.order("revoke", None)
        kafka.produce(A, 1)
        kafka.order("assign", [A])
        eventually(lambda: seen.values, "the new one")
    assert seen.offsets == {A: [10]}
    assert kafka.committed == {A: 11}


def test_out_of_range(caplog: Any) -> None:
    """
    Records that are gone are skipped with a warning, and the position of the rest is committed.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 10)
    kafka.committed[A], kafka.starts[A] = 2, 6
    kafka.logs[A] = kafka.logs[A][6:]
    seen = Seen()
    with running(kafka, seen):
        committed(kafka, p0=10)
    assert seen.offsets[A] == [6, 7, 8, 9]
    assert "offset out of range in topic/0" in caplog.text


def test_position_that_cannot_be_found_yet() -> None:
    """
    A broker that does not answer while a position is looked up is asked again.
    """
    kafka = FakeKafka(A)
    kafka.fail("reset", UnavailableError("no answer"))
    kafka.produce(A, 5)
    with running(kafka, Seen()):
        committed(kafka, p0=5)


# ---- rebalances


def test_revoke_waits_and_commits(version: int, heard: Any) -> None:
    """
    A revoke waits for messages that are in a handler, and commits them before the partition goes.
    """
    kafka = FakeKafka(A, version=version)
    kafka.produce(A, 100)
    seen = Gated(10)
    with running(kafka, seen):
        seen.door.arrived()
        kafka.order("revoke", None, wait=False)
        time.sleep(QUIET)
        assert kafka.committed.get(A, 0) <= 10
        seen.door.open()
        kafka.wait_for_rebalance()
        at_revoke = kafka.committed[A]
        assert at_revoke == len(seen.values), "all that was in the pipeline"
        kafka.order("assign", [])
        eventually(lambda: heard["assignments_revoked.stop"], "the event")
    assert len(seen.values) == at_revoke < 100
    assert heard["assignments_revoked.stop"][0][1]["unfinished"] == 0


def test_back_at_once(version: int) -> None:
    """
    A partition that comes back in the same rebalance goes on where it was: nothing twice, nothing skipped, although a
    message of it is in a handler all the time.
    """
    kafka = FakeKafka(A, B, version=version)
    kafka.produce(A, 200)
    kafka.produce(B, 200)
    seen = Gated(15)
    with running(kafka, seen, group_config={"revoke_timeout_seconds": 0.05}):
        seen.door.arrived()
        for _ in range(3):
            kafka.rebalance(A, B)
        assert kafka.committed.get(A, 0) <= 15
        seen.door.open()
        committed(kafka, p0=200, p1=200)
    assert seen.offsets == {A: list(range(200)), B: list(range(200))}


def test_paused_and_back(version: int) -> None:
    """
    A partition that was paused when it was revoked is fetched from again when it comes back with room.
    """
    kafka = FakeKafka(A, version=version)
    kafka.produce(A, 12_000)
    seen = Gated(3)
    with running(kafka, seen, group_config={"revoke_timeout_seconds": 0.05}):
        seen.door.arrived()
        eventually(lambda: kafka.clients[0].asleep == {A}, "paused")
        kafka.rebalance(A)
        seen.door.open()
        eventually(lambda: len(seen.values) == 12_000, "all", 3 * BOUND)
    assert seen.offsets[A] == list(range(12_000))


def test_gone_and_back_later(version: int) -> None:
    """
    Messages of a partition that went to somebody else: their acknowledgement changes nothing, also when the partition
    has come back meanwhile.
    """
    kafka = FakeKafka(A, version=version)
    kafka.produce(A, 30)
    seen = Gated(0)
    with running(
        kafka, seen, group_config={"revoke_timeout_seconds": 0.05}, processors={"concurrency": 1, "max_demand": 2}
    ):
        seen.door.arrived()
        kafka.rebalance()
        kafka.committed[A] = 20  # the other member's work
        before = len(kafka.commits)
        kafka.rebalance(A)
        seen.door.open()
        committed(kafka, p0=30)
    after = [points[A] for points in kafka.commits[before:]]
    assert after == sorted(after) and after[0] > 20
    assert seen.offsets[A][-10:] == list(range(20, 30))


def test_lost() -> None:
    """
    After an expulsion nothing of the old assignment is committed.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 5)
    seen = Gated(0)
    with running(kafka, seen):
        seen.door.arrived()
        kafka.order("lose", None)
        seen.door.open()
        eventually(lambda: len(seen.values) >= 5, "what was in the pipeline")
        kafka.order("assign", [])
    assert kafka.commits == []


def test_cooperative() -> None:
    """
    When some partitions only are revoked the others go on; those that come later begin at their committed offset.
    """
    kafka = FakeKafka(A, B)
    kafka.produce(A, 100)
    kafka.produce(B, 100)
    seen = Seen()
    with running(kafka, seen):
        committed(kafka, p0=100, p1=100)
        kafka.order("revoke", [A])
        kafka.produce(A, 10)
        kafka.produce(B, 10)
        committed(kafka, p1=110)
        assert len(seen.offsets[A]) == 100
        kafka.order("add", [A])
        committed(kafka, p0=110)
    assert seen.offsets == {A: list(range(110)), B: list(range(110))}


def test_commit_of_a_revoke_fails(heard: Any) -> None:
    """
    A revoke whose commit is refused goes on; telemetry says so.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 10)
    seen = Seen()
    with running(kafka, seen, offset_commit_on_ack=False, offset_commit_interval=3600.0):
        eventually(lambda: len(seen.values) == 10, "all")
        committed(kafka)
        kafka.fail("commit", GroupError("too late"))
        kafka.rebalance()
        eventually(lambda: heard.get("assignments_revoked.exception"), "the event")
    assert kafka.committed == {}


@pytest.mark.parametrize("error", [UnavailableError("no answer"), ValueError("odd")], ids=["later", "for good"])
def test_commit_of_a_revoke_that_does_not_get_there(error: Exception, caplog: Any) -> None:
    """
    A commit in a revoke that fails is tried again if that may help, and else said; it costs neither the client nor a
    message.
    """
    kafka = FakeKafka(A, B)
    kafka.produce(A, 10)
    seen = Seen()
    with running(kafka, seen, offset_commit_on_ack=False, offset_commit_interval=3600.0):
        seen.wait_for(10)
        committed(kafka)
        kafka.fail("commit", error)
        kafka.order("revoke", None)
        assert kafka.committed == ({A: 10} if isinstance(error, UnavailableError) else {})
        kafka.order("assign", [A, B])
        kafka.produce(A, 5)
        seen.wait_for(15)
    assert [call for call in kafka.calls if call[0] == "listener raised"] == []
    assert caplog.text.count("a commit failed") == (0 if isinstance(error, UnavailableError) else 1)
    assert (kafka.committed, seen.offsets, len(kafka.clients)) == ({A: 15}, {A: list(range(15))}, 1)


def test_expelled_without_a_word(version: int) -> None:
    """
    2.x calls an expulsion a revoke. The commit that is refused tells: the partition begins anew where others left it.
    """
    kafka = FakeKafka(A, version=version)
    kafka.produce(A, 10)
    seen = Seen()
    with running(kafka, seen):
        committed(kafka, p0=10)
        kafka.produce(A, 10)
        kafka.fail("commit", *[GroupError("unknown member")] * 20)
        eventually(lambda: len(seen.values) == 20, "all")
        kafka.order("revoke", None)
        kafka.errors["commit"].clear()
        kafka.committed[A] = 25
        kafka.produce(A, 10)
        kafka.order("assign", [A])
        committed(kafka, p0=30)
    assert seen.offsets[A] == [*range(20), *range(25, 30)]


def test_order_across_assignments() -> None:
    """
    A partition is handled by the same processor whenever it comes back, so that two never have messages of it.
    """
    kafka = FakeKafka(A, B, C, D)
    seen = Seen()
    with running(kafka, seen, processors={"concurrency": 3}):
        for count, assignment in enumerate([(A, B), (D, C), (B, A, D, C), (C,), (A, B, C, D)]):
            kafka.rebalance(*assignment)
            for key in assignment:
                kafka.produce(key, 5)
            eventually(lambda: all(len(seen.offsets[key]) == len(kafka.logs[key]) for key in assignment), f"{count}")  # noqa: B023
    assert all(len(names) == 1 for names in seen.where.values())
    assert seen.offsets == {key: list(range(len(log))) for key, log in kafka.logs.items()}


# ---- lost messages


def test_messages_that_vanish(caplog: Any) -> None:
    """
    Messages that a handler replaces by others, which acknowledge elsewhere: delivered once more, then they count as
    failed and hold nothing up.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 4)

    class Replacing(Seen):
        def handle_message(self, processor: str, message: Message, context: Any) -> Message:
            super().handle_message(processor, message, context)
            if message.metadata["offset"] == 0:
                return Message(message.data, NoopAcknowledger.init(), metadata=message.metadata)
            return message

    seen = Replacing()
    with running(kafka, seen, processors={"concurrency": 1, "max_demand": 1}):
        committed(kafka, p0=4)
    assert seen.offsets[A].count(0) == 2
    assert caplog.text.count("the partition is read again from there") == 1
    assert caplog.text.count("they count as failed") == 1


# ---- connections


def test_connects_after_failures(caplog: Any, heard: Any) -> None:
    """
    Attempts that fail are repeated, said once for each kind of error, and each is in telemetry.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 3)
    kafka.fail("connect", ConnectorError("a"), ConnectorError("b"), UnavailableError("c"))
    with running(kafka, Seen()):
        committed(kafka, p0=3)
    assert caplog.text.count("no connection: ") == 2
    assert (len(heard["connect.exception"]), len(heard["connect.stop"])) == (3, 1)
    assert len(heard["connection.down"]) == 2


def test_backoff_stop() -> None:
    """
    With ``backoff_type="stop"`` the first failure crashes the producer, and the pipeline in the end.
    """
    kafka = FakeKafka(A)
    kafka.fail("connect", *[ConnectorError("no")] * 20)
    with pytest.raises(PipelineFailedError, match="no"), running(kafka, Seen(), backoff_type="stop") as pipeline:
        pipeline.join(BOUND)


def test_poll_that_raises(caplog: Any) -> None:
    """
    Errors of the client do not cost the membership, unless they go on.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 3)
    kafka.fail("poll", None, UnavailableError("slow"), ValueError("odd"))
    with running(kafka, Seen()):
        committed(kafka, p0=3)
        assert len(kafka.clients) == 1
        kafka.fail("poll", *[ValueError("for good")] * 5)
        eventually(lambda: len(kafka.clients) == 2, "a new client")
        kafka.produce(A, 3)
        committed(kafka, p0=6)
        assert kafka.clients[0].is_closed
    assert "for good" in caplog.text


def test_thread_that_dies(caplog: Any) -> None:
    """
    What no one expects ends the thread, is logged, and the producer is made again with a new client.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 3)
    kafka.fail("poll", None, None, SystemExit("out of the blue"))
    seen = Seen()
    with running(kafka, seen):
        eventually(lambda: len(kafka.clients) == 2, "a new client")
        committed(kafka, p0=3)
    assert "out of the blue" in caplog.text
    assert [client.is_closed for client in kafka.clients] == [True, True]


def test_connection_that_is_lost(caplog: Any, heard: Any) -> None:
    """
    A lost connection is said once, and so is its return.
    """
    kafka = FakeKafka(A)
    with running(kafka, Seen()):
        eventually(lambda: heard.get("connection.up"), "up")
        kafka.is_up = False
        eventually(lambda: heard.get("connection.down"), "down")
        kafka.is_up = True
        eventually(lambda: len(heard["connection.up"]) == 2, "up again")
    assert caplog.text.count("no connection: ") == 1


def test_topic_that_is_not_there(caplog: Any) -> None:
    """
    A missing topic is named once.
    """
    kafka = FakeKafka(A)
    kafka.unknown = ["topic"]
    with running(kafka, Seen()):
        eventually(lambda: "the brokers have no topic topic; waiting for it" in caplog.text, "a warning")


# ---- the end


def test_stop_hands_over_nothing_more(version: int) -> None:
    """
    A stop finishes what is in the pipeline, commits it, and leaves the rest to Kafka.
    """
    kafka = FakeKafka(A, version=version)
    kafka.produce(A, 5000)
    seen = Gated(30)
    with running(kafka, seen) as pipeline:
        seen.door.arrived()
        pipeline.request_stop()
        eventually(lambda: kafka.clients[0].asleep == {A}, "the stop")
        seen.door.open()
    assert seen.offsets[A] == list(range(len(seen.values)))
    assert kafka.committed == {A: len(seen.values)}
    assert len(seen.values) <= 31 + 20
    assert kafka.calls[-1] == "close"


def test_stop_while_connecting() -> None:
    """
    A stop does not wait for an attempt to connect that hangs; the client is closed when it returns.
    """
    kafka, gate = FakeKafka(A), Gate()
    kafka.fail("connect", gate.wait)
    with running(kafka, Seen()) as pipeline:
        gate.arrived()
        since = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - since < 5 * SCALE
        gate.open()
        eventually(lambda: kafka.clients[0].is_closed, "the client closed")


def test_stop_during_a_rebalance(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is finished and not committed when a stop and a rebalance come together is committed in the rebalance: later
    the partitions are not ours.
    """
    kafka, gate, closing = FakeKafka(A, version=version), Gate(), threading.Event()
    kafka.produce(A, 3)
    seen, hurry = Seen(), Rebalances.hurry

    def note(rebalances: Rebalances) -> None:
        hurry(rebalances)
        closing.set()

    monkeypatch.setattr(Rebalances, "hurry", note)
    with running(kafka, seen, offset_commit_on_ack=False, offset_commit_interval=1000) as pipeline:
        seen.wait_for(3)
        kafka.fail("poll", gate.wait)
        gate.arrived()
        pipeline.request_stop()
        assert closing.wait(BOUND)
        kafka.order("revoke", None, wait=False)
        gate.open()
    assert kafka.committed == {A: 3}
    assert kafka.calls[-1] == "close"


def test_stop_runs_out_of_time() -> None:
    """
    What a stop leaves behind is not committed.
    """
    kafka = FakeKafka(A)
    kafka.produce(A, 10)
    seen = Gated(4)
    from broadway_sync import DrainTimeoutError

    with pytest.raises(DrainTimeoutError), running(kafka, seen, shutdown=0.5):
        seen.door.arrived()
    assert kafka.committed.get(A, 0) <= 4
    seen.door.open()


def test_again_after_a_stop() -> None:
    """
    The same pipeline can be started again; two can run at once.
    """
    kafka, other = FakeKafka(A), FakeKafka(B)
    kafka.produce(A, 3)
    other.produce(B, 3)
    seen = Seen()
    with running(kafka, seen) as pipeline, running(other, Seen()):
        committed(kafka, p0=3)
        pipeline.stop()
        kafka.produce(A, 3)
        kafka.order("assign", [A], wait=False)
        pipeline.start()
        committed(kafka, p0=6)
        committed(other, p1=3)
    assert seen.offsets[A] == list(range(6))


def test_no_client_before_the_start() -> None:
    """
    Nothing is opened before ``start()``.
    """
    kafka = FakeKafka(A)
    module = (KafkaProducer, {"hosts": "h", "group_id": "g", "topics": ["t"], "client": kafka.client})
    Pipeline(Seen(), name="idle", producer={"module": module}, processors={"default": {}})
    assert kafka.clients == []
    assert not [thread for thread in threading.enumerate() if "Consumer" in thread.name]
