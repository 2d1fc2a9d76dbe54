"""
Which stage handles the messages of a partition.
"""

from __future__ import annotations

import threading
from typing import Dict, Hashable, List, Sequence, Tuple


class Assignments:
    """
    The indexes of one stage (the processors, or one batcher), and the partitions that each of them handles.

    A partition has one index for ever: messages of it may still be in the pipeline when it leaves and comes back, and
    two indexes that handle one partition would break its order. A new one goes to the index that handles the fewest;
    among equals in turn from the first to the last and back, so that six partitions on four indexes lie 1, 1, 2, 2.

    Not thread-safe. Follows BroadwayKafka, ``allocator.ex``, which forgets a partition after a generation.
    """

    def __init__(self, size: int) -> None:
        self._counts = [0] * size
        self._held: Dict[Hashable, int] = {}
        self._former: Dict[Hashable, int] = {}

    def place(self, key: Hashable) -> int:
        """
        Return the index of *key*, which counts from now on.
        """
        if key in self._held:
            return self._held[key]
        index = self._former.pop(key, None)
        if index is None:
            index = min(range(len(self._counts)), key=self._rank)
        self._counts[index] += 1
        self._held[key] = index
        return index

    def release(self, key: Hashable) -> None:
        """
        Count *key* no more: its index has room for another one. It finds its index again if it comes back.
        """
        if key in self._held:
            index = self._former[key] = self._held.pop(key)
            self._counts[index] -= 1

    def _rank(self, index: int) -> Tuple[int, int]:
        count = self._counts[index]
        return count, index if count % 2 == 0 else -index


class Placement:
    """
    The assignments of all stages of a pipeline that are partitioned, shared by its producers. Thread-safe.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """
        Args:
            sizes: The concurrency of each stage.
        """
        # Guards the rest. Innermost.
        self._lock = threading.Lock()
        self._stages = [Assignments(size) for size in sizes]
        # During a rebalance two consumers of this process may hold a partition.
        self._holders: Dict[Hashable, int] = {}

    def hold(self, key: Hashable) -> List[int]:
        """
        Return the index of *key* in each stage; :meth:`release` undoes it.
        """
        with self._lock:
            self._holders[key] = self._holders.get(key, 0) + 1
            return [stage.place(key) for stage in self._stages]

    def release(self, key: Hashable) -> None:
        """
        Undo one :meth:`hold`.
        """
        with self._lock:
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                for stage in self._stages:
                    stage.release(key)
