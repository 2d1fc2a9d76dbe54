"""
A web application that answers at once and stores clicks in the background, in batches.
"""

import contextlib
import logging
import os
import sqlite3

from broadway_sync import Buffer, BufferProducer, NotRunningError, Pipeline

DATABASE = os.environ.get("CLICKS_DATABASE", "clicks.sqlite")


class StoreClicks:
    def handle_message(self, processor, message, context):
        return message

    def handle_batch(self, batcher, messages, batch_info, context):
        with contextlib.closing(sqlite3.connect(DATABASE, timeout=10)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS clicks (path TEXT)")
            database.executemany("INSERT INTO clicks VALUES (?)", [(message.data,) for message in messages])
        return messages


clicks = Buffer(maxsize=1000)
pipeline = Pipeline(
    StoreClicks(),
    name="clicks",
    producer={"module": (BufferProducer, {"buffer": clicks})},
    processors={"default": {"concurrency": 1}},
    batchers={"default": {"batch_size": 100, "batch_timeout": 2.0}},
    shutdown=10,  # less than the server gives its workers to end
)


def application(environ, start_response):
    """
    The WSGI application; Flask and Django make one like it.
    """
    try:
        clicks.push(environ["PATH_INFO"], timeout=0.5)
    except (TimeoutError, NotRunningError) as error:  # full, or closed: say so, rather than wait or lose a click
        logging.getLogger("clicks").warning("refused: %s", error)
        start_response("503 Service Unavailable", [("Retry-After", "1"), ("Content-Length", "5")])
        return [b"busy\n"]
    start_response("202 Accepted", [("Content-Length", "10")])
    return [b"thank you\n"]


def start():
    """
    In each worker, after the fork.
    """
    pipeline.start()


def drain():
    """
    In each worker, before it ends: requests that are late get a 503, what was pushed is stored.
    """
    if pipeline.state == "running":
        clicks.close()
        pipeline.stop()
