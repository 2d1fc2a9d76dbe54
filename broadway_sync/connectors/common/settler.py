"""
Sends acknowledgements to the source in lots, from a thread of its own.
"""

from __future__ import annotations

import contextlib
from collections import deque
from time import monotonic
from typing import Callable, Deque, Dict, Iterable, List, Optional, Set, Tuple

from ...core.backoff import Backoff
from ...runtime.wait_list import WaitList
from .events import ACKNOWLEDGE
from .polling_client import Action, PollingClient
from .reporter import Reporter, describe

# How long an incomplete lot waits for more: requests cost far more than messages.
_LINGER = 0.02
_RETRY_MIN, _RETRY_MAX = 0.2, 10.0

Lot = Tuple[Action, List[str]]


class Settler:
    """
    The acknowledgements that are not sent yet. :meth:`post` and :meth:`close` may be called by any thread, :meth:`run`
    is the thread.

    What the source did not accept, for a reason that may pass, is sent again until ``patience`` is over; then the log
    says that those messages will be delivered again.
    """

    def __init__(
        self,
        client: PollingClient,
        reporter: Reporter,
        patience: float,
        settled: Callable[[List[str]], None],
        is_idle: Callable[[], bool],
    ) -> None:
        """
        Args:
            patience: Seconds for which an acknowledgement is tried again.
            settled: Called with handles that are done with, accepted or not.
            is_idle: Whether nothing more will be posted, once closed.
        """
        self._client = client
        self._reporter = reporter
        self._patience = patience
        self._settled = settled
        self._is_idle = is_idle
        # One queue an action, all appended to by any thread and emptied by the settler's own. Never more actions than
        # different ("nack", seconds) in use.
        self._pending: Dict[Action, Deque[str]] = {}
        self._retries: Deque[Tuple[float, float, Lot]] = deque()  # (not before, give up at, lot); owned by the thread
        self._sending: List[Lot] = []  # what is being sent just now; owned by the thread
        self._backoff = Backoff("exp", _RETRY_MIN, _RETRY_MAX)
        self._retry_at = 0.0  # when what fails until then is sent again
        self._is_failing = False
        self._closes_at: Optional[float] = None
        self._is_hurrying = False
        self._has_ended = False
        self._waits = WaitList()

    def post(self, action: Action, handles: Iterable[str]) -> None:
        """
        Send *action* for *handles* soon.
        """
        pending = self._pending.get(action)
        if pending is None:
            pending = self._pending.setdefault(action, deque())
        pending.extend(handles)
        if self._waits.parked:
            self._waits.wake_all()
        if self._has_ended:
            self._give_up()

    def backlog(self) -> int:
        """
        Return how many acknowledgements are not accepted yet, about.
        """
        retries = sum(len(handles) for _, _, (_, handles) in list(self._retries))
        return retries + sum(len(pending) for pending in list(self._pending.values()))

    def handles(self) -> Set[str]:
        """
        Return the handles that are posted and not settled; one that is settled meanwhile may be among them or not.
        """
        held: Set[str] = set()
        for _, handles in self._sending + [lot for _, _, lot in list(self._retries)]:
            held.update(handles)
        for pending in list(self._pending.values()):
            held.update(pending.copy())
        return held

    def close(self, at: float) -> None:
        """
        End once everything is sent and nothing more will come, or at the monotonic time *at*; what is being sent then
        goes on to its end, unless the source takes none of it.
        """
        self._closes_at = at
        self._is_hurrying = False
        self._waits.wake_all()

    def wake(self) -> None:
        """
        Look again whether it is time to end.
        """
        self._waits.wake_all()

    def run(self) -> None:
        """
        Send until closed.
        """
        while not self._is_over():
            self._waits.wait_for(lambda: self._has_work() or self._is_over() or self._must_hurry(), self._pause())
            if self._must_hurry():
                self._hurry()
            if self._has_work() and self._closes_at is None:
                self._waits.wait_for(lambda: self._has_full_lot() or self._closes_at is not None, _LINGER)
            self._sending = self._take_pending()
            for lot in self._sending:
                self._send(lot, monotonic() + self._patience)
            self._sending = []
            self._send_retries(monotonic())
        self._has_ended = True
        self._give_up()

    # On the settler's thread.

    def _is_over(self) -> bool:
        if self._closes_at is None:
            return False
        is_done = self._is_idle() and not self._has_work() and not self._retries
        return is_done or self._is_late()

    def _is_late(self) -> bool:
        return self._closes_at is not None and monotonic() >= self._closes_at

    def _must_hurry(self) -> bool:
        return self._closes_at is not None and not self._is_hurrying

    def _hurry(self) -> None:
        """
        Send again at once what waits for that: the pause may be longer than the time that is left.
        """
        self._is_hurrying = True
        self._backoff.reset()
        self._retry_at = 0.0
        self._retries = deque((0.0, give_up_at, lot) for _, give_up_at, lot in self._retries)

    def _has_work(self) -> bool:
        return any(self._pending.values())

    def _has_full_lot(self) -> bool:
        return any(len(pending) >= self._client.lot for pending in list(self._pending.values()))

    def _pause(self) -> Optional[float]:
        """
        Return the seconds until something is due without anybody's doing.
        """
        times = [not_before for not_before, _, _ in self._retries]
        if self._closes_at is not None:
            times.append(self._closes_at)
        return max(0.0, min(times) - monotonic()) if times else None

    def _take_pending(self) -> List[Lot]:
        lots = []
        for action, pending in list(self._pending.items()):
            handles = _empty(pending)
            size = self._client.lot
            lots += [(action, handles[at : at + size]) for at in range(0, len(handles), size)]
        return lots

    def _send_retries(self, now: float) -> None:
        for _ in range(len(self._retries)):
            not_before, give_up_at, lot = self._retries.popleft()
            if now >= not_before:
                self._sending = [lot]
                self._send(lot, give_up_at)
            else:
                self._retries.append((not_before, give_up_at, lot))
        self._sending = []

    def _send(self, lot: Lot, give_up_at: float) -> None:
        action, handles = lot
        if self._is_failing and self._is_late():  # each attempt may take its time, and there may be many
            self._retries.append((0.0, give_up_at, lot))
            return
        try:
            with self._reporter.span(ACKNOWLEDGE, action=action[0], count=len(handles)) as span:
                refusals = self._client.settle(action, handles)
                span.stop_metadata["failed"] = len(refusals)
        except Exception as error:  # a client library: whatever it is, nothing was accepted
            self._retry_later(lot, give_up_at, describe(error))
            return
        again = [refusal.handle for refusal in refusals if not refusal.is_final]
        final = [refusal for refusal in refusals if refusal.is_final]
        if final:
            self._reporter.error(self._loss(action, len(final), final[0].reason))
        if again:
            reason = next(refusal.reason for refusal in refusals if not refusal.is_final)
            self._retry_later((action, again), give_up_at, reason)
        elif self._is_failing:
            self._is_failing = False
            self._backoff.reset()
        open_handles = set(again)
        self._settled([handle for handle in handles if handle not in open_handles])

    def _retry_later(self, lot: Lot, give_up_at: float, reason: str) -> None:
        now = monotonic()
        if now >= give_up_at:
            self._drop(lot, reason)
            return
        if now >= self._retry_at:  # one pause for all lots that fail together: the source is down once, not for each
            self._retry_at = now + (self._backoff.next() or _RETRY_MAX)
        if not self._is_failing:
            self._is_failing = True
            self._reporter.warning(f"{lot[0][0]} of {len(lot[1])} messages failed, it is tried again: {reason}")
        self._retries.append((min(self._retry_at, give_up_at), give_up_at, lot))

    def _give_up(self) -> None:
        left: Dict[Action, List[str]] = {}
        for action, handles in self._take_pending() + [lot for _, _, lot in self._retries]:
            left.setdefault(action, []).extend(handles)
        self._retries.clear()
        for lot in left.items():
            self._drop(lot, "the time to send it ran out")

    def _drop(self, lot: Lot, reason: str) -> None:
        self._reporter.error(self._loss(lot[0], len(lot[1]), reason))
        self._settled(lot[1])

    @staticmethod
    def _loss(action: Action, count: int, reason: str) -> str:
        return f"{action[0]} of {count} messages was not accepted, they may be delivered again: {reason}"


def _empty(pending: Deque[str]) -> List[str]:
    """
    Return what *pending* holds now, and remove it; other threads may do the same, and append, at the same time.
    """
    taken = []
    with contextlib.suppress(IndexError):
        for _ in range(len(pending)):
            taken.append(pending.popleft())
    return taken
