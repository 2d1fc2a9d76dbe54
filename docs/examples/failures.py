"""
Tries again what may work the second time, sets aside the rest with its reason.
"""

import time

from broadway_sync import IterableProducer, Pipeline

ATTEMPTS = 3


class ServiceBusyError(Exception):
    pass


class Orders:
    def __init__(self):
        self.calls = 0
        self.set_aside = []

    def ship(self, order):
        self.calls += 1
        if order == "unknown article":
            raise LookupError(order)
        if self.calls < 3:
            raise ServiceBusyError

    def handle_message(self, processor, message, context):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.ship(message.data)
                return message
            except ServiceBusyError:
                time.sleep(0.01 * 2**attempt)  # blocks this processor alone: its other messages wait
            except LookupError as error:
                return message.fail(f"no such article: {error}")  # no use in trying again
        return message.fail(f"busy after {ATTEMPTS} attempts")

    def handle_failed(self, messages, context):
        self.set_aside.extend((message.data, message.reason) for message in messages)
        return messages


handler = Orders()
with Pipeline(
    handler,
    name="orders",
    producer={"module": (IterableProducer, {"iterable": ["1 lamp", "unknown article", "2 chairs"]})},
    processors={"default": {"concurrency": 1}},
) as pipeline:
    pipeline.join()

print("set aside:", handler.set_aside)
