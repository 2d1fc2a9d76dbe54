"""
What a pipeline on a real Kafka does when nothing goes wrong.
"""

from __future__ import annotations

import collections
from typing import Any

import pytest

from broadway_sync import telemetry
from tests.connectors.kafka.support import LONG, Seen, consuming, values, wait_until_committed
from tests.helpers import QUIET, Gate, eventually

pytestmark = pytest.mark.usefixtures("leaks_of_the_client")


def test_every_message_once_and_the_end_committed(kafka: Any) -> None:
    """
    10,000 messages, two producers, one in a hundred fails: each is handled once, and the end of the topic is committed.
    """
    topic, group = kafka.topic(partitions=4), kafka.group()
    kafka.produce(topic, values(10_000))
    seen = Seen(fails=lambda message: int(message.data) % 100 == 0)
    with consuming(kafka.bootstrap, topic, group, seen, concurrency=2):
        seen.wait_for(10_000)
    assert collections.Counter(seen.values) == collections.Counter(values(10_000))
    assert sorted(seen.failed) == sorted(value for value in values(10_000) if int(value) % 100 == 0)
    assert kafka.committed(group, topic) == kafka.end_offsets(topic)


def test_kafka_4_1(kafka41: Any) -> None:
    """
    The same on Kafka 4.1, with batches.
    """
    topic, group = kafka41.topic(partitions=3), kafka41.group()
    kafka41.produce(topic, values(1000))
    seen = Seen()
    with consuming(kafka41.bootstrap, topic, group, seen, batchers={"default": {"batch_size": 50}}):
        seen.wait_for(1000)
    assert seen.duplicates() == []
    assert kafka41.committed(group, topic) == kafka41.end_offsets(topic)


def test_metadata_of_a_message(kafka: Any) -> None:
    """
    A message carries value, key, headers, time and place of its record; its batch key is the topic partition.
    """
    topic, group = kafka.topic(), kafka.group()
    with kafka.producer() as producer:
        producer.send(topic, b"value", key=b"key", headers=[("a", b"1")], timestamp_ms=1_700_000_000_000)
        producer.send(topic, None, key=b"tombstone", timestamp_ms=1_700_000_000_001)
    got = []

    class Handler(Seen):
        def handle_message(self, processor: str, message: Any, context: Any) -> Any:
            got.append((message.data, message.metadata, message.batch_key))
            return message

    with consuming(kafka.bootstrap, topic, group, Handler()):
        eventually(lambda: len(got) == 2, "two messages", LONG)
    place = {"topic": topic, "partition": 0}
    first = {**place, "offset": 0, "key": b"key", "ts": 1_700_000_000_000, "headers": [("a", b"1")]}
    second = {**place, "offset": 1, "key": b"tombstone", "ts": 1_700_000_000_001, "headers": []}
    assert got == [(b"value", first, (topic, 0)), (None, second, (topic, 0))]


@pytest.mark.parametrize(("partitions", "processors"), [(6, 2), (2, 5)], ids=["more", "fewer"])
def test_order_within_a_partition(kafka: Any, partitions: int, processors: int) -> None:
    """
    With more partitions than processors, or fewer, those of a partition are handled in order by one processor and one
    batch processor, and batches hold one partition each.
    """
    topic, group = kafka.topic(partitions=partitions), kafka.group()
    kafka.produce(topic, values(1200))
    seen = Seen()
    batchers = {"default": {"concurrency": 3, "batch_size": 20, "batch_timeout": 0.2}}
    with consuming(
        kafka.bootstrap, topic, group, seen, concurrency=2, processors={"concurrency": processors}, batchers=batchers
    ):
        seen.wait_for(1200)
    for key, offsets in seen.offsets.items():
        assert offsets == list(range(len(offsets))), key
        assert len(seen.where[key]) == 1
        assert len(seen.batched_on[key]) == 1
        batched = [offset for batch_key, batch in seen.batches if batch_key == key for offset in batch]
        assert batched == offsets
    busy = {name for names in seen.where.values() for name in names}
    assert len(busy) == min(partitions, processors)


def test_only_the_finished_prefix_is_committed(kafka: Any) -> None:
    """
    While the first message of a partition is in a handler nothing after it is committed, however much is finished.
    """
    topic, group = kafka.topic(partitions=2), kafka.group()
    kafka.produce(topic, values(20), partition=0)
    kafka.produce(topic, values(20, first=20), partition=1)
    gate = Gate()

    class Handler(Seen):
        def handle_batch(self, batcher: str, messages: Any, batch_info: Any, context: Any) -> Any:
            if messages[0].data == b"0":
                gate.wait()
            return messages

    batchers = {"default": {"concurrency": 2, "batch_size": 10, "batch_timeout": 0.1}}
    seen = Handler()
    with consuming(kafka.bootstrap, topic, group, seen, batchers=batchers):
        gate.arrived()
        eventually(lambda: kafka.committed(group, topic)[1] == 20, "the other partition committed", LONG)
        assert kafka.committed(group, topic)[0] is None
        gate.open()
        wait_until_committed(kafka, group, topic)


