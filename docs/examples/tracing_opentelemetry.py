"""
Traces a message from the request that sends it to the batch that stores it.
"""

from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import broadway_sync
from broadway_sync import Buffer, BufferProducer, Pipeline
from broadway_sync.telemetry.opentelemetry import Tracing

exporter = InMemorySpanExporter()  # in an application: a BatchSpanProcessor with an exporter of OTLP
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")

orders = Buffer()


def view(order):
    with tracer.start_as_current_span("POST /orders"):
        headers = {}
        propagate.inject(headers)
        orders.push(order, metadata={"headers": headers})


class Store:
    def handle_message(self, processor, message, context):
        with tracer.start_as_current_span("SELECT stock"):
            return message

    def handle_batch(self, batcher, messages, batch_info, context):
        return messages


broadway_sync.add_around(Tracing())
with Pipeline(
    Store(),
    name="orders",
    producer={"module": (BufferProducer, {"buffer": orders})},
    processors={"default": {"concurrency": 1}},
    batchers={"default": {"batch_size": 2, "batch_timeout": 60}},
) as pipeline:
    view({"article": "tea"})
    view({"article": "sugar"})
    orders.close()
    pipeline.join()

spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
for span in sorted(spans.values(), key=lambda span: span.name):
    parent = spans[span.parent.span_id].name if span.parent else "nothing"
    print(f"{span.name}: child of {parent}, links to {[spans[link.context.span_id].name for link in span.links]}")
