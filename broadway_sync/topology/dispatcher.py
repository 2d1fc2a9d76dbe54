"""
The way from producers to processors.

A producer hands messages over through its :class:`Source`; they are cut into chunks and wait in a :class:`Channel`
until a processor takes them. Without ``partition_by`` there is one channel, and any idle processor takes the next
chunk; with it every processor has its own.

Handing over takes the lock of the source (it has few users: the producer's thread, ``emit``, pushes); taking a
chunk and giving its credit back takes no lock at all.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Callable, Deque, Iterable, List, Optional, Sequence, Tuple

from ..core.demand import Demand
from ..core.partitions import split
from ..errors import NotRunningError
from ..log import log_error
from ..message import Message
from ..options import ProcessorOptions
from ..runtime.wait_list import WaitList
from .rate_limiter import RateLimiter

if TYPE_CHECKING:
    from .batcher_stage import BatcherStage
    from .processor_stage import ProcessorStage

# Seconds between two looks of a sentinel: the longest that a chunk may wait when a handler is suddenly slow.
TICK = 0.002
# After how many ticks without anybody at work a sentinel resigns.
QUIET_TICKS = 5
# Seconds for each chunk, or for each message of a large one: when chunks are taken faster than this, waking another
# processor costs more than it brings.
QUICK = 0.0001
QUICK_MESSAGE = 0.000002
# How many wake-ups in vain (each counts 2, one to some purpose takes 1 back) it takes to become one.
IN_VAIN = 16

Chunk = Tuple["Source", List[Message], bool]
"""The source, the messages, and whether they only have to be failed (they have no partition)."""

Placed = Tuple[int, List[Tuple["Channel", List[Chunk]]]]
"""The number of messages, and their chunks by the channel that they go to."""


class Channel:
    """
    Chunks that wait for a processor, and for room in every batcher. Thread-safe, without a lock.

    Whom to wake is a question of speed alone: whenever a chunk may be taken and a processor is idle, one of these
    holds:

    * *eager*: whoever puts a chunk, takes one and sees another, or makes room wakes an idle processor. Right when
      handlers wait for something. When they do not, the one that is awake has taken all chunks before the next one has
      woken up, to nothing, and these thread switches cost more than the messages.
    * *lazy*: there is a sentinel, an idle processor that looks again every ``TICK`` seconds, and nobody else is woken
      while any processor is at work. If the sentinel finds a chunk, somebody was slow, and all are eager again. It is
      not woken for work itself: whoever took its place would have to be woken too.

    An idle processor that was woken in vain often enough becomes the sentinel; if nothing happens for a while it
    resigns, so that an idle pipeline does not tick.
    """

    __slots__ = (
        "_in_vain",
        "_on_idle",
        "_processors",
        "_put",
        "_quick",
        "_sentinel",
        "batchers",
        "has_sentinel",
        "idle",
        "is_abandoned",
        "is_closed",
        "ready",
    )

    def __init__(self, processors: int, on_idle: Callable[[], None], chunk_size: int = 1) -> None:
        """
        Args:
            processors: How many processors take from this channel.
            on_idle: Called on the thread of a processor that finds nothing to take, right before it waits.
            chunk_size: The most messages that a chunk has.
        """
        self._processors = processors
        self._quick = max(QUICK, chunk_size * QUICK_MESSAGE)
        self._on_idle = on_idle
        self.ready: Deque[Chunk] = deque()
        self.batchers: Tuple[BatcherStage, ...] = ()
        """While one of these is full no chunk is taken; set once, before any message comes."""
        self.idle = WaitList()
        self._sentinel = WaitList()
        self.is_closed = self.is_abandoned = False
        self.has_sentinel = False
        self._put = 0  # chunks so far
        # How often processors were lately woken in vain; several threads count without a lock, a rough figure will do.
        self._in_vain = 0

    def put(self, chunks: Sequence[Chunk]) -> None:
        """
        Add chunks and see to it that a processor takes them.
        """
        self.add(chunks)
        self.wake()

    def add(self, chunks: Sequence[Chunk]) -> None:
        """
        Add chunks; :meth:`wake` must follow.
        """
        self.ready.extend(chunks)
        self._put += len(chunks)

    def wake(self) -> None:
        """
        See to it that a processor takes what was added, or what there is room for now.
        """
        idle = self.idle.parked
        if idle and (not self.has_sentinel or len(idle) >= self._processors - 1) and self._may_take():
            self.idle.wake()

    def take(self) -> Optional[Chunk]:
        """
        Wait for a chunk and for room, and return the chunk; None when the channel is closed and empty, or abandoned.
        """
        ready = self.ready
        while not self.is_abandoned:
            for batcher in self.batchers:  # the inlined _may_take()
                if batcher.is_full:
                    break
            else:
                try:
                    chunk = ready.popleft()
                except IndexError:
                    pass
                else:
                    if self.idle.parked:
                        self._taken_beside_idle()
                    return chunk
            if self.is_closed and not ready:
                return None
            self._wait()
        return None

    def _taken_beside_idle(self) -> None:
        if not self.ready:
            if self.is_closed:  # whoever waits for room to take what has just been taken has nothing to wait for
                self.idle.wake_all()
        elif not self.has_sentinel:
            self.idle.wake()

    def close(self) -> None:
        """
        No chunk will be put any more.
        """
        self.is_closed = True
        self.idle.wake_all()
        self._sentinel.wake_all()

    def abandon(self) -> None:
        """
        Nothing will be taken any more, whatever is there.
        """
        self.is_abandoned = True
        self.close()

    def _taken(self) -> int:
        return self._put - len(self.ready)

    def _may_take(self) -> bool:
        if not self.ready:
            return False
        for batcher in self.batchers:
            if batcher.is_full:
                return False
        return True

    def _has_news(self) -> bool:
        return self._may_take() or (self.is_closed and not self.ready) or self.is_abandoned

    def _wait(self) -> None:
        if not self.idle.park(self._has_news, before=self._on_idle):
            return
        if self._may_take():
            self._in_vain = max(0, self._in_vain - 1)
            return
        self._in_vain += 2
        if self._in_vain >= IN_VAIN and not self.has_sentinel and self._processors > 1:
            self.has_sentinel = True
            try:
                self._stand_sentinel()
            finally:
                self.has_sentinel = False

    def _stand_sentinel(self) -> None:
        quiet_ticks = 0
        while quiet_ticks < QUIET_TICKS:
            since, put, taken = monotonic(), self._put, self._taken()
            self._sentinel.park(lambda: self.is_closed, TICK)
            if self.is_closed:
                return
            if self._may_take() and self._are_slow(monotonic() - since, self._taken() - taken):
                self._in_vain = 0
                return
            self._on_idle()  # while it stands here, nobody else asks the producers for more
            quiet_ticks = quiet_ticks + 1 if self._put == put else 0

    def _are_slow(self, seconds: float, taken: int) -> bool:
        """
        Whether the processors at work, who took so many chunks in that time, should be helped by others.

        Many who wait for something take many chunks together: it counts how long each of them had one.
        """
        at_work = max(1, self._processors - 1 - len(self.idle.parked))
        return seconds * at_work > taken * self._quick


class Source:
    """
    One producer's end of the dispatcher: its demand, and what it handed over.

    Invariant: ``demand.outstanding() == messages of this source in channels, held by the rate limit, or in hand``.
    """

    def __init__(self, dispatcher: Dispatcher, capacity: int, lot: int) -> None:
        self._dispatcher = dispatcher
        self._demand = Demand(capacity)
        self.returned = self._demand.returned
        """Takes the number of messages of each chunk that was handled; any thread."""
        self.lot = lot
        """The producer is woken when so many chunks have been returned, or when a processor finds none to take."""
        self.producer = WaitList()
        """The producer's thread, while it waits for demand."""
        self.emitters = WaitList()
        """Threads in ``emit`` that wait for room."""
        self.is_closed = False
        # Of the producer's thread: channels with messages of which no processor knows yet.
        self._unannounced: List[Channel] = []
        # Guards _demand (but for `returned`) and is_closed. No user code and no other lock but the rate
        # limiter's is used under it.
        self._lock = threading.Lock()

    def unmet_demand(self) -> int:
        """
        Return how many messages the producer may be asked for.
        """
        with self._lock:
            return self._demand.unmet()

    def outstanding(self) -> int:
        """
        Return how many messages are handed over and not handled.
        """
        with self._lock:
            return self._demand.outstanding()

    def counts(self) -> Tuple[int, int]:
        """
        Return how many messages no processor has taken yet, and how many were handed over in all.
        """
        with self._lock:
            outstanding, added = self._demand.outstanding(), self._demand.added
        return max(0, outstanding - self.in_hand()), added

    def in_hand(self) -> int:
        """
        Return how many of this source's messages processors have in hand just now.
        """
        chunks = [processor.chunk for processor in self._dispatcher.processors]
        return sum(len(chunk[1]) for chunk in chunks if chunk is not None and chunk[0] is self)

    def offer(self, messages: List[Message], *, is_limited: bool = True) -> None:
        """
        Hand over messages, all or none: :meth:`place` and :meth:`take`.
        """
        self.take(self.place(messages), is_limited=is_limited)

    def offer_quietly(self, messages: List[Message]) -> None:
        """
        Like :meth:`offer`, on the producer's thread; :meth:`wake_takers` must follow, before anything that takes time.

        Mostly the producer waits for demand next, and whoever is woken right before that finds the GIL free.
        """
        placed = self.place(messages)
        if self._dispatcher.rate_limiter is not None:
            self.take(placed)
            return
        with self._lock:
            self._check_open()
            self._demand.add(placed[0])
            for channel, chunks in placed[1]:
                channel.add(chunks)
                self._unannounced.append(channel)

    def wake_takers(self) -> None:
        """
        Wake processors for what :meth:`offer_quietly` handed over.
        """
        while self._unannounced:
            self._unannounced.pop().wake()

    def place(self, messages: List[Message]) -> Placed:
        """
        Cut messages into chunks for their channels. Runs ``partition_by``.
        """
        return self._dispatcher.place(self, messages)

    def take(
        self, placed: Placed, *, is_limited: bool = True, has_room: Optional[Callable[[int], bool]] = None
    ) -> bool:
        """
        Take chunks, all or none.

        Args:
            placed: What :meth:`place` returned.
            is_limited: Whether the rate limit holds for them.
            has_room: Called with the number of outstanding messages, under the lock; if it says no, nothing is taken.

        Returns:
            Whether they were taken.

        Raises:
            NotRunningError: The source is closed; nothing was taken.
        """
        with self._lock:
            self._check_open()
            if has_room is not None and not has_room(self._demand.outstanding()):
                return False
            self._demand.add(placed[0])
            self._dispatcher.put(placed, is_limited)
        return True

    def _check_open(self) -> None:
        if self.is_closed:
            raise NotRunningError("the producer takes no more messages: its pipeline is stopping or has ended")

    def renew_lock(self) -> None:
        """
        In a forked child: the lock may have been held by a thread that is not there any more.
        """
        self._lock = threading.Lock()

    def close(self) -> None:
        """
        Nothing will be handed over any more. Idempotent.
        """
        with self._lock:
            was_closed, self.is_closed = self.is_closed, True
        self.emitters.wake_all()
        if not was_closed:
            self._dispatcher.source_closed()


