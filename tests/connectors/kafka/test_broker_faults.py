"""
What a pipeline on a real Kafka does when something breaks: nothing is lost, and only what was in flight comes twice.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from typing import Any, Iterator

import pytest

from broadway_sync import PipelineFailedError, telemetry
from tests.brokers.kafka_mock import HEARTBEAT, OFFSET_COMMIT
from tests.connectors.kafka.support import (
    FAST_GROUP,
    LONG,
    Seen,
    committed_in,
    consuming,
    produce_to,
    values,
    wait_until_committed,
)
from tests.helpers import SCALE, Gate, eventually

pytestmark = pytest.mark.usefixtures("leaks_of_the_client")

PROCESS = "tests.connectors.kafka.consumer_process"


def handled(process: Any) -> list[bytes]:
    """
    Return the values that a consumer process has printed.
    """
    return [line.split()[1].encode() for line in process.lines if line.startswith("handled ")]


def wait_for_handled(process: Any, count: int) -> None:
    """
    Wait until a consumer process has handled *count* messages.
    """
    eventually(lambda: len(handled(process)) >= count, f"{count} messages handled", LONG)


def committed_by(process: Any) -> int:
    """
    Return how many messages a consumer process has committed, as far as it could say.
    """
    return sum(int(line.split()[1]) for line in process.lines if line.startswith("committed "))


def test_process_killed(kafka: Any, spawn: Any) -> None:
    """
    A consumer process is killed half way and started again.
    """
    topic, group, count = kafka.topic(partitions=2), kafka.group(), 3000
    kafka.produce(topic, values(count))
    first = spawn(PROCESS, kafka.bootstrap, topic, group, 0.001)
    eventually(lambda: committed_by(first) >= 200, "commits while it works", LONG)
    first.kill()
    before = handled(first)
    assert len(before) < count
    second = spawn(PROCESS, kafka.bootstrap, topic, group, 0)
    eventually(lambda: len({*before, *handled(second)}) == count, "the rest", LONG)
    twice = set(before) & set(handled(second))
    assert len(twice) <= len(before) - committed_by(first), "what was in flight, and what was handled since a commit"
    second.terminate()
    assert second.wait() == 0
    assert kafka.committed(group, topic) == kafka.end_offsets(topic)


def test_sigterm_with_full_buffers(kafka: Any, spawn: Any) -> None:
    """
    SIGTERM while thousands of records wait: what is in the pipeline is finished and committed, the rest comes again,
    nothing comes twice.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()
    kafka.produce(topic, values(3000))
    first = spawn(PROCESS, kafka.bootstrap, topic, group, 0.005)
    wait_for_handled(first, 100)
    first.terminate()
    assert first.wait() == 0
    before = handled(first)
    assert sum(offset or 0 for offset in kafka.committed(group, topic).values()) == len(before) < 3000
    second = spawn(PROCESS, kafka.bootstrap, topic, group, 0)
    wait_for_handled(second, 3000 - len(before))
    assert sorted(before + handled(second)) == sorted(values(3000))


def assert_not_again(seen: Seen, topic: str, committed: Any) -> None:
    """
    Fail if anything came more than once that was committed then.

    What was not may come again, also what comes after the fault: a member that was expelled may be served until it
    learns of that.
    """
    for number, end in committed.items():
        done = [offset for offset in seen.offsets[topic, number] if offset < (end or 0)]
        assert len(done) == len(set(done)), f"partition {number}, of which {end} were committed"


@pytest.mark.parametrize("hard", [False, True], ids=["stopped", "killed"])
def test_broker_restarted(kafka: Any, hard: bool) -> None:
    """
    The broker goes away and comes back; said once each way.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()
    kafka.produce(topic, values(500))
    heard: list[str] = []
    telemetry.attach_many(
        "updown", [("broadway", "connection", what) for what in ("up", "down")], lambda e, *_: heard.append(e[-1])
    )
    seen = Seen()
    try:
        with consuming(kafka.bootstrap, topic, group, seen):
            seen.wait_for(500)
            wait_until_committed(kafka, group, topic)
            kafka.produce(topic, values(500, first=500))
            seen.wait_for(700)
            kafka.kill() if hard else kafka.stop()
            eventually(lambda: heard == ["up", "down"], "the loss of the connection", LONG)
            kafka.start()
            committed = kafka.committed(group, topic)
            kafka.produce(topic, values(500, first=1000))
            seen.wait_for(1500)
            wait_until_committed(kafka, group, topic)
            eventually(lambda: heard[-1] == "up", "connected again", LONG)
    finally:
        telemetry.detach("updown")
    assert sum(committed.values()) >= 500
    assert_not_again(seen, topic, committed)
    assert heard == ["up", "down", "up"]


def test_broker_is_down_at_the_start(kafka: Any) -> None:
    """
    A pipeline starts without its broker, says why it cannot connect, and begins when there is one.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(10))
    kafka.stop()
    seen, down = Seen(), threading.Event()
    telemetry.attach("down", ("broadway", "connection", "down"), lambda *_: down.set())
    try:
        with consuming(kafka.bootstrap, topic, group, seen, client_config={"connect_timeout": 0.5}):
            assert down.wait(LONG)
            kafka.start()
            seen.wait_for(10)
    finally:
        telemetry.detach("down")


