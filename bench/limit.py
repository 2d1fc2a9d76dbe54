"""
The yardstick: what a message costs on one thread, without queues, locks, supervision or back-pressure.

The same :class:`Message`, the same handlers and the same acknowledger as in the pipeline, and for every message the
work that cannot be left out: build it, call ``handle_message`` inside a ``try``, check what it returned, find its
batch, call ``handle_batch`` for each batch, split by status, group by acknowledger, acknowledge. Under the GIL no
arrangement of threads can do this work faster than one thread does; the distance to this loop is what the
pipeline itself costs.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Hashable, List, Optional, Sequence, Tuple

from broadway_sync import BatchInfo, Message

from . import handlers
from .settings import Settings

Partition = Callable[[Message], int]
Outcome = Tuple[List[Message], List[Message]]


class Limit:
    """
    One run of the yardstick.

    Args:
        handler: The handler object, as given to a pipeline.
        context: Its context.
        chunk: How many messages are taken at a time: ``max_demand - min_demand`` of the pipeline it stands for.
        batch_size: Messages a batch; None for no batcher.
        batch_timeout: Seconds from a batch's first message until it is cut, whatever its size.
        partitions: How many processors and batch processors *partition_by* spreads the messages over.
    """

    def __init__(
        self,
        handler: Any,
        context: Any = None,
        *,
        chunk: int = 5,
        batch_size: Optional[int] = None,
        batch_timeout: float = 1.0,
        partition_by: Optional[Partition] = None,
        partitions: int = 4,
    ) -> None:
        self.handler = handler
        self.context = context
        self.chunk = chunk
        self.partition_by = partition_by
        self.partitions = partitions
        self.step = self._step if partition_by is None else self._step_by_partition
        """Takes one chunk from the source to its batches."""
        numbers: List[Optional[int]] = [None] if partition_by is None else list(range(partitions))
        self.batches: List[Batches] = []
        if batch_size is not None:
            self.batches = [Batches(batch_size, batch_timeout, number, self.deliver) for number in numbers]

    @classmethod
    def of(cls, settings: Settings) -> Limit:
        """
        Return the loop that does the work of the pipeline which *settings* describe.
        """
        return cls(
            handlers.HANDLERS[settings.handler](),
            settings.context,
            chunk=settings.chunk,
            batch_size=settings.batch_size or None,
            batch_timeout=settings.batch_timeout,
            partition_by=handlers.partition_by if settings.partition else None,
            partitions=settings.concurrency,
        )

    def run(self, messages: int, acknowledger: Tuple[Any, Any, Any]) -> None:
        """
        Build, handle, batch and acknowledge the messages 0 to *messages* - 1.
        """
        step = self.step
        for first in range(0, messages, self.chunk):
            numbers = range(first, min(first + self.chunk, messages))
            step([Message(number, acknowledger) for number in numbers])
        self.flush()

    def flush(self) -> None:
        """
        Deliver what is in open batches.
        """
        for batches in self.batches:
            batches.flush()

    def _step(self, chunk: List[Message]) -> None:
        successful, failed = self.handle(chunk)
        if not self.batches:
            acknowledge(successful, failed)
            return
        if failed:
            acknowledge((), failed)
        self.batches[0].add(successful)

    def _step_by_partition(self, chunk: List[Message]) -> None:
        for part in self.split(chunk).values():
            successful, failed = self.handle(part)
            if not self.batches:
                acknowledge(successful, failed)
                continue
            if failed:
                acknowledge((), failed)
            for number, members in self.split(successful).items():
                self.batches[number].add(members)

    def split(self, messages: List[Message]) -> Dict[int, List[Message]]:
        """
        Spread *messages* over the partitions.
        """
        partition_by, partitions = self.partition_by, self.partitions
        assert partition_by is not None
        parts: Dict[int, List[Message]] = {}
        for message in messages:
            number = partition_by(message) % partitions
            if number in parts:
                parts[number].append(message)
            else:
                parts[number] = [message]
        return parts

    def handle(self, messages: List[Message]) -> Outcome:
        """
        Call ``handle_message`` for each message and check what it returns.
        """
        successful: List[Message] = []
        failed: List[Message] = []
        handle_message, context = self.handler.handle_message, self.context
        for message in messages:
            try:
                result = handle_message("default", message, context)
                if not isinstance(result, Message):
                    raise TypeError(result)
                if result.batcher != "default":
                    raise ValueError(result.batcher)
            except BaseException as error:
                message.status, message.reason = "error", error
                failed.append(message)
                continue
            if result.status == "ok":
                successful.append(result)
            else:
                failed.append(result)
        return successful, failed

    def deliver(self, messages: List[Message], batch_info: BatchInfo) -> None:
        """
        Call ``handle_batch``, split by status and acknowledge.
        """
        try:
            results = self.handler.handle_batch("default", messages, batch_info, self.context)
        except BaseException as error:
            for message in messages:
                message.status, message.reason = "error", error
            results = messages
        successful: List[Message] = []
        failed: List[Message] = []
        for message in results:
            (successful if message.status == "ok" else failed).append(message)
        acknowledge(successful, failed)


class Batches:
    """
    The open batches of one partition, by batch key.

    All batches have the same timeout, so their deadlines fall due in the order in which they were opened. An entry
    is ``[deadline, key, messages]``; one that was cut by size loses its messages, so that the queue of deadlines
    does not keep them alive.
    """

    def __init__(
        self, size: int, timeout: float, partition: Optional[int], deliver: Callable[[List[Message], BatchInfo], None]
    ) -> None:
        self.size = size
        self.timeout = timeout
        self.partition = partition
        self.deliver = deliver
        self.open: Dict[Hashable, List[Any]] = {}
        self.deadlines: Deque[List[Any]] = deque()

    def add(self, messages: List[Message]) -> None:
        """
        Add *messages*, cut what is full or due.
        """
        open_, size, now = self.open, self.size, time.monotonic()
        for message in messages:
            key = message.batch_key
            entry = open_.get(key)
            if entry is None:
                batch: List[Message] = []
                entry = open_[key] = [now + self.timeout, key, batch]
                self.deadlines.append(entry)
            else:
                batch = entry[2]
            batch.append(message)
            if len(batch) >= size:
                self.cut(entry, "size")
        deadlines = self.deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][2] is None):
            entry = deadlines.popleft()
            if entry[2] is not None:
                self.cut(entry, "timeout")

    def cut(self, entry: List[Any], trigger: str) -> None:
        """
        Deliver the batch of *entry*.
        """
        _, key, messages = entry
        del self.open[key]
        entry[2] = None
        self.deliver(messages, BatchInfo("default", key, self.partition, len(messages), trigger))

    def flush(self) -> None:
        """
        Deliver all that is open.
        """
        for entry in list(self.open.values()):
            self.cut(entry, "flush")


def acknowledge(successful: Sequence[Message], failed: Sequence[Message]) -> None:
    """
    Call each acknowledger once for each of its refs, with the messages of this step in order.
    """
    groups: Dict[Hashable, Tuple[Any, Any, List[Message], List[Message]]] = {}
    group(successful, groups, 2)
    group(failed, groups, 3)
    for acknowledger, ack_ref, ok, not_ok in groups.values():
        acknowledger.ack(ack_ref, ok, not_ok)


def group(messages: Sequence[Message], groups: Dict[Hashable, Any], column: int) -> None:
    """
    Add *messages* to their groups; a run of messages with the same acknowledger and ref asks the dict once.
    """
    last_acknowledger: Any = None
    last_ref: Any = None
    append: Any = None
    for message in messages:
        acknowledger, ack_ref, _ = message.acknowledger
        if append is None or acknowledger is not last_acknowledger or ack_ref is not last_ref:
            key = (acknowledger, ack_ref)
            append = groups.setdefault(key, (acknowledger, ack_ref, [], []))[column].append
            last_acknowledger, last_ref = acknowledger, ack_ref
        append(message)
