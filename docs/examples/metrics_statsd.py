"""
Reports a pipeline to statsd; here the server is a socket that prints what it gets.
"""

import socket

from broadway_sync import IterableProducer, Pipeline
from broadway_sync.telemetry.statsd import StatsdReporter

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
host, port = server.getsockname()


class Orders:
    def handle_message(self, processor, message, context):
        if message.data < 0:
            return message.fail("no such order")
        return message

    def handle_batch(self, batcher, messages, batch_info, context):
        return messages


with StatsdReporter(host, port):  # in an application: StatsdReporter("localhost", 8125).attach()
    with Pipeline(
        Orders(),
        name="orders",
        producer={"module": (IterableProducer, {"iterable": [1, 2, 3, -4]})},
        processors={"default": {"concurrency": 1}},
        batchers={"default": {"batch_size": 3, "batch_timeout": 60}},
    ) as pipeline:
        pipeline.join()

lines = []
while "broadway.orders.batch_processor_default.batch_size" not in "".join(lines):
    lines += server.recv(2000).decode("ascii").split("\n")
server.close()
print("\n".join(sorted(line for line in lines if "busy" not in line and "duration" not in line)))
