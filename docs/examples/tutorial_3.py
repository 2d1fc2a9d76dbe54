import json
import queue

from broadway_sync import IterableProducer, Pipeline

LINES = [json.dumps({"sensor": "abc"[n % 3], "celsius": n / 10}) for n in range(250)]


class Readings:
    def handle_message(self, processor, message, context):
        message.update_data(json.loads)
        return message.put_batch_key(message.data["sensor"])

    def handle_batch(self, batcher, messages, batch_info, context):
        context.put(f"sensor {batch_info.batch_key}: stored {batch_info.size}, cut by {batch_info.trigger}")
        return messages


done = queue.Queue()
with Pipeline(
    Readings(),
    name="readings",
    context=done,
    producer={"module": (IterableProducer, {"iterable": LINES})},
    processors={"default": {"concurrency": 4}},
    batchers={"default": {"concurrency": 2, "batch_size": 50, "batch_timeout": 10.0}},
) as pipeline:
    pipeline.join()

print("\n".join(sorted(done.queue)))
