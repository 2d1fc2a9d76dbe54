"""
A table of a database as a queue: a producer, its acknowledger, and a pipeline that uses them.
"""

import os
import sqlite3
import tempfile

from broadway_sync import Acknowledger, EndOfStream, Message, Pipeline, Producer


class TableAcknowledger(Acknowledger):
    """
    Marks rows as done or failed. The ack_ref is the path of the database, the ack_data the row's id.
    """

    def ack(self, ack_ref, successful, failed):
        # Runs on the processors' threads, several at a time: a connection of its own for each call.
        connection = sqlite3.connect(ack_ref, timeout=10)
        with connection:
            outcomes = [("done", message) for message in successful] + [("failed", message) for message in failed]
            connection.executemany(
                "UPDATE job SET state = ? WHERE id = ?",
                [(state, message.acknowledger[2]) for state, message in outcomes],
            )
        connection.close()


class TableProducer(Producer):
    poll_interval = 1.0  # seconds before the table is asked again when it had too little

    acknowledger = TableAcknowledger()

    def __init__(self, path, until_empty=False):
        self.path = path
        self.until_empty = until_empty

    def init(self):
        self.connection = sqlite3.connect(self.path, timeout=10)
        with self.connection:  # what an earlier run took and never acknowledged is delivered again
            self.connection.execute("UPDATE job SET state = 'new' WHERE state = 'taken'")

    def handle_demand(self, demand):
        with self.connection:
            query = "SELECT id, payload FROM job WHERE state = 'new' ORDER BY id LIMIT ?"
            rows = self.connection.execute(query, (demand,)).fetchall()
            taken = [(row_id,) for row_id, _ in rows]
            self.connection.executemany("UPDATE job SET state = 'taken' WHERE id = ?", taken)
        if not rows and self.until_empty:
            raise EndOfStream
        return [Message(payload, (self.acknowledger, self.path, row_id)) for row_id, payload in rows]

    def terminate(self, reason):
        self.connection.close()


class Divide:
    def handle_message(self, processor, message, context):
        return message.update_data(lambda payload: 100 // int(payload))

    def handle_failed(self, messages, context):
        return messages


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "jobs.sqlite3")
        database = sqlite3.connect(path)
        with database:
            database.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, payload TEXT, state TEXT DEFAULT 'new')")
            database.executemany("INSERT INTO job (payload) VALUES (?)", [(n % 10,) for n in range(50)])
        with Pipeline(
            Divide(),
            name="jobs",
            producer={"module": (TableProducer, {"path": path, "until_empty": True})},
            processors={"default": {"concurrency": 2}},
        ) as pipeline:
            pipeline.join()
        print(database.execute("SELECT state, count(*) FROM job GROUP BY state ORDER BY state").fetchall())
        database.close()