class Dispatcher:
    """
    All sources and channels of one generation of stages.
    """

    def __init__(
        self,
        options: ProcessorOptions,
        producers: int,
        rate_limiter: Optional[RateLimiter],
        pipeline: str,
    ) -> None:
        self._pipeline = pipeline
        self._chunk_size = options.max_demand - options.min_demand
        self._partition_by = options.partition_by
        self._concurrency = options.concurrency
        shared, own = (1, options.concurrency), (options.concurrency, 1)
        channels, processors = own if options.partition_by else shared
        self.channels = [Channel(processors, self._wake_producers, self._chunk_size) for _ in range(channels)]
        capacity = options.concurrency * options.max_demand
        self.sources = [Source(self, capacity, options.concurrency) for _ in range(producers)]
        self.rate_limiter = rate_limiter
        self.processors: List[ProcessorStage] = []
        """Who takes from the channels; set once, before any message comes."""
        # Guards _open_sources. Innermost.
        self._lock = threading.Lock()
        self._open_sources = producers

    def hold_while_full(self, batchers: Iterable[BatcherStage]) -> None:
        """
        Let no chunk be taken while any of *batchers* is full; :meth:`wake_processors` must follow when it has room.
        """
        held_by = tuple(batchers)
        for channel in self.channels:
            channel.batchers = held_by

    def wake_processors(self) -> None:
        """
        There is room in a batcher: go on with what waits.
        """
        for channel in self.channels:
            channel.wake()

    def channel_of(self, processor: int) -> Channel:
        """
        Return the channel that processor number *processor* takes from.
        """
        return self.channels[processor if self._partition_by else 0]

    def push(self, messages: List[Message]) -> None:
        """
        Hand over messages past demand and rate limit, through a randomly chosen source.

        Raises:
            NotRunningError: All sources are closed.
        """
        sources = [source for source in self.sources if not source.is_closed]
        random.shuffle(sources)
        for source in sources:
            try:
                source.offer(messages, is_limited=False)
                return
            except NotRunningError:  # closed since: try the next one
                continue
        raise NotRunningError(f"pipeline {self._pipeline!r} takes no more messages: all its producers have ended")

    def place(self, source: Source, messages: List[Message]) -> Placed:
        """
        Cut *messages* into chunks for their channels.
        """
        if self._partition_by is None:
            return len(messages), [(self.channels[0], self._cut(source, messages))]
        partitions, rejected = split(messages, self._partition_by, self._concurrency)
        placed = [(self.channels[index], self._cut(source, members)) for index, members in partitions.items()]
        if rejected:
            failed = [self._reject(message, error) for message, error in rejected]
            placed.append((self.channels[0], self._cut(source, failed, is_rejected=True)))
        return len(messages), placed

    def _reject(self, message: Message, error: BaseException) -> Message:
        message.status, message.reason = "error", error
        log_error("partition_by failed for a message", error, self._pipeline, threading.current_thread().name)
        return message

    def _cut(self, source: Source, messages: List[Message], *, is_rejected: bool = False) -> List[Chunk]:
        size = self._chunk_size
        return [(source, messages[start : start + size], is_rejected) for start in range(0, len(messages), size)]

    def put(self, placed: Placed, is_limited: bool) -> None:
        """
        Put chunks into their channels, or leave that to the rate limiter.
        """
        if is_limited and self.rate_limiter is not None:
            self.rate_limiter.hold([(channel, chunk) for channel, chunks in placed[1] for chunk in chunks])
        else:
            for channel, chunks in placed[1]:
                channel.put(chunks)

    def _wake_producers(self) -> None:
        """
        A processor is idle: ask for every message that may be asked for.
        """
        for source in self.sources:
            if source.producer.parked and source.unmet_demand():
                source.producer.wake()

    def source_closed(self) -> None:
        """
        Close the channels if this was the last source and the rate limit holds nothing back.
        """
        with self._lock:
            self._open_sources -= 1
            is_last = self._open_sources <= 0
        if not is_last:
            return
        if self.rate_limiter is not None:
            self.rate_limiter.close(self.close)
        else:
            self.close()

    def close(self) -> None:
        """
        Close all channels.
        """
        for channel in self.channels:
            channel.close()

    def abandon(self) -> None:
        """
        Let processors that wait end, also those that wait for room.
        """
        for channel in self.channels:
            channel.abandon()

    def has_messages(self) -> bool:
        """
        Whether there is something that no processor took.
        """
        is_holding = self.rate_limiter is not None and self.rate_limiter.is_holding
        return is_holding or any(channel.ready for channel in self.channels)

    def remove_all(self) -> Tuple[List[Message], List[Message]]:
        """
        Return the messages that no processor took and those that the rate limit holds back, and forget them.
        """
        ready: List[Message] = []
        for channel in self.channels:
            while channel.ready:
                try:
                    ready += channel.ready.popleft()[1]
                except IndexError:  # a processor was faster
                    break
        return ready, [] if self.rate_limiter is None else self.rate_limiter.remove_all()
