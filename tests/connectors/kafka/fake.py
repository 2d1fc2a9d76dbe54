"""
A Kafka of this process, with one member in its group, that does what a test tells it.
"""

from __future__ import annotations

import collections
import threading
import time
from types import SimpleNamespace
from typing import Any, Callable, Iterable

from broadway_sync.connectors.kafka.client import GroupError, Listener, NoPositionError

Key = tuple


class FakeKafka:
    """
    Logs, committed offsets, and the assignment of the one member. ``client`` is what the option of that name takes.

    Args:
        version: 2 or 3: which client is imitated. With 3 rebalances run on a thread of their own, and the client
            remembers position and pause of partitions that come back.
    """

    def __init__(self, *assignment: Any, version: int = 3) -> None:
        self.version = version
        self.logs: dict[Any, list[Any]] = collections.defaultdict(list)
        self.starts: dict[Any, int] = collections.defaultdict(int)
        self.gaps: dict[Any, int] = collections.defaultdict(int)  # offsets after the last record that hold none
        self.committed: dict[Any, int] = {}
        self.commits: list[dict[Any, int]] = []
        self.clients: list[FakeClient] = []
        self.calls: list[Any] = []
        self.errors: dict[str, list[Any]] = collections.defaultdict(list)
        self.unknown: list[str] = []
        self.is_up = True
        self.changed = threading.Condition()
        self._rebalances: list[Any] = [("assign", list(assignment))]
        self._ordered, self._done = 1, 0

    def client(self, options: Any) -> FakeClient:
        """
        Return a new client.
        """
        if self.clients:
            self._rebalances.insert(0, ("assign", self.clients[-1].owned))
            self._ordered += 1
        self.clients.append(FakeClient(self, options))
        return self.clients[-1]

    # For tests.

    def produce(self, key: Any, count: int, step: int = 1) -> None:
        """
        Write records, at every *step*-th offset.
        """
        with self.changed:
            log = self.logs[key]
            for _ in range(count):
                log.append(record(key, log[-1].offset + step if log else 0))
            self.changed.notify_all()

    def rebalance(self, *assignment: Any) -> None:
        """
        Have the member give up everything and get *assignment*; returns when that is done.
        """
        self.order("revoke", None)
        self.order("assign", list(assignment))

    def order(self, what: str, keys: Any, *, wait: bool = True) -> None:
        """
        Have the next poll run one step of a rebalance: ``revoke``, ``assign`` or ``lose`` *keys*; or ``assign`` them
        ``twice``, with a revoke in between.
        """
        with self.changed:
            self._rebalances.append((what, keys))
            self._ordered += 1
            self.changed.notify_all()
        if wait:
            self.wait_for_rebalance()

    def wait_for_rebalance(self) -> None:
        """
        Wait until all steps are done.
        """
        with self.changed:
            assert self.changed.wait_for(lambda: self._done >= self._ordered, 20)

    def rebalanced(self) -> None:
        """
        One step is done.
        """
        with self.changed:
            self._done += 1
            self.changed.notify_all()

    def fail(self, method: str, *errors: Any) -> None:
        """
        Have the next calls of *method* raise; None lets one pass, a callable is called instead.
        """
        with self.changed:
            self.errors[method] += errors
            self.changed.notify_all()

    def last(self, key: Any) -> int:
        """
        Return the offset after the last record.
        """
        return int(self.logs[key][-1].offset + 1)

    def maybe_raise(self, method: str) -> None:
        """
        Raise what the test wants.
        """
        error = self.errors[method].pop(0) if self.errors[method] else None
        if callable(error) and not isinstance(error, type):
            error()
        elif error is not None:
            raise error

    def next_rebalance(self) -> Any:
        """
        Return the next step, None if there is none.
        """
        return self._rebalances.pop(0) if self._rebalances else None

    def has_rebalance(self) -> bool:
        """
        Whether a step waits.
        """
        return bool(self._rebalances)


