"""
Batch processors: handle one batch at a time and settle it.
"""

from __future__ import annotations

from contextvars import Context
from queue import Empty
from time import monotonic
from typing import Any, List, Optional

from ..batch_info import BatchInfo
from ..core.batch_accumulator import Batch
from ..core.batch_dispatcher import chain
from ..errors import InvalidReturnError
from ..log import log_error
from ..message import Message
from ..statistics import StageStatistics
from ..telemetry.events import BATCH_PROCESSOR
from ..telemetry.registry import Span, heard
from .batcher_stage import BatcherStage
from .outcome import drop_frame, invalid_return, log_lost, settle
from .processor_stage import Outcome
from .settings import Settings


class BatchProcessorStage:
    """
    One batch processor. Everything runs on its thread; other threads only call :meth:`abandon`.

    Follows Broadway 1.3, ``batch_processor_stage.ex``, except that no message of a batch is ever lost.
    """

    def __init__(self, index: int, name: str, settings: Settings, batcher: BatcherStage) -> None:
        self.index = index
        self.name = name
        self._settings = settings
        self._batcher = batcher
        self._inbox = batcher.inboxes[index]
        self._batch: Optional[Batch] = None
        self.is_abandoned = False
        # What is the same in all its events.
        self._metadata = {**settings.metadata(name), "index": index, "producer": settings.masked_producer}
        # For statistics.
        self._handled = 0
        self._taken_at = self.finished_at = 0.0

    def run(self) -> None:
        """
        Handle batches until the batcher has no more.
        """
        lost = self._batcher.lost_batch(self.index)
        if lost is not None:  # a thread died with it; this is the one that took its place
            log_lost(len(lost.messages), self._settings.name, self.name)
            self._put_down(lost)
        while True:
            batch = self._inbox.get()
            if batch is None or self.is_abandoned:
                return
            self._taken_at = monotonic()
            self._batch = batch
            self._step(batch)
            if self.is_abandoned:
                return
            self._put_down(batch)

    def _put_down(self, batch: Batch) -> None:
        self._batch = None
        self._handled += len(batch.messages)
        self.finished_at = monotonic()
        self._batcher.finished(self.index, batch)

    def abandon(self) -> int:
        """
        Give up on a thread that hangs: return how many messages were left unacknowledged.

        The thread ends when its callback returns; nothing is acknowledged, as the right to it is taken here.
        """
        self.is_abandoned = True
        batches = list(chain(self._batch))
        try:
            while True:
                batches += chain(self._inbox.get_nowait())
        except Empty:
            self._inbox.put(None)
        return sum(message.claim() for batch in batches for message in list(batch.messages))

    def statistics(self, now: float) -> StageStatistics:
        """
        Return what it is doing. Any thread.
        """
        batch = self._batch
        busy_for = None if batch is None else max(0.0, now - self._taken_at)
        return StageStatistics(
            name=self.name,
            kind="batch_processor",
            key=self._batcher.key,
            index=self.index,
            in_hand=0 if batch is None else len(batch.messages),
            handled=self._handled,
            busy_for=busy_for,
            age=None if batch is None else max(0.0, now - self._batcher.opened_at(batch)),
        )

    def _step(self, batch: Batch) -> None:
        info = BatchInfo(self._batcher.key, batch.key, batch.partition, len(batch.messages), batch.trigger)
        if heard and BATCH_PROCESSOR in heard:
            self._observed_step(batch.messages, info)
        else:
            self._settle(self._handle(batch.messages, info))

    def _settle(self, outcome: Outcome) -> None:
        if not self.is_abandoned:
            settle(self._settings, self.name, *outcome)

    def _observed_step(self, messages: List[Message], info: BatchInfo) -> None:
        metadata = {**self._metadata, "batch_info": info}
        span = Span(BATCH_PROCESSOR)
        span.start({**metadata, "messages": list(messages)})
        try:
            successful, failed = outcome = self._handle(messages, info)
            self._settle(outcome)
        except BaseException as error:  # a crash of this stage: reported, and raised on
            span.exception({**metadata, "messages": messages}, error)
            raise
        span.stop({**metadata, "successful_messages": successful, "failed_messages": failed})

    def _handle(self, messages: List[Message], info: BatchInfo) -> Outcome:
        """
        Call ``handle_batch`` and return the messages of the batch, in their order, by what became of them.
        """
        settings = self._settings
        assert settings.handle_batch is not None
        data = _data_of(messages)
        try:
            returned = Context().run(settings.handle_batch, info.batcher, list(messages), info, settings.context)
            # Equal means the same objects in the same order: messages are compared by identity.
            if returned != messages:
                self._check_returned(returned, messages)
        except BaseException as error:  # user code: the whole batch fails
            drop_frame(error)
            self._restore(messages, data, info)
            for message in messages:
                message.status, message.reason = "error", error
            log_error(f"handle_batch failed, with {len(messages)} messages", error, settings.name, self.name)
            return [], messages
        failed = [message for message in messages if message.status != "ok"]
        if not failed:
            return messages, failed
        return [message for message in messages if message.status == "ok"], failed

    def _restore(self, messages: List[Message], data: List[Any], info: BatchInfo) -> None:
        for message, before in zip(messages, data):
            message.data = before
            message.batcher, message.batch_key = info.batcher, info.batch_key

    def _check_returned(self, returned: Any, messages: List[Message]) -> None:
        """
        Fail the messages that are missing from *returned*.

        Raises:
            InvalidReturnError: It is no list, or something in it is not of this batch.
        """
        expected = "handle_batch must return a list of the messages that it was given"
        if isinstance(returned, (str, bytes, dict, Message)):
            raise invalid_return(expected, returned, "messages")
        try:
            returned = list(returned)
        except TypeError:
            raise invalid_return(expected, returned, "messages") from None
        given = {id(message) for message in messages}
        for message in returned:
            if id(message) not in given:
                raise invalid_return(f"{expected}, one element was not of this batch", message, "messages")
        present = {id(message) for message in returned}
        missing = [message for message in messages if id(message) not in present]
        for message in missing:
            message.status, message.reason = "error", InvalidReturnError("handle_batch did not return this message")
        if missing or len(returned) != len(messages):
            counts = f"{len(messages)} messages and returned {len(returned)}, {len(missing)} are missing"
            text = f"handle_batch received {counts}; all that it was given must be returned"
            log_error(text, None, self._settings.name, self.name)


def _data_of(messages: List[Message]) -> List[Any]:
    try:
        return [message.data for message in messages]
    except AttributeError:  # a callback has deleted it, to save memory, say
        return [getattr(message, "data", None) for message in messages]
