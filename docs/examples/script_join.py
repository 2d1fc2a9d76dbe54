"""
Checks addresses, and says how far it is until the time for it is over.
"""

import itertools

from broadway_sync import IterableProducer, Pipeline


class CheckAddresses:
    def handle_message(self, processor, message, context):
        context.append(message.data)
        return message


checked = []
with Pipeline(
    CheckAddresses(),
    name="addresses",
    context=checked,
    producer={"module": (IterableProducer, {"iterable": (f"10.0.0.{n % 256}" for n in itertools.count())})},
    processors={"default": {"concurrency": 4}},
) as pipeline:
    while not pipeline.join(timeout=0.1):
        if pipeline.statistics().handled >= 1000:
            pipeline.request_stop()  # join() returns True when what was taken is handled

print("state:", pipeline.state)
print("all that was taken was handled:", len(checked) == pipeline.statistics().handled)
