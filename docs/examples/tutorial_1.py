import json
import queue

from broadway_sync import IterableProducer, Pipeline

LINES = ['{"sensor": "a", "celsius": 20.5}', '{"sensor": "b", "celsius": 19.0}', "sensor c is broken"]


class Readings:
    def handle_message(self, processor, message, context):
        message.update_data(json.loads)
        context.put(message.data["sensor"])
        return message


done = queue.Queue()
with Pipeline(
    Readings(),
    name="readings",
    context=done,
    producer={"module": (IterableProducer, {"iterable": LINES})},
    processors={"default": {"concurrency": 4}},
) as pipeline:
    pipeline.join()

print(sorted(done.queue))
