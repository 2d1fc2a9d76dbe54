"""
Which leases on messages must be extended, and when.

A source that leases (SQS's visibility timeout, Pub/Sub's acknowledgement deadline) delivers a message again unless it
is acknowledged, or the lease extended, in time.
"""

from __future__ import annotations

import itertools
from typing import Dict, Iterable, List, Optional, Tuple

# A lease is extended when half of it is over; what failed is tried again after a tenth.
_FRESH_SHARE, _RETRY_SHARE = 0.5, 0.1

Lease = Tuple[float, float, float]  # (due, expires, received), in the time of the caller's clock


class Leases:
    """
    The leases of the messages in a pipeline. Not thread-safe; time is an argument.

    Every lease is in exactly one of three dicts. In each of them all were put with the same distance to their due time,
    so that insertion order is the order in which they fall due, and every operation takes constant time.
    """

    def __init__(self, seconds: float, longest: float) -> None:
        """
        Args:
            seconds: How long a lease lasts from receipt, and from each extension.
            longest: How long after receipt a lease is extended no more.
        """
        self.seconds = seconds
        self._longest = longest
        self._fresh: Dict[str, Lease] = {}
        self._retries: Dict[str, Lease] = {}  # being extended just now, or the last attempt failed
        self._ending: Dict[str, Lease] = {}  # held for the longest time: due when they expire

    def __len__(self) -> int:
        return len(self._fresh) + len(self._retries) + len(self._ending)

    @property
    def interval(self) -> float:
        """
        No lease falls due sooner after it was added than this, seconds.
        """
        return self.seconds * _FRESH_SHARE

    def add(self, handle: str, now: float) -> None:
        """
        Begin a lease that was granted at *now*.
        """
        self.add_all([handle], now)

    def add_all(self, handles: Iterable[str], now: float) -> None:
        """
        Begin leases that were granted together at *now*.
        """
        # One tuple for all of them: this is done for every message.
        self._fresh.update(dict.fromkeys(handles, (now + self.interval, now + self.seconds, now)))

    def remove(self, handles: Iterable[str]) -> int:
        """
        Forget leases; unknown handles are passed over. Returns how many were known.
        """
        before = len(self)
        for handle in handles:
            if self._fresh.pop(handle, None) is None and self._retries.pop(handle, None) is None:
                self._ending.pop(handle, None)
        return before - len(self)

    def next_due(self) -> Optional[float]:
        """
        Return when the next lease falls due, None if there is none.
        """
        firsts = [next(iter(leases.values()))[0] for leases in self._dicts() if leases]
        return min(firsts) if firsts else None

    def take_due(self, now: float) -> Tuple[List[str], List[str]]:
        """
        Return the handles to extend now, and those whose leases have expired, which are forgotten.

        Those to extend fall due again soon, unless :meth:`extended` says that it worked.
        """
        to_extend: List[str] = []
        lost: List[str] = []
        retry_at = now + self.seconds * _RETRY_SHARE
        for handle, (_, expires, received) in self._pop_due(now):
            if now >= expires:
                lost.append(handle)
            elif now - received >= self._longest:
                self._ending[handle] = (expires, expires, received)
            else:
                self._retries[handle] = (retry_at, expires, received)
                to_extend.append(handle)
        return to_extend, lost

    def known(self, handles: Iterable[str]) -> List[str]:
        """
        Return those of *handles*, which :meth:`take_due` gave to be extended, that were not removed since.
        """
        return [handle for handle in handles if handle in self._retries]

    def extended(self, handles: Iterable[str], now: float) -> None:
        """
        Note that the leases of *handles* last from *now* on; those removed meanwhile stay removed.
        """
        for handle in handles:
            lease = self._retries.pop(handle, None)
            if lease is not None:
                self._fresh[handle] = (now + self.interval, now + self.seconds, lease[2])

    def _dicts(self) -> Tuple[Dict[str, Lease], ...]:
        return self._fresh, self._retries, self._ending

    def _pop_due(self, now: float) -> List[Tuple[str, Lease]]:
        due: List[Tuple[str, Lease]] = []
        for leases in self._dicts():
            first = len(due)
            due += itertools.takewhile(lambda item: item[1][0] <= now, leases.items())
            for handle, _ in due[first:]:
                del leases[handle]
        return due
