"""
Several members of a group on a real Kafka: they share the partitions, come and go, and nothing is lost.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Any, Callable, Iterator

import pytest

from broadway_sync import telemetry
from tests.connectors.kafka.support import FAST_GROUP, LONG, Seen, consuming, values, wait_until_committed
from tests.connectors.kafka.test_broker_faults import PROCESS, committed_by, handled, wait_for_handled
from tests.helpers import SCALE, Gate, eventually

pytestmark = pytest.mark.usefixtures("leaks_of_the_client")


@pytest.fixture
def revoked() -> Iterator[list[Any]]:
    """
    Yield the stop metadata of all revokes.
    """
    heard: list[Any] = []
    telemetry.attach(
        "revoked", ("broadway", "assignments_revoked", "stop"), lambda e, m, metadata, c: heard.append(metadata)
    )
    yield heard
    telemetry.detach("revoked")


class Slow(Seen):
    """
    A handler that takes a millisecond, so that there is always something in flight.
    """

    def handle_message(self, processor: str, message: Any, context: Any) -> Any:
        """
        Take a moment.
        """
        time.sleep(0.001)
        return super().handle_message(processor, message, context)


def feed(kafka: Any, topic: str, count: int, done: Callable[[], int], is_enough: Callable[[], bool]) -> int:
    """
    Keep the consumers of a topic busy until *is_enough*, however long a member takes to join.

    Args:
        count: How many messages the topic has.
        done: Returns how many of them were handled.

    Returns:
        How many it has now.
    """

    def produce_or_see() -> bool:
        nonlocal count
        if is_enough():
            return True
        if count - done() < 400:
            kafka.produce(topic, values(200, first=count))
            count += 200
        return False

    eventually(produce_or_see, "members that have worked", LONG)
    return count


def test_a_member_joins_and_leaves(kafka: Any, revoked: list[Any]) -> None:
    """
    A second pipeline joins the group while messages are in flight, takes its share, and leaves: nothing is handled
    twice, as each revoke waits for what is in the pipeline, and the partitions that stay go on where they were.
    """
    topic, group = kafka.topic(partitions=4), kafka.group()
    kafka.produce(topic, values(600))
    first, second = Slow(), Slow()
    with consuming(kafka.bootstrap, topic, group, first):
        first.wait_for(300)
        with consuming(kafka.bootstrap, topic, group, second):
            count = feed(
                kafka, topic, 600, lambda: len(first.values) + len(second.values), lambda: len(second.values) >= 300
            )
        eventually(lambda: len(first.values) + len(second.values) >= count, "all messages", LONG)
        wait_until_committed(kafka, group, topic)
    assert sorted(first.values + second.values) == sorted(values(count))
    assert any(metadata["partitions"] for metadata in revoked)
    assert all(metadata["unfinished"] == 0 for metadata in revoked)


def test_messages_that_do_not_finish_in_time(kafka: Any, revoked: list[Any]) -> None:
    """
    A handler that is still busy when a revoke has waited long enough: the next owner of the partition handles the
    message again, what the first one acknowledges later changes nothing, and of a partition that stays nothing comes
    twice.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()
    kafka.produce(topic, values(20), partition=0)
    kafka.produce(topic, values(20, first=20), partition=1)
    gate = Gate()
    first, second = Seen(gate=gate), Seen()
    group_config = {**FAST_GROUP, "revoke_timeout_seconds": 0.3}
    with consuming(kafka.bootstrap, topic, group, first, group_config=group_config):
        assert {gate.arrived(), gate.arrived()} == {b"0", b"20"}
        with consuming(kafka.bootstrap, topic, group, second):
            second.wait_for(20)
            gate.open()
            first.wait_for(20)
            wait_until_committed(kafka, group, topic)
    moved, kept = (set(values(20)), set(values(20, first=20)))
    if set(second.values) != moved:
        moved, kept = kept, moved
    assert set(second.values) == moved and second.duplicates() == []
    assert kept <= set(first.values) and first.duplicates() == []
    assert set(first.values) & moved <= {*values(10), *values(10, first=20)}, "no more than one chunk was in flight"
    assert any(metadata["unfinished"] for metadata in revoked)


def test_a_member_is_killed(kafka: Any, spawn: Any) -> None:
    """
    A process of the group is killed with messages in flight; the other one takes over.
    """
    topic, group = kafka.topic(partitions=4), kafka.group()
    arguments = (PROCESS, kafka.bootstrap, topic, group, 0.002)
    processes = [spawn(*arguments), spawn(*arguments)]
    count = feed(
        kafka, topic, 0, lambda: sum(len(handled(process)) for process in processes),
        lambda: all(committed_by(process) >= 100 for process in processes),
    )  # fmt: skip
    processes[0].kill()
    before = handled(processes[0])
    eventually(lambda: len({*before, *handled(processes[1])}) == count, "all messages", LONG)
    wait_until_committed(kafka, group, topic)
    assert len(set(before) & set(handled(processes[1]))) <= len(before) - committed_by(processes[0])
    processes[1].terminate()
    assert processes[1].wait() == 0


