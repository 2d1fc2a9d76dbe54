"""
What reporters do on the threads of stages: names, sums, and their bounds.
"""

from __future__ import annotations

import string
import threading
import time
import zlib
from typing import Any, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadway_sync import IterableProducer, Message, NoopAcknowledger, PipelineFailedError, Retry, telemetry
from broadway_sync.connectors.common import events as connectors
from broadway_sync.dead_letter import DeadLetter, FileLetters, Letter, PartlyWrittenError
from broadway_sync.telemetry import events, metrics
from broadway_sync.telemetry.metrics import COUNTER, GAUGE, HISTOGRAM, METRICS
from broadway_sync.telemetry.registry import heard
from broadway_sync.telemetry.reporting import aggregates as module
from broadway_sync.telemetry.reporting import gauges
from broadway_sync.telemetry.reporting.aggregates import MOST_SAMPLES, Aggregates, Buckets, Samples
from broadway_sync.telemetry.reporting.listener import MOST_REASONS
from broadway_sync.telemetry.reporting.names import LONGEST, clean
from broadway_sync.telemetry.reporting.reporter import Reporter
from tests.dead_letter.support import failing_handler
from tests.helpers import Call, EndlessProducer, Gate, eventually, make_handler
from tests.telemetry.support import COUNT, RAISED, oranges, run

LABELS = ("orders", "processor_default")


# ---- names


@given(st.text())
def test_a_cleaned_name_has_nothing_odd(text: str) -> None:
    """
    And is neither empty nor long, whatever it was made of.
    """
    cleaned = clean(text)
    assert set(cleaned) <= set(string.ascii_letters + string.digits + "_-")
    assert 0 < len(cleaned) <= LONGEST


def checksum(text: str) -> str:
    """
    Return what stands for letters that have no ASCII form.
    """
    return f"{zlib.crc32(text.encode('utf-8')):08x}"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("orders-eu_1", "orders-eu_1"),
        ("my pipeline", "my_pipeline"),
        ("café", "cafe"),
        ("a:b|c@d#e,f\n", "a_b_c_d_e_f"),
        ("日本", checksum("日本")),
        ("orders 日本", "orders_" + checksum("orders 日本")),
        ("", checksum("")),
    ],
)
def test_how_names_are_cleaned(text: str, cleaned: str) -> None:
    """
    What can be kept is kept; a checksum stands for what cannot.
    """
    assert clean(text) == cleaned


def test_names_that_are_too_long_stay_different() -> None:
    """
    Their beginning is seen.
    """
    one, other = clean("x" * 200), clean("x" * 201)
    assert one != other
    assert one.startswith("x" * 70)


# ---- sums


def test_counters_are_taken_once() -> None:
    """
    What was taken is not taken again, what comes later is.
    """
    sums = Aggregates(Samples)
    sums.add([(metrics.INGESTED, LABELS, 3)], [(metrics.BATCH_SIZE, LABELS, 7.0)])
    counters, samples = sums.take()
    assert counters == {(metrics.INGESTED, LABELS): 3}
    assert samples[metrics.BATCH_SIZE, LABELS].values == [7.0]
    assert sums.take() == ({}, {})
    sums.add([(metrics.INGESTED, LABELS, 2)], [])
    assert sums.take() == ({(metrics.INGESTED, LABELS): 2}, {})
    assert sums.counters() == {(metrics.INGESTED, LABELS): 5}


def test_nothing_is_lost_between_threads() -> None:
    """
    However many add while somebody takes.
    """
    sums = Aggregates(Samples)
    adding = [
        threading.Thread(target=lambda: [sums.add([(metrics.INGESTED, LABELS, 1)], []) for _ in range(2000)])
        for _ in range(4)
    ]
    for thread in adding:
        thread.start()
    taken = 0.0
    while any(thread.is_alive() for thread in adding):
        taken += sum(sums.take()[0].values())
    taken += sum(sums.take()[0].values())
    assert taken == 8000


def test_a_finalizer_may_emit_while_sums_are_added() -> None:
    """
    A garbage collection can run one at any time, on the thread that holds the lock.
    """

    class Finalized(str):
        def __hash__(self) -> int:  # called while the series is looked up
            sums.add([(metrics.RETRIES, ("orders", "handle_message"), 1)], [])
            return str.__hash__(self)

    sums = Aggregates(Samples)
    adding = Call(sums.add, [(metrics.INGESTED, ("orders", Finalized("processor_default")), 1)], [])
    adding.result()
    assert sums.counters()[metrics.RETRIES, ("orders", "handle_message")] >= 1


