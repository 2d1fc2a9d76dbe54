"""
A policy for each callback: prices are looked up three times, batches are stored five times, a mistake not at all.
"""

from broadway_sync import IterableProducer, Pipeline, Retry, telemetry


class Orders:
    def __init__(self):
        self.lookups = self.inserts = 0

    @Retry(max_attempts=3, backoff=(0.01, 0.1), on=ConnectionError)
    def handle_message(self, processor, message, context):
        self.lookups += 1
        if self.lookups == 2:
            raise ConnectionResetError("prices.example.com")
        return message.update_data(lambda order: (order, 100 // order))

    @Retry(max_attempts=5, backoff=lambda attempt: 0.01 * attempt, never=ValueError)
    def handle_batch(self, batcher, messages, batch_info, context):
        self.inserts += 1
        if self.inserts < 4:
            raise TimeoutError("the database is busy")
        print("stored:", [message.data for message in messages])
        return messages

    def handle_failed(self, messages, context):
        print("failed:", [(message.data, message.reason) for message in messages])
        return messages


def show(event, measurements, metadata, config):
    print(f"{metadata['callback']}, attempt {measurements['attempt']}: {metadata['reason']!r}")


telemetry.attach("show", ("broadway", "retry", "attempt"), show)

with Pipeline(
    Orders(),
    name="orders",
    producer={"module": (IterableProducer, {"iterable": [1, 2, 0, 4]})},
    processors={"default": {"concurrency": 1}},
    batchers={"default": {"batch_size": 3, "concurrency": 1}},
) as pipeline:
    pipeline.join()