def test_a_member_that_stood_still(kafka: Any, spawn: Any) -> None:
    """
    A process that is suspended for longer than its session loses its partitions. When it wakes up it may handle what it
    can fetch before it learns of that; none of it is committed, and then it goes on where the others are.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()
    kafka.produce(topic, values(200))
    process = spawn(PROCESS, kafka.bootstrap, topic, group, 0)
    wait_for_handled(process, 200)
    wait_until_committed(kafka, group, topic)
    process.pause()
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen):
        kafka.produce(topic, values(200, first=200))
        seen.wait_for(200)
        wait_until_committed(kafka, group, topic)
    process.resume()
    kafka.produce(topic, values(200, first=400))
    eventually(lambda: set(handled(process)) >= set(values(200, first=400)), "the last ones", LONG)
    wait_until_committed(kafka, group, topic)
    assert {*handled(process), *seen.values} == {*values(600)}
    assert set(handled(process)) & set(seen.values) <= {*values(200, first=200)}
    twice = [value for value, count in collections.Counter(handled(process)).items() if count > 1]
    assert set(twice) <= {*values(200, first=400)}, "what it could fetch before it learned that it was expelled"
    process.terminate()
    assert process.wait() == 0


def test_more_members_than_partitions(kafka: Any) -> None:
    """
    A member without a partition waits; when the other one leaves it takes over.
    """
    topic, group = kafka.topic(partitions=1), kafka.group()
    kafka.produce(topic, values(10))
    first, second = Seen(), Seen()
    with consuming(kafka.bootstrap, topic, group, second):
        second.wait_for(10)
        with consuming(kafka.bootstrap, topic, group, first):
            kafka.produce(topic, values(10, first=10))
            eventually(lambda: len(first.values) + len(second.values) == 20, "each once", LONG)
        kafka.produce(topic, values(10, first=20))
        eventually(lambda: len(first.values) + len(second.values) == 30, "each once", LONG)
    assert sorted(first.values + second.values) == sorted(values(30))


def test_a_full_pipeline_takes_part_in_a_rebalance(kafka: Any) -> None:
    """
    A consumer whose partitions are all paused, as its handlers are busy, gives partitions away and stays a member.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()
    for partition in (0, 1):
        kafka.produce(topic, values(6000), partition=partition)
    gate = Gate()
    group_config = {**FAST_GROUP, "revoke_timeout_seconds": 0.2, "rebalance_timeout_seconds": 5.0}
    first, second = Seen(gate=gate), Seen()
    with consuming(kafka.bootstrap, topic, group, first, group_config=group_config):
        gate.arrived()
        time.sleep(1.0 * SCALE)  # the fault itself: long enough to fill up
        with consuming(kafka.bootstrap, topic, group, second):
            eventually(lambda: len(second.values) >= 6000, "one partition", LONG)
            gate.open()
            eventually(lambda: any(len(offsets) >= 6000 for offsets in first.offsets.values()), "the other", LONG)
            wait_until_committed(kafka, group, topic)


def test_static_member(kafka: Any, revoked: list[Any]) -> None:
    """
    A static member that comes back within the session timeout gets its partitions without a rebalance of the others.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()

    def static(name: str) -> Any:
        return {"group_config": {**FAST_GROUP, "session_timeout_seconds": 20.0, "group_instance_id": name}}

    first, second, again = Seen(), Seen(), Seen()
    with consuming(kafka.bootstrap, topic, group, first, **static("a")) as pipeline:
        with consuming(kafka.bootstrap, topic, group, second, **static("b")):
            for number in range(2):
                kafka.produce(topic, values(5), partition=number)
            eventually(lambda: len(first.values) + len(second.values) >= 10, "all messages", LONG)
            eventually(lambda: second.where or kafka.produce(topic, values(2)), "a share of the second", LONG)
        shared = set(second.where)
        before = len(revoked)
        with consuming(kafka.bootstrap, topic, group, again, **static("b")):
            for number in range(2):
                kafka.produce(topic, values(5, first=100), partition=number)
            eventually(lambda: len(again.values) >= 5, "its share", LONG)
            names = [metadata["name"] for metadata in revoked[before:]]
    assert pipeline.producer_names()[0] not in names
    assert set(again.where) <= shared


def test_cooperative_rebalance(kafka: Any) -> None:
    """
    With the cooperative assignor of kafka-python 3 only the partitions that move are revoked.
    """
    pytest.importorskip("kafka.coordinator.assignors.cooperative_sticky", reason="needs kafka-python 3")
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

    topic, group = kafka.topic(partitions=4), kafka.group()
    kafka.produce(topic, values(600))
    options = {"client_config": {"extra_config": {"partition_assignment_strategy": [CooperativeStickyAssignor]}}}
    heard: list[Any] = []
    telemetry.attach(
        "coop", ("broadway", "assignments_revoked", "start"), lambda e, m, metadata, c: heard.append(metadata)
    )
    first, second = Slow(), Slow()
    try:
        with consuming(kafka.bootstrap, topic, group, first, **options) as pipeline:
            name = pipeline.producer_names()[0]
            first.wait_for(200)
            with consuming(kafka.bootstrap, topic, group, second, **options):
                count = feed(
                    kafka, topic, 600, lambda: len(first.values) + len(second.values), lambda: len(second.values) >= 200
                )
                moved = [metadata["partitions"] for metadata in heard if metadata["name"] == name]
            eventually(lambda: len(first.values) + len(second.values) >= count, "all messages", LONG)
            wait_until_committed(kafka, group, topic)
    finally:
        telemetry.detach("coop")
    assert [len(partitions) for partitions in moved] == [2]
    assert sorted(first.values + second.values) == sorted(values(count))


def test_a_topic_that_appears_later(kafka: Any) -> None:
    """
    A pipeline whose topic does not exist yet begins when it does.
    """
    seen, warned = Seen(), threading.Event()
    telemetry.attach("up", ("broadway", "connection", "up"), lambda *_: warned.set())
    topic = "late-" + kafka.group()
    try:
        with consuming(kafka.bootstrap, topic, kafka.group(), seen):
            assert warned.wait(LONG)
            with kafka.admin() as admin:
                from tests.brokers.kafka import _create_topic

                _create_topic(admin, topic, 1, {})
            eventually(lambda: kafka.produce(topic, [b"1"]) is None, "a record", LONG)
            eventually(lambda: seen.values, "the record", LONG)
    finally:
        telemetry.detach("up")
