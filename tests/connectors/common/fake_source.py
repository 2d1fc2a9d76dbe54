"""
A source that leases its messages, in memory: what the client of a polling connector talks to in tests.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from time import monotonic
from typing import Any, Callable, Dict, List, Optional, Tuple

from broadway_sync.connectors.common.polling_client import Action, Delivery, PollingClient, Refusal


class Item:
    """
    One message in the source.
    """

    def __init__(self, data: Any, group: Optional[str]) -> None:
        self.data = data
        self.group = group
        self.visible_at = 0.0
        self.handle: Optional[str] = None


class FakeSource:
    """
    A queue with leases. Thread-safe. ``before`` may be set to a function ``(call, argument)`` that runs before each
    request, outside of the lock, and may raise or wait.
    """

    def __init__(self, lease: float = 30.0, wait: float = 0.05, lot: int = 10) -> None:
        self.lease = lease
        self.wait = wait
        self.lot = lot
        self.before: Callable[[str, Any], None] = lambda call, argument: None
        self.items: List[Item] = []
        self.acked: List[Any] = []
        self.received: "Counter[Any]" = Counter()
        self.requests: List[Tuple[str, int]] = []
        self.clients: List[FakeClient] = []
        self._handles = itertools.count()
        self._changed = threading.Condition()

    def publish(self, *data: Any, group: Optional[str] = None) -> None:
        """
        Add messages.
        """
        with self._changed:
            self.items += [Item(value, group) for value in data]
            self._changed.notify_all()

    def client(self, options: Any = None) -> FakeClient:
        """
        Return a client, as the option ``client`` wants it.
        """
        self.clients.append(FakeClient(self))
        return self.clients[-1]

    def receive(self, count: int) -> List[Delivery]:
        """
        Lease up to *count* messages; wait a little if there is none.
        """
        deadline = monotonic() + self.wait
        with self._changed:
            while True:
                found = self._visible(count)
                left = deadline - monotonic()
                if found or left <= 0:
                    return [self._deliver(item) for item in found]
                self._changed.wait(min(left, 0.01))

    def _visible(self, count: int) -> List[Item]:
        now, blocked, found = monotonic(), set(), []
        for item in self.items:
            if item.group in blocked:
                continue
            if item.visible_at <= now:
                found.append(item)
            elif item.group is not None:
                blocked.add(item.group)
        return found[:count]

    def _deliver(self, item: Item) -> Delivery:
        item.handle = f"h{next(self._handles)}"
        item.visible_at = monotonic() + self.lease
        self.received[item.data] += 1
        return Delivery(item.handle, item.data, {"count": self.received[item.data]}, item.group)

    def settle(self, action: Action, handles: List[str]) -> List[Refusal]:
        """
        Do one action.
        """
        with self._changed:
            self.requests.append((action[0], len(handles)))
            leased = {item.handle: item for item in self.items if item.visible_at > monotonic()}
            refusals = [Refusal(handle, "no such lease", True) for handle in handles if handle not in leased]
            for item in (leased[handle] for handle in handles if handle in leased):
                if action[0] == "ack":
                    self.items.remove(item)
                    self.acked.append(item.data)
                else:
                    item.visible_at = monotonic() + action[1]
            self._changed.notify_all()
            return refusals

    def wait_until(self, predicate: Callable[[], Any], timeout: float = 20.0) -> None:
        """
        Wait until *predicate* is true of the source.
        """
        with self._changed:
            assert self._changed.wait_for(predicate, timeout), self.describe()

    def free(self) -> int:
        """
        Return how many messages are not leased.
        """
        return sum(item.visible_at <= monotonic() for item in self.items)

    def describe(self) -> Dict[str, Any]:
        """
        Return the state, for failures.
        """
        return {"left": [item.data for item in self.items], "acked": self.acked, "requests": self.requests[-20:]}


class FakeClient(PollingClient):
    """
    One client of the source.
    """

    def __init__(self, source: FakeSource) -> None:
        self.source = source
        self.lot = source.lot
        self.lease = source.lease
        self.is_connected = False
        self.closed = threading.Event()

    def connect(self) -> None:
        self.source.before("connect", None)
        self.is_connected = True

    def receive(self, count: int) -> List[Delivery]:
        assert self.is_connected and not self.closed.is_set()
        self.source.before("receive", count)
        return self.source.receive(count)

    def settle(self, action: Action, handles: List[str]) -> List[Refusal]:
        assert self.is_connected and not self.closed.is_set()
        assert 0 < len(handles) <= self.lot
        self.source.before(action[0], handles)
        return self.source.settle(action, handles)

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()
