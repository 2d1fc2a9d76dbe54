"""
How finished messages get back to the thread that commits.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Deque, List, Tuple

from ...acknowledger import Acknowledger
from ...message import Message
from ...runtime.wait_list import WaitList
from .messages import offsets_of
from .offsets import Lot

Finished = Tuple[Lot, List[int]]


class KafkaAcknowledger(Acknowledger):
    """
    Takes outcomes on the threads of stages; the consumer's thread fetches them. Thread-safe, never blocks.

    Failed messages count like successful ones: Kafka has one position for each partition and no way to hand a single
    message back. There is nothing to configure for a message, hence no ``configure``.
    """

    def __init__(self, waiting: WaitList) -> None:
        """
        Args:
            waiting: Who waits for acknowledgements.
        """
        self._waiting = waiting
        self._inbox: Deque[Finished] = deque()

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Note that messages are finished, whatever became of them.
        """
        self._inbox.append((ack_ref, offsets_of([*successful, *failed] if failed else successful)))
        if self._waiting.parked:
            self._waiting.wake_all()

    def fetch(self) -> List[Finished]:
        """
        Return what came since the last call.
        """
        inbox, finished = self._inbox, []
        while inbox:
            finished.append(inbox.popleft())
        return finished

    def is_empty(self) -> bool:
        """
        Whether nothing waits to be fetched.
        """
        return not self._inbox
