"""
A bounded buffer between code that pushes and a pipeline that pulls.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from time import monotonic
from typing import Any, Deque, Iterable, List, Mapping, Optional, Tuple

from . import registry
from .acknowledger import NoopAcknowledger
from .errors import ConfigurationError, EndOfStream, NotRunningError
from .log import safe_repr
from .message import Message
from .options import PipelineOptions
from .producer import Producer


class Buffer:
    """
    Messages that any thread may push and a :class:`BufferProducer` takes out. Thread-safe.

    It belongs to no pipeline: it takes messages while none runs, and outlives restarts. In a forked child it is
    empty, since what it holds belongs to the parent; if a pipeline took from it there, it takes nothing in the child
    until one is started there too.

    Args:
        maxsize: Messages that it holds, an int > 0.

    Raises:
        ConfigurationError: *maxsize* is no int > 0.
    """

    def __init__(self, maxsize: int = 100) -> None:
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
            raise ConfigurationError(f"maxsize: expected an int > 0, got: {safe_repr(maxsize)}")
        self._maxsize = maxsize
        self._messages: Deque[Message] = deque()
        self._is_closed = False
        self._stages: List[Any] = []
        # The process in which a pipeline takes, or is about to take, from this buffer.
        self._consumer: Optional[int] = None
        # After a fork: the process that has the pipeline, while this one has none.
        self._lost_to: Optional[int] = None
        self._make_locks()
        registry.fork_aware.add(self)

    def _make_locks(self) -> None:
        # Guards all fields. Innermost: stages are woken after it is released.
        self._lock = threading.Lock()
        self._not_full = threading.Condition(self._lock)

    def __len__(self) -> int:
        registry.notice_fork()
        return len(self._messages)

    def push(
        self,
        data: Any,
        *,
        metadata: Optional[Mapping[Any, Any]] = None,
        acknowledger: Optional[Tuple[Any, Any, Any]] = None,
        timeout: Optional[float] = None,
    ) -> None:
        """
        Add one message; wait while the buffer is full, at most *timeout* seconds.

        Args:
            data: What the message carries.
            metadata: Copied into the message.
            acknowledger: ``(acknowledger, ack_ref, ack_data)``; default :class:`NoopAcknowledger`.

        Raises:
            TimeoutError: The buffer was full all the time; the message was not taken.
            NotRunningError: The buffer is closed, or this is a forked child and the pipeline that takes from it was
                started in the parent only; the message was not taken.
        """
        registry.notice_fork()
        message = Message(
            data, acknowledger or NoopAcknowledger.init(), metadata=None if metadata is None else dict(metadata)
        )
        deadline = None if timeout is None else monotonic() + timeout
        with self._not_full:
            self._check_open()
            while len(self._messages) >= self._maxsize:
                self._wait_for_room(deadline, timeout)
                self._check_open()
            self._messages.append(message)
            stages = list(self._stages)
        for stage in stages:
            stage.wake()

    def _check_open(self) -> None:
        if self._is_closed:
            raise NotRunningError("the buffer is closed and takes no more messages")
        if self._lost_to is not None:
            raise registry.started_before_fork("the pipeline that takes from this buffer", self._lost_to)

    def _wait_for_room(self, deadline: Optional[float], timeout: Optional[float]) -> None:
        remaining = None if deadline is None else min(deadline - monotonic(), threading.TIMEOUT_MAX)
        if remaining is not None and remaining <= 0:
            raise TimeoutError(f"the buffer was full ({self._maxsize} messages) for {timeout:g} seconds")
        self._not_full.wait(remaining)

    def close(self) -> None:
        """
        Take no more messages; pipelines end once the buffer is empty. Idempotent.
        """
        registry.notice_fork()
        with self._not_full:
            self._is_closed = True
            self._not_full.notify_all()
            stages = list(self._stages)
        for stage in stages:
            stage.wake()

    def take(self, count: int) -> List[Message]:
        """
        Remove and return up to *count* messages, the oldest first, without waiting.

        Raises:
            EndOfStream: The buffer is closed, and empty now; carries the last messages.
        """
        with self._not_full:
            messages = [self._messages.popleft() for _ in range(min(count, len(self._messages)))]
            self._not_full.notify(len(messages))
            if not self._is_closed or self._messages:
                return messages
            stages = list(self._stages)
        for stage in stages:  # the other producers of this buffer
            stage.wake()
        raise EndOfStream(messages)

    def expect_consumer(self) -> None:
        """
        Take messages in this process: a pipeline is about to start here.
        """
        with self._lock:
            self._consumer, self._lost_to = os.getpid(), None

    def attach(self, stage: Any) -> None:
        """
        Wake *stage* whenever there is something to take.
        """
        self.expect_consumer()
        with self._lock:
            self._stages.append(stage)

    def detach(self, stage: Any) -> None:
        """
        Do not wake *stage* any more.
        """
        with self._lock:
            if stage in self._stages:
                self._stages.remove(stage)
            if not self._stages:
                self._consumer = None

    def after_fork_in_child(self) -> None:
        """
        In a forked child: the messages and the stages are the parent's.
        """
        self._make_locks()
        self._messages.clear()
        self._stages.clear()
        if self._consumer is not None:
            self._consumer, self._lost_to = None, self._consumer


class BufferProducer(Producer):
    """
    Takes from a :class:`Buffer`; ends the pipeline when that is closed and empty.

    A stop also drains the buffer: what was pushed before is handled. What is pushed later waits for the next start.

    Args:
        buffer: The buffer; several producers, and pipelines, may share one.
    """

    poll_interval = math.inf  # push() wakes it

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Check that ``buffer``, and nothing else, is given.
        """
        if set(options) != {"buffer"} or not isinstance(options["buffer"], Buffer):
            raise ConfigurationError(
                f"producer.module: BufferProducer expects {{'buffer': Buffer}}, got: {safe_repr(options)}"
            )
        return options

    @classmethod
    def prepare_for_start(cls, handler: Any, options: PipelineOptions) -> Tuple[List[Any], PipelineOptions]:
        """
        Tell the buffer, before anybody can push after ``start()``.
        """
        module = options.producer.module
        buffer = module[1].get("buffer") if isinstance(module, tuple) else None
        if isinstance(buffer, Buffer):  # else a subclass makes or finds its own
            buffer.expect_consumer()
        return [], options

    def init(self) -> None:
        """
        Ask to be woken by pushes.
        """
        self._buffer.attach(self.stage)

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Return what is there, up to *demand*.
        """
        return self._buffer.take(demand)

    def prepare_for_draining(self) -> Iterable[Message]:
        """
        Return all that is there.
        """
        try:
            return self._buffer.take(len(self._buffer))
        except EndOfStream as end:
            return end.messages

    def terminate(self, reason: Any) -> None:
        """
        Do not ask to be woken any more.
        """
        self._buffer.detach(self.stage)
