"""
Tries again what may work the second time, sets aside the rest with its reason.
"""

from broadway_sync import IterableProducer, Pipeline, Retry


class ServiceBusyError(Exception):
    pass


class Orders:
    retry = Retry(max_attempts=3, backoff=(0.01, 0.1), on=ServiceBusyError)

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
        try:
            self.ship(message.data)
        except LookupError as error:
            return message.fail(f"no such article: {error}")  # no use in trying again
        return message

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
