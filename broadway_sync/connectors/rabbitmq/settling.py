"""
Sends the outcomes of messages, and says so.
"""

from __future__ import annotations

from time import monotonic
from typing import Callable, List, Optional

from ..common.events import ACKNOWLEDGE
from ..common.reporter import Reporter
from .options import ACK
from .session import Session
from .tags import Frame, Lot

HOLD_SECONDS = 0.01
"""How long acknowledgements behind a message in work wait for it, see ``Tags``."""


class Settling:
    """
    What the connection's thread does with the outcomes of one session.
    """

    def __init__(self, session: Session, reporter: Reporter, call: Callable[[Callable[[], None]], None]) -> None:
        """
        Args:
            call: Calls what may fail because the connection is gone.
        """
        self._session = session
        self._reporter = reporter
        self._call = call
        self._release_at: Optional[float] = None  # when what is held is sent all the same; None: nothing is
        self._wakes_at = 0.0  # when the link ends its `run` for that

    def settle(self, lots: List[Lot]) -> None:
        """
        Send the outcomes of messages, but for what is held.
        """
        if lots:
            self._send(self._session.frames(lots))

    def release(self) -> None:
        """
        Send what is held.
        """
        self._release_at = None
        self._send(self._session.tags.release())

    def release_in_time(self) -> None:
        """
        Send what is held if it was held for long enough; else see to it that this is asked again then.
        """
        if not self._session.tags.held:
            self._release_at = None
            return
        now = monotonic()
        if self._release_at is None:
            self._release_at = now + HOLD_SECONDS
        if now >= self._release_at:
            self.release()
        elif now >= self._wakes_at:
            self._wakes_at, seconds = self._release_at, self._release_at - now
            self._call(lambda: self._session.link.wake_in(seconds))

    def _send(self, frames: List[Frame]) -> None:
        acknowledged = self._session.tags.take_acknowledged()
        if not frames:
            return
        if any(self._reporter.is_heard((*ACKNOWLEDGE, end)) for end in ("start", "stop", "exception")):
            self._call(lambda: self._send_observed(frames, acknowledged))
        else:
            self._call(lambda: self._session.link.settle(frames))

    def _send_observed(self, frames: List[Frame], acknowledged: int) -> None:
        for action in dict.fromkeys(frame[0] for frame in frames):
            part = [frame for frame in frames if frame[0] == action]
            count = acknowledged if action == ACK else len(part)
            with self._reporter.span(ACKNOWLEDGE, action=action, count=count) as span:
                self._session.link.settle(part)
                span.stop_metadata["failed"] = 0
