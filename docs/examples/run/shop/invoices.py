"""
Stores invoices, one JSON object a line, in a table.
"""

import contextlib
import json
import sqlite3

from broadway_sync import IterableProducer, Message, NoopAcknowledger, Pipeline


class StoreInvoices:
    def handle_message(self, processor, message, context):
        return message.update_data(json.loads)

    def handle_batch(self, batcher, messages, batch_info, context):
        rows = [(message.data["number"], message.data["amount"]) for message in messages]
        with contextlib.closing(sqlite3.connect("invoices.db")) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS invoices (number, amount)")
            database.executemany("INSERT INTO invoices VALUES (?, ?)", rows)
        return messages


def read_lines():
    with open("invoices.jsonl", encoding="utf-8") as file:
        yield from file


def pipeline():
    return Pipeline(
        StoreInvoices(),
        name="invoices",
        producer={
            "module": (IterableProducer, {"iterable": read_lines()}),  # in earnest: a connector
            "transformer": lambda line: Message(line, NoopAcknowledger.init()),
        },
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 0.5}},
    )
