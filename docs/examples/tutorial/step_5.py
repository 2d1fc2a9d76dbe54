import contextlib
import csv
import datetime
import gzip
import sqlite3
import typing

from broadway_sync import IterableProducer, Message, NoopAcknowledger, Pipeline

FILE = "flights-2013-01.csv.gz"
DATABASE = "flights.sqlite3"


class Flight(typing.NamedTuple):
    day: str
    carrier: str
    number: int
    origin: str
    dest: str
    delay: typing.Optional[int]


def parse(row):
    day = datetime.date(int(row["year"]), int(row["month"]), int(row["day"]))
    delay = None if row["arr_delay"] == "NA" else int(row["arr_delay"])
    return Flight(day.isoformat(), row["carrier"], int(row["flight"]), row["origin"], row["dest"], delay)


class Store:
    def __init__(self, path):
        self.path = path
        with self.transaction() as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # who reads need not wait for who writes
            connection.execute(
                "CREATE TABLE IF NOT EXISTS flights"
                " (line INTEGER PRIMARY KEY, day, carrier, number, origin, dest, delay)"
            )
            connection.execute("CREATE TABLE IF NOT EXISTS rejected (line INTEGER PRIMARY KEY, reason)")

    @contextlib.contextmanager
    def transaction(self):
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            with connection:  # commits, or rolls back if the block raises
                yield connection

    def save_flights(self, flights):
        with self.transaction() as connection:
            connection.executemany("REPLACE INTO flights VALUES (?, ?, ?, ?, ?, ?, ?)", flights)

    def save_rejected(self, rejected):
        with self.transaction() as connection:
            connection.executemany("REPLACE INTO rejected VALUES (?, ?)", rejected)

    def lines_done(self):
        with self.transaction() as connection:
            return {line for (line,) in connection.execute("SELECT line FROM flights UNION SELECT line FROM rejected")}

    def counts(self):
        with self.transaction() as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("flights", "rejected")
            }


class FlightImporter:
    def handle_message(self, processor, message, context):
        if message.data["dep_time"] == "NA":
            return message.fail("cancelled")
        if message.data["arr_time"] == "NA":
            return message.fail("never arrived")
        return message.update_data(parse)

    def handle_batch(self, batcher, messages, batch_info, context):
        context.save_flights([(message.metadata["line"], *message.data) for message in messages])
        return messages

    def handle_failed(self, messages, context):
        rejected = [message for message in messages if message.status == "failed"]  # not those that raised
        context.save_rejected([(message.metadata["line"], message.reason) for message in rejected])
        return messages


def read_rows(done):
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):  # line 1 has the names of the columns
            if line not in done:
                yield line, row


def to_message(numbered_row):
    line, row = numbered_row
    return Message(row, NoopAcknowledger.init(), metadata={"line": line})


def make_pipeline():
    store = Store(DATABASE)
    return Pipeline(
        FlightImporter(),
        name="flights",
        context=store,
        producer={
            "module": (IterableProducer, {"iterable": read_rows(store.lines_done())}),
            "transformer": to_message,
            "rate_limiting": {"allowed_messages": 50, "interval": 0.1},
        },
        processors={"default": {"concurrency": 2, "max_demand": 100}},
        batchers={"default": {"concurrency": 1, "batch_size": 500, "batch_timeout": 1.0}},
    )


if __name__ == "__main__":
    with make_pipeline() as pipeline:
        while not pipeline.join(timeout=10.0):
            now = pipeline.statistics()
            print(f"after {now.uptime:.0f} s: {now.handled} handled, {now.in_flight} in flight")
    print(Store(DATABASE).counts())
