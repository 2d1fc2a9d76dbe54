"""
The user's code of a stress run: producers, callbacks, threads that emit and push. All of it misbehaves as planned.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any, Callable, Iterable, Iterator, List, Optional

from broadway_sync import (
    BatchInfo,
    EndOfStream,
    Message,
    NoopAcknowledger,
    NotRunningError,
    Pipeline,
    Producer,
    ack_immediately,
)

from .fates import Record, Stream, make_fate, record_of
from .witness import Witness


class Fault(Exception):
    """
    What the user's code raises.
    """


class Event:
    """
    What producers produce when there is a transformer.
    """

    def __init__(self, message: Message) -> None:
        self.message = message


class Mint:
    """
    Makes the messages of one stream, in order.
    """

    def __init__(self, witness: Witness, acknowledger: Any, stream: Stream) -> None:
        self._witness = witness
        self._acknowledger = acknowledger
        self._stream = stream
        self._places = itertools.count()

    def make(self, count: int) -> List[Message]:
        """
        Return the next messages.
        """
        return [self._make() for _ in range(count)]

    def _make(self) -> Message:
        place, plan = next(self._places), self._witness.plan
        fate = make_fate(plan, self._stream, place)
        record = Record(hash((self._stream, place)), self._stream, place, fate)
        triple = (self._acknowledger, self._stream, None)
        return Message(record.number, triple, metadata={"record": record}, batch_mode=fate.mode)


class StressAcknowledger:
    """
    Reports to the witness, sometimes raises, and stops the pipeline when the plan says so.
    """

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.pipeline: Optional[Pipeline] = None

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Take the messages of one step.
        """
        records = [self._witness.acknowledged(message, True) for message in successful]
        records += [self._witness.acknowledged(message, False) for message in failed]
        if any(record.stream != ack_ref for record in records):
            self._witness.fault(f"acknowledged with the ref {ack_ref}:", *records)
        if self._witness.stop_now.is_set():
            self._stop()
        if any(record.fate.ack_raises for record in records):
            raise Fault("ack")

    def _stop(self) -> None:
        pipeline, how = self.pipeline, self._witness.plan.stop_by
        if pipeline is None or how not in ("callback", "request"):
            return
        self._witness.is_ending.set()
        if how == "callback":
            pipeline.stop()
        else:
            pipeline.request_stop()


class Script:
    """
    What the instances of one producer index have in common: one stream, one random sequence.
    """

    def __init__(self, index: int, witness: Witness, acknowledger: Any, exhausted: Callable[[], None]) -> None:
        plan = witness.plan
        self.plan = plan
        self.witness = witness
        self.index = index
        self.rng = random.Random(f"{plan.seed} producer {index}")
        self.mint = Mint(witness, acknowledger, ("producer", index))
        self.left = plan.messages
        self.stage: Any = None
        self.exhausted = exhausted
        self.is_over = False

    def take(self, count: int) -> List[Message]:
        """
        Make up to *count* messages.
        """
        if self.left is not None:
            count = min(count, self.left)
            self.left -= count
        return self.mint.make(count)

    def crashes(self) -> bool:
        """
        Whether a producer raises now.
        """
        if self.rng.random() >= self.plan.crash_rate:
            return False
        self.witness.is_ending.set()  # a pipeline that restarts flushes
        return True


