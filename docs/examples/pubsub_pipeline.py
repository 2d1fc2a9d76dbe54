"""
Writes the invoices of a Pub/Sub subscription in batches; Ctrl-C and SIGTERM end it in good order.

``SUBSCRIPTION`` is its name; with ``PUBSUB_EMULATOR_HOST`` it is one of the emulator. Run it in as many processes as
you like: they share the subscription.
"""

import json
import logging
import os
import signal
import sys

from broadway_sync import Pipeline
from broadway_sync.connectors.pubsub import PubSubProducer


class Invoices:
    def handle_message(self, processor, message, context):
        # What raises fails this message alone: it comes again after ten seconds, and goes to the dead letter topic, if
        # the subscription has one, when it has come too often.
        return message.update_data(json.loads)

    def handle_batch(self, batcher, messages, batch_info, context):
        total = sum(message.data["amount"] for message in messages)
        print(f"{len(messages)} invoices, {total} in all", flush=True)
        return messages


def main():
    logging.basicConfig(level=logging.INFO)
    source = {
        "subscription": os.environ.get("SUBSCRIPTION", "projects/acme/subscriptions/invoices"),
        "max_number_of_messages": 100,
        "on_failure": ("nack", 10),
    }
    pipeline = Pipeline(
        Invoices(),
        name="invoices",
        producer={"module": (PubSubProducer, source)},
        processors={"default": {"concurrency": 10, "max_demand": 20}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 1.0}},
    )
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, frame: pipeline.request_stop())
    with pipeline:
        pipeline.join()


if __name__ == "__main__":
    sys.exit(main())
