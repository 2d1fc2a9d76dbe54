"""
What threads cost on this machine before anything of a pipeline is paid: no pipeline that keeps to the same rules can
be quicker than these.

Messages are made on a thread of their own, and no more than ``concurrency * max_demand`` are in flight: that a
pipeline promises. Here nothing else happens.
"""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Any, Dict, List, Optional

from broadway_sync import Message

from .limit import Limit
from .meter import Meter, percentiles
from .settings import Settings
from .source import CountingAcknowledger


def hand_over(settings: Settings) -> Dict[str, Any]:
    """
    One thread makes as many messages as may be in flight, then another one does the rest of the bare loop's work.
    """
    acknowledger = CountingAcknowledger(settings.messages)
    loop = Limit.of(settings)
    lots: SimpleQueue[Optional[List[Message]]] = SimpleQueue()
    through: SimpleQueue[None] = SimpleQueue()

    def handle() -> None:
        for lot in iter(lots.get, None):
            for first in range(0, len(lot), loop.chunk):
                loop.step(lot[first : first + loop.chunk])
            through.put(None)
        loop.flush()

    thread = threading.Thread(target=handle)
    thread.start()
    triple, size = (acknowledger, "bench", None), settings.concurrency * settings.max_demand
    meter = Meter()
    meter.start()
    for first in range(0, settings.messages, size):
        lots.put([Message(number, triple) for number in range(first, min(first + size, settings.messages))])
        through.get()
    lots.put(None)
    thread.join()
    meter.stop()
    acknowledger.check(settings.failures)
    return meter.throughput(settings.messages)


def bare_threads(settings: Settings) -> Dict[str, Any]:
    """
    The bare loop on as many threads as there are processors, each with its share of the messages.
    """
    share = settings.messages // settings.concurrency
    acknowledger = CountingAcknowledger(share * settings.concurrency)
    triple = (acknowledger, "bench", None)
    threads = [
        threading.Thread(target=Limit.of(settings).run, args=(share, triple)) for _ in range(settings.concurrency)
    ]
    meter = Meter()
    meter.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meter.stop()
    acknowledger.check(settings.failures)
    return meter.throughput(acknowledger.expected)


def round_trip(settings: Settings) -> Dict[str, Any]:
    """
    From one thread to another one and back, through two queues.
    """
    there: SimpleQueue[Optional[int]] = SimpleQueue()
    back: SimpleQueue[int] = SimpleQueue()

    def answer() -> None:
        for number in iter(there.get, None):
            back.put(number)

    thread = threading.Thread(target=answer)
    thread.start()
    times: List[float] = []
    for number in range(settings.messages):
        started_at = time.perf_counter()
        there.put(number)
        back.get()
        times.append((time.perf_counter() - started_at) * 1e6)
    there.put(None)
    thread.join()
    return percentiles(times)
