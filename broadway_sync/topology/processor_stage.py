"""
Processors: take a chunk, prepare and handle its messages, settle those that are through, forward the others.
"""

from __future__ import annotations

from contextvars import Context
from operator import length_hint
from time import monotonic
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ..errors import InvalidReturnError, UnknownBatcherError
from ..log import log_error
from ..message import DEFAULT, Message
from ..statistics import StageStatistics
from ..telemetry.events import MESSAGE, PROCESSOR
from ..telemetry.registry import MessageSpans, Span, heard
from .batcher_stage import BatcherStage
from .dispatcher import Channel, Chunk
from .outcome import count_distinct, drop_frame, invalid_return, log_lost, restore, settle, snapshot
from .settings import Settings

Outcome = Tuple[List[Message], List[Message]]
"""Successful and failed messages."""

Placed = List[Tuple[BatcherStage, Optional[int], List[Message]]]
"""The messages for each batcher and partition."""


class ProcessorStage:
    """
    One processor. Everything runs on its thread; other threads only look at ``chunk`` and call :meth:`abandon`.

    Follows Broadway 1.3, ``processor_stage.ex``.
    """

    def __init__(
        self, index: int, name: str, settings: Settings, channel: Channel, batchers: Dict[str, BatcherStage]
    ) -> None:
        self.index = index
        self.name = name
        self.chunk: Optional[Chunk] = None
        """The chunk in hand, or None."""
        self._prepared: List[Message] = []  # the messages of the chunk, as prepare_messages returned them
        self._returned: List[Message] = []  # the messages of the chunk that handle_message returned in place of its own
        self._settings = settings
        self._key = settings.options.processor_key
        self._channel = channel
        self._batchers = batchers
        self._usual_batcher = next(iter(batchers), DEFAULT)  # the same object is quicker to know than an equal one
        only = next(iter(batchers.values())) if len(batchers) == 1 else None
        self._only_batcher = None if only is None or only.is_partitioned else only
        self.is_abandoned = False
        # Variables of callbacks: a new one as soon as a callback has set any, so that each callback finds it empty.
        self._variables = Context()
        self._metadata = {  # what is the same in all its events
            **settings.metadata(name),
            "index": index,
            "processor_key": self._key,
            "producer": settings.masked_producer,
        }
        # For statistics.
        self._handled = 0
        self._taken_at = self.finished_at = 0.0

    def run(self) -> None:
        """
        Handle chunks until the channel is closed and empty.
        """
        if self.chunk is not None:  # a thread died with it; this is the one that took its place
            log_lost(len(self.chunk[1]), self._settings.name, self.name)
            self._put_down(self.chunk, len(self.chunk[1]))
        take = self._channel.take
        while True:
            chunk = take()
            if chunk is None:
                return
            self.chunk = chunk
            self._taken_at = monotonic()
            source, messages, is_rejected = chunk
            count = len(messages)
            if source.emitters.parked:
                source.emitters.wake_all()
            if self.is_abandoned:
                return
            if heard and PROCESSOR in heard:
                self._observed_step(messages, is_rejected=is_rejected)
            elif is_rejected:
                self._reject(messages)
            else:
                self._forward(self._step(messages)[1])
            if self.is_abandoned:
                return
            self._put_down(chunk, count)
            del chunk, messages  # an idle processor must not keep the last messages alive

    def _put_down(self, chunk: Chunk, count: int) -> None:
        """
        Give the credit of a chunk back, and wake the producer if that is worth a thread switch.
        """
        self.chunk = None
        self._handled += count
        self.finished_at = monotonic()
        if self._prepared or self._returned:
            self._prepared, self._returned = [], []
        source = chunk[0]
        returned = source.returned
        returned.append(count)
        # With a sentinel handlers are quick: it is soon enough to wake the producer when there is nothing left to take.
        if source.producer.parked and len(returned) >= source.lot and not self._channel.has_sentinel:
            source.producer.wake()
        if source.emitters.parked:  # what it had in hand counted as room, and is gone
            source.emitters.wake_all()

    def abandon(self) -> int:
        """
        Give up on a thread that hangs: take its messages away and return how many were left unacknowledged.

        The thread ends when its callback returns; nothing is acknowledged, as the right to it is taken here.
        """
        self.is_abandoned = True
        chunk, prepared = self.chunk, self._prepared
        messages = list(chunk[1] if chunk else ()) + list(prepared)
        if chunk:
            chunk[1].clear()  # ends the loop over them
        prepared.clear()
        return sum(message.claim() for message in messages)

    def statistics(self, now: float) -> StageStatistics:
        """
        Return what it is doing. Any thread.
        """
        chunk = self.chunk
        busy_for = None if chunk is None else max(0.0, now - self._taken_at)
        return StageStatistics(
            name=self.name,
            kind="processor",
            key=self._key,
            index=self.index,
            in_hand=0 if chunk is None else len(chunk[1]),
            handled=self._handled,
            busy_for=busy_for,
            age=busy_for,
        )

    # The step: everything between taking a chunk and giving its credit back.

    def _step(self, messages: List[Message]) -> Tuple[Outcome, Placed]:
        """
        Handle *messages* and return what became of them, and what has to be added to batchers.
        """
        settings = self._settings
        failed: List[Message] = []
        if settings.prepare_messages is not None:
            messages, failed = self._prepare(messages)
            self._prepared = messages
        handle = self._handle_observed if heard and MESSAGE in heard else self._handle
        successful, not_handled = handle(messages)
        failed += not_handled
        if self.is_abandoned:
            return ([], []), []
        if not self._batchers:
            settle(settings, self.name, successful, failed)
            return (successful, failed), []
        placed = self._place(successful, failed) if successful else []
        if failed:
            settle(settings, self.name, [], failed)
        return (successful, failed), placed

    def _forward(self, placed: Placed) -> None:
        for batcher, partition, members in placed:
            batcher.add(members, partition)

    def _reject(self, messages: List[Message]) -> Outcome:
        """
        Settle messages that have failed before they came here.
        """
        failed = list(messages)  # the messages of the chunk are taken away if this thread is given up
        settle(self._settings, self.name, [], failed)
        return [], failed

    def _prepare(self, messages: List[Message]) -> Outcome:
        """
        Return the messages to handle, and those that failed because ``prepare_messages`` did.
        """
        settings = self._settings
        assert settings.prepare_messages is not None
        before = snapshot(messages)
        try:
            returned = Context().run(settings.prepare_messages, list(messages), settings.context)
            return self._check_prepared(returned, len(messages)), []
        except BaseException as error:  # user code: all messages of the chunk fail
            drop_frame(error)
            restore(messages, before)
            for message in messages:
                message.status, message.reason = "error", error
            if not self.is_abandoned:
                log_error(f"prepare_messages failed, with {len(messages)} messages", error, settings.name, self.name)
            return [], list(messages)

    def _check_prepared(self, returned: Any, count: int) -> List[Message]:
        expected = "prepare_messages must return a list of all messages that it was given"
        try:
            prepared = list(returned)
        except TypeError:
            raise invalid_return(expected, returned, "messages") from None
        for message in prepared:
            if not isinstance(message, Message):
                raise invalid_return(f"{expected}, all of them Message objects", message, "messages")
        if len(prepared) != count or count_distinct(prepared) != count:
            raise InvalidReturnError(f"{expected}, which were {count}, got: {count_distinct(prepared)} messages")
        return prepared

    def _handle(self, messages: List[Message]) -> Outcome:
        """
        Call ``handle_message`` for each message.
        """
        successful: List[Message] = []
        failed: List[Message] = []
        rest = iter(messages)
        count: Optional[int] = 0
        while count is not None:
            if self._variables:
                self._variables = Context()
            count = self._variables.run(self._handle_rest, messages, rest, count, successful, failed)
        return successful, failed

    def _handle_rest(
        self,
        messages: List[Message],
        rest: Iterator[Message],
        count: int,
        successful: List[Message],
        failed: List[Message],
    ) -> Optional[int]:
        """
        Call ``handle_message`` for the *rest* of *messages*, of which *count* are through, until one call has set a
        context variable; return how many are through then, None for all.

        The hot loop of the library: what went well is not even noted, but added when something else happens or at the
        end, all at once. That takes a quarter off the loop.
        """
        handle, key, context = self._settings.handle_message, self._key, self._settings.context
        batchers, variables, usual = self._batchers, self._variables, self._usual_batcher
        for message in rest:
            data, batcher, batch_key = message.data, message.batcher, message.batch_key
            try:
                result = handle(key, message, context)
                if (
                    result is message
                    and result.status == "ok"
                    and (result.batcher is usual or not batchers or result.batcher in batchers)
                    and not variables
                ):
                    continue
                self._check(result, message)
            except BaseException as error:  # user code: this message fails
                message.data, message.batcher, message.batch_key = data, batcher, batch_key
                result = self._crash(message, error)
            plain, count = count, len(messages) - length_hint(rest)
            successful += messages[plain : count - 1]
            (successful if result.status == "ok" else failed).append(result)
            if variables:
                return count
        successful += messages[count:] if count else messages
        return None

    def _check(self, result: Any, message: Message) -> None:
        """
        Raise unless *result* is what ``handle_message`` may return for *message*.
        """
        if result is not message:
            self._check_returned(result)
        if self._batchers and result.status == "ok" and result.batcher not in self._batchers:
            raise self._unknown_batcher(result.batcher)

    def _check_returned(self, returned: Any) -> None:
        """
        Let another Message pass that is new: one that was here before would be acknowledged, and the given one lost.
        """
        expected = "handle_message must return the Message"
        if not isinstance(returned, Message):
            raise invalid_return(expected, returned, "message")
        known = list(self.chunk[1] if self.chunk else ()) + self._prepared + self._returned
        if returned.is_acknowledged() or any(message is returned for message in known):
            raise invalid_return(f"{expected} that it was given", returned, "message")
        self._returned.append(returned)

    def _unknown_batcher(self, batcher: Any) -> UnknownBatcherError:
        known = ", ".join(self._batchers)
        return UnknownBatcherError(f"message was put to the unknown batcher {batcher!r}, the known ones are: {known}")

    def _crash(self, message: Message, error: BaseException) -> Message:
        drop_frame(error)
        message.status, message.reason = "error", error
        log_error("handle_message failed", error, self._settings.name, self.name)
        return message

    def _place(self, successful: List[Message], failed: List[Message]) -> Placed:
        """
        Return the messages for each batcher and partition; those without a partition are added to *failed*.
        """
        if self._only_batcher is not None:  # every message is for it, and it has no partitions
            return [(self._only_batcher, None, successful)]
        placed: Placed = []
        for key, members in self._by_batcher(successful).items():
            batcher = self._batchers.get(key)
            if batcher is None:  # a later call of handle_message changed it
                failed += [self._crash(message, self._unknown_batcher(key)) for message in members]
                continue
            placed += [(batcher, partition, part) for partition, part in batcher.split(members, failed)]
        return placed

    def _by_batcher(self, messages: List[Message]) -> Dict[str, List[Message]]:
        groups: Dict[str, List[Message]] = {}
        for message in messages:
            group = groups.get(message.batcher)
            if group is None:
                group = groups[message.batcher] = []
            group.append(message)
        return groups

    # The same with telemetry.

    def _observed_step(self, messages: List[Message], *, is_rejected: bool = False) -> None:
        metadata = self._metadata
        span = Span(PROCESSOR)
        span.start({**metadata, "messages": list(messages)})
        try:
            (successful, failed), placed = (self._reject(messages), []) if is_rejected else self._step(messages)
        except BaseException as error:  # a crash of this stage: reported, and raised on
            span.exception({**metadata, "messages": messages}, error)
            raise
        span.stop(
            {
                **metadata,
                "successful_messages_to_ack": [] if self._batchers else successful,
                # One that got a status since has no partition: it failed.
                "successful_messages_to_forward": [m for m in successful if m.status == "ok"] if self._batchers else [],
                "failed_messages": failed,
            }
        )
        self._forward(placed)  # only now: as soon as a batcher has a message, handle_batch may change it

    def _handle_observed(self, messages: List[Message]) -> Outcome:
        """
        Do what _handle does, with the events of each message. A loop of its own: it is the price of listening.
        """
        handle, key, context = self._settings.handle_message, self._key, self._settings.context
        spans = MessageSpans(MESSAGE, self._metadata)
        successful: List[Message] = []
        failed: List[Message] = []
        for message in messages:
            data, batcher, batch_key = message.data, message.batcher, message.batch_key
            spans.start(message)
            if self._variables:
                self._variables = Context()
            try:
                result = self._variables.run(handle, key, message, context)
                self._check(result, message)
            except BaseException as error:  # user code: this message fails
                message.data, message.batcher, message.batch_key = data, batcher, batch_key
                result = self._crash(message, error)
                spans.exception(result, error)
            else:
                spans.stop(result)
            (successful if result.status == "ok" else failed).append(result)
        return successful, failed
