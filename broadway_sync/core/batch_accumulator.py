"""
Messages in, batches out: what is open under each key, and when it is due.
"""

from __future__ import annotations

import copy
from collections import deque
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any, Deque, Dict, Hashable, List, Optional, Sequence, Tuple, Union

from ..errors import InvalidReturnError

if TYPE_CHECKING:
    from ..message import Message

OPEN, DUE, CUT = "open", "due", "cut"

# Of so few messages each is looked at by itself: to look first whether they are alike would take longer.
FEW = 10

BULK = "bulk"
"""The batch mode, as the object that messages have unless somebody puts an equal one."""


class Batch:
    """
    The messages of one key and partition, from the first message until they are handled.

    ``OPEN`` -> ``CUT`` (by size, flush or stop) or ``OPEN`` -> ``DUE`` (timed out, still filling) -> ``CUT``.
    """

    __slots__ = (
        "accumulator",
        "deadline",
        "is_blocked",
        "is_default",
        "key",
        "messages",
        "partition",
        "state",
        "successor",
        "trigger",
    )

    def __init__(self, key: Hashable, partition: Optional[int], deadline: float, accumulator: Any) -> None:
        self.key = key
        self.is_default = bool(key == "default")
        self.partition = partition
        self.messages: List[Message] = []
        self.deadline = deadline
        self.state = OPEN
        self.trigger = "timeout"
        self.accumulator = accumulator
        # Of the BatchDispatcher: the next batch of the same explicit key, and whether one before it is unfinished.
        self.successor: Optional[Batch] = None
        self.is_blocked = False


def discard(batches: Dict[Any, Batch], key: Any, batch: Batch) -> None:
    """
    Remove *batch* from a dict by key, also if the key's ``__hash__`` or ``__eq__`` has begun to raise or to lie.
    """
    try:
        found = batches.pop(key)
        if found is batch:
            return
        batches[key] = found
    except BaseException:  # user code; what follows calls none of it for the batches that it keeps
        pass
    kept = [(other_key, other) for other_key, other in batches.items() if other is not batch]
    batches.clear()
    for other_key, other in kept:
        try:
            batches[other_key] = other
        except BaseException:  # as broken: it is found by the calendar, and is due in time
            continue


