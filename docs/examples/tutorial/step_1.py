import csv
import gzip
import itertools

from broadway_sync import IterableProducer, Pipeline

FILE = "flights-2013-01.csv.gz"


class FlightImporter:
    def handle_message(self, processor, message, context):
        line, row = message.data
        print(line, row["carrier"], row["flight"], row["origin"], row["dest"])
        return message


def read_rows():
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as file:
        yield from enumerate(csv.DictReader(file), start=2)  # line 1 has the names of the columns


def make_pipeline():
    return Pipeline(
        FlightImporter(),
        name="flights",
        producer={"module": (IterableProducer, {"iterable": itertools.islice(read_rows(), 5)})},
        processors={"default": {"concurrency": 1}},
    )


if __name__ == "__main__":
    with make_pipeline() as pipeline:
        pipeline.join()
