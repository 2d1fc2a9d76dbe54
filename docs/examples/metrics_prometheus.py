"""
Shows a pipeline's metrics to Prometheus.
"""

import urllib.request

import prometheus_client

from broadway_sync import IterableProducer, Pipeline
from broadway_sync.telemetry.prometheus import PrometheusReporter


class Orders:
    def handle_message(self, processor, message, context):
        return message if message.data > 0 else message.fail("no such order")


reporter = PrometheusReporter().attach()
server, thread = prometheus_client.start_http_server(port=0, addr="127.0.0.1")
with Pipeline(
    Orders(),
    name="orders",
    producer={"module": (IterableProducer, {"iterable": [1, 2, 3, -4]})},
    processors={"default": {"concurrency": 1}},
) as pipeline:
    pipeline.join()

with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as page:
    for line in page.read().decode("utf-8").split("\n"):
        if line.startswith(("broadway_messages", "broadway_processor_duration_seconds_count")):
            print(line)
server.shutdown()
server.server_close()
thread.join()
reporter.detach()
