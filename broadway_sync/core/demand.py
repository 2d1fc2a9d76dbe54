"""
The credit of one producer: how many messages it may still be asked for.
"""

from __future__ import annotations

from collections import deque
from typing import Deque


class Demand:
    """
    Messages that a producer was asked for and that are not handled yet, against a capacity.

    ``outstanding = added - returned``, and unmet demand is ``max(0, capacity - outstanding)``: a producer that
    emitted more than it was asked for is asked for nothing until that is handled.

    :attr:`returned` takes credit from any thread without a lock (appending to a deque is atomic); everything
    else belongs to whoever holds the lock of the producer's source.
    Follows GenStage's ``max_demand``/``min_demand`` with one counter for all consumers: any processor
    may take any message.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.returned: Deque[int] = deque()
        """Numbers of handled messages, to be subtracted; append only."""
        self._outstanding = 0
        self.added = 0
        """How many messages were handed over so far."""

    def add(self, count: int) -> None:
        """
        Count *count* messages as handed over.
        """
        self._outstanding += count
        self.added += count

    def outstanding(self) -> int:
        """
        Return the number of messages that are handed over and not handled.
        """
        returned = self.returned
        while returned:
            self._outstanding -= returned.popleft()
        return self._outstanding

    def unmet(self) -> int:
        """
        Return how many messages the producer may be asked for now.
        """
        return max(0, self.capacity - self.outstanding())
