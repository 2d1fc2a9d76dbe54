"""
For tests of pipelines, and of connectors.

:class:`ConnectorContract` is the suite that every connector has to pass, those of this library and those of others.
Nothing here needs pytest to be imported; the contract's tests are written for it.
"""

from __future__ import annotations

from .contract import ConnectorContract
from .harness import ConnectorHarness
from .recording import RecordingAcknowledger, RecordingHandler
from .waiting import Gate, wait_until
from .watching import Inventory, Watcher

__all__ = [
    # the contract of connectors
    "ConnectorContract",
    "ConnectorHarness",
    # handlers and acknowledgers that remember
    "RecordingHandler",
    "RecordingAcknowledger",
    # waiting
    "Gate",
    "wait_until",
    # what else a pipeline does
    "Watcher",
    "Inventory",
]
