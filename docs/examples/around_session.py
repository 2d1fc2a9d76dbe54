"""
A connection for each thread, a transaction for each call: callbacks find it without anybody handing it to them.
"""

import contextvars
import sqlite3
import tempfile
import threading

from broadway_sync import Around, IterableProducer, Pipeline

transaction = contextvars.ContextVar("transaction")


class Transactions(Around):
    def __init__(self, path):
        self.path = path
        self.local = threading.local()
        self.closed = []

    def __call__(self, call, messages):
        if not hasattr(self.local, "connection"):
            self.local.connection = sqlite3.connect(self.path)
        with self.local.connection as connection:  # commits, or rolls back and raises on
            transaction.set(connection)  # for this call only: the next one begins with an empty context
            return call()

    def thread_ended(self):
        if hasattr(self.local, "connection"):
            self.local.connection.close()
            self.closed.append(threading.current_thread().name)


def store(name, amount):  # somewhere deep in the code of the application
    transaction.get().execute("INSERT INTO payments VALUES (?, ?)", (name, amount))


class Payments:
    def handle_message(self, processor, message, context):
        name, amount = message.data
        store(name, amount)
        store("fees", -(100 // amount))  # an amount of 0 raises: neither of the two is stored
        return message


with tempfile.TemporaryDirectory() as folder:
    transactions = Transactions(f"{folder}/payments.sqlite3")
    database = sqlite3.connect(transactions.path)
    database.execute("CREATE TABLE payments (name, amount)")
    database.commit()
    with Pipeline(
        Payments(),
        name="payments",
        around=transactions,
        producer={"module": (IterableProducer, {"iterable": [("anna", 50), ("ben", 0), ("carl", 20)]})},
        processors={"default": {"concurrency": 1}},
    ) as pipeline:
        pipeline.join()
    print(database.execute("SELECT * FROM payments").fetchall())
    print("closed by", transactions.closed)
    print("left in this thread:", transaction.get(None))
    database.close()
