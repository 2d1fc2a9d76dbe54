"""
Extends the leases of the messages that are in the pipeline, from a thread of its own.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Callable, Iterable, List, Optional, Set

from ...core.leases import Leases
from ...runtime.wait_list import WaitList
from .events import ACKNOWLEDGE, LEASE_LOST
from .polling_client import PollingClient
from .reporter import Reporter, describe


class LeaseKeeper:
    """
    The leases of one producer. :meth:`run` is the thread, everything else may be called by any.
    """

    def __init__(
        self, client: PollingClient, reporter: Reporter, longest: float, settling: Callable[[], Set[str]]
    ) -> None:
        """
        Args:
            longest: Seconds after receipt for which a lease is extended.
            settling: Returns the handles of messages that are being acknowledged.
        """
        self._client = client
        self._reporter = reporter
        self._settling = settling
        self._leases = Leases(client.lease, longest)
        # Guards _leases. Innermost: nothing is called while it is held.
        self._lock = threading.Lock()
        self._is_closed = False
        self._is_failing = False
        self._waits = WaitList()

    def add(self, handles: Iterable[str], since: float) -> None:
        """
        Keep leases that were granted at the monotonic time *since*; with a lease of 0 seconds there is nothing to keep.
        """
        if self._leases.seconds <= 0:
            return
        with self._lock:
            self._leases.add_all(handles, since)

    def remove(self, handles: Iterable[str]) -> None:
        """
        Let leases go.
        """
        with self._lock:
            self._leases.remove(handles)

    def close(self) -> None:
        """
        Extend nothing more.
        """
        self._is_closed = True
        self._waits.wake_all()

    def run(self) -> None:
        """
        Extend what is due until closed.
        """
        while not self._is_closed:
            with self._lock:
                to_extend, lost = self._leases.take_due(monotonic())
            if lost:
                self._report_lost(len(lost), "held for too long, or not extended in time")
            for at in range(0, len(to_extend), self._client.lot):
                self._extend(to_extend[at : at + self._client.lot])
                if self._is_closed:
                    return
            self._waits.wait_for(lambda: self._is_closed, self._pause())

    def _pause(self) -> Optional[float]:
        """
        Return the seconds until something is due; nobody needs to wake this thread for a lease that is added later.
        """
        if self._leases.seconds <= 0:
            return None
        with self._lock:
            due = self._leases.next_due()
        return self._leases.interval if due is None else min(max(0.0, due - monotonic()), self._leases.interval)

    def _extend(self, handles: List[str]) -> None:
        with self._lock:  # the lots before this one took their time
            handles = self._leases.known(handles)
        if not handles:
            return
        now = monotonic()  # the lease counts from when the source gets the request: not before this
        try:
            with self._reporter.span(ACKNOWLEDGE, action="extend", count=len(handles)) as span:
                refusals = self._client.settle(("extend", self._client.lease), handles)
                span.stop_metadata["failed"] = len(refusals)
        except Exception as error:  # a client library: whatever it is, the leases are due again soon
            if not self._is_failing:
                self._is_failing = True
                self._reporter.warning(f"leases could not be extended, it is tried again: {describe(error)}")
            return
        self._is_failing = False
        refused = {refusal.handle for refusal in refusals}
        final = {refusal.handle for refusal in refusals if refusal.is_final}
        if final:
            # One that was acknowledged while the request was under way is refused, and not lost: the answer to its
            # acknowledgement is on its way.
            final -= self._settling()
        with self._lock:
            lost = self._leases.remove(final)
            self._leases.extended([handle for handle in handles if handle not in refused], now)
        if lost:
            self._report_lost(lost, next(refusal.reason for refusal in refusals if refusal.handle in final))

    def _report_lost(self, count: int, reason: str) -> None:
        self._reporter.execute(LEASE_LOST, {"count": count}, reason=reason)
        self._reporter.warning(f"the leases of {count} messages were lost, they may be handled twice: {reason}")
