"""
A process that consumes a topic: ``python -m tests.connectors.kafka.consumer_process HOSTS TOPIC GROUP [SECONDS]``.

It prints a line for each message when it is handled, which takes SECONDS, and ``committed COUNT`` when so many more
are committed. It stops on SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

from broadway_sync import Message, Pipeline, telemetry
from broadway_sync.connectors.common.events import ACKNOWLEDGE
from broadway_sync.connectors.kafka import KafkaProducer
from tests.connectors.kafka.support import FAST_GROUP


def say(text: str) -> None:
    """
    Print one line, whole.
    """
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def committed(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
    """
    Say how many messages were committed.
    """
    say(f"committed {metadata['count']}")


class Printer:
    """
    Says what it handles.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Take as long as it takes, then say so.
        """
        time.sleep(self._seconds)
        say(f"handled {message.data.decode()}")
        return message


def main(hosts: str, topic: str, group: str, seconds: str = "0", more: str = "{}") -> None:
    """
    Consume until SIGTERM.
    """
    options = {
        "hosts": hosts, "topics": [topic], "group_id": group, "group_config": FAST_GROUP,
        "fetch_config": {"max_wait_time": 0.1}, **json.loads(more),
    }  # fmt: skip
    pipeline = Pipeline(
        Printer(float(seconds)),
        name="process",
        producer={"module": (KafkaProducer, options)},
        processors={"default": {"concurrency": 2}},
    )
    signal.signal(signal.SIGTERM, lambda number, frame: pipeline.request_stop())
    telemetry.attach("committed", (*ACKNOWLEDGE, "stop"), committed)
    with pipeline:
        say("started")
        pipeline.join()
    say("stopped")


if __name__ == "__main__":
    main(*sys.argv[1:])
