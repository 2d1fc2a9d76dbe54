"""
Testing helpers: ``test_message``, ``test_batch`` and ``TestRef``.
"""

from __future__ import annotations

from typing import Any

import pytest

import broadway_sync
from broadway_sync import DummyProducer, Message
from tests.helpers import BOUND, NEVER, Batches, RecordingAcknowledger, make_handler


def odd_ones_fail(processor: str, message: Message, context: Any) -> Message:
    """
    Fail messages with odd numbers.
    """
    return message.fail("odd") if message.data % 2 else message


def test_test_message(make_pipeline: Any) -> None:
    """
    ``test_message`` sends one message; ``receive`` gives the messages that succeeded and those that failed.
    """
    pipeline = make_pipeline(make_handler(handle_message=odd_ones_fail)).start()
    ref = pipeline.test_message(2)
    assert isinstance(ref, broadway_sync.TestRef)
    (message,), failed = ref.receive(BOUND)
    assert (message.data, message.status, list(failed)) == (2, "ok", [])
    ok, (message,) = pipeline.test_message(3).receive(timeout=BOUND)
    assert (message.data, message.reason, list(ok)) == (3, "odd", [])


def test_test_message_is_flushed(make_pipeline: Any) -> None:
    """
    A test message is in flush mode and waits for no other one.
    """
    batches = Batches()
    pipeline = make_pipeline(
        make_handler(handle_batch=batches), batchers={"default": {"batch_timeout": NEVER}}
    ).start()
    (message,), _ = pipeline.test_message(1).receive(BOUND)
    assert message.batch_mode == "flush"
    assert batches.next_cut() == ([1], "flush")


def test_test_message_in_bulk_mode(make_pipeline: Any) -> None:
    """
    In bulk mode a test message waits for its batch.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_size": 2, "batch_timeout": NEVER}}).start()
    ref = pipeline.test_message(1, batch_mode="bulk")
    with pytest.raises(TimeoutError):
        ref.receive(0.05)
    other = pipeline.test_message(2, batch_mode="bulk")
    assert [m.data for m in ref.receive(BOUND)[0]] == [1]
    assert [m.data for m in other.receive(BOUND)[0]] == [2]


def test_test_batch(make_pipeline: Any) -> None:
    """
    ``test_batch`` sends messages in bulk mode; each ``receive`` gives the next acknowledgement.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_size": 3, "batch_timeout": NEVER}}).start()
    ref = pipeline.test_batch(range(6))
    assert isinstance(ref, broadway_sync.TestRef)
    acks = [ref.receive(BOUND) for _ in range(2)]
    assert [[m.data for m in ok] for ok, _ in acks] == [[0, 1, 2], [3, 4, 5]]
    assert {m.batch_mode for ok, _ in acks for m in ok} == {"bulk"}
    with pytest.raises(TimeoutError):
        ref.receive(0)


