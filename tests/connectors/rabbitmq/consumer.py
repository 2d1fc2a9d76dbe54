"""
A consumer for a process of its own: ``consumer.py URL QUEUE [OPTIONS]``, the producer's options as JSON.

Prints ``ready`` when the pipeline runs, ``did BODY`` for each message as it is handled, and ``stopped`` after SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

from broadway_sync import Message, Pipeline
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from tests.connectors.rabbitmq.support import QUICK


class Handler:
    """
    Takes a while for each message: ``context`` seconds.
    """

    def handle_message(self, processor: str, message: Message, context: float) -> Message:
        """
        Print the body.
        """
        time.sleep(context)
        # One write for one line: other threads print too.
        sys.stdout.write(f"did {message.data.decode()}\n")
        return message


def main(url: str, queue: str, given: str = "{}") -> None:
    """
    Run until SIGTERM.
    """
    options: Any = {"queue": queue, "connection": url, "on_failure": "reject", **QUICK, **json.loads(given)}
    pause = options.pop("pause", 0.001)
    producer = {"module": (RabbitMQProducer, options)}
    pipeline = Pipeline(
        Handler(), name="consumer", producer=producer, processors={"default": {"concurrency": 4}}, context=pause
    )
    signal.signal(signal.SIGTERM, lambda number, frame: pipeline.request_stop())
    with pipeline:
        sys.stdout.write("ready\n")
        pipeline.join()
    sys.stdout.write("stopped\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
