"""
Reports what callbacks raise to Sentry, each in a scope of its own.
"""

import logging

import sentry_sdk

import broadway_sync
from broadway_sync import IterableProducer, Pipeline
from broadway_sync.logs import message_id


def sentry_scope(call, messages):
    with sentry_sdk.isolation_scope() as scope:
        scope.set_transaction_name(f"{call.pipeline} {call.callback}")
        scope.set_tag("pipeline", call.pipeline)
        scope.set_tag("stage", call.stage)
        scope.set_context("messages", {"count": len(messages), "first": message_id(messages[0])})
        try:
            return call()
        except Exception as error:
            sentry_sdk.capture_exception(error)
            raise


class Orders:
    def handle_message(self, processor, message, context):
        sentry_sdk.set_tag("article", message.data)  # in this call's scope, whatever other threads do
        raise LookupError(f"no {message.data} in stock")


class Print(sentry_sdk.transport.Transport):
    """
    In place of the network.
    """

    def capture_envelope(self, envelope):
        event = envelope.get_event()
        print(event["transaction"], event["tags"], event["exception"]["values"][-1]["value"])


sentry_sdk.init("https://key@sentry.example/1", transport=Print, default_integrations=False)
logging.getLogger("broadway_sync").setLevel(logging.CRITICAL)
broadway_sync.add_around(sentry_scope)
with Pipeline(
    Orders(),
    name="orders",
    producer={"module": (IterableProducer, {"iterable": ["tea", "sugar"]})},
    processors={"default": {"concurrency": 1}},
) as pipeline:
    pipeline.join()
