"""
A consumer process of the tests: ``python -m tests.connectors.pubsub.consumer SUBSCRIPTION [SETTINGS]``.

SETTINGS is JSON: ``pause`` (seconds that a message takes), ``options`` (of PubSubProducer), ``settings`` (of the
pipeline). It prints ``running``, ``began DATA`` and ``did DATA``, ``acknowledged COUNT`` when so many more are
accepted, and ``stopped`` after SIGTERM.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from typing import Any

from broadway_sync import Message, Pipeline, telemetry
from broadway_sync.connectors.common.events import ACKNOWLEDGE
from broadway_sync.connectors.pubsub import PubSubProducer
from tests.connectors.pubsub.support import QUICK

_printing = threading.Lock()


def say(text: str) -> None:
    """
    Print one line, whole.
    """
    with _printing:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class Slow:
    """
    A handler that takes its time.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Say what is done with the message.
        """
        say(f"began {message.data.decode()}")
        time.sleep(self._pause)
        say(f"did {message.data.decode()}")
        return message


def acknowledged(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
    """
    Say how many acknowledgements were accepted.
    """
    if metadata["action"] == "ack":
        say(f"acknowledged {metadata['count'] - metadata['failed']}")


def main(subscription: str, given: str = "{}") -> None:
    """
    Consume until SIGTERM.
    """
    logging.basicConfig(level=logging.INFO)
    asked = json.loads(given)
    telemetry.attach("acknowledged", ACKNOWLEDGE + ("stop",), acknowledged)
    options = {"subscription": subscription, **QUICK, **asked.get("options", {})}
    settings = {"processors": {"default": {"concurrency": 2}}, **asked.get("settings", {})}
    producer = {"module": (PubSubProducer, options), "concurrency": asked.get("producers", 1)}
    pipeline = Pipeline(Slow(asked.get("pause", 0.0)), name="consumer", producer=producer, **settings)
    signal.signal(signal.SIGTERM, lambda number, frame: pipeline.request_stop())
    with pipeline:
        say("running")
        pipeline.join()
    say("stopped")


if __name__ == "__main__":
    main(*sys.argv[1:])
