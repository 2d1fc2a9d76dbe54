"""
Messages stay ours while they are tried again.
"""

from __future__ import annotations

from typing import Any

import pytest

from broadway_sync import Message, Retry
from tests.connectors.recorder import LONG
from tests.connectors.sqs.support import module
from tests.helpers import SCALE, eventually, make_handler


def test_a_lease_outlasts_the_pauses(make_pipeline: Any, elasticmq: Any) -> None:
    """
    Attempts that take twice the visibility timeout: nobody else gets the message meanwhile.
    """
    pytest.importorskip("boto3")
    queue = elasticmq.queue(VisibilityTimeout=2)
    elasticmq.send(queue, ["x"])
    calls: list[Any] = []

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        calls.append(message.metadata["approximate_receive_count"])
        if len(calls) < 4:
            raise ConnectionError
        return message

    retry = Retry(max_attempts=9, backoff=lambda attempt: 1.4 * SCALE)
    handler = make_handler(handle_message=handle_message, retry=retry)
    with make_pipeline(handler, producer={"module": module(queue, elasticmq)}, processors={"default": {}}):
        eventually(lambda: elasticmq.counts(queue) == (0, 0, 0), "the message is deleted", LONG)
    assert calls == [1, 1, 1, 1]
