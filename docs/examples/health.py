"""
A pipeline that stalls and gets on again, as a probe sees it.
"""

import logging
import threading
import time
import urllib.error
import urllib.request

from broadway_sync import Buffer, BufferProducer, Pipeline
from broadway_sync.runner.health import HealthMonitor

logging.basicConfig(level=logging.INFO)


class Letters:
    def handle_message(self, processor, message, context):
        context["post office opens"].wait()
        return message


def probe(path):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{monitor.port}{path}").status
    except urllib.error.HTTPError as error:
        return error.code


def wait_until_live_is(status):
    while probe("/livez") != status:
        time.sleep(0.05)


opens = threading.Event()
letters = Buffer()
pipeline = Pipeline(
    Letters(),
    name="letters",
    context={"post office opens": opens},
    producer={"module": (BufferProducer, {"buffer": letters})},
    processors={"default": {"concurrency": 1}},
)

# port=0 takes one that is free; in a program of yours it is a number that the probes know, and stall_after is minutes.
with HealthMonitor(pipeline, port=0, stall_after=0.5) as monitor:
    print("not started:", pipeline.health().status, probe("/livez"), probe("/readyz"))
    with pipeline:
        print("started:", pipeline.health().status, probe("/livez"), probe("/readyz"))

        letters.push("Dear Ada")
        wait_until_live_is(503)
        health = pipeline.health(stall_after=0.5)
        print("some time later:", health.status, probe("/livez"), probe("/readyz"))
        print("  because of", *[stage.name for stage in health.stalled])

        opens.set()
        wait_until_live_is(200)
        print("the post office has opened:", probe("/livez"), probe("/readyz"))
    print("stopped:", pipeline.health().status, probe("/livez"), probe("/readyz"))