def test_commits_by_interval(kafka: Any) -> None:
    """
    Without ``offset_commit_on_ack`` nothing is committed before the interval is over, but everything at a stop.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(50))
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen, offset_commit_on_ack=False, offset_commit_interval=3600.0):
        seen.wait_for(50)
        with pytest.raises(AssertionError):
            eventually(lambda: kafka.committed(group, topic)[0], "a commit", 2 * QUIET)
    assert kafka.committed(group, topic) == {0: 50}


def test_gaps_of_compacted_topics_and_transactions(kafka: Any) -> None:
    """
    Offsets that do not exist (markers of transactions, records that were compacted away) hold nothing up, and records
    of aborted transactions are not delivered.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, [b"0"])
    with kafka.producer(transactional_id=kafka.group()) as producer:
        producer.init_transactions()
        for value, is_good in ((b"1", True), (b"aborted", False), (b"2", True)):
            producer.begin_transaction()
            producer.send(topic, value)
            producer.flush()
            producer.commit_transaction() if is_good else producer.abort_transaction()
    kafka.produce(topic, [b"3"])
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen):
        seen.wait_for(4)
        wait_until_committed(kafka, group, topic)
    assert seen.values == [b"0", b"1", b"2", b"3"]
    assert seen.offsets[topic, 0] == [0, 1, 5, 7]


def test_compacted_topic(kafka: Any) -> None:
    """
    A compacted topic is read to its end although most of its offsets are gone.
    """
    settings = {"segment_ms": 100, "min_cleanable_dirty_ratio": 0.01, "max_compaction_lag_ms": 100}
    topic, group = kafka.topic(cleanup_policy="compact", **settings), kafka.group()
    for number in range(5):
        kafka.produce(topic, [(b"key%d" % key, b"%d-%d" % (number, key)) for key in range(20)])
    eventually(lambda: len(kafka.values(topic)) < 100 or kafka.produce(topic, [(b"tick", b"t")]), "compaction", LONG)
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen):
        wait_until_committed(kafka, group, topic)
    assert {b"4-%d" % key for key in range(20)} <= set(seen.values), "the last one of each key"
    assert len(seen.values) < seen.offsets[topic, 0][-1], "there are gaps"


def test_lag(kafka: Any) -> None:
    """
    The lag of each partition is in telemetry: what is in the partition and not finished.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(30))
    gate, heard = Gate(), []
    telemetry.attach("lag", ("broadway", "consumer_lag"), lambda e, m, metadata, c: heard.append((m, metadata)))
    try:
        with consuming(kafka.bootstrap, topic, group, Seen(gate=gate)) as pipeline:
            gate.arrived()
            eventually(lambda: any(m == {"lag": 30} for m, _ in heard), "a lag of 30", LONG)
            gate.open()
            eventually(lambda: heard[-1][0] == {"lag": 0}, "no lag", LONG)
            name = pipeline.producer_names()[0]
    finally:
        telemetry.detach("lag")
    metadata = heard[-1][1]
    assert (metadata["topic"], metadata["partition"], metadata["name"]) == (topic, 0, name)
    assert metadata["connector"] == "kafka"


def test_lag_behind_a_transaction(kafka: Any) -> None:
    """
    What a transaction leaves in a partition that nobody is given, its marker and what was aborted, is no lag.
    """
    topic, group = kafka.topic(), kafka.group()
    with kafka.producer(transactional_id=kafka.group()) as producer:
        producer.init_transactions()
        for value, is_good in ((b"1", True), (b"aborted", False)):
            producer.begin_transaction()
            producer.send(topic, value)
            producer.flush()
            producer.commit_transaction() if is_good else producer.abort_transaction()
    heard: list[int] = []
    telemetry.attach("lag", ("broadway", "consumer_lag"), lambda e, m, metadata, c: heard.append(m["lag"]))
    try:
        with consuming(kafka.bootstrap, topic, group, Seen()) as pipeline:
            wait_for_lag_zero(heard)
            pipeline.stop()
        heard.clear()
        with consuming(kafka.bootstrap, topic, group, Seen()):
            wait_for_lag_zero(heard)
    finally:
        telemetry.detach("lag")


def wait_for_lag_zero(heard: list[int]) -> None:
    """
    Wait until the last lag that was heard is none.
    """
    eventually(lambda: heard and heard[-1] == 0, "no lag", LONG)


def test_latest_and_reset(kafka: Any) -> None:
    """
    ``offset_reset_policy`` counts without a committed offset only; with ``begin_offset="reset"`` always.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(10))
    seen = Seen()
    with consuming(kafka.bootstrap, topic, group, seen):
        seen.wait_for(10)
    again, anew = Seen(), Seen()
    kafka.produce(topic, values(5, first=10))
    with consuming(kafka.bootstrap, topic, group, again):
        again.wait_for(5)
    assert again.values == values(5, first=10)
    with consuming(kafka.bootstrap, topic, group, anew, begin_offset="reset"):
        anew.wait_for(15)
    assert anew.values == values(15)


def test_by_timestamp(kafka: Any) -> None:
    """
    Without a committed offset a time as policy begins at the first record that is as new.
    """
    topic = kafka.topic()
    with kafka.producer() as producer:
        for number in range(10):
            producer.send(topic, b"%d" % number, timestamp_ms=1_700_000_000_000 + 1000 * number)
    for options in ({}, {"begin_offset": "reset"}):
        seen = Seen()
        policy = ("timestamp", 1_700_000_006_000)
        with consuming(kafka.bootstrap, topic, kafka.group(), seen, offset_reset_policy=policy, **options):
            seen.wait_for(4)
        assert seen.values == [b"6", b"7", b"8", b"9"]


def test_several_topics_one_missing(kafka: Any, caplog: Any) -> None:
    """
    A topic that does not exist is named in a warning, and does not keep the others from being read.
    """
    topic, group = kafka.topic(), kafka.group()
    kafka.produce(topic, values(5))
    seen = Seen()
    with consuming(kafka.bootstrap, [topic, "no-such-topic"], group, seen):
        seen.wait_for(5)
        eventually(lambda: "no topic no-such-topic" in caplog.text, "a warning", LONG)