class BatchAccumulator:
    """
    Open batches by partition and key.

    A batch is due *batch_timeout* after its first message arrived, which later messages do not change. A due batch
    goes on filling until :meth:`close` takes it. All keys have the same timeout, so batches become due in the
    order in which they were opened: one deque is the whole calendar. Batches that were cut before they were due are
    passed over when they come up, and swept out when they are the greater part.

    Batches to hand on are appended to :attr:`ready`, once each: when they are cut or become due.

    Not thread-safe. Times are monotonic seconds and must not decrease between calls.
    Follows Broadway 1.3, ``batcher_stage.ex``, except that a flush-mode message cuts its batch at once.
    """

    def __init__(self, batch_size: Union[int, Tuple[Any, Any]], batch_timeout: float) -> None:
        self._timeout = batch_timeout
        # A size, or 0 and a function that decides.
        self._size = 0 if isinstance(batch_size, tuple) else batch_size
        self._initial: Any
        self._function: Any
        self._initial, self._function = batch_size if isinstance(batch_size, tuple) else (None, None)
        self._open: Dict[Optional[int], Dict[Hashable, Batch]] = {}
        self._due: Dict[Tuple[Optional[int], Hashable], Batch] = {}
        self._calendar: Deque[Batch] = deque()
        self.open_count = 0
        """Number of batches that are neither cut nor due."""
        self.ready: List[Batch] = []
        """Batches to hand on; the owner empties it."""
        self.rejected: Deque[Tuple[Message, BaseException]] = deque()
        """Messages that could not be batched, each with the reason; any thread may take them out."""
        self.rejections = 0
        """How many messages could not be batched so far."""
        self.waiting = 0
        """Messages in batches that were handed on and that :meth:`close` has not taken."""

    def unfinished(self) -> List[Batch]:
        """
        Return the batches that are open or due. Lists are made first: something may change meanwhile, see
        ``Serial.inspect``.
        """
        opened = [list(batches.values()) for batches in list(self._open.values())]
        return [batch for batches in opened for batch in batches] + list(self._due.values())

    def oldest(self) -> List[Batch]:
        """
        Return the oldest open batch in a list, which is empty if there is none.
        """
        return list(islice((batch for batch in self._calendar if batch.state is OPEN), 1))

    def add(self, messages: Sequence[Message], partition: Optional[int], now: float) -> None:
        """
        Add *messages*, in their order, to the batches of their keys.

        A message whose key is not hashable, whose batch mode is unknown, or for which the *batch_size* function
        raised or returned neither ``emit`` nor ``cont`` is added to :attr:`rejected`, and changes nothing else.
        """
        batches = self._open.get(partition)
        if batches is None:
            batches = self._open[partition] = {}
        added = 0
        if len(messages) > FEW and self._size and not self._due:
            added = self._add_alike(messages, batches, partition, now)
        size, find = self._size, batches.get
        for message in messages[added:]:
            try:
                mode = message.batch_mode
                if mode != "bulk" and mode != "flush":
                    raise InvalidReturnError(f'batch_mode must be "bulk" or "flush", got: {mode!r}')
                batch = find(message.batch_key) or self._find_or_open(message.batch_key, partition, now)
                if size:
                    pending = batch.messages
                    pending.append(message)
                    is_full = len(pending) >= size
                else:
                    is_full = self._append(batch, message)
                if is_full:
                    self._cut(batch, "size")
                elif mode != "bulk":
                    self._cut(batch, "flush")
            except BaseException as error:  # user code: __hash__, __eq__ of the key, the batch_size function
                self.rejected.append((message, error))
                self.rejections += 1

    def _add_alike(
        self, messages: Sequence[Message], batches: Dict[Hashable, Batch], partition: Optional[int], now: float
    ) -> int:
        """
        Add messages from the first one on, as long as they have the very same key and are in bulk mode; return how
        many. Where nobody puts keys that is all of them, in a third of the time.
        """
        size, added = self._size, 0
        try:
            key, count = messages[0].batch_key, _count_alike(messages)
            while added < count:
                batch = batches.get(key) or self._find_or_open(key, partition, now)
                end = min(added + size - len(batch.messages), count)
                batch.messages += messages[added:end]
                added = end
                if len(batch.messages) >= size:
                    self._cut(batch, "size")
        except BaseException:  # user code: a key that raises, or is not there; each of these is rejected by itself
            pass
        return added

    def expire(self, now: float) -> None:
        """
        Hand on every open batch whose deadline is *now* or earlier.
        """
        calendar = self._calendar
        while calendar and (calendar[0].state is not OPEN or calendar[0].deadline <= now):
            batch = calendar.popleft()
            if batch.state is OPEN:
                self._remove_open(batch)
                try:
                    self._due[batch.partition, batch.key] = batch
                    batch.state = DUE
                except Exception:  # a key whose __hash__ or __eq__ has begun to raise: nothing finds it any more
                    batch.state = CUT
                self._hand_on(batch)

    def next_deadline(self) -> Optional[float]:
        """
        Return when :meth:`expire` has something to do next, None if nothing is open.
        """
        calendar = self._calendar
        while calendar and calendar[0].state is not OPEN:
            calendar.popleft()
        return calendar[0].deadline if calendar else None

    def flush(self) -> None:
        """
        Cut all open batches with the trigger ``flush``, the oldest first.
        """
        for batch in self._calendar:
            if batch.state is OPEN:
                self._cut(batch, "flush")
        self._calendar.clear()

    def close(self, batch: Batch) -> None:
        """
        Take a batch that was handed on: nothing is added to it any more.
        """
        self.waiting -= len(batch.messages)
        if batch.state is DUE:
            discard(self._due, (batch.partition, batch.key), batch)
            batch.state = CUT

    def _find_or_open(self, key: Hashable, partition: Optional[int], now: float) -> Batch:
        """
        Return the due batch of the key if there is one, else a new one; a message is added to it next.
        """
        batch = self._due.get((partition, key)) if self._due else None
        if batch is not None:
            self.waiting += 1
            return batch
        batch = Batch(key, partition, now + self._timeout, copy.deepcopy(self._initial))
        self._open[partition][key] = batch
        self.open_count += 1
        self._calendar.append(batch)
        if len(self._calendar) > 2 * self.open_count + 1000:
            self._calendar = deque(kept for kept in self._calendar if kept.state is OPEN)
        return batch

    def _append(self, batch: Batch, message: Message) -> bool:
        """
        Add a message and return whether the *batch_size* function ends the batch with it.
        """
        try:
            is_end, accumulator = self._decide(message, batch.accumulator)
        except BaseException:
            self._take_back(batch)
            raise
        batch.messages.append(message)
        batch.accumulator = accumulator
        return is_end

    def _decide(self, message: Message, accumulator: Any) -> Tuple[bool, Any]:
        returned = self._function(message, accumulator)
        if isinstance(returned, tuple) and len(returned) == 2 and returned[0] in ("emit", "cont"):
            return returned[0] == "emit", returned[1]
        raise InvalidReturnError(
            f'the batch_size function must return ("emit", accumulator) or ("cont", accumulator), got: {returned!r}'
        )

    def _take_back(self, batch: Batch) -> None:
        """
        Undo :meth:`_find_or_open` for a message that is not added.
        """
        if batch.state is DUE:
            self.waiting -= 1
        elif not batch.messages:
            self._remove_open(batch)
            batch.state = CUT

    def _cut(self, batch: Batch, trigger: str) -> None:
        batch.trigger = trigger
        if batch.state is OPEN:
            self._remove_open(batch)
            batch.state = CUT
            self._hand_on(batch)
        else:  # a due batch was handed on before, and counts already
            discard(self._due, (batch.partition, batch.key), batch)
            batch.state = CUT

    def _remove_open(self, batch: Batch) -> None:
        discard(self._open[batch.partition], batch.key, batch)
        self.open_count -= 1

    def _hand_on(self, batch: Batch) -> None:
        self.waiting += len(batch.messages)
        self.ready.append(batch)


def _count_alike(messages: Sequence[Message]) -> int:
    """
    Return how many of *messages*, from the first one on, have the very same key and are in bulk mode.
    """
    key, rest = messages[0].batch_key, iter(messages)
    for message in rest:
        if message.batch_key is not key or message.batch_mode is not BULK:
            return len(messages) - length_hint(rest) - 1
    return len(messages)