def test_stop_while_the_broker_is_down(kafka: Any) -> None:
    """
    A stop does not wait for a broker that is not there.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.stop()
    down = threading.Event()
    telemetry.attach("down", ("broadway", "connection", "down"), lambda *_: down.set())
    try:
        with consuming(kafka.bootstrap, topic, group, Seen(), client_config={"connect_timeout": 1.0}) as pipeline:
            assert down.wait(LONG)
            since = time.monotonic()
            pipeline.stop()
            assert time.monotonic() - since < 5 * SCALE
    finally:
        telemetry.detach("down")


def test_stop_after_the_broker_has_gone(kafka: Any) -> None:
    """
    A stop while the broker is gone in the middle of the work leaves uncommitted what cannot be committed.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(20))
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen) as pipeline:
        seen.wait_for(20)
        wait_until_committed(kafka, group, topic)
        kafka.kill()
        since = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - since < 8 * SCALE


def test_stop_in_the_middle_of_a_poll(kafka: Any) -> None:
    """
    A pipeline that waits for records stops at once.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(1))
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen, fetch_config={"max_wait_time": 20.0}) as pipeline:
        seen.wait_for(1)
        since = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - since < 5 * SCALE
    assert kafka.committed(group, topic) == {0: 1}


@pytest.mark.parametrize("fault", ["drop", "reset", "stall"])
def test_connection_cut(kafka: Any, make_proxy: Any, fault: str) -> None:
    """
    The connection ends, is reset, or hangs for a while.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()
    kafka.produce(topic, values(300))
    proxy = make_proxy(kafka.proxied_port, listen=kafka.proxy_port)
    seen = Seen()
    options = {"request_timeout": 8.0, "connect_timeout": 2.0}
    with consuming(kafka.proxy_bootstrap, topic, group, seen, client_config=options):
        seen.wait_for(300)
        getattr(proxy, fault)()
        committed = kafka.committed(group, topic)
        kafka.produce(topic, values(300, first=300))
        if fault == "stall":
            time.sleep(1.0)  # the fault itself: for so long nothing passes
            proxy.resume()
        seen.wait_for(600)
        wait_until_committed(kafka, group, topic)
    assert_not_again(seen, topic, committed)


