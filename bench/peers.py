"""
The same work by other means, each the way its own documentation shows it.

All of them build the same messages, call the same handler, and tell the same acknowledger of every batch of 100. They
offer less than a pipeline does: a message that fails stops or is lost in most of them, and none of them batches by
time or key, partitions, restarts, limits the rate or reports. streamz does, in part, in its own way.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import queue
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence

from broadway_sync import BatchInfo, Message

from . import handlers
from .jobs import Figures, SkippedError
from .meter import Meter
from .settings import Settings
from .source import CountingAcknowledger

# Messages under way at most; the size of the queue in the tutorials, and far more than all workers can hold.
WINDOW = 1000


class Work:
    """
    The work of one run, for peers to call from their threads.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.handler = handlers.HANDLERS[settings.handler]()
        self.acknowledger = CountingAcknowledger(settings.messages)
        self.triple = (self.acknowledger, "bench", None)

    def handle(self, number: int) -> Message:
        """
        One message.
        """
        message = Message(number, self.triple)
        result: Message = self.handler.handle_message("default", message, self.settings.context)
        return result

    def deliver(self, messages: Sequence[Message]) -> None:
        """
        One batch.
        """
        info = BatchInfo("default", "default", None, len(messages), "size")
        done = self.handler.handle_batch("default", messages, info, self.settings.context)
        self.acknowledger.ack("bench", done, [])


def queue_threads(work: Work) -> None:
    """
    ``queue.Queue`` and threads, as its documentation shows them: ``get``, work, ``task_done``; ``join`` at the end.
    """
    settings = work.settings
    numbers: Any = queue.Queue(maxsize=WINDOW)
    results: Any = queue.Queue(maxsize=WINDOW)

    def worker() -> None:
        while True:
            number = numbers.get()
            if number is None:
                break
            results.put(work.handle(number))
            numbers.task_done()

    def batcher() -> None:
        batch: List[Message] = []
        while True:
            message = results.get()
            if message is not None:
                batch.append(message)
            if batch and (message is None or len(batch) >= settings.batch_size):
                work.deliver(batch)
                batch = []
            if message is None:
                break

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(settings.concurrency)]
    collector = threading.Thread(target=batcher, daemon=True)
    for thread in (*threads, collector):
        thread.start()
    for number in range(settings.messages):
        numbers.put(number)
    numbers.join()
    for _ in threads:
        numbers.put(None)
    for thread in threads:
        thread.join()
    results.put(None)
    collector.join()


def futures(work: Work) -> None:
    """
    ``ThreadPoolExecutor``: submit up to a window of messages, ``wait`` for the first to be done, submit as many again.
    """
    settings = work.settings
    numbers = iter(range(settings.messages))
    batch: List[Message] = []
    with ThreadPoolExecutor(settings.concurrency) as pool:
        pending = {pool.submit(work.handle, number) for number in itertools.islice(numbers, WINDOW)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                batch.append(future.result())
                if len(batch) >= settings.batch_size:
                    work.deliver(batch)
                    batch = []
            pending |= {pool.submit(work.handle, number) for number in itertools.islice(numbers, len(done))}
    if batch:
        work.deliver(batch)


def pypeln(work: Work) -> None:
    """
    pypeln's thread stages; it has no stage that batches, so a generator between two stages does.
    """
    try:
        pl: Any = importlib.import_module("pypeln")
    except ImportError as error:
        raise SkippedError(f"{error}; pip install 'broadway_sync[bench]'") from error
    settings = work.settings
    handled = pl.thread.map(work.handle, range(settings.messages), workers=settings.concurrency, maxsize=WINDOW)
    batches = _batches(handled, settings.batch_size)
    pl.thread.each(work.deliver, batches, workers=settings.batch_concurrency, maxsize=WINDOW, run=True)


def _batches(messages: Iterable[Message], size: int) -> Iterator[List[Message]]:
    messages = iter(messages)
    batch = list(itertools.islice(messages, size))
    while batch:
        yield batch
        batch = list(itertools.islice(messages, size))


def streamz(work: Work) -> None:
    """
    streamz: ``map``, ``partition``, ``sink`` within an event loop, all on one thread; more take a Dask cluster.

    Of the ways in its documentation this is the fast one: ``partition`` runs on an event loop, and without
    ``asynchronous=True`` every ``emit`` waits for that loop's thread (10,000 messages a second instead of 130,000).
    """
    try:
        stream: Any = importlib.import_module("streamz").Stream
    except ImportError as error:
        raise SkippedError(f"{error}; pip install 'broadway_sync[bench]'") from error
    settings = work.settings
    if settings.messages % settings.batch_size:
        raise ValueError("streamz would keep the last messages: partition() without a timeout waits for a full batch")

    async def emit() -> None:
        numbers = stream(asynchronous=True)
        numbers.map(work.handle).partition(settings.batch_size).sink(work.deliver)
        for number in range(settings.messages):
            await numbers.emit(number)

    asyncio.run(emit())


PEERS: Dict[str, Callable[[Work], None]] = {
    "queue.Queue + threads": queue_threads,
    "concurrent.futures": futures,
    "pypeln": pypeln,
    "streamz": streamz,
}


def run(name: str, settings: Settings) -> Figures:
    """
    Run the peer *name* and measure it as a pipeline is measured.
    """
    work = Work(settings)
    meter = Meter()
    meter.start()
    PEERS[name](work)
    meter.stop()
    work.acknowledger.check(0)
    figures = meter.throughput(settings.messages)
    if settings.sleep:
        figures["share_of_ideal"] = figures["rate"] * settings.sleep / settings.concurrency
    return figures
