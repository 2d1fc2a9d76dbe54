"""
Which batch processor gets which batch.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Hashable, Iterator, List, Optional, Tuple

from .batch_accumulator import Batch, discard


class BatchDispatcher:
    """
    Batches in the order in which they were offered, to batch processors that are idle.

    * Batches of the default key go to any idle batch processor, the one last at work first.
    * Of an explicit key one batch is handled at a time, in order: each batch but the oldest unfinished one is blocked.
    * With partitions, batch processor *i* gets the batches of partition *i*, strictly in order: it waits for a blocked
      one. The oldest unfinished batch of all is never blocked, so this cannot lock up.

    Not thread-safe. Follows Broadway's ``put_batch_key`` as it is documented, not as it behaves.
    """

    def __init__(self, concurrency: int, *, is_partitioned: bool) -> None:
        self._concurrency = concurrency
        self._is_partitioned = is_partitioned
        self._idle = list(range(concurrency))[::-1]
        self._queues: List[Deque[Batch]] = [deque() for _ in range(concurrency if is_partitioned else 1)]
        # The youngest unfinished batch of each explicit key; the older ones lead to it by `successor`.
        self._youngest: Dict[Hashable, Batch] = {}

    @property
    def is_idle(self) -> bool:
        """
        Whether no batch waits and none is being handled.
        """
        return not any(self._queues) and len(self._idle) == self._concurrency

    @property
    def idle_count(self) -> int:
        """
        Number of batch processors without a batch.
        """
        return len(self._idle)

    def offer(self, batch: Batch) -> None:
        """
        Queue a batch.
        """
        if not batch.is_default:
            try:
                older = self._youngest.get(batch.key)
                self._youngest[batch.key] = batch
            except Exception:  # a key whose __hash__ or __eq__ raises is equal to none
                older, batch.is_default = None, True
            if older is not None:
                older.successor = batch
                batch.is_blocked = True
                if not self._is_partitioned:
                    return  # finish() queues it when its turn comes
        self._queues[batch.partition or 0].append(batch)

    def finish(self, index: int, batch: Batch) -> None:
        """
        Batch processor *index* is idle again; it has handled *batch*.
        """
        self._idle.append(index)
        if batch.is_default:
            return
        successor = batch.successor
        if successor is None:
            discard(self._youngest, batch.key, batch)
            return
        batch.successor = None
        successor.is_blocked = False
        if not self._is_partitioned:
            self._queues[0].append(successor)

    def assign(self) -> Iterator[Tuple[int, Batch]]:
        """
        Yield each batch that may be handled now with the index of the batch processor that must handle it.
        """
        if self._is_partitioned:
            yield from self._assign_partitions()
            return
        queue = self._queues[0]
        while queue and self._idle:
            yield self._idle.pop(), queue.popleft()

    def _assign_partitions(self) -> Iterator[Tuple[int, Batch]]:
        for index in self._idle[:]:
            queue = self._queues[index]
            if queue and not queue[0].is_blocked:
                self._idle.remove(index)
                yield index, queue.popleft()

    def heads(self) -> List[Batch]:
        """
        Return the first batch of each queue; each batch that waits is younger than one of these, or than one at work.
        """
        return [queue[0] for queue in self._queues if queue]

    def waiting(self) -> Iterator[Batch]:
        """
        Yield the batches that wait in a queue, each followed by those that it blocks (which may come twice).
        """
        for queue in self._queues:
            for batch in list(queue):
                yield from chain(batch)


def chain(batch: Optional[Batch]) -> Iterator[Batch]:
    """
    Yield *batch* and the unfinished batches of its key that came after it.
    """
    while batch is not None:
        yield batch
        batch = batch.successor
