"""
Which leases on messages must be extended, and when.

A source that leases (SQS's visibility timeout, Pub/Sub's acknowledgement deadline) delivers a message again unless it
is acknowledged, or the lease extended, in time.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional, Tuple

# A lease is extended when half of it is over; what failed is tried again after a tenth.
_FRESH_SHARE, _RETRY_SHARE = 0.5, 0.1

Lease = Tuple[float, float, float]  # (due, expires, received), in the time of the caller's clock


class Leases:
    """
    The leases of the messages in a pipeline. Not thread-safe; time is an argument.

    Every lease is in exactly one of two dicts. In each of them all were put with the same distance to their due time,
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

    def __len__(self) -> int:
        return len(self._fresh) + len(self._retries)

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
        self._fresh[handle] = (now + self.interval, now + self.seconds, now)

    def remove(self, handles: Iterable[str]) -> int:
        """
        Forget leases; unknown handles are passed over. Returns how many were known.
        """
        before = len(self)
        for handle in handles:
            if self._fresh.pop(handle, None) is None:
                self._retries.pop(handle, None)
        return before - len(self)

    def next_due(self) -> Optional[float]:
        """
        Return when the next lease falls due, None if there is none.
        """
        firsts = [next(iter(leases.values()))[0] for leases in (self._fresh, self._retries) if leases]
        return min(firsts) if firsts else None

    def take_due(self, now: float) -> Tuple[List[str], List[str]]:
        """
        Return the handles to extend now, and those that are lost: expired, or held too long. The lost are forgotten.

        Those to extend fall due again soon, unless :meth:`extended` says that it worked.
        """
        due = self._pop_due(self._fresh, now) + self._pop_due(self._retries, now)
        lost = [handle for handle, (_, expires, received) in due if self._is_lost(expires, received, now)]
        gone = set(lost)
        retry_at = now + self.seconds * _RETRY_SHARE
        kept = {handle: (retry_at, lease[1], lease[2]) for handle, lease in due if handle not in gone}
        self._retries.update(kept)
        return list(kept), lost

    def extended(self, handles: Iterable[str], now: float) -> None:
        """
        Note that the leases of *handles* last from *now* on; those removed meanwhile stay removed.
        """
        for handle in handles:
            lease = self._retries.pop(handle, None)
            if lease is not None:
                self._fresh[handle] = (now + self.interval, now + self.seconds, lease[2])

    def _is_lost(self, expires: float, received: float, now: float) -> bool:
        return now >= expires or now - received >= self._longest

    @staticmethod
    def _pop_due(leases: Dict[str, Lease], now: float) -> List[Tuple[str, Lease]]:
        due = []
        for handle, lease in leases.items():
            if lease[0] > now:
                break
            due.append((handle, lease))
        for handle, _ in due:
            del leases[handle]
        return due
