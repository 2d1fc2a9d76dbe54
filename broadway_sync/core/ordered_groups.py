"""
Messages of one group, one at a time.

A queue that keeps order within groups (an SQS FIFO queue's message groups, Pub/Sub's ordering keys) hands out several
messages of a group at once, but a message that fails must come again before those that followed it. So only the
first of a group may be out; the others are held until it is known what became of it.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Generic, List, Optional, TypeVar

T = TypeVar("T")


class OrderedGroups(Generic[T]):
    """
    What is held back of each group. Not thread-safe.

    A group has an entry exactly while one of its items is out.
    """

    def __init__(self) -> None:
        self._held: Dict[str, Deque[T]] = {}
        self.held_count = 0
        """Items that are held, over all groups."""

    def add(self, group: str, item: T) -> bool:
        """
        Return whether *item* may go out now; if not it is held.
        """
        held = self._held.get(group)
        if held is None:
            self._held[group] = deque()
            return True
        held.append(item)
        self.held_count += 1
        return False

    def has_followers(self, group: str) -> bool:
        """
        Whether items of *group* are held.
        """
        return bool(self._held.get(group))

    def finish(self, group: str) -> Optional[T]:
        """
        The item that was out is done with: return the next one, which is out now, or None.
        """
        held = self._held.get(group)
        if held:
            self.held_count -= 1
            return held.popleft()
        self._held.pop(group, None)
        return None

    def release(self, group: str) -> List[T]:
        """
        The item that was out will come again: return those behind it, which are held no more, nor is the group.
        """
        held = self._held.pop(group, deque())
        self.held_count -= len(held)
        return list(held)
