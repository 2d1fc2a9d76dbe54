"""
Batchers: one a key, between the processors and its batch processors.

The batcher's state belongs to whichever thread runs its :class:`Serial`: a processor that adds a chunk cuts the
batches that are full and hands them to idle batch processors itself. The batcher's own thread sleeps
until the oldest open batch is due, so a message costs no thread switch here.
"""

from __future__ import annotations

import math
from queue import SimpleQueue
from time import monotonic, time_ns
from typing import Any, Callable, Iterable, List, Optional, Tuple

from ..core.batch_accumulator import Batch, BatchAccumulator
from ..core.batch_dispatcher import BatchDispatcher, chain
from ..core.partitions import split
from ..log import log_error
from ..message import Message
from ..runtime.serial import Serial
from ..runtime.wait_list import WaitList
from ..statistics import StageStatistics
from ..telemetry.events import BATCHER, BATCHER_REJECT
from ..telemetry.registry import Span, execute, heard
from .outcome import settle
from .settings import Settings


class BatcherStage:
    """
    Open batches, batches that wait for a batch processor, and the gate that stops processors when there are too many.

    Bounds, with K processors: batches that wait hold less than ``K * max_demand * concurrency`` messages when a
    processor takes a chunk (``K * max_demand`` when all batch processors are busy), and each processor adds one
    chunk at a time.
    Follows Broadway 1.3, ``batcher_stage.ex``.
    """

    def __init__(self, key: str, name: str, settings: Settings, on_room: Callable[[], None]) -> None:
        """
        Args:
            on_room: Called when it is full no more.
        """
        options = settings.options.batchers[key]
        self.key = key
        self.name = name
        self._settings = settings
        self._partition_by = options.partition_by
        self._timeout = options.batch_timeout
        self._concurrency = options.concurrency
        self.inboxes: List[SimpleQueue[Optional[Batch]]] = [SimpleQueue() for _ in range(options.concurrency)]
        """One for each batch processor: its next batch, or None when there will be none. Never holds more than one."""
        self._assigned: List[Optional[Batch]] = [None] * options.concurrency
        self._serial = Serial()
        # Owned by who runs _serial:
        self._accumulator = BatchAccumulator(options.batch_size, options.batch_timeout)
        self._dispatcher = BatchDispatcher(options.concurrency, is_partitioned=options.partition_by is not None)
        self._is_closing = False
        self._received = self._handed_out = 0  # messages, for statistics
        # Written by who runs _serial, read by all:
        self.is_full = False
        """Whether processors must take no chunk."""
        self._deadline: Optional[float] = None  # when the batcher's thread has to look, None: it need not
        self._is_ended = False

        self._metadata = {**settings.metadata(name), "batcher_key": key}  # what is the same in all its events
        self._capacity = settings.options.processor.concurrency * options.max_demand
        self._most_pending = settings.options.processor.concurrency
        self._on_room = on_room
        self._turns = WaitList()  # processors whose steps somebody else has yet to run
        self._timer = WaitList()  # the batcher's thread

    @property
    def is_partitioned(self) -> bool:
        """
        Whether messages have partitions here.
        """
        return self._partition_by is not None

    # Called by processors.

    def split(self, messages: List[Message], failed: List[Message]) -> Iterable[Tuple[Optional[int], List[Message]]]:
        """
        Return *messages* by partition; those without one fail and are added to *failed*. Runs ``partition_by``.
        """
        if self._partition_by is None:
            return ((None, messages),)
        partitions, rejected = split(messages, self._partition_by, self._concurrency)
        failed += [self._reject(message, error) for message, error in rejected]
        return partitions.items()

    def add(self, messages: List[Message], partition: Optional[int]) -> None:
        """
        Add messages to their batches and hand out those that this completes.
        """
        if heard and BATCHER in heard:
            self._observed_add(messages, partition)
        else:
            self._add_all(messages, partition)

    def _observed_add(self, messages: List[Message], partition: Optional[int]) -> None:
        metadata = self._metadata
        span = Span(BATCHER)
        span.start({**metadata, "messages": list(messages)})
        try:
            self._add_all(messages, partition)
        except BaseException as error:  # a crash of the library: reported, and raised on
            span.exception({**metadata, "messages": messages}, error)
            raise
        span.stop({**metadata})

    def _add_all(self, messages: List[Message], partition: Optional[int]) -> None:
        self._serial.post(self._accumulate, messages, partition)
        if self._accumulator.rejected:
            self._fail_rejected()
        # Somebody else is running the steps and has not come to ours: do not run away from it.
        pending, most = self._serial.pending, self._most_pending
        if len(pending) > most:
            self._turns.wait_for(lambda: len(pending) <= most or self._is_ended)

    # Called by batch processors, the batcher's thread and the supervisor.

    def finished(self, index: int, batch: Batch) -> None:
        """
        Batch processor *index* is through with *batch* and wants another one.
        """
        self._post(self._finish, index, batch)

    def lost_batch(self, index: int) -> Optional[Batch]:
        """
        Return the batch that the last thread of batch processor *index* had in hand when it died, if any.
        """
        # It was put into the inbox before it was noted: noted and not in the inbox, it was taken out.
        return self._assigned[index] if self.inboxes[index].empty() else None

    def flush(self) -> None:
        """
        Hand on what is in open batches.
        """
        self._post(self._flush, None, None)

    def close(self) -> None:
        """
        No message will be added any more: flush everything, then let the batch processors end.
        """
        self._post(self._close, None, None)

    def run(self) -> None:
        """
        Hand on batches that are due, until the batcher has ended.
        """
        while not self._is_ended:
            deadline = self._deadline
            if deadline is None:
                self._timer.wait_for(lambda: self._deadline is not None or self._is_ended)
                continue
            pause = deadline - monotonic()
            if pause > 0:
                self._timer.wait_for(lambda: self._deadline != deadline or self._is_ended, pause)  # noqa: B023
                continue
            # Somebody else may be running the steps: until ours has had its turn there is nothing to look for.
            self._deadline = math.inf
            self._post(self._expire, None, None)

    def opened_at(self, batch: Batch) -> float:
        """
        Return the monotonic time at which the first message of *batch* arrived.
        """
        return batch.deadline - self._timeout

    def statistics(self, now: float) -> StageStatistics:
        """
        Return what it is doing. Any thread.
        """
        oldest = self._oldest()
        waiting = max(0, self._received - self._handed_out - self._accumulator.rejections)
        return StageStatistics(
            name=self.name,
            kind="batcher",
            key=self.key,
            waiting=waiting,
            handled=self._handed_out,
            age=None if oldest is None or not waiting else max(0.0, now - self.opened_at(oldest)),
        )

    def _oldest(self) -> Optional[Batch]:
        """
        Return the oldest batch that is not handed out; a guess if steps run meanwhile.

        Without the right to run steps: whoever has it must run those that others post, and this may be any thread.
        """
        try:
            batches = self._dispatcher.heads() + self._accumulator.oldest()
        except (IndexError, RuntimeError):  # something changed while it was read
            return None
        return min(batches, key=lambda batch: batch.deadline, default=None)

    def abandon(self) -> int:
        """
        End, as things are; return how many messages were left unacknowledged.
        """
        left = self._serial.inspect(self._claim_all, timeout=0.1)
        self._is_ended = True
        self._turns.wake_all()
        self._timer.wake_all()
        for inbox in self.inboxes:
            inbox.put(None)
        return int(left)

    def _claim_all(self) -> int:
        batches = [*self._accumulator.unfinished(), *self._dispatcher.waiting(), *self._accumulator.ready]
        for batch in self._assigned:  # the batch processor may have it in hand, and not have noted it yet
            batches += chain(batch)
        messages = [message for batch in batches for message in list(batch.messages)]
        for function, first, _ in list(self._serial.pending):
            if function == self._accumulate:
                messages += first
        return sum(message.claim() for message in messages)

    def _post(self, step: Any, first: Any, second: Any) -> None:
        self._serial.post(step, first, second)
        if self._accumulator.rejected:
            self._fail_rejected()

    def _fail_rejected(self) -> None:
        """
        Settle messages that could not be batched, outside of the serial steps: it runs user code.
        """
        failed = []
        rejected = self._accumulator.rejected
        while True:
            try:
                failed.append(self._reject(*rejected.popleft()))
            except IndexError:
                break
        if failed:
            settle(self._settings, self.name, [], failed)
            execute(BATCHER_REJECT, {"system_time": time_ns()}, {**self._metadata, "failed_messages": failed})

    def _reject(self, message: Message, error: BaseException) -> Message:
        message.status, message.reason = "error", error
        log_error(f"a message could not be put into a batch of {self.key!r}", error, self._settings.name, self.name)
        return message

    # The steps: run one at a time by self._serial.

    def _accumulate(self, messages: List[Message], partition: Optional[int]) -> None:
        accumulator = self._accumulator
        accumulator.add(messages, partition, monotonic())
        self._received += len(messages)
        if accumulator.waiting or self._deadline is None or self._turns.parked:
            self._hand_out()

    def _finish(self, index: int, batch: Batch) -> None:
        self._assigned[index] = None
        batch.messages, batch.accumulator = [], None  # the calendar may know the batch until it would have been due
        self._dispatcher.finish(index, batch)
        self._hand_out()

    def _expire(self, _: Any, __: Any) -> None:
        self._accumulator.expire(monotonic())
        self._deadline = self._accumulator.next_deadline()
        self._timer.wake()
        self._hand_out()

    def _flush(self, _: Any, __: Any) -> None:
        self._accumulator.flush()
        self._hand_out()

    def _close(self, _: Any, __: Any) -> None:
        self._accumulator.flush()
        self._is_closing = True
        self._hand_out()

    def _hand_out(self) -> None:
        """
        At the end of a step: hand batches out, open or close the gate, set the timer.
        """
        accumulator, dispatcher = self._accumulator, self._dispatcher
        if accumulator.ready:
            for batch in accumulator.ready:
                dispatcher.offer(batch)
            accumulator.ready.clear()
        if accumulator.waiting:
            for index, batch in dispatcher.assign():
                accumulator.close(batch)
                self._handed_out += len(batch.messages)
                self.inboxes[index].put(batch)
                self._assigned[index] = batch  # after it is in the inbox, see lost_batch()
        self._move_gate(accumulator.waiting)
        if self._deadline is None and accumulator.open_count:
            self._deadline = accumulator.next_deadline()
            self._timer.wake()
        if self._is_closing and dispatcher.is_idle:
            self._end()

    def _move_gate(self, waiting: int) -> None:
        # Batches that wait although batch processors are idle wait for another one of their key or partition; each idle
        # batch processor lets as much again wait, so that one slow key does not stop the others at once.
        capacity = self._capacity * (1 + self._dispatcher.idle_count)
        # The gate opens at half of where it closes, so that a stop of the processors is worth its thread switches.
        was_full = self.is_full
        self.is_full = waiting > capacity // 2 if was_full else waiting >= capacity
        if was_full and not self.is_full:
            self._on_room()
        if self._turns.parked:
            self._turns.wake_all()

    def _end(self) -> None:
        self._is_closing = False
        self._is_ended = True
        for inbox in self.inboxes:
            inbox.put(None)
        self._timer.wake_all()
