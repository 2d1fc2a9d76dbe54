"""
Times every callback, and says which call was the slowest.
"""

import time

from broadway_sync import IterableProducer, Pipeline


class Invert:
    def handle_message(self, processor, message, context):
        return message.update_data(lambda number: 1 / number)

    def handle_batch(self, batcher, messages, batch_info, context):
        time.sleep(0.1)  # a slow database
        return messages


durations = []


def timed(call, messages):
    started = time.perf_counter()
    try:
        return call()
    finally:  # also when it raised
        durations.append((time.perf_counter() - started, call.callback, len(messages)))


with Pipeline(
    Invert(),
    name="invert",
    around=timed,
    producer={"module": (IterableProducer, {"iterable": range(12)})},
    processors={"default": {"concurrency": 2, "max_demand": 2}},
    batchers={"default": {"batch_size": 11, "batch_timeout": 5.0}},
) as pipeline:
    pipeline.join()

for callback in ("handle_message", "handle_batch"):
    print(callback, "was called", sum(entry[1] == callback for entry in durations), "times")
print("the slowest call:", *max(durations)[1:], "messages")
