"""
A consumer process: ``python -m tests.connectors.sqs.consumer QUEUE_URL JSON`` handles messages until SIGTERM.

Prints ``started``, ``handled <data>`` for each message, ``deleted <count>`` when so many more are, and ``stopped``
after a drain. The JSON has ``options`` of SQSProducer, ``settings`` of Pipeline, ``producers``, and the ``seconds``
that each message takes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from broadway_sync import Message, Pipeline, telemetry
from broadway_sync.connectors.common.events import ACKNOWLEDGE
from broadway_sync.connectors.sqs import SQSProducer


def say(*words: str) -> None:
    """
    Print a line: in one piece, whatever other threads say.
    """
    os.write(1, (" ".join(words) + "\n").encode())


class Print:
    """
    Says what it handles.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Take some time.
        """
        if self._seconds:
            time.sleep(self._seconds)  # what is to be done with a message
        say("handled", message.data)
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        Nothing more.
        """
        return messages


def acknowledged(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
    """
    Say how many messages were deleted.
    """
    if metadata["action"] == "ack":
        say("deleted", str(metadata["count"] - metadata["failed"]))


def main(queue_url: str, given: dict[str, Any]) -> None:
    """
    Run until a signal says stop.
    """
    producer = {
        "module": (SQSProducer, {"queue_url": queue_url, **given["options"]}),
        "concurrency": given.get("producers", 1),
    }
    pipeline = Pipeline(
        Print(given.get("seconds", 0.0)), name="consumer", producer=producer, **given.get("settings", {})
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pipeline.request_stop())
    telemetry.attach("acknowledged", (*ACKNOWLEDGE, "stop"), acknowledged)
    pipeline.start()
    say("started")
    pipeline.join()
    say("stopped")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
