"""
What ``test_message`` and ``test_batch`` return.
"""

from __future__ import annotations

import queue
import threading
from time import monotonic
from typing import List, Tuple

from .message import Message


class TestRef:
    """
    The acknowledgements of some test messages, in the order in which they come. Thread-safe.
    """

    __test__ = False  # the name makes pytest look for tests in it

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Tuple[str, object, List[Message], List[Message]]] = queue.SimpleQueue()
        """Gets ``("ack", ref, successful, failed)``."""

    def receive(self, timeout: float = 1.0) -> Tuple[List[Message], List[Message]]:
        """
        Return the (successful, failed) messages of the next acknowledgement.

        There are as many acknowledgements as there are steps that end messages: chunks and batches.

        Raises:
            TimeoutError: None came within *timeout* seconds.
        """
        deadline = monotonic() + timeout
        while True:
            try:
                event = self.queue.get(timeout=min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX))
            except queue.Empty:
                raise TimeoutError(f"no test message was acknowledged within {timeout:g} seconds") from None
            if event[0] == "ack":  # the other ones come from configure_ack
                return event[2], event[3]

    def collect(self, count: int, timeout: float = 1.0) -> Tuple[List[Message], List[Message]]:
        """
        Return the (successful, failed) messages once *count* of them are acknowledged.

        Raises:
            TimeoutError: That many did not come within *timeout* seconds; says how many did.
        """
        deadline = monotonic() + timeout
        successful: List[Message] = []
        failed: List[Message] = []
        while len(successful) + len(failed) < count:
            try:
                ok, not_ok = self.receive(max(0.0, deadline - monotonic()))
            except TimeoutError:
                done = len(successful) + len(failed)
                raise TimeoutError(
                    f"{done} of {count} test messages were acknowledged within {timeout:g} seconds"
                ) from None
            successful += ok
            failed += not_ok
        return successful, failed
