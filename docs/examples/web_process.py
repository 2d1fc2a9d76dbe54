"""
A web process that answers at once and stores clicks in the background, in batches.
"""

import threading

from broadway_sync import Buffer, BufferProducer, Pipeline


class StoreClicks:
    def handle_message(self, processor, message, context):
        return message

    def handle_batch(self, batcher, messages, batch_info, context):
        context.extend(message.data for message in messages)  # in a real process: one INSERT
        return messages


clicks = Buffer(maxsize=1000)
stored = []
pipeline = Pipeline(
    StoreClicks(),
    name="clicks",
    context=stored,
    producer={"module": (BufferProducer, {"buffer": clicks})},
    processors={"default": {"concurrency": 1}},
    batchers={"default": {"batch_size": 100, "batch_timeout": 2.0}},
)


def application(environ, start_response):
    """
    The WSGI application; Flask and Django make one like it.
    """
    try:
        clicks.push(environ["PATH_INFO"], timeout=0.5)
    except TimeoutError:  # the buffer is full: say so, rather than wait or lose a click
        start_response("503 Service Unavailable", [("Retry-After", "1")])
        return [b"busy\n"]
    start_response("202 Accepted", [])
    return [b"thank you\n"]


def post_fork(server, worker):
    """
    In gunicorn's configuration: start after the fork, as threads do not survive it.
    """
    pipeline.start()


def worker_exit(server, worker):
    """
    Stop before the process ends: what was pushed is stored.
    """
    clicks.close()
    pipeline.join(timeout=10)
    pipeline.stop()


if __name__ == "__main__":
    post_fork(None, None)
    requests = [
        threading.Thread(target=application, args=({"PATH_INFO": f"/{n}"}, lambda status, headers: None))
        for n in range(20)
    ]
    for request in requests:
        request.start()
    for request in requests:
        request.join()
    worker_exit(None, None)
    print("stored", len(stored), "clicks")
