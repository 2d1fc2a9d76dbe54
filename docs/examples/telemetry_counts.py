"""
Counts outcomes and adds up the time in handle_message, from telemetry.
"""

import collections
import threading

from broadway_sync import IterableProducer, Pipeline, telemetry


class Meter:
    def __init__(self):
        self.lock = threading.Lock()  # handlers run on the threads that emit
        self.counts = collections.Counter()
        self.nanoseconds = 0

    def __call__(self, event, measurements, metadata, config):
        with self.lock:
            self.nanoseconds += measurements["duration"]
            self.counts["raised" if event[-1] == "exception" else metadata["message"].status] += 1


class Invert:
    def handle_message(self, processor, message, context):
        if message.data > 90:
            return message.fail("too large")
        return message.update_data(lambda number: 1 / number)


meter = Meter()
message_events = [("broadway", "processor", "message", end) for end in ("stop", "exception")]
telemetry.attach_many("meter", message_events, meter)
with Pipeline(
    Invert(),
    name="invert",
    producer={"module": (IterableProducer, {"iterable": range(100)})},
    processors={"default": {"concurrency": 2}},
) as pipeline:
    pipeline.join()
telemetry.detach("meter")

print(sorted(meter.counts.items()))
assert meter.nanoseconds > 0
