"""
Consumes a queue; what fails goes to another one, and if that is not to be had to a file.
"""

import json
import os

from broadway_sync import Pipeline
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from broadway_sync.dead_letter import DeadLetter, FileLetters, RabbitMQLetters

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")
QUEUE = os.environ.get("QUEUE", "invoices")
FILE = os.environ.get("DEAD_FILE", "/var/lib/invoices/dead.jsonl")


class Invoices:
    handle_failed = DeadLetter(
        RabbitMQLetters(f"{QUEUE}.dead", connection=URL),
        fallback=FileLetters(FILE),
        max_run=1000,
    )

    def handle_message(self, processor, message, context):
        return message.update_data(json.loads)


pipeline = Pipeline(
    Invoices(),
    name="invoices",
    producer={"module": (RabbitMQProducer, {"queue": QUEUE, "connection": URL, "on_failure": "reject"})},
    processors={"default": {"concurrency": 4}},
)