class StressProducer(Producer):
    """
    Gives too little, too much, lazily, late; crashes anywhere; ends.
    """

    poll_interval = 0.001

    def __init__(self, scripts: List[Script]) -> None:
        self._scripts = scripts
        self.buffer_size = scripts[0].plan.buffer_size

    def init(self) -> None:
        self.script = self._scripts[self.stage.index]
        if self.script.crashes():
            raise Fault("init")
        self.script.stage = self.stage

    def handle_demand(self, demand: int) -> Iterable[Any]:
        script, rng = self.script, self.script.rng
        if script.crashes():
            raise Fault("handle_demand")
        if rng.random() < script.plan.slow_rate:
            self.stage.wait(0.002)
        wanted = demand + rng.randint(0, script.plan.overlong)
        if rng.random() < script.plan.short_rate:
            wanted = rng.randint(0, demand)
        messages = script.take(wanted)
        if script.left == 0:
            return self._end(messages)
        return self._lazy(messages) if rng.random() < 0.3 else self._events(messages)

    def _events(self, messages: List[Message]) -> List[Any]:
        self.script.witness.hand_over(map(record_of, messages))
        return list(map(Event, messages)) if self.script.plan.has_transformer else list(messages)

    def _lazy(self, messages: List[Message]) -> Iterator[Any]:
        for message in messages:
            if self.script.crashes():
                raise Fault("half way")
            yield from self._events([message])

    def _end(self, messages: List[Message]) -> Iterable[Any]:
        events = self._events(messages)
        self.script.is_over = True
        self.script.exhausted()
        raise EndOfStream(events)

    def prepare_for_draining(self) -> Iterable[Any]:
        script = self.script
        if script.crashes():
            raise Fault("prepare_for_draining")
        return self._events(script.take(script.rng.randint(0, script.plan.last_words)))

    def terminate(self, reason: Any) -> None:
        if isinstance(reason, str):  # the end of the pipeline, or of a generation, and not a crash of this instance
            self.script.witness.terminating(("producer", self.script.index))
        if self.script.crashes():
            raise Fault("terminate")


class StressHandler:
    """
    The callbacks without ``prepare_messages`` and ``handle_failed``, which not every pipeline has.
    """

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._has_batchers = bool(witness.plan.batchers)

    def handle_message(self, processor: str, message: Message, context: Any) -> Any:
        record = self._witness.handling(processor, message)
        fate = record.fate
        if fate.pause:
            time.sleep(fate.pause)
        if fate.acknowledges_at == "handle":
            record.is_early = True
            message.ack_immediately()
        message.put_batcher(fate.batcher).put_batch_key(fate.key)
        returned = message if fate.handle == "ok" else self._misbehave(message, record)
        message.data = ("done", record.number)
        record.handled_at = time.monotonic()
        return returned

    def _misbehave(self, message: Message, record: Record) -> Any:
        what = record.fate.handle
        if what in ("bad key", "bad mode", "unknown batcher") and not self._has_batchers:
            return message
        if what in ("bad key", "bad mode"):
            self._witness.refuse(record)
            if what == "bad key":
                message.batch_key = []  # type: ignore[assignment]
            else:
                message.batch_mode = "later"
            return message
        self._witness.doom([record])
        if what == "fail":
            return message.fail("as planned")
        if what == "unknown batcher":
            return message.put_batcher("nobody")
        if what in ("none", "type"):
            return None if what == "none" else "no message"
        message.data = "spoilt"
        raise SystemExit(3) if what == "exit" else Fault("handle_message")

    def handle_batch(self, batcher: str, messages: List[Message], batch_info: BatchInfo, context: Any) -> Any:
        records = self._witness.batch_begins(batcher, messages, batch_info)
        try:
            pause = max(record.fate.pause for record in records)
            if pause:
                time.sleep(pause)
            self._acknowledge_early(messages, records, "batch")
            return self._outcome(messages, records)
        finally:
            self._witness.batch_ends(batcher, batch_info)

    def _outcome(self, messages: List[Message], records: List[Record]) -> List[Message]:
        faults = {record.fate.batch for record in records}
        if faults & {"raise", "foreign"}:
            self._witness.doom(records)
        if "raise" in faults:
            for message in messages:
                message.data = "spoilt"
            raise Fault("handle_batch")
        returned = [message for message in messages if record_of(message).fate.batch != "missing"]
        if "foreign" in faults:
            returned.append(Message("foreign", NoopAcknowledger.init()))
        if "twice" in faults:
            returned += returned[:1]
        self._witness.doom(record for record in records if record.fate.batch in ("missing", "fail"))
        for message, record in zip(messages, records):
            if record.fate.batch == "fail":
                message.fail("as planned")
        return returned

    def _acknowledge_early(self, messages: List[Message], records: List[Record], where: str) -> None:
        for record in records:
            record.is_early = record.is_early or record.fate.acknowledges_at == where
        ack_immediately(m for m, record in zip(messages, records) if record.fate.acknowledges_at == where)

    def _prepare(self, messages: List[Message], context: Any) -> List[Message]:
        records = [record_of(message) for message in messages]
        faults = {record.fate.prepare for record in records}
        if faults & {"raise", "short"} or ("twice" in faults and len(messages) > 1):
            self._witness.doom(records)
            if "raise" in faults:
                raise Fault("prepare_messages")
            return messages[:-1] if "short" in faults else [messages[0], *messages[:-1]]
        for message, record in zip(messages, records):
            if record.fate.prepare == "fail":
                self._witness.doom([record])
                message.fail("as planned")
        return messages

    def _failed(self, messages: List[Message], context: Any) -> Any:
        records = self._witness.showing(messages)
        self._acknowledge_early(messages, records, "failed")
        faults = {record.fate.failed for record in records}
        if "raise" in faults:
            raise Fault("handle_failed")
        if "none" in faults:
            return None
        if "twice" in faults:
            return [messages[0], *messages[:-1]]
        return messages[:-1] if "short" in faults else messages


