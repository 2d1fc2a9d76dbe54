"""
Which producers have no connection to their broker: connectors say so by telemetry.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Dict, Mapping

from .. import telemetry
from ..connectors.common.events import CONNECT, CONNECTION_DOWN, CONNECTION_UP
from ..connectors.common.reporter import describe
from ..telemetry.events import TOPOLOGY_INIT

_CONNECTING, _CONNECTED = CONNECT + ("start",), CONNECT + ("stop",)
_EVENTS = (TOPOLOGY_INIT, _CONNECTING, _CONNECTED, CONNECTION_UP, CONNECTION_DOWN)

_FIRST_TIME = "it connects for the first time"


class Connections:
    """
    Listens from :meth:`attach` to :meth:`detach`; what was said before is not known. Thread-safe.

    Producers that are no connectors say nothing, and count as connected.
    """

    def __init__(self) -> None:
        # Guards _reasons. Innermost.
        self._lock = threading.Lock()
        self._reasons: Dict[str, Dict[str, str]] = {}

    def attach(self) -> None:
        """
        Begin to listen.
        """
        telemetry.attach_many(self, _EVENTS, self._hear)

    def detach(self) -> None:
        """
        Listen no more, and forget everything. Idempotent.
        """
        with suppress(LookupError):
            telemetry.detach(self)
        with self._lock:
            self._reasons.clear()

    def down(self) -> Dict[str, Dict[str, str]]:
        """
        Return, by pipeline and producer, why there is no connection; credentials are masked.
        """
        with self._lock:
            return {pipeline: dict(reasons) for pipeline, reasons in self._reasons.items() if reasons}

    def _hear(self, event: Any, measurements: Any, metadata: Mapping[str, Any], config: Any) -> None:
        if event == TOPOLOGY_INIT:  # what the last run said is old news
            with self._lock:
                self._reasons.pop(metadata["name"], None)
            return
        reason = describe(metadata["reason"]) if event == CONNECTION_DOWN else ""
        with self._lock:
            reasons = self._reasons.setdefault(metadata["topology_name"], {})
            self._note(reasons, event, metadata["name"], reason)

    def _note(self, reasons: Dict[str, str], event: Any, producer: str, reason: str) -> None:
        if event == CONNECTION_DOWN:
            reasons[producer] = reason
        elif event == CONNECTION_UP:
            reasons.pop(producer, None)
        elif event == _CONNECTING:
            reasons.setdefault(producer, _FIRST_TIME)
        elif reasons.get(producer) is _FIRST_TIME:  # a connection that was lost is back when the connector says so
            del reasons[producer]

    def after_fork_in_child(self) -> None:
        """
        In a forked child: a thread of the parent may have held the lock.
        """
        self._lock = threading.Lock()
        self.detach()
