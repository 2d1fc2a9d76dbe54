import json
import queue

from broadway_sync import IterableProducer, Pipeline

LINES = ['{"sensor": "a", "celsius": 20.5}', '{"sensor": "b", "celsius": -300}', "sensor c is broken"]


class Readings:
    def handle_message(self, processor, message, context):
        message.update_data(json.loads)
        if message.data["celsius"] < -273.15:
            return message.fail("colder than possible")
        context.put(f"{message.data['sensor']}: good")
        return message

    def handle_failed(self, messages, context):
        for message in messages:
            context.put(f"{message.data}: {message.status}, {message.reason}")
        return messages


done = queue.Queue()
with Pipeline(
    Readings(),
    name="readings",
    context=done,
    producer={"module": (IterableProducer, {"iterable": LINES})},
    processors={"default": {"concurrency": 4}},
) as pipeline:
    pipeline.join()

print("\n".join(sorted(done.queue)))
