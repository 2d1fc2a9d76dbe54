"""
Writes the invoices of an SQS queue in batches; Ctrl-C and SIGTERM end it in good order.

``QUEUE_URL`` is the address of the queue; ``SQS_ENDPOINT_URL`` that of a server which is not AWS. Credentials come from
where boto3 finds them. Run it in as many processes as you like: they share the queue.
"""

import json
import logging
import os
import signal
import sys

from broadway_sync import Pipeline
from broadway_sync.connectors.sqs import SQSProducer


class Invoices:
    def handle_message(self, processor, message, context):
        # What raises fails this message alone: it is not deleted, and comes again when its visibility timeout is
        # over, until the queue's redrive policy moves it to a dead-letter queue.
        return message.update_data(json.loads)

    def handle_batch(self, batcher, messages, batch_info, context):
        total = sum(message.data["amount"] for message in messages)
        print(f"{len(messages)} invoices, {total} in all", flush=True)
        return messages

    def handle_failed(self, messages, context):
        for message in messages:
            if isinstance(message.reason, TimeoutError):  # it may be better in a minute
                message.configure_ack(on_failure=("nack", 60))
        return messages


def main():
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    source = {
        "queue_url": os.environ["QUEUE_URL"],
        "wait_time_seconds": 20,
        "config": {"endpoint_url": os.environ.get("SQS_ENDPOINT_URL")},
    }
    pipeline = Pipeline(
        Invoices(),
        name="invoices",
        producer={"module": (SQSProducer, source), "concurrency": 2},
        processors={"default": {"concurrency": 10}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 1.0}},
    )
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, frame: pipeline.request_stop())
    with pipeline:
        pipeline.join()


if __name__ == "__main__":
    sys.exit(main())
