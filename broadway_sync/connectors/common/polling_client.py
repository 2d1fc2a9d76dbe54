"""
The seam between the machinery of polling connectors and a client library; the one thing that tests replace.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Tuple

import attrs

Action = Tuple[str, float]
"""``("ack", 0.0)``; ``("nack", seconds until it may come again)``; ``("extend", seconds of lease from now)``."""

ACK: Action = ("ack", 0.0)
RELEASE: Action = ("nack", 0.0)


@attrs.define(eq=False)
class Delivery:
    """
    One message as the source handed it out.
    """

    handle: str
    """What acknowledges it: a receipt handle, an acknowledgement id."""

    data: Any
    metadata: Dict[str, Any]
    group: Optional[str] = None
    """Messages of one group are handled in order, one at a time; None: no order."""

    identity: Optional[str] = None
    """The same for each delivery of one message, if its source tells; see ``core/copies.py``."""


@attrs.frozen
class Refusal:
    """
    One message whose acknowledgement, release or extension the source did not accept.
    """

    handle: str
    reason: str
    """For the log."""

    is_final: bool
    """Whether trying again cannot help."""


class PollingClient:
    """
    What a polling connector asks of its client. ``receive`` and ``settle`` are called from several threads at once.
    """

    lot: int
    """Most handles that one call of :meth:`settle` takes."""

    lease: float
    """Seconds that a received message is ours; valid after :meth:`connect`."""

    longest_lease: float = math.inf
    """Seconds after receipt beyond which the service extends no lease."""

    def connect(self) -> None:
        """
        Open the client and look the lease up. What it raises is reported, and tried again after the back-off.
        """
        raise NotImplementedError

    def receive(self, count: int) -> List[Delivery]:
        """
        Return up to *count* messages, none if none came in the time that the service's long poll takes.

        What it raises is reported, and tried again after the back-off.
        """
        raise NotImplementedError

    def settle(self, action: Action, handles: List[str]) -> List[Refusal]:
        """
        Send one request; return what was refused.

        What it raises means that nothing was accepted; it is tried again.
        """
        raise NotImplementedError

    def action_for_followers(self, action: Optional[Action]) -> Action:
        """
        Return how to hand back the messages of a group behind one that failed, with which *action* was taken, None
        for none at all.

        By default at once, for services that keep them until the one that failed may come again.
        """
        return RELEASE

    def close(self) -> None:
        """
        Close the client, after the last call of all other methods; also after a :meth:`connect` that failed.
        """
        raise NotImplementedError
