"""
The settler's own thread, without a pipeline.
"""

from __future__ import annotations

import threading
from time import monotonic
from types import SimpleNamespace
from typing import Any, List, Tuple

from broadway_sync.connectors.common.polling_client import Action, PollingClient, Refusal
from broadway_sync.connectors.common.reporter import Reporter
from broadway_sync.connectors.common.settler import Settler
from tests.helpers import BOUND

REPORTER = Reporter("fake", SimpleNamespace(pipeline_name="p", name="p", index=0))  # type: ignore[arg-type]


def test_an_action_that_nobody_has_taken_before_comes_in_between() -> None:
    """
    While the settler looks whether there is enough for a request: as when the first message fails with a new pause.
    """
    new: List[Action] = [("nack", 1.0)]
    sent: List[Tuple[Action, List[str]]] = []
    is_looking = threading.Event()

    class Client(PollingClient):
        @property
        def lot(self) -> int:  # type: ignore[override]
            is_looking.set()
            if new:
                settler.post(new.pop(), ["b"])
            return 10

        def settle(self, action: Action, handles: List[str]) -> List[Refusal]:
            sent.append((action, handles))
            return []

    def ignore(handles: Any) -> None:
        pass

    settler = Settler(Client(), REPORTER, 60.0, ignore, lambda: True)
    settler.post(("ack", 0.0), ["a"])
    thread = threading.Thread(target=settler.run, daemon=True)
    thread.start()
    assert is_looking.wait(BOUND)
    settler.close(monotonic() + BOUND)
    thread.join(BOUND)
    assert sent == [(("ack", 0.0), ["a"]), (("nack", 1.0), ["b"])]
