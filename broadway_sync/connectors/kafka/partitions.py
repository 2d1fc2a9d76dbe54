"""
The partitions that one consumer has: what was fetched and not handed over, and what was handed over and not committed.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import (
    Any,
    Callable,
    Container,
    Deque,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from .offsets import Lot, Tracker

Key = Tuple[str, int]
"""Topic and partition."""

Share = Tuple[Key, Lot, List[Any]]
"""Records of one partition that are handed over together."""

# Fetched records that wait, and their bytes, over all partitions; each has its part of it, and the least part is this.
_MOST_WAITING = 8000
_LEAST_PER_PARTITION = 100
_MOST_BYTES = 32 * 1024 * 1024
_LEAST_BYTES = 1024 * 1024
# Lost messages of a partition that are remembered, so that they are not delivered a third time.
_MOST_LOST = 1000


class Partition:
    """
    One partition, from its assignment until it is taken away for good.
    """

    __slots__ = ("buffer", "committed", "key", "lost", "resume_at", "size", "tracker")

    def __init__(self, tracker: Tracker) -> None:
        self.key: Key = tracker.key
        self.tracker = tracker
        self.buffer: Deque[Any] = deque()
        self.size = 0
        """Bytes of the values that wait."""
        self.committed: Optional[int] = None
        """What was committed last."""
        self.lost: Set[int] = set()
        """Offsets that are delivered again because they were lost."""
        self.resume_at: Optional[int] = None
        """Where to go on when it comes back after a revoke."""

    def clear(self) -> None:
        """
        Drop what waits.
        """
        self.buffer.clear()
        self.size = 0

    def position(self) -> Optional[int]:
        """
        Return the offset of the next message to hand over, None if it is for the client to know.
        """
        return self.waiting() if self.buffer else self.tracker.next_offset

    def waiting(self) -> Optional[int]:
        """
        Return the offset of the first message that waits, None if none does.
        """
        offset: Optional[int] = self.buffer[0].offset if self.buffer else None
        return offset


_size_of = attrgetter("serialized_value_size")


def _has(partition: Partition, count: int, size: int) -> bool:
    return len(partition.buffer) >= count or partition.size >= size


class Loss(NamedTuple):
    """
    Messages that left the pipeline without being acknowledged.
    """

    key: Key
    offsets: List[int]
    is_given_up: bool
    """Whether they were delivered twice and now count as failed."""


class Partitions:
    """
    All partitions of one consumer.

    Not thread-safe, and quick: its owner guards it with a lock. Offsets, no clock, no client.
    """

    def __init__(self, most_in_turn: int, hold: Callable[[Key], Sequence[int]], release: Callable[[Key], None]) -> None:
        """
        Args:
            most_in_turn: How many messages of one partition are handed over before another has its turn.
            hold: Returns the indexes that handle a partition's messages.
            release: Undoes that.
        """
        self._most_in_turn = most_in_turn
        self._hold = hold
        self._release = release
        self._held: Dict[Key, Partition] = {}
        self._revoked: Dict[Key, Partition] = {}
        # Partitions with something to hand over, whose turn comes in this order.
        self._turns: Deque[Partition] = deque()

    def keys(self) -> List[Key]:
        """
        Return the partitions that this consumer has, those that are being revoked left out.
        """
        return list(self._held)

    # Records.

    def add(self, records: Mapping[Any, List[Any]]) -> int:
        """
        Take fetched records, by partition; return how many. Those of partitions that are gone are dropped.
        """
        count = 0
        for key, fetched in records.items():
            partition = self._held.get(key)
            if partition is not None and fetched:
                if not partition.buffer:
                    self._turns.append(partition)
                partition.buffer.extend(fetched)
                partition.size += sum(map(_size_of, fetched))
                count += len(fetched)
        return count

    def take(self, demand: int) -> List[Share]:
        """
        Return up to *demand* records, noted as delivered, from all partitions in turn.
        """
        shares: List[Share] = []
        turns, most = self._turns, self._most_in_turn
        while demand > 0 and turns:
            partition = turns.popleft()
            buffer = partition.buffer
            count = min(demand, most, len(buffer))
            partition.size -= partition.size * count // len(buffer)  # near enough, and no sum over the records
            records = [buffer.popleft() for _ in range(count)]
            shares.append((partition.key, partition.tracker.deliver([record.offset for record in records]), records))
            demand -= count
            if buffer:
                turns.append(partition)
        return shares

    def limits(self) -> Tuple[int, int]:
        """
        Return how many records of one partition, and how many bytes, may wait before fetching from it pauses.
        """
        count = max(1, len(self._held))
        return max(_LEAST_PER_PARTITION, _MOST_WAITING // count), max(_LEAST_BYTES, _MOST_BYTES // count)

    def full(self, paused: Container[Any]) -> Set[Key]:
        """
        Return the partitions from which nothing more is to be fetched now: those at a limit, and of those in *paused*
        those that are not down to half of it.
        """
        most, size = self.limits()
        return {
            key
            for key, partition in self._held.items()
            if _has(partition, most, size) or (key in paused and _has(partition, most // 2 + 1, size // 2 + 1))
        }

    def has_room(self, paused: Optional[Container[Any]] = None) -> bool:
        """
        Whether there is a partition to fetch from, or none at all.

        Args:
            paused: As for :meth:`full`; all of them if None.
        """
        return not self._held or len(self.full(self._held if paused is None else paused)) < len(self._held)

    def drop_waiting(self) -> None:
        """
        Forget what was not handed over.
        """
        for partition in self._held.values():
            partition.clear()
        self._turns.clear()

    # Acknowledgements and commits.

    def finish(self, finished: Iterable[Tuple[Lot, List[int]]]) -> None:
        """
        Note what was acknowledged. What belongs to trackers that are over changes nothing that matters.
        """
        for lot, offsets in finished:
            lot.tracker.finish(lot.entry, offsets)

    def unfinished(self, keys: Optional[Iterable[Any]] = None) -> int:
        """
        Return how many messages were handed over and are not acknowledged, of *keys* or of all partitions.
        """
        return sum(partition.tracker.unfinished for partition in self._select(keys))

    def is_idle(self) -> bool:
        """
        Whether nothing waits, nothing is in the pipeline, and everything is committed.
        """
        return not any(partition.buffer or partition.tracker.unfinished for partition in self._held.values()) and (
            not self.to_commit()
        )

    def to_commit(self, keys: Optional[Iterable[Any]] = None, is_forced: bool = False) -> Dict[Key, int]:
        """
        Return the offsets to commit, of *keys* or of all partitions.

        Args:
            is_forced: Also those that have not moved since the last commit.
        """
        points = {}
        for partition in self._select(keys):
            point = partition.tracker.commit_point()
            if is_forced:
                point = partition.resume_at if point is None else point
            elif point == partition.committed or not partition.tracker.has_progress():
                point = None
            if point is not None:
                points[partition.key] = point
        return points

    def acknowledged(self) -> int:
        """
        Return how many messages were acknowledged since the last call.
        """
        return sum(partition.tracker.take_finished() for partition in self._held.values())

    def committed(self, points: Mapping[Key, int]) -> None:
        """
        Note that a commit was accepted.
        """
        for key, point in points.items():
            partition = self._held.get(key) or self._revoked.get(key)
            if partition is not None:
                partition.committed = point

    def commit_points(self) -> Dict[Key, Optional[int]]:
        """
        Return of each partition the first offset that is not finished, None where all is that was fetched.
        """
        return {
            key: partition.tracker.commit_point() if partition.tracker.unfinished else partition.waiting()
            for key, partition in self._held.items()
        }

    # Losses.

    def find_lost(self) -> List[Loss]:
        """
        Deal with messages that can never be acknowledged, as their objects are gone; return what was found.

        The first time the partition is to be fetched again from there (:meth:`rewind`): they may have been in the hands
        of a thread that died. A second time they count as failed: somebody throws them away, and would again.
        """
        losses = []
        for partition in self._held.values():
            offsets = partition.tracker.lost()
            if offsets is None:
                continue
            is_given_up = partition.lost.issuperset(offsets)
            if is_given_up:
                partition.tracker.give_up_lost()
            else:
                if len(partition.lost) > _MOST_LOST:
                    partition.lost.clear()
                partition.lost.update(offsets)
            losses.append(Loss(partition.key, offsets, is_given_up))
        return losses

    def rewind(self, key: Key) -> Optional[int]:
        """
        Begin a partition anew from where it would be after a crash; return that offset, to fetch from.
        """
        partition = self._held.get(key)
        if partition is None:
            return None
        point = partition.tracker.commit_point()
        self._restart(partition)
        return point

    def restart(self, key: Any) -> None:
        """
        Begin a partition anew where nobody knows yet: its offset is out of range.
        """
        partition = self._held.get(key)
        if partition is not None:
            self._restart(partition)

    def _restart(self, partition: Partition) -> None:
        partition.tracker = Tracker(partition.key, partition.tracker.places)
        partition.clear()
        partition.committed = None
        if partition in self._turns:
            self._turns.remove(partition)

    # Assignments.

    def revoke(self, keys: Iterable[Any]) -> None:
        """
        Hand over nothing more of *keys*, and drop what waits. They come back with :meth:`assign`, or are gone with it.
        """
        for key in keys:
            partition = self._held.pop(key, None)
            if partition is not None:
                partition.resume_at = partition.position()
                partition.clear()
                self._revoked[partition.key] = partition
        self._turns = deque(partition for partition in self._turns if partition.buffer)

    def assign(self, keys: Iterable[Any]) -> Tuple[Dict[Key, int], List[Key]]:
        """
        Take *keys*, and give up what was revoked and is not among them.

        What comes back at once keeps its tracker, so that messages that are still in the pipeline are neither skipped
        nor delivered again.

        Returns:
            Where to go on with partitions that came back, and which are new. With those that came back the client
            would either not fetch what was dropped here (it keeps its position), or fetch what is in the pipeline a
            second time (it asks for the committed one).
        """
        positions, fresh = {}, []
        for topic, number in keys:
            key = (topic, number)
            partition = self._revoked.pop(key, None) or self._held.get(key)
            if partition is None:
                partition = Partition(Tracker(key, self._hold(key)))
                fresh.append(key)
            elif partition.resume_at is not None:
                positions[key] = partition.resume_at
            partition.resume_at = None
            self._held[key] = partition
        self.give_up(list(self._revoked))
        return positions, fresh

    def give_up(self, keys: Iterable[Any]) -> None:
        """
        Forget *keys*: whatever is acknowledged of them from now on changes nothing.
        """
        for key in keys:
            partition = self._held.pop(key, None) or self._revoked.pop(key, None)
            if partition is not None:
                partition.clear()
                self._release(partition.key)
        self._turns = deque(partition for partition in self._turns if partition.buffer)

    def give_up_all(self) -> None:
        """
        Forget every partition.
        """
        self.give_up([*self._held, *self._revoked])

    def _select(self, keys: Optional[Iterable[Any]]) -> List[Partition]:
        if keys is None:
            return list(self._held.values())
        found = (self._held.get(key) or self._revoked.get(key) for key in keys)
        return [partition for partition in found if partition is not None]
