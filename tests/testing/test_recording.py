"""
The recording handler and acknowledger.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from broadway_sync import IterableProducer, Message
from broadway_sync.testing import RecordingAcknowledger, RecordingHandler
from tests.helpers import BOUND


def test_handler_records_what_happened(make_pipeline: Any) -> None:
    """
    Begun, handled, failed, batches; failures by ``fail`` and by a raise.
    """

    def behave(message: Message, attempt: int) -> None:
        if message.data == 3:
            message.fail("no")
        if message.data == 4:
            raise ValueError("planned")

    handler, acknowledger = RecordingHandler(behave), RecordingAcknowledger()
    pipeline = make_pipeline(
        handler,
        producer={"module": (IterableProducer, {"iterable": acknowledger.messages(range(6))})},
        batchers={"default": {"batch_size": 4}},
    )
    with pipeline:
        handler.wait_for_handled([0, 1, 2, 5], BOUND)
        successful, failed = acknowledger.wait_for_acks(6, BOUND)
    assert handler.begun == list(range(6))
    assert handler.handled == [0, 1, 2, 5]
    assert sorted(handler.failed) == [3, 4]
    assert handler.batches == [[0, 1, 2, 5]]
    assert [message.data for message in successful] == [0, 1, 2, 5]
    assert sorted(message.data for message in failed) == [3, 4]


def test_attempts_are_counted_by_what_is_read(make_pipeline: Any) -> None:
    """
    ``read`` says what a message is; ``behave`` learns how often it was seen.
    """
    attempts = []
    handler = RecordingHandler(lambda message, attempt: attempts.append(attempt), read=lambda message: message.data % 3)
    with make_pipeline(handler, producer={"module": (IterableProducer, {"iterable": range(7)})}) as pipeline:
        assert pipeline.join(BOUND)
    assert handler.handled == [0, 1, 2, 0, 1, 2, 0]
    assert attempts == [1, 1, 1, 2, 2, 2, 3]


def test_waiting_in_vain_says_what_was_recorded() -> None:
    """
    The error names the first message that is missing, and the counts.
    """
    handler = RecordingHandler()
    handler.handle_message("default", Message("a", (None, None, None)), None)
    with pytest.raises(AssertionError) as caught:
        handler.wait_for_handled(["a", "c", "b"], 0.01)
    assert str(caught.value) == (
        "2 of 3 messages were not handled within 0.01 s, the first is 'b'; "
        "recorded: 1 messages begun, 1 handled, 0 failed, 0 batches"
    )
    with pytest.raises(AssertionError, match="not so within 0.01 s: two batches; recorded: 1 messages begun"):
        handler.wait_for(lambda: len(handler.batches) == 2, 0.01, "two batches")
    with pytest.raises(AssertionError, match="1 acknowledged messages; recorded: 0 successful and 0 failed"):
        RecordingAcknowledger().wait_for_acks(1, 0.01)


def test_waiting_ends_with_the_change() -> None:
    """
    Whoever waits is told at once, from other threads.
    """
    handler, acknowledger = RecordingHandler(), RecordingAcknowledger()
    messages = acknowledger.messages("ab")

    def act() -> None:
        for message in messages:
            handler.handle_message("default", message, None)
            message.ack_immediately()

    thread = threading.Thread(target=act)
    thread.start()
    handler.wait_for_handled("ab", BOUND)
    assert acknowledger.wait_for_acks(2, BOUND) == (messages, [])
    thread.join()
    assert handler.wait_for(lambda: handler.handled, 0) == ["a", "b"]