class FakeClient:
    """
    The seam, without kafka-python.
    """

    def __init__(self, kafka: FakeKafka, options: Any) -> None:
        self.kafka = kafka
        self.options = options
        self.owned: list[Any] = []
        self.positions: dict[Any, int] = {}
        self.asleep: set[Any] = set()
        self.listener: Any = None
        self.is_closed = False
        self.polls = 0
        self._commit_error: Any = None

    def connect(self, listener: Listener, is_over: Callable[[], bool]) -> None:
        """
        Raise, or be connected.
        """
        self.kafka.calls.append("connect")
        self.kafka.maybe_raise("connect")
        self.listener = listener

    def poll(self, seconds: float, most: int) -> Any:
        """
        Run a step of a rebalance, or return records.
        """
        self.polls += 1
        kafka = self.kafka
        kafka.maybe_raise("poll")
        step = kafka.next_rebalance()
        if step is not None:
            self._run(lambda: self._rebalance(*step))
            kafka.rebalanced()
            return {}
        missing = [key for key in self.owned if key not in self.positions]
        if missing:
            self._find(missing)
        deadline = time.monotonic() + seconds
        with kafka.changed:
            while True:
                found = self._fetch(most)
                left = deadline - time.monotonic()
                if found or left <= 0 or kafka.has_rebalance() or kafka.errors["poll"]:
                    return found
                kafka.changed.wait(left)

    def _find(self, missing: list[Any]) -> None:
        for key in missing:
            if key in self.kafka.committed:
                self.positions[key] = self.kafka.committed[key]
        unknown = [key for key in missing if key not in self.positions]
        if unknown:
            raise NoPositionError("no offset", dict.fromkeys(unknown), False)

    def _fetch(self, most: int) -> Any:
        found: dict[Any, Any] = {}
        for key in self.owned:
            if key in self.asleep or most <= 0 or key not in self.positions:
                continue
            if self.positions[key] < self.kafka.starts[key]:
                raise NoPositionError("gone", {key: None}, True)
            log = self.kafka.logs[key]
            if not log or log[-1].offset < self.positions[key]:
                continue
            first = next(number for number, one in enumerate(log) if one.offset >= self.positions[key])
            records = log[first : first + most]
            if records:
                found[key] = records
                most -= len(records)
                self.positions[key] = records[-1].offset + 1
        return found

    def _run(self, function: Callable[[], None]) -> None:
        if self.kafka.version == 2:
            function()
            return
        thread = threading.Thread(target=function, name="kafka-io")
        thread.start()
        thread.join()

    def _rebalance(self, what: str, keys: Any) -> None:
        if what == "assign":
            kept = {key: at for key, at in self.positions.items() if key in keys and self.kafka.version == 3}
            self.positions, self.asleep = kept, self.asleep & set(kept)
            self.owned = list(keys)
            self.listener.assigned(list(keys))
        elif what == "twice":
            for step in (("assign", keys), ("revoke", None), ("assign", keys)):
                self._rebalance(*step)
        elif what == "add":  # cooperative
            self.owned += keys
            self.listener.assigned(list(keys))
        elif what == "lose":
            self.listener.lost(list(self.owned))
            self.owned, self.positions = [], {}
        else:
            if keys is not None:  # cooperative: they are gone before the listener is told
                self.owned = [key for key in self.owned if key not in keys]
                self.positions = {key: at for key, at in self.positions.items() if key not in keys}
            self._revoke(list(self.owned) if keys is None else keys)

    def _revoke(self, keys: list[Any]) -> None:
        try:
            for points in self.listener.revoked(keys):
                try:
                    self.commit(points, 1.0)
                except Exception as error:
                    self._commit_error = error
                    if isinstance(error, GroupError) and self.kafka.version == 3:  # as the seam does
                        self.owned = [key for key in self.owned if key not in keys]
                        self.positions = {key: at for key, at in self.positions.items() if key not in keys}
        except Exception as error:
            self.kafka.calls.append(("listener raised", error))

    def commit(self, points: Any, seconds: float) -> None:
        """
        Raise, or note the offsets.
        """
        self.kafka.maybe_raise("commit")
        self.kafka.commits.append(dict(points))
        self.kafka.committed.update(points)
        self.kafka.calls.append("commit")

    def take_commit_error(self) -> Any:
        """
        Return why the last commit of a revoke failed.
        """
        error, self._commit_error = self._commit_error, None
        return error

    def pause(self, keys: Iterable[Any]) -> None:
        """
        Fetch nothing from these.
        """
        self.asleep |= {key for key in keys if key in self.owned}

    def resume(self, keys: Iterable[Any]) -> None:
        """
        Fetch from these again.
        """
        self.asleep -= set(keys)

    def paused(self) -> set[Any]:
        """
        Return what is paused.
        """
        return set(self.asleep)

    def assignment(self) -> set[Any]:
        """
        Return what is ours.
        """
        return set(self.owned)

    def seek(self, key: Any, offset: int) -> None:
        """
        Go on there.
        """
        self.kafka.calls.append(("seek", key, offset))
        if key in self.owned:
            self.positions[key] = offset

    def reset(self, keys: Iterable[Any]) -> None:
        """
        Go on by the policy.
        """
        self.kafka.maybe_raise("reset")
        for key in keys:
            latest = self.options.offset_reset_policy == "latest"
            self.positions[key] = self.kafka.last(key) if latest else self.kafka.starts[key]

    def highwater(self, key: Any) -> Any:
        """
        Return the end of a log.
        """
        return self.kafka.last(key) + self.kafka.gaps[key] if self.kafka.logs[key] else None

    def position(self, key: Any) -> Any:
        """
        Return what is fetched next.
        """
        return self.positions.get(key)

    def is_connected(self) -> bool:
        """
        Whether the test has it so.
        """
        return self.kafka.is_up

    def unknown_topics(self) -> list[str]:
        """
        Return what the test says.
        """
        return self.kafka.unknown

    def close(self, seconds: float) -> None:
        """
        Leave the group; 3.x revokes what is left.
        """
        self.kafka.calls.append("close")
        if self.listener is not None and self.owned and self.kafka.version == 3:
            self._run(lambda: self._revoke(list(self.owned)))
        self.is_closed = True


def record(key: Any, offset: int) -> Any:
    """
    Return a record; its value is its offset.
    """
    return SimpleNamespace(
        topic=key[0],
        partition=key[1],
        offset=offset,
        key=b"key",
        value=b"%d" % offset,
        serialized_value_size=len(b"%d" % offset),
        timestamp=1_700_000_000_000 + offset,
        headers=[],
    )
