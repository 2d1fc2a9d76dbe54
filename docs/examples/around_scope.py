"""
Reports what callbacks raise to a service for errors, with what was going on; for every pipeline of the process.
"""

import contextlib
import contextvars
import logging

import broadway_sync
from broadway_sync import IterableProducer, Pipeline

logging.getLogger("broadway_sync").setLevel(logging.CRITICAL)  # the service has it all
tags = contextvars.ContextVar("tags")
reports = []


@contextlib.contextmanager
def scope(**initial):
    """
    What such services offer: tags that hold inside of a block, and are sent with what is raised in it.
    """
    token = tags.set(initial)
    try:
        yield
    except Exception as error:
        reports.append(f"{type(error).__name__}: {error} {tags.get()}")
        raise  # the message must fail all the same
    finally:
        tags.reset(token)


def reported(call, messages):
    with scope(pipeline=call.pipeline, callback=call.callback, messages=len(messages)):
        return call()


class Orders:
    def handle_message(self, processor, message, context):
        tags.get()["order"] = message.data["id"]  # the scope is that of this call, whatever other threads do
        return message.update_data(lambda order: order["total"] / order["pieces"])


ORDERS = [{"id": 1, "total": 10, "pieces": 5}, {"id": 2, "total": 7, "pieces": 0}, {"id": 3, "total": 9}]

broadway_sync.add_around(reported)
with Pipeline(
    Orders(),
    name="orders",
    producer={"module": (IterableProducer, {"iterable": ORDERS})},
    processors={"default": {"concurrency": 2, "max_demand": 1}},
) as pipeline:
    pipeline.join()

print("\n".join(sorted(reports)))
