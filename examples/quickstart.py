import json

from broadway_sync import IterableProducer, Pipeline

LINES = ['{"sensor": "a", "celsius": 20.5}', '{"sensor": "b", "celsius": 19.0}', "sensor c is broken"]


class Readings:
    def handle_message(self, processor, message, context):
        try:
            return message.update_data(json.loads)
        except ValueError as error:
            return message.fail(f"not JSON: {error}")

    def handle_batch(self, batcher, messages, batch_info, context):
        print("stored", sorted(message.data["sensor"] for message in messages))
        return messages

    def handle_failed(self, messages, context):
        for message in messages:
            print("rejected", repr(message.data), "because it is", message.reason)
        return messages


with Pipeline(
    Readings(),
    name="readings",
    producer={"module": (IterableProducer, {"iterable": LINES})},
    processors={"default": {"concurrency": 4}},
    batchers={"default": {"batch_size": 100, "batch_timeout": 1.0}},
) as pipeline:
    pipeline.join()
