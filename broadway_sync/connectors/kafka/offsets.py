"""
Which offset of a partition may be committed.

Offsets are taken as they come: compaction and transaction markers leave gaps, so the offset after 4 may be 17. What is
committed is the offset to go on with after a crash: that of the first message that is not finished, or one more than
the last one that was delivered.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any, Deque, List, Optional, Sequence, Set


class Lot:
    """
    Messages of one partition that were delivered together; the ``ack_ref`` of each of them.

    Its messages are all that keeps it alive. A lot that is gone with messages unfinished will never be finished:
    somebody dropped a message without acknowledging it.
    """

    __slots__ = ("__weakref__", "acknowledger", "entry", "places", "tracker")

    def __init__(self, tracker: Tracker, entry: _Entry) -> None:
        self.acknowledger: Any = None
        """Of its messages; for whoever makes them."""
        self.tracker = tracker
        self.entry = entry
        self.places = tracker.places


class _Entry:
    """
    What the tracker remembers of a lot.
    """

    __slots__ = ("finished", "lot", "offsets", "remaining")

    def __init__(self, offsets: Sequence[int]) -> None:
        self.offsets = offsets
        self.remaining = len(offsets)
        self.finished: Set[int] = set()
        self.lot: Any = None  # a weak reference

    def first_unfinished(self) -> int:
        finished = self.finished
        return next(offset for offset in self.offsets if offset not in finished)


class Tracker:
    """
    The delivered messages of one partition, from its assignment until it is taken away: what is acknowledged after
    that belongs to nobody, as another consumer, or a later tracker, has the partition.

    Invariant: ``unfinished == sum(entry.remaining for entry in _entries)``, and the first entry has some remaining.
    Not thread-safe. Follows BroadwayKafka, ``acknowledger.ex``, but for messages that are lost.
    """

    __slots__ = ("_entries", "_finished", "first_offset", "key", "next_offset", "places", "unfinished")

    def __init__(self, key: Any, places: Sequence[int] = ()) -> None:
        """
        Args:
            key: The partition.
            places: Of each stage that is partitioned the index that handles the messages.
        """
        self.key = key
        self.places = places
        self.first_offset: Optional[int] = None
        """The first offset that was delivered."""
        self.next_offset: Optional[int] = None
        """One more than the last offset that was delivered, None if none was."""
        self.unfinished = 0
        self._entries: Deque[_Entry] = deque()
        self._finished = 0

    def deliver(self, offsets: Sequence[int]) -> Lot:
        """
        Note that messages are handed over; *offsets* ascend, and are larger than all before.

        The caller keeps the lot alive until the messages have it.
        """
        entry = _Entry(offsets)
        lot = Lot(self, entry)
        entry.lot = weakref.ref(lot)
        self._entries.append(entry)
        self.unfinished += len(offsets)
        if self.first_offset is None:
            self.first_offset = offsets[0]
        self.next_offset = offsets[-1] + 1
        return lot

    def finish(self, entry: _Entry, offsets: Sequence[int]) -> None:
        """
        Note that messages of one lot are finished; the same message a second time changes nothing.
        """
        before = entry.remaining
        if not before:  # a copy of a message
            return
        if offsets == entry.offsets:
            entry.remaining = 0  # all at once, and none twice: the usual case without batchers
        else:
            entry.finished.update(offsets)
            entry.remaining = len(entry.offsets) - len(entry.finished)
        self.unfinished -= before - entry.remaining
        self._finished += before - entry.remaining
        entries = self._entries
        while entries and not entries[0].remaining:
            entries.popleft()

    def commit_point(self) -> Optional[int]:
        """
        Return the offset to commit, None if nothing was delivered.
        """
        return self._entries[0].first_unfinished() if self._entries else self.next_offset

    def take_finished(self) -> int:
        """
        Return how many messages were finished since the last call.
        """
        count, self._finished = self._finished, 0
        return count

    def has_progress(self) -> bool:
        """
        Whether the first message that was delivered is finished.
        """
        return self.commit_point() != self.first_offset

    def lost(self) -> Optional[List[int]]:
        """
        Return the unfinished offsets of the first lot if nobody can finish them any more, else None.
        """
        if not self._entries or self._entries[0].lot() is not None:
            return None
        entry = self._entries[0]
        return [offset for offset in entry.offsets if offset not in entry.finished]

    def give_up_lost(self) -> None:
        """
        Count the messages that :meth:`lost` returned as finished.
        """
        entry = self._entries[0]
        self.finish(entry, list(entry.offsets))
