"""
Which messages of a channel are not settled, and how to settle those that are finished with the fewest frames.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Sequence, Tuple

from .options import ACK

Frame = Tuple[str, int, bool]
"""``(action, tag, multiple)``: ``basic_ack(tag, multiple)``, or ``basic_reject`` with or without requeue."""

Lot = Tuple[str, Sequence[int]]
"""An action and the tags of the messages that it is for."""


class Tags:
    """
    The delivery tags of one channel, in the order of delivery. Not thread-safe: owned by the connection's thread.

    A tag is *open* from its delivery until its outcome is known. ``basic_ack(tag, multiple=True)`` acknowledges
    every message up to *tag* that is not settled, so it is used only while no open tag is smaller: that is all that
    has to be remembered, and it is never more than the broker may send ahead. *tag* itself must not have been
    settled before, or the broker closes the channel (406, unknown delivery tag); the same goes for settling a
    message twice.

    Several stages seldom finish in the order of delivery. Messages that are finished while an older one is open are
    therefore *held* for a moment: mostly that one is finished next, and one frame is enough for all of them.
    """

    def __init__(self, most_held: int = 0) -> None:
        """
        Args:
            most_held: How many are held; more than that are acknowledged at once, one by one.
        """
        # A dict for its order: tags only grow, so the first key is the smallest.
        self.open: Dict[int, bool] = {}
        """Every open tag. To note a delivery, set ``open[tag] = True``."""
        self.held: List[int] = []
        """Finished messages behind an open one; they are acknowledged with it, or by :meth:`release`."""
        self._acknowledged = 0
        self._most_held = most_held
        self._is_alone = True

    def forbid_multiple(self) -> None:
        """
        Settle each message for itself from now on: somebody else got messages from this channel.
        """
        self._is_alone = False

    def settle(self, lots: Iterable[Lot]) -> List[Frame]:
        """
        Close the tags of these lots; return what has to be sent, in this order.

        Tags that are not open (settled before, or never delivered) are passed over.
        """
        is_open, frames, acks = self.open.pop, [], []
        for action, tags in lots:
            if action == ACK:
                acks += [tag for tag in tags if is_open(tag, False)]
            else:
                frames += [(action, tag, False) for tag in tags if is_open(tag, False)]
        # Rejections first: what is sent before an acknowledgement with multiple=True is no part of it.
        return frames + self._acknowledge(acks)

    def release(self) -> List[Frame]:
        """
        Return what has to be sent for messages that were held long enough.
        """
        acks, self.held = self.held, []
        return self._frames([], acks)

    def take_acknowledged(self) -> int:
        """
        Return how many messages the frames since the last call have acknowledged.
        """
        number, self._acknowledged = self._acknowledged, 0
        return number

    def _acknowledge(self, acks: List[int]) -> List[Frame]:
        if not self._is_alone:
            return self._frames([], acks)
        acks, self.held = self.held + acks, []
        least_open = next(iter(self.open), None)
        if least_open is None:
            return self._frames(acks, [])
        prefix = [tag for tag in acks if tag < least_open]
        rest = [tag for tag in acks if tag > least_open]
        if len(rest) <= self._most_held:
            self.held, rest = rest, []
        return self._frames(prefix, rest)

    def _frames(self, prefix: List[int], rest: List[int]) -> List[Frame]:
        """
        Return one frame for *prefix*, and one for each of the *rest*.
        """
        self._acknowledged += len(prefix) + len(rest)
        frames = [(ACK, max(prefix), len(prefix) > 1)] if prefix else []
        return frames + [(ACK, tag, False) for tag in rest]
