"""
Logs which pipeline, stage and message each line belongs to.
"""

import logging
import logging.config

from broadway_sync import IterableProducer, Message, NoopAcknowledger, Pipeline

logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"broadway": {"()": "broadway_sync.logs.ContextFilter"}},
        "formatters": {
            "plain": {"format": "%(levelname)s %(pipeline)s %(callback)s [%(message_id)s] %(name)s: %(message)s"}
        },
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "filters": ["broadway"],
                "formatter": "plain",
            }
        },
        "root": {"level": "INFO", "handlers": ["console"]},
    }
)
log = logging.getLogger("shop.stock")


def find_in_stock(article):
    log.info("looking for %s", article)  # knows nothing of pipelines


class Orders:
    def handle_message(self, processor, message, context):
        find_in_stock(message.data)
        return message


def to_message(article):
    return Message(article, NoopAcknowledger.init(), metadata={"message_id": f"order-{len(article)}"})


log.info("the shop opens")
with Pipeline(
    Orders(),
    name="orders",
    producer={"module": (IterableProducer, {"iterable": ["tea", "sugar"]}), "transformer": to_message},
    processors={"default": {"concurrency": 1}},
) as pipeline:
    pipeline.join()
