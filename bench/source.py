"""
The source that every throughput job reads from, and the acknowledger that counts what came out.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Tuple

from broadway_sync import EndOfStream, Message, Producer


class CountingAcknowledger:
    """
    Counts acknowledgements, and keeps the moment at which the last of *expected* messages was acknowledged.

    Thread-safe.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.successful = 0
        self.failed = 0
        self.finished_at = 0.0
        self.finished = threading.Event()
        # Guards the counters and _marks.
        self._lock = threading.Lock()
        self._marks: List[Tuple[int, Callable[[], None]]] = []

    def at(self, count: int, function: Callable[[], None]) -> None:
        """
        Call *function* once, as soon as *count* messages are acknowledged; before the run, and in rising order.
        """
        self._marks.append((count, function))

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Count.
        """
        with self._lock:
            self.successful += len(successful)
            self.failed += len(failed)
            count = self.successful + self.failed
            while self._marks and count >= self._marks[0][0]:
                self._marks.pop(0)[1]()
            if count >= self.expected and not self.finished_at:
                self.finished_at = time.perf_counter()
                self.finished.set()

    def check(self, failed: int) -> None:
        """
        Raise unless exactly the expected messages were acknowledged, *failed* of them as failed.
        """
        got, want = (self.successful, self.failed), (self.expected - failed, failed)
        if got != want:
            raise LostMessagesError(f"(successful, failed) acknowledged: {got}, expected: {want}")


class LostMessagesError(Exception):
    """
    A run did not acknowledge each of its messages exactly once.
    """


class CounterProducer(Producer):
    """
    Produces the messages 0 to *messages* - 1, as many at a time as are demanded, once *gate* is open.
    """

    def __init__(self, messages: int, acknowledger: CountingAcknowledger, gate: threading.Event) -> None:
        self.next = 0
        self.end = messages
        # One triple for all messages: what a source pays for its own acknowledgement data is not measured here.
        self.acknowledger = (acknowledger, "bench", None)
        self.gate = gate
        self.waiting = True

    def handle_demand(self, demand: int) -> List[Message]:
        if self.waiting:  # only at the first demand: all threads are up when the clock starts
            while not self.gate.wait(0.5) and not self.stage.draining:
                pass
            self.waiting = False
        first = self.next
        self.next = last = min(first + demand, self.end)
        acknowledger = self.acknowledger
        messages = [Message(number, acknowledger) for number in range(first, last)]
        if last == self.end:
            raise EndOfStream(messages)
        return messages


def options(messages: int, acknowledger: CountingAcknowledger, gate: threading.Event) -> Dict[str, Any]:
    """
    Return the ``producer`` options of a pipeline that reads from the counter.
    """
    return {
        "module": (CounterProducer, {"messages": messages, "acknowledger": acknowledger, "gate": gate}),
        "concurrency": 1,
    }
