"""
Consumes a queue; what fails goes to another one. Addresses and names come from the environment.
"""

import json
import os

from broadway_sync import Pipeline
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from broadway_sync.dead_letter import DeadLetter, FileLetters, LetterRefusedError, RabbitMQLetters

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")
QUEUE = os.environ.get("QUEUE", "invoices")

queue = RabbitMQLetters(f"{QUEUE}.dead", connection=URL)
file = FileLetters(os.environ.get("DEAD_FILE", "/var/lib/invoices/dead.jsonl"))


def write(letters):
    try:
        queue.write(letters)
    except LetterRefusedError as error:  # too large for the queue, say
        file.write(error.left)


class Invoices:
    handle_failed = DeadLetter(write, max_run=1000)

    def handle_message(self, processor, message, context):
        return message.update_data(json.loads)


pipeline = Pipeline(
    Invoices(),
    name="invoices",
    producer={"module": (RabbitMQProducer, {"queue": QUEUE, "connection": URL, "on_failure": "reject"})},
    processors={"default": {"concurrency": 4}},
)
