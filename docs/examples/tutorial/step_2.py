import collections
import csv
import datetime
import gzip
import typing

from broadway_sync import IterableProducer, Message, NoopAcknowledger, Pipeline

FILE = "flights-2013-01.csv.gz"


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


class FlightImporter:
    def handle_message(self, processor, message, context):
        if message.data["dep_time"] == "NA":
            return message.fail("cancelled")
        if message.data["arr_time"] == "NA":
            return message.fail("never arrived")
        return message.update_data(parse)

    def handle_failed(self, messages, context):
        context.extend([(message.metadata["line"], message.reason) for message in messages])
        return messages


def read_rows():
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as file:
        yield from enumerate(csv.DictReader(file), start=2)  # line 1 has the names of the columns


def to_message(numbered_row):
    line, row = numbered_row
    return Message(row, NoopAcknowledger.init(), metadata={"line": line})


def make_pipeline(rejected):
    return Pipeline(
        FlightImporter(),
        name="flights",
        context=rejected,
        producer={"module": (IterableProducer, {"iterable": read_rows()}), "transformer": to_message},
        processors={"default": {"concurrency": 2, "max_demand": 100}},
    )


if __name__ == "__main__":
    rejected = []
    with make_pipeline(rejected) as pipeline:
        pipeline.join()
    for reason, count in collections.Counter(reason for line, reason in rejected).most_common():
        print(count, reason)