def test_buckets_count_values_up_to_their_bound() -> None:
    """
    A value at a bound belongs to it, the last bucket has what is above all.
    """
    buckets = Buckets((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        buckets.add(value)
    assert (buckets.counts, buckets.sum) == ([2, 2, 1], 8.0)


def test_of_too_many_samples_each_has_the_same_chance() -> None:
    """
    Early ones and late ones are kept alike.
    """
    samples = Samples()
    for number in range(20 * MOST_SAMPLES):
        samples.add(number)
    assert len(samples.values) == MOST_SAMPLES
    assert samples.seen == 20 * MOST_SAMPLES
    late = sum(value >= 10 * MOST_SAMPLES for value in samples.values)
    # Expected is half of them, with a standard deviation of 16: this is off by 9 of those once in 10 ** 18 runs.
    assert abs(late - MOST_SAMPLES // 2) < 9 * 16


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    More are not begun, and counted; those that are there go on.
    """
    monkeypatch.setattr(module, "MOST_SERIES", 3)
    sums = Aggregates(Buckets)
    for number in range(3):
        sums.add([(metrics.INGESTED, ("orders", str(number)), 1)], [])
    sums.add([(metrics.INGESTED, ("orders", "3"), 1), (metrics.INGESTED, ("orders", "0"), 1)], [])
    sums.add([], [(metrics.BATCH_SIZE, LABELS, 1.0)])
    assert sums.dropped == 2
    assert sums.histograms() == {}
    assert sums.counters()[metrics.INGESTED, ("orders", "0")] == 2


# ---- what is counted


class Sums(Reporter):
    """
    A reporter that only keeps its sums.
    """

    def __init__(self) -> None:
        super().__init__(Samples, per_message=False, per_thread=False)

    def counted(self, metric: metrics.Metric) -> dict[Any, float]:
        """
        Return the counters of *metric*, by labels.
        """
        return {labels: value for (each, labels), value in self._aggregates.counters().items() if each is metric}

    def lags(self) -> dict[Any, float]:
        """
        Return the lags of the pipeline "orders", by labels.
        """
        values = self._listener.gauges(["orders"])
        return {labels: value for metric, labels, value in values if metric is metrics.CONSUMER_LAG}


def test_reasons_are_bounded(make_pipeline: Callable[..., Any]) -> None:
    """
    Classes that are made for each failure do not become a label each.
    """

    def fail(processor: str, message: Message, context: Any) -> Message:
        raise type(f"Error{message.data}", (Exception,), {})

    producer = {"module": (IterableProducer, {"iterable": range(2 * MOST_REASONS)})}
    with Sums() as sums:
        run(make_pipeline(make_handler(handle_message=fail), name="orders", producer=producer))
    failed = sums.counted(metrics.FAILED)
    assert len(failed) == MOST_REASONS + 1
    assert failed["orders", "processor_default", "other"] == MOST_REASONS


def test_series_that_are_missing_are_told_once(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """
    Pipelines with a new name for each start are reported until there are too many, and no longer.
    """
    monkeypatch.setattr(module, "MOST_SERIES", 30)
    with Sums() as sums:
        for _ in range(5):
            run(oranges())
            sums._gauges.sample()
    assert caplog.text.count("there are too many series of metrics") == 1


def test_failures_of_partition_by_are_counted(make_pipeline: Callable[..., Any]) -> None:
    """
    At the stage whose partition could not be found, and so are their acknowledgements.
    """

    def partition(message: Message) -> int:
        return -1 if message.data == 3 else 0

    with Sums() as sums:
        processors = {"default": {"concurrency": 1, "partition_by": partition}}
        producer = {"module": (IterableProducer, {"iterable": range(5)})}
        run(make_pipeline(name="orders", producer=producer, processors=processors))
    assert sums.counted(metrics.FAILED) == {("orders", "processor_default", "InvalidReturnError"): 1}
    assert sum(sums.counted(metrics.ACKNOWLEDGED).values()) == 5


def test_messages_without_a_batch_are_counted(make_pipeline: Callable[..., Any]) -> None:
    """
    At the batcher that could not batch them.
    """

    def size(message: Message, before: int) -> Any:
        if message.data == 3:
            raise KeyError(3)
        return "cont", before

    with Sums() as sums:
        batchers = {"default": {"batch_size": (0, size), "max_demand": 10}}
        producer = {"module": (IterableProducer, {"iterable": range(5)})}
        run(make_pipeline(name="orders", producer=producer, batchers=batchers))
    assert sums.counted(metrics.FAILED) == {("orders", "batcher_default", "KeyError"): 1}
    assert sum(sums.counted(metrics.ACKNOWLEDGED).values()) == 5
    assert not [metric for metric, _ in sums._aggregates.take()[1] if metric is metrics.BATCH_FILL]


def test_retries_and_dead_letters_are_counted(make_pipeline: Callable[..., Any], tmp_path: Any) -> None:
    """
    Those of the library's own policies.
    """

    class Handler:
        retry = Retry(max_attempts=3, backoff=(0, 0))
        handle_failed = DeadLetter(FileLetters(tmp_path / "letters.jsonl"))

        def handle_message(self, processor: str, message: Message, context: Any) -> Message:
            raise ConnectionError

    producer = {"module": (IterableProducer, {"iterable": range(2)})}
    with Sums() as sums:
        run(make_pipeline(Handler(), name="orders", producer=producer))
    assert sums.counted(metrics.RETRIES) == {("orders", "handle_message"): 4}
    assert sums.counted(metrics.RETRIES_GAVE_UP) == {("orders", "handle_message"): 2}
    assert sums.counted(metrics.DEAD_LETTERS) == {("orders",): 2}
    assert sums.counted(metrics.FAILED) == {("orders", "processor_default", "ConnectionError"): 2}


def test_of_a_lot_that_was_accepted_in_part_that_part_is_counted(make_pipeline: Callable[..., Any]) -> None:
    """
    And the call as an error.
    """

    def write(letters: Sequence[Letter]) -> None:
        raise PartlyWrittenError("full", letters[1:])

    handler = failing_handler(DeadLetter(write, patience=0))
    pipeline = make_pipeline(handler, name="orders", producer={"module": (IterableProducer, {"iterable": range(3)})})
    with Sums() as sums:
        with pytest.raises(PipelineFailedError):
            run(pipeline)
    assert sums.counted(metrics.DEAD_LETTERS) == {("orders",): 1}
    assert sums.counted(metrics.DEAD_LETTER_ERRORS) == {("orders",): 1}


class Unbound:
    """
    A proxy of something that is not there.
    """

    @property
    def __class__(self) -> Any:
        raise RuntimeError("there is nothing behind it")


def test_a_reason_may_be_anything(make_pipeline: Callable[..., Any]) -> None:
    """
    Nothing of it is called: what raises would end the reports.
    """
    handler = make_handler(handle_message=lambda processor, message, context: message.fail(Unbound()))
    producer = {"module": (IterableProducer, {"iterable": range(3)})}
    with Sums() as sums:
        run(make_pipeline(handler, name="orders", producer=producer))
    assert sums.counted(metrics.FAILED) == {("orders", "processor_default", "failed"): 3}


def test_a_handle_failed_that_raises_is_counted(make_pipeline: Callable[..., Any]) -> None:
    """
    Its messages are acknowledged as failed all the same.
    """
    callbacks = {
        "handle_message": lambda processor, message, context: message.fail("no"),
        "handle_failed": lambda messages, context: 1 / 0,
    }
    producer = {"module": (IterableProducer, {"iterable": range(1)})}
    with Sums() as sums:
        run(make_pipeline(make_handler(**callbacks), name="orders", producer=producer))
    assert sums.counted(metrics.HANDLE_FAILED_ERRORS) == {("orders",): 1}


def test_it_listens_to_chunks_and_not_to_messages() -> None:
    """
    So that a message costs nothing more.
    """
    with Sums():
        assert events.PROCESSOR in heard
        assert events.MESSAGE not in heard
        assert events.BATCHER not in heard
    assert not heard


def test_several_reporters_do_not_disturb_each_other() -> None:
    """
    Each has its own sums.
    """
    with Sums() as one:
        run(oranges("orders"))
        with Sums() as other:
            run(oranges("orders"))
    key = ("orders", "processor_default", "KeyError")
    assert (one.counted(metrics.FAILED)[key], other.counted(metrics.FAILED)[key]) == (2 * RAISED, RAISED)
    assert sum(other.counted(metrics.INGESTED).values()) == COUNT


# ---- what the last events said

LAGGING = {"connector": "kafka", "topology_name": "orders", "topic": "t", "partition": 1}


def test_a_lag_ends_with_the_partition() -> None:
    """
    Also when it moves away without having been committed: it is another process that reports it then.
    """
    for kind in ("stop", "exception"):
        with Sums() as sums:
            telemetry.execute(connectors.CONSUMER_LAG, {"lag": 7}, LAGGING)
            assert sums.lags() == {("orders", "t", "1"): 7}
            telemetry.execute((*connectors.ASSIGNMENTS_REVOKED, kind), {}, {**LAGGING, "partitions": [("t", 1)]})
            assert sums.lags() == {}


def test_a_lag_that_is_not_told_again_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nobody tells a consumer that was expelled what becomes of its partitions.
    """
    with Sums() as sums:
        telemetry.execute(connectors.CONSUMER_LAG, {"lag": 7}, LAGGING)
        now = time.monotonic()
        monkeypatch.setattr("broadway_sync.telemetry.reporting.listener.monotonic", lambda: now + 59)
        telemetry.execute(connectors.CONSUMER_LAG, {"lag": 8}, {**LAGGING, "partition": 2})
        assert sums.lags() == {("orders", "t", "1"): 7, ("orders", "t", "2"): 8}
        monkeypatch.setattr("broadway_sync.telemetry.reporting.listener.monotonic", lambda: now + 61)
        assert sums.lags() == {("orders", "t", "2"): 8}


def test_a_pipeline_that_starts_again_has_no_connection_yet(make_pipeline: Callable[..., Any]) -> None:
    """
    It may have fewer producers than the last time, and nobody need have looked in between.
    """
    with Sums() as sums:
        for number in range(2):
            name = f"orders.Broadway.Producer_{number}"
            telemetry.execute(connectors.CONNECTION_UP, {}, {**LAGGING, "name": name})
        assert (metrics.CONNECTIONS_UP, ("orders", "kafka"), 2) in sums._listener.gauges(["orders"])
        make_pipeline(name="orders").start()
        assert sums._listener.gauges(["orders"]) == []


def test_processors_that_wait_for_room_are_not_busy(
    make_pipeline: Callable[..., Any], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Only the batch processor that they wait for is.
    """
    monkeypatch.setattr(gauges, "SHORTEST_LOOK", 0.1)

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        gate.wait()
        return messages

    pipeline = make_pipeline(
        make_handler(handle_batch=handle_batch),
        name="orders",
        producer={"module": (EndlessProducer, {"acknowledger": NoopAcknowledger})},
        batchers={"default": {"batch_size": 1}},
    )

    def is_waiting() -> bool:
        stages = pipeline.statistics().stages
        waiting = any(stage.waiting for stage in stages if stage.kind == "producer")
        return waiting and not any(stage.in_hand for stage in stages if stage.kind == "processor")

    def shares() -> dict[str, float]:
        return {labels[1]: value for metric, labels, value in sums._gauges.sample() if metric is metrics.BUSY_SHARE}

    with Sums() as sums:
        pipeline.start()
        gate.arrived()
        eventually(is_waiting, "processors that wait")
        shares()
        time.sleep(0.2)
        found = shares()
        gate.open()
    assert found["batch_processor_default"] > 0.9
    assert found["processor_default"] < 0.1


# ---- the declarations


def test_metrics_are_declared_once() -> None:
    """
    With a kind, a unit, labels and a text, and histograms with buckets.
    """
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) > 20
    for metric in METRICS:
        assert metric.kind in (COUNTER, GAUGE, HISTOGRAM)
        assert metric.labels[0] == "pipeline"
        assert metric.unit
        assert metric.text
        assert bool(metric.buckets) == (metric.kind == HISTOGRAM)
        assert list(metric.buckets) == sorted(metric.buckets)


def test_sources_are_events() -> None:
    """
    What the table says about where figures come from is the name of an event.
    """
    known = {".".join(event[1:]) for event in [*events.METADATA, *connectors.METADATA]}
    for metric in METRICS:
        for source in metric.source.split(" (")[0].split(", "):
            assert source in known | {"statistics"}, metric
