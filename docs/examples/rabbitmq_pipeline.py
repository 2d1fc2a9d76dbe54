"""
Writes the invoices of a RabbitMQ queue in batches; Ctrl-C and SIGTERM end it in good order.

``AMQP_URL`` is the broker's address. Run it in as many processes as you like: they share the queue.
"""

import json
import logging
import os
import signal
import sys

from broadway_sync import Pipeline
from broadway_sync.connectors.rabbitmq import RabbitMQProducer

DEAD_LETTERS = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "invoices.failed"}


class Invoices:
    def handle_message(self, processor, message, context):
        # What raises fails this message alone: it is rejected, and the broker moves it to invoices.failed.
        return message.update_data(json.loads)

    def handle_batch(self, batcher, messages, batch_info, context):
        total = sum(message.data["amount"] for message in messages)
        print(f"{len(messages)} invoices, {total} in all", flush=True)
        return messages


def declare_dead_letters(channel):
    channel.queue_declare("invoices.failed", durable=True)


def main():
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # the pipeline says what happens to its connections
    source = {
        "connection": os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F"),
        "queue": "invoices",
        "after_connect": declare_dead_letters,
        "declare": {"durable": True, "arguments": DEAD_LETTERS},
        "qos": {"prefetch_count": 200},
        "on_failure": "reject",
    }
    pipeline = Pipeline(
        Invoices(),
        name="invoices",
        producer={"module": (RabbitMQProducer, source)},
        processors={"default": {"concurrency": 10}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 1.0}},
    )
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, frame: pipeline.request_stop())
    with pipeline:
        pipeline.join()


if __name__ == "__main__":
    sys.exit(main())
