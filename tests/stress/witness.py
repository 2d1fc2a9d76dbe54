"""
Who watches a run and notes everything that must not happen.

Callbacks report here, before they do anything else. A check that raised in a callback would only fail a message, so
faults are collected, and the runner looks at them in the end.
"""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import Any, Dict, Hashable, Iterable, List, Set, Tuple

from broadway_sync import BatchInfo, Message

from .fates import Record, Stream, record_of, summary
from .plan import BatcherPlan, Plan, capacity


class Witness:
    """
    Counts, orders and faults of one run. Thread-safe.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan = plan
        self.name = name
        self.capacity = capacity(plan)
        self.most_held = 0
        self.faults: List[str] = []
        self.records: List[Record] = []
        """Every message that was handed over."""
        self.is_ending = threading.Event()
        """Set before a stop begins, or when the last producer is exhausted: from now on everything may be flushed."""
        self.stop_now = threading.Event()
        """Set with the acknowledgement after which the plan wants the stop."""
        # Guards everything below, and all records. Innermost: nothing is called under it.
        self._lock = threading.Lock()
        self._held = 0
        self._acknowledged = 0
        self._limited = 0
        self._started_at = monotonic()
        self._running_keys: Set[Tuple[str, Hashable]] = set()
        self._last_handled: Dict[Any, int] = {}
        self._last_batched: Dict[Any, int] = {}

    def fault(self, text: str, *records: Record) -> None:
        """
        Note what must not happen.
        """
        if len(self.faults) < 20:
            self.faults.append(f"{text} {summary(list(records)) if records else ''}")

    # Messages come and go.

    def hand_over(self, records: Iterable[Record]) -> None:
        """
        These messages are the pipeline's now.
        """
        with self._lock:
            for record in records:
                self.records.append(record)
                # One that was emitted or pushed may be acknowledged before its maker comes to report it.
                record.is_held = not record.acks
                self._held += record.is_held
            self._check_capacity()

    def release(self, record: Record) -> None:
        """
        The message is not held any more.
        """
        self._held -= record.is_held
        record.is_held = False

    def _check_capacity(self) -> None:
        self.most_held = max(self.most_held, self._held)
        if self._held > self.capacity:
            self.fault(f"{self._held} messages are held, the formula says {self.capacity}")

    def doom(self, records: Iterable[Record]) -> None:
        """
        These messages have to be acknowledged as failed, unless they are acknowledged already.
        """
        with self._lock:
            for record in records:
                record.is_doomed = True

    def refuse(self, record: Record) -> None:
        """
        A batcher cannot batch the message: it waits for nothing any more but its acknowledgement.
        """
        with self._lock:
            record.is_doomed = True
            self.release(record)

    def terminating(self, stream: Stream) -> None:
        """
        The producer of *stream* disconnects: all its messages must be acknowledged by now.
        """
        with self._lock:
            open_ones = [record for record in self.records if record.stream == stream and not record.acks]
            if open_ones:
                self.fault(f"terminated before {len(open_ones)} of its messages were acknowledged:", *open_ones)

    # Callbacks.

    def handling(self, processor: str, message: Message) -> Record:
        """
        ``handle_message`` was called.
        """
        record = record_of(message)
        index = self._index(f"Processor_{processor}", record)
        with self._lock:
            record.handled += 1
            if record.handled > 1 or record.acks:
                self.fault("handled twice, or after its acknowledgement:", record)
            self._check_handled_order(record, index)
            self._check_rate(record)
            self._check_capacity()
        return record

    def _check_handled_order(self, record: Record, index: int) -> None:
        plan = self.plan
        if plan.is_partitioned and record.fate.partition % plan.processors != index:
            self.fault(f"handled by processor {index}:", record)
        if plan.is_ordered:
            self._check_order(self._last_handled, (index, record.stream), record, "handled out of order:")

    def _check_order(self, last: Dict[Any, int], key: Any, record: Record, text: str) -> None:
        if last.get(key, -1) >= record.place:
            self.fault(f"{text} place {last[key]} of {key} came before", record)
        last[key] = record.place

    def _check_rate(self, record: Record) -> None:
        if self.plan.rate is None or record.stream[0] == "push":
            return
        self._limited += 1
        allowed, interval = self.plan.rate
        windows = math.floor((monotonic() - self._started_at) / interval) + 1
        if self._limited > allowed * windows:
            self.fault(f"{self._limited} messages passed the rate limit in {windows} windows of {allowed}")

    def batch_begins(self, batcher: str, messages: List[Message], info: BatchInfo) -> List[Record]:
        """
        ``handle_batch`` was called.
        """
        records = [record_of(message) for message in messages]
        index = self._index(f"BatchProcessor_{batcher}", *records)
        with self._lock:
            self._check_info(batcher, records, info)
            self._check_batched_order(batcher, records, info, index)
            if info.batch_key != "default":
                key = (batcher, info.batch_key)
                if key in self._running_keys:
                    self.fault(f"two batches of {key} at a time", *records)
                self._running_keys.add(key)
            self._check_capacity()
        return records

    def batch_ends(self, batcher: str, info: BatchInfo) -> None:
        """
        ``handle_batch`` is about to return or raise.
        """
        with self._lock:
            self._running_keys.discard((batcher, info.batch_key))

    def _check_info(self, batcher: str, records: List[Record], info: BatchInfo) -> None:
        plan = self.plan.batchers[int(batcher[1:])]
        if (info.batcher, info.size) != (batcher, len(records)) or not 0 < info.size <= plan.size:
            self.fault(f"a batch of {len(records)}, {info}", *records)
        for record in records:
            record.batched += 1
            if (record.handled, record.batched) != (1, 1):
                self.fault("handled not once, or in two batches:", record)
            if (record.fate.batcher, record.fate.key) != (batcher, info.batch_key):
                self.fault(f"in the wrong batch {info}:", record)
            expected = record.fate.partition % plan.concurrency if plan.is_partitioned else None
            if info.partition != expected:
                self.fault(f"in a batch of the wrong partition {info}:", record)
        if not self._is_trigger_right(plan, records, info.trigger):
            self.fault(f"the wrong trigger, {info} with {plan}:", *records)

    def _is_trigger_right(self, plan: BatcherPlan, records: List[Record], trigger: str) -> bool:
        total = sum(record.fate.weight for record in records) if plan.is_function else len(records)
        if (trigger == "size") != (total >= plan.size):
            return False
        if trigger == "flush":
            return records[-1].fate.mode == "flush" or self.is_ending.is_set()
        opened = records[0].handled_at
        return trigger == "size" or (opened is not None and monotonic() - opened >= plan.timeout)

    def _check_batched_order(self, batcher: str, records: List[Record], info: BatchInfo, index: int) -> None:
        plan = self.plan.batchers[int(batcher[1:])]
        if info.partition is not None and info.partition != index:
            self.fault(f"a batch of partition {info.partition} at batch processor {index}", *records)
        if not self.plan.is_ordered:
            return
        is_serial = plan.concurrency == 1 or plan.is_partitioned or info.batch_key != "default"
        last = self._last_batched if is_serial else {}
        for record in records:
            lane = record.stream if self.plan.processors == 1 else (record.stream, record.fate.partition)
            self._check_order(last, (batcher, info.partition, info.batch_key, lane), record, "batched out of order:")

    def showing(self, messages: List[Message]) -> List[Record]:
        """
        ``handle_failed`` was called.
        """
        records = [record_of(message) for message in messages]
        with self._lock:
            for message, record in zip(messages, records):
                record.shown += 1
                if record.shown > 1 or not record.is_doomed or message.status == "ok":
                    self.fault(f"shown to handle_failed as {message.status}:", record)
                if message.data not in (record.number, ("done", record.number)):
                    self.fault(f"shown with the data {message.data!r}:", record)
        return records

    def acknowledged(self, message: Message, is_successful: bool) -> Record:
        """
        A message was acknowledged.
        """
        record = record_of(message)
        with self._lock:
            record.acks.append(is_successful)
            self._acknowledged += 1
            self._check_ack(message, record)
            self._check_capacity()
            self.release(record)
            if self._acknowledged >= self.plan.stop_after:
                self.stop_now.set()
        return record

    def _check_ack(self, message: Message, record: Record) -> None:
        is_successful = record.acks[-1]
        if len(record.acks) > 1:
            self.fault("acknowledged twice:", record)
        if is_successful == record.is_doomed or is_successful != (message.status == "ok"):
            self.fault(f"acknowledged with the wrong outcome, status {message.status}, {message.reason!r}:", record)
        if record.is_early:
            return
        if self.plan.has_failed and record.shown != record.is_doomed:
            self.fault("failed, and not shown to handle_failed once:", record)
        if is_successful and (record.handled, record.batched) != (1, len(self.plan.batchers) > 0):
            self.fault("acknowledged as successful before it was through:", record)
        if message.data not in (record.number, ("done", record.number)):
            self.fault(f"acknowledged with the data {message.data!r}:", record)

    def _index(self, stage: str, *records: Record) -> int:
        prefix, _, index = threading.current_thread().name.rpartition("_")
        if prefix != f"{self.name}.Broadway.{stage}":
            self.fault(f"a callback on the thread {threading.current_thread().name}", *records)
            return 0
        return int(index)

    # The end.

    def check_end(self) -> None:
        """
        Everything that was handed over must be acknowledged once by now.
        """
        with self._lock:
            lost = [record for record in self.records if len(record.acks) != 1]
            if lost:
                self.fault(f"{len(lost)} of {len(self.records)} messages not acknowledged once:", *lost)
            elif self._held:
                self.fault(f"the books say that {self._held} messages are held")

    def count_acknowledged(self) -> int:
        """
        How many messages were acknowledged.
        """
        return self._acknowledged