def test_handlers_slower_than_every_timeout(kafka: Any) -> None:
    """
    A handler that takes longer than session and rebalance timeout keeps its partitions: the consumer goes on polling.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(100))
    gate = Gate()
    seen = Seen(gate=gate)
    # Long enough for heartbeats of a busy machine.
    group_config = {
        "session_timeout_seconds": 2.5 * SCALE, "heartbeat_rate_seconds": 0.2, "rebalance_timeout_seconds": 2.5 * SCALE,
        "revoke_timeout_seconds": 0.5,
    }  # fmt: skip
    with consuming(kafka.bootstrap, topic, group, seen, group_config=group_config):
        gate.arrived()
        time.sleep(4 * SCALE)  # the fault itself: longer than the timeouts
        gate.open()
        seen.wait_for(100)
        wait_until_committed(kafka, group, topic)
    assert seen.duplicates() == []


def test_wrong_password(kafka: Any, caplog: Any) -> None:
    """
    A wrong password is said once, by name, without the password, and does not make the producer spin.
    """
    sasl = ("plain", kafka.user, "wrong-and-secret")
    attempts: list[Any] = []
    telemetry.attach("attempts", ("broadway", "connect", "exception"), lambda *event: attempts.append(event))
    caplog.set_level(logging.INFO, "broadway_sync")
    # kafka-python 3 makes attempts of its own meanwhile, and waits for the broker's answer longer each time.
    client_config = {"sasl": sasl, "connect_timeout": 3.0}
    options = {"backoff_min": 0.3, "backoff_max": 0.4, "client_config": client_config}

    def refusals() -> list[str]:
        told = [record.getMessage() for record in caplog.records if record.name == "broadway_sync"]
        return [text for text in told if "SaslAuthenticationFailed" in text]

    try:
        topic, group, since = kafka.topic(), kafka.group(), time.monotonic()
        with consuming(kafka.sasl_bootstrap, topic, group, Seen(), **options):
            eventually(lambda: len(attempts) >= 2, "two attempts", LONG)
            assert time.monotonic() - since > 2 * 3.0, "each takes its time, and there are pauses between them"
            # A busy broker may answer too late for the first ones: that they got no answer is said as well.
            eventually(refusals, "a refusal", LONG)
            count = len(attempts)
            eventually(lambda: len(attempts) > count, "one more attempt", LONG)
    finally:
        telemetry.detach("attempts")
    assert len(refusals()) == 1
    assert re.search("(?i)authentication.*failed", refusals()[0])
    assert "wrong-and-secret" not in caplog.text + repr(attempts)


def test_right_password(kafka: Any, tmp_path: Any, caplog: Any) -> None:
    """
    With the right one, also from a file, messages arrive. The client does not show it either, whatever it logs.
    """
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "password"
    path.write_text(f"{kafka.user}\n{kafka.password}\n")
    topic = kafka.topic()
    kafka.produce(topic, values(3))
    for sasl in (("PLAIN", kafka.user, kafka.password), ("plain", str(path))):
        seen = Seen()
        with consuming(kafka.sasl_bootstrap, topic, kafka.group(), seen, client_config={"sasl": sasl}):
            seen.wait_for(3)
    assert "SaslHandshakeRequest" in caplog.text
    assert f"{kafka.user}\\x00{kafka.password}" not in caplog.text


def test_backoff_stop(kafka: Any) -> None:
    """
    With ``backoff_type="stop"`` a broker that cannot be reached ends the pipeline.
    """
    options = {"backoff_type": "stop", "client_config": {"connect_timeout": 0.1}}
    with pytest.raises(PipelineFailedError), consuming("127.0.0.1:1", "topic", "group", Seen(), **options) as pipeline:
        pipeline.join(LONG)


def test_commit_fails_once(make_kafka_mock: Any, caplog: Any) -> None:
    """
    A commit that is refused is said and made up for by the next one; nothing is delivered again.
    """
    mock = make_kafka_mock()
    topic, group = mock.topic(partitions=1), mock.group()
    produce_to(mock, topic, values(50))
    seen = Seen()
    with consuming(mock.bootstrap, topic, group, seen, client_config={"extra_config": mock.client_config}):
        seen.wait_for(50)
        mock.fail(OFFSET_COMMIT, "TOPIC_AUTHORIZATION_FAILED")
        produce_to(mock, topic, values(50, first=50))
        seen.wait_for(100)
        eventually(lambda: "a commit failed" in caplog.text, "a record", LONG)
        eventually(lambda: committed_in(mock, group, topic) == 100, "the next commit", LONG)
    assert seen.duplicates() == []


@pytest.mark.parametrize("code", ["REBALANCE_IN_PROGRESS", "UNKNOWN_MEMBER_ID"])
def test_commit_during_a_rebalance(make_kafka_mock: Any, code: str) -> None:
    """
    A commit that comes too late is dropped, and the pipeline goes on.
    """
    mock = make_kafka_mock()
    topic, group = mock.topic(partitions=1), mock.group()
    produce_to(mock, topic, values(50))
    seen = Seen()
    options = {
        "client_config": {"extra_config": mock.client_config},
        # The mock waits for a member that it does not know any more to rejoin until its session is over.
        "group_config": {**FAST_GROUP, "session_timeout_seconds": 1.5},
    }
    with consuming(mock.bootstrap, topic, group, seen, **options):
        seen.wait_for(50)
        eventually(lambda: committed_in(mock, group, topic) == 50, "the first commit", LONG)
        mock.fail(OFFSET_COMMIT, code)
        produce_to(mock, topic, values(50, first=50))
        seen.wait_for(100)
        eventually(lambda: committed_in(mock, group, topic) == 100, "the next commit", LONG)
    assert len(seen.duplicates()) <= 50


@contextlib.contextmanager
def heard_revokes(*kinds: str) -> Iterator[threading.Event]:
    """
    Yield what is set by the end of a revoke of one of these kinds.
    """
    happened = threading.Event()
    events = [("broadway", "assignments_revoked", kind) for kind in kinds]
    telemetry.attach_many("revokes", events, lambda *_: happened.set())
    try:
        yield happened
    finally:
        telemetry.detach("revokes")


def test_expelled_in_the_middle_of_a_rebalance(make_kafka_mock: Any) -> None:
    """
    A member that learns from the commit of a revoke that others had its partitions goes on where the group is, and
    skips nothing of what it had fetched.
    """
    mock = make_kafka_mock()
    topic, group = mock.topic(partitions=1), mock.group()
    produce_to(mock, topic, values(300))
    gate = Gate()
    seen = Seen(gate=gate)
    options = {
        "client_config": {"extra_config": mock.client_config},
        # See above.
        "group_config": {**FAST_GROUP, "session_timeout_seconds": 1.5, "revoke_timeout_seconds": 0.1},
    }
    with consuming(mock.bootstrap, topic, group, seen, **options), heard_revokes("exception") as refused:
        gate.arrived()
        mock.fail(OFFSET_COMMIT, "UNKNOWN_MEMBER_ID")
        mock.fail(HEARTBEAT, "REBALANCE_IN_PROGRESS")
        assert refused.wait(LONG)
        gate.open()
        seen.wait_for(300)
        eventually(lambda: committed_in(mock, group, topic) == 300, "a commit of all", LONG)


def test_commit_of_a_revoke_fails(make_kafka_mock: Any, caplog: Any) -> None:
    """
    A commit in a revoke that fails for other reasons is said and made up for: partitions that come back go on.
    """
    mock = make_kafka_mock()
    topic, group = mock.topic(partitions=1), mock.group()
    produce_to(mock, topic, values(50))
    seen = Seen()
    options = {
        "client_config": {"extra_config": mock.client_config},
        "offset_commit_on_ack": False, "offset_commit_interval": 3600.0,
    }  # fmt: skip
    with consuming(mock.bootstrap, topic, group, seen, **options), heard_revokes("exception") as failed:
        seen.wait_for(50)
        mock.fail(OFFSET_COMMIT, "TOPIC_AUTHORIZATION_FAILED")
        mock.fail(HEARTBEAT, "REBALANCE_IN_PROGRESS")
        assert failed.wait(LONG)
        produce_to(mock, topic, values(50, first=50))
        seen.wait_for(100)
    assert committed_in(mock, group, topic) == 100
    assert seen.duplicates() == []
    assert caplog.text.count("a commit failed") == 1
    assert "no connection" not in caplog.text


def test_latest_and_a_rebalance(make_kafka_mock: Any) -> None:
    """
    With ``"latest"`` a record that comes in the middle of a rebalance is not skipped by a member that keeps its
    partition, also if that is the first one.
    """
    mock = make_kafka_mock()
    topic, group = mock.topic(partitions=1), mock.group()
    produce_to(mock, topic, values(5))
    fetched, seen = threading.Event(), Seen()
    options = {"client_config": {"extra_config": mock.client_config}, "offset_reset_policy": "latest"}
    telemetry.attach("lag", ("broadway", "consumer_lag"), lambda *_: fetched.set())
    event = ("broadway", "assignments_revoked", "start")
    telemetry.attach("revoke", event, lambda *_: produce_to(mock, topic, values(1, first=5)))
    try:
        with consuming(mock.bootstrap, topic, group, seen, **options):
            assert fetched.wait(LONG)
            mock.fail(HEARTBEAT, "REBALANCE_IN_PROGRESS")
            seen.wait_for(1)
    finally:
        telemetry.detach("lag")
        telemetry.detach("revoke")
    assert seen.values == values(1, first=5)


def test_offset_out_of_range(kafka: Any, caplog: Any) -> None:
    """
    A committed offset that does not exist any more is named in the log, and the policy decides.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(10))
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    fields = ("", -1)[: len(OffsetAndMetadata._fields) - 1]
    with kafka.consumer(group_id=group) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(1000, *fields)})
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen):
        seen.wait_for(10)
        assert "offset out of range" in caplog.text
        wait_until_committed(kafka, group, topic)
