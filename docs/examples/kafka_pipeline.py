"""
Writes the invoices of a Kafka topic in batches, and puts what fails into a topic of its own; Ctrl-C and SIGTERM end it
in good order.

``KAFKA_HOSTS`` has some brokers. Run it in as many processes as the topic has partitions: they share them.
"""

import json
import logging
import os
import signal
import sys

from kafka import KafkaProducer as RecordProducer

from broadway_sync import Pipeline
from broadway_sync.connectors.kafka import KafkaProducer

HOSTS = os.environ.get("KAFKA_HOSTS", "localhost:9092")


class Invoices:
    def handle_message(self, processor, message, context):
        return message.update_data(json.loads)

    def handle_batch(self, batcher, messages, batch_info, context):
        total = sum(message.data["amount"] for message in messages)
        print(f"{len(messages)} invoices, {total} in all", flush=True)
        return messages

    def handle_failed(self, messages, records):
        # Failed messages are committed like the others: what is to be kept of them has to be kept here.
        sent = []
        for message in messages:
            value = message.data if isinstance(message.data, bytes) else json.dumps(message.data).encode()
            sent.append(records.send("invoices.failed", value, key=message.metadata["key"]))
        for future in sent:
            future.get(timeout=30)
        return messages


def main():
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("kafka").propagate = False  # the pipeline says what happens to its connections
    records = RecordProducer(bootstrap_servers=HOSTS, acks="all")
    source = {"hosts": HOSTS, "group_id": "invoices", "topics": ["invoices"]}
    pipeline = Pipeline(
        Invoices(),
        name="invoices",
        context=records,
        producer={"module": (KafkaProducer, source)},
        processors={"default": {"concurrency": 10}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 1.0}},
    )
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, frame: pipeline.request_stop())
    with pipeline:
        pipeline.join()
    records.close()


if __name__ == "__main__":
    sys.exit(main())
