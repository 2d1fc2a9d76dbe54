"""
What the harnesses of all four brokers share: bounds, and faults by a proxy before the broker.
"""

from __future__ import annotations

from typing import Any, Dict

from broadway_sync.testing import ConnectorHarness
from tests.helpers import SCALE

BACKOFF: Dict[str, Any] = {"backoff_min": 0.05, "backoff_max": 0.5}
"""Options of every connector, so that a test does not wait long for the next attempt."""


class ProxiedHarness(ConnectorHarness):
    """
    A broker behind a proxy.
    """

    timeout = 20.0 * SCALE
    stop_timeout = 3.0 * SCALE
    redelivery_timeout = 10.0 * SCALE

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy

    def cut(self) -> None:
        self.proxy.reset()

    def stall(self) -> None:
        self.proxy.stall()

    def resume(self) -> None:
        self.proxy.resume()

    def take_down(self) -> None:
        self.proxy.refuse()
        self.proxy.reset()

    def bring_up(self) -> None:
        self.proxy.accept()