def make_handler(witness: Witness) -> StressHandler:
    """
    Return a handler with the callbacks of the plan.
    """
    handler: Any = StressHandler(witness)
    if witness.plan.has_prepare:
        handler.prepare_messages = handler._prepare
    if witness.plan.has_failed:
        handler.handle_failed = handler._failed
    return handler


def make_partition_by(witness: Witness) -> Callable[[Message], Any]:
    """
    Return a ``partition_by`` that does what the fate of a message says.
    """

    def partition_by(message: Message) -> Any:
        record = record_of(message)
        partition = record.fate.partition
        if partition.__class__ is int and partition >= 0:
            return partition
        witness.doom([record])
        if partition == "raise":
            raise Fault("partition_by")
        return partition

    return partition_by


def make_batch_size(witness: Witness, limit: int) -> Any:
    """
    Return a ``batch_size`` that ends a batch when its weights reach *limit*.
    """

    def function(message: Message, total: List[int]) -> Any:
        record = record_of(message)
        weight = record.fate.weight
        if isinstance(weight, str):
            witness.refuse(record)
            if weight == "raise":
                raise Fault("batch_size")
            return weight
        if record.fate.pause:
            time.sleep(record.fate.pause / 4)
        total = [*total, weight]
        return ("emit" if sum(total) >= limit else "cont", total)

    return ([], function)


class Emitter(threading.Thread):
    """
    A thread that emits through whatever instance its producer has just now.
    """

    def __init__(self, number: int, script: Script, acknowledger: Any, is_over: threading.Event) -> None:
        super().__init__(name=f"emitter {number}", daemon=True)
        self._script = script
        self._mint = Mint(script.witness, acknowledger, ("emitter", number))
        self._is_over = is_over

    def run(self) -> None:
        plan = self._script.plan
        lists = 12
        while lists and not self._is_over.is_set():
            stage = self._script.stage
            if stage is None:
                self._is_over.wait(0.001)
                continue
            messages = self._mint.make(plan.emit_length)
            try:
                stage.emit(map(Event, messages) if plan.has_transformer else messages)
            except NotRunningError:  # nothing was taken; there may be another instance soon
                self._is_over.wait(0.001)
            else:
                self._script.witness.hand_over(map(record_of, messages))
                lists -= 1


class Pusher(threading.Thread):
    """
    A thread that pushes messages out of band.
    """

    def __init__(self, witness: Witness, acknowledger: Any, pipeline: Pipeline, is_over: threading.Event) -> None:
        super().__init__(name="pusher", daemon=True)
        self._witness = witness
        self._mint = Mint(witness, acknowledger, ("push", 0))
        self._pipeline = pipeline
        self._is_over = is_over

    def run(self) -> None:
        left = self._witness.plan.pushes
        while left and not self._is_over.is_set():
            messages = self._mint.make(min(left, 3))
            left -= len(messages)
            try:
                self._pipeline.push_messages(messages)
            except NotRunningError:
                return
            self._witness.hand_over(map(record_of, messages))
            self._is_over.wait(0.001)
