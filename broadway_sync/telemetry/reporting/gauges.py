"""
What pipelines are doing at this moment, as gauges. Runs on threads of reporters, or of whoever scrapes.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Dict, Iterable, List, Optional, Tuple

from ... import registry
from ...errors import NotRunningError
from ...log import log_warning
from .. import metrics
from ..metrics import Labels
from .aggregates import Aggregates, Key
from .listener import Listener, Values

SHORTEST_LOOK = 1.0
"""Seconds over which the busy share is taken at least: somebody who asks again sooner gets the same answer."""


class Gauges:
    """
    Samples the running pipelines. Thread-safe.
    """

    def __init__(self, aggregates: Aggregates, listener: Listener) -> None:
        self._aggregates = aggregates
        self._listener = listener
        # Guards the two fields below.
        self._lock = threading.Lock()
        self._looks: Dict[Labels, Tuple[float, float]] = {}  # when each stage was looked at, how long it was busy then
        self._shares: Dict[Labels, float] = {}
        self._has_warned = False

    def sample(self) -> Values:
        """
        Return the present value of every gauge of every running pipeline.
        """
        self._warn_of_the_bound()
        statistics = running_statistics()
        values = self._listener.gauges([each.name for each in statistics])
        busy = self._aggregates.counters()
        for each in statistics:
            values += self._of_pipeline(each, busy)
        self._forget_all_but({each.name for each in statistics})
        return values

    def _warn_of_the_bound(self) -> None:
        """
        Say once that series are missing: pipelines whose names are made for each start would vanish silently.
        """
        if self._aggregates.dropped and not self._has_warned:
            self._has_warned = True
            text = (
                "there are too many series of metrics, and new ones are not begun: pipelines need names that come again"
            )
            log_warning(text, "", "metrics")

    def _of_pipeline(self, statistics: Any, busy: Dict[Key, float]) -> Values:
        labels = (statistics.name,)
        values: Values = [
            (metrics.IN_FLIGHT, labels, statistics.in_flight),
            (metrics.IDLE, labels, statistics.idle_for),
            (metrics.UPTIME, labels, statistics.uptime),
        ]
        stages: Dict[str, List[Any]] = {}
        for stage in statistics.stages:
            stages.setdefault(self._listener.stage(stage.kind, stage.key, stage.index), []).append(stage)
        for name, threads in stages.items():
            values += self._of_stage((statistics.name, name), threads, busy)
        return values

    def _of_stage(self, labels: Labels, threads: List[Any], busy: Dict[Key, float]) -> Values:
        values: Values = [
            (metrics.THREADS, labels, len(threads)),
            (metrics.WAITING, labels, sum(thread.waiting for thread in threads)),
            (metrics.IN_HAND, labels, sum(thread.in_hand for thread in threads)),
            (metrics.OLDEST, labels, max(thread.age or 0.0 for thread in threads)),
        ]
        # Producers mostly wait inside of their client, and a batcher runs on the threads of its processors.
        if threads[0].kind in ("processor", "batch_processor"):
            finished = busy.get((metrics.BUSY_TIME, labels), 0.0)
            total = finished + sum(self._busy_for(labels[0], thread) for thread in threads)
            share = self._share(labels, total, len(threads))
            if share is not None:
                values.append((metrics.BUSY_SHARE, labels, share))
        return values

    def _busy_for(self, pipeline: str, thread: Any) -> float:
        busy_for: float = thread.busy_for or 0.0
        # The least of both: an event of a stage that crashed may be old.
        return min(busy_for, self._listener.busy_for(pipeline, thread.name)) if thread.kind == "processor" else busy_for

    def _share(self, labels: Labels, total: float, threads: int) -> Optional[float]:
        """
        Return the busy share since the last look, None at the first; *total* is how long the stage has been busy.
        """
        now = monotonic()
        with self._lock:
            looked_at, before = self._looks.setdefault(labels, (now, total))
            if now - looked_at >= SHORTEST_LOOK:
                self._looks[labels] = (now, total)
                self._shares[labels] = min(1.0, max(0.0, (total - before) / ((now - looked_at) * threads)))
            return self._shares.get(labels)

    def _forget_all_but(self, running: Iterable[str]) -> None:
        with self._lock:
            for labels in [labels for labels in self._looks if labels[0] not in running]:
                del self._looks[labels]
                self._shares.pop(labels, None)

    def forget(self) -> None:
        """
        In a forked child: a thread of the parent may have held the lock.
        """
        self._lock = threading.Lock()
        self._looks, self._shares = {}, {}
        self._has_warned = False


def running_statistics() -> List[Any]:
    """
    Return the statistics of all running pipelines.
    """
    found = []
    for name in registry.all_running():
        try:
            found.append(registry.get_pipeline(name).statistics())
        except NotRunningError:  # it has just ended
            continue
    return found