def test_test_batch_in_flush_mode(make_pipeline: Any) -> None:
    """
    In flush mode a test batch waits for nothing.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_timeout": NEVER}}).start()
    ok, failed = pipeline.test_batch([1, 2, 3], batch_mode="flush").collect(3, BOUND)
    assert (sorted(m.data for m in ok), list(failed)) == ([1, 2, 3], [])


def test_collect(make_pipeline: Any) -> None:
    """
    ``collect`` waits until that many messages are acknowledged, over any number of acknowledgements.
    """
    pipeline = make_pipeline(make_handler(handle_message=odd_ones_fail)).start()
    ok, failed = pipeline.test_batch(range(23)).collect(23, timeout=BOUND)
    assert ([m.data for m in ok], [m.data for m in failed]) == (list(range(0, 23, 2)), list(range(1, 23, 2)))


def test_collect_times_out(make_pipeline: Any) -> None:
    """
    ``collect`` raises ``TimeoutError`` when there were fewer.
    """
    pipeline = make_pipeline().start()
    with pytest.raises(TimeoutError):
        pipeline.test_batch([1, 2]).collect(3, 0.05)


def test_timeouts_default_to_a_second(make_pipeline: Any, gate: Any) -> None:
    """
    Without a timeout ``receive`` waits for one second: no test hangs for ever.
    """
    import time

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    ref = pipeline.test_message(1)
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        ref.receive()
    assert 0.9 <= time.monotonic() - before < BOUND
    gate.open()
    assert ref.receive(BOUND)


def test_metadata(make_pipeline: Any) -> None:
    """
    Metadata is merged into each message, as a dict of its own.
    """
    given = {"key": "value"}
    pipeline = make_pipeline().start()
    ok, _ = pipeline.test_batch([1, 2], metadata=given).collect(2, BOUND)
    assert [m.metadata for m in ok] == [given, given]
    ok[0].metadata["more"] = 1
    assert (ok[1].metadata, given) == ({"key": "value"}, {"key": "value"})
    (message,), _ = pipeline.test_message(1, metadata=given).receive(BOUND)
    assert message.metadata == given
    (message,), _ = pipeline.test_message(1).receive(BOUND)
    assert message.metadata == {}


def test_acknowledger(make_pipeline: Any) -> None:
    """
    ``acknowledger`` is called for each message with its data and what a caller acknowledger needs.
    """
    acks = RecordingAcknowledger()
    calls: list[Any] = []

    def acknowledger(data: Any, target: Any) -> Any:
        queue, ref = target
        calls.append((data, queue, ref))
        return acks.init(data, "data")

    pipeline = make_pipeline().start()
    pipeline.test_batch([1, 2], acknowledger=acknowledger)
    acks.collect(2)
    assert sorted(ack.ref for ack in acks.acks) == [1, 2]
    assert [c[0] for c in calls] == [1, 2]
    assert calls[0][1:] == calls[1][1:]
    assert callable(calls[0][1].put)


def test_acknowledger_may_report_to_the_reference(make_pipeline: Any) -> None:
    """
    A custom acknowledger can still answer the test's reference.
    """

    def acknowledger(data: Any, target: Any) -> Any:
        queue, ref = target
        return broadway_sync.CallerAcknowledger.init(queue, ref)

    pipeline = make_pipeline().start()
    (message,), _ = pipeline.test_message(7, acknowledger=acknowledger).receive(BOUND)
    assert message.data == 7


@pytest.mark.parametrize("mode", ["bulky", None])
def test_wrong_batch_mode(make_pipeline: Any, mode: Any) -> None:
    """
    A batch mode is ``"bulk"`` or ``"flush"``.
    """
    pipeline = make_pipeline().start()
    with pytest.raises((ValueError, TypeError)):
        pipeline.test_message(1, batch_mode=mode)
    with pytest.raises((ValueError, TypeError)):
        pipeline.test_batch([1], batch_mode=mode)


def test_test_messages_ignore_demand_and_transformer(make_pipeline: Any) -> None:
    """
    Test messages are neither transformed nor do they wait for demand.
    """

    def transformer(event: Any) -> Message:
        raise AssertionError("not for test messages")

    pipeline = make_pipeline(producer={"module": DummyProducer, "transformer": transformer}).start()
    ok, _ = pipeline.test_batch(range(100)).collect(100, BOUND)
    assert [m.data for m in ok] == list(range(100))


def test_references_are_independent(make_pipeline: Any) -> None:
    """
    Each reference sees its own messages only.
    """
    pipeline = make_pipeline(batchers={"default": {"batch_size": 4, "batch_timeout": NEVER}}).start()
    first, second = pipeline.test_batch([1, 2]), pipeline.test_batch([3, 4])
    assert [m.data for m in second.collect(2, BOUND)[0]] == [3, 4]
    assert [m.data for m in first.collect(2, BOUND)[0]] == [1, 2]


def test_messages_that_ack_immediately(make_pipeline: Any) -> None:
    """
    An immediate acknowledgement is received like any other, once.
    """
    pipeline = make_pipeline(
        make_handler(handle_message=lambda p, m, c: m.ack_immediately()), batchers={"default": {"batch_timeout": NEVER}}
    ).start()
    ref = pipeline.test_message(1)
    assert [m.data for m in ref.receive(BOUND)[0]] == [1]
    pipeline.stop()
    with pytest.raises(TimeoutError):
        ref.receive(0)


def test_configured_test_message(make_pipeline: Any) -> None:
    """
    A handler may configure the acknowledger of a test message; ``receive`` still gives the acknowledgement.
    """
    pipeline = make_pipeline(
        make_handler(handle_message=lambda p, m, c: m.configure_ack(on_failure="reject"))
    ).start()
    (message,), failed = pipeline.test_message(1).receive(BOUND)
    assert (message.data, list(failed)) == (1, [])


def test_empty_test_batch(make_pipeline: Any) -> None:
    """
    A batch of nothing is acknowledged by nothing.
    """
    ref = make_pipeline().start().test_batch([])
    ok, failed = ref.collect(0, 0)
    assert (list(ok), list(failed)) == ([], [])
    with pytest.raises(TimeoutError):
        ref.receive(0)


def test_test_ref_is_no_test_class() -> None:
    """
    Test modules may import ``TestRef``: test runners that collect classes by name are told that it is none.
    """
    assert broadway_sync.TestRef.__test__ is False
