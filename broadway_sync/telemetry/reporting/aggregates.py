"""
Sums of what happened: all that a reporter does on the thread of a stage.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from random import randrange
from typing import Any, Callable, Dict, List, Tuple, Union

from ..metrics import Labels, Metric

Key = Tuple[Metric, Labels]
"""A metric and the values of its labels: a series."""

MOST_SERIES = 10_000
"""Series of one reporter: more are not begun, so that labels that somebody invents do not fill the memory."""

MOST_SAMPLES = 1000
"""Values of one series that are kept between two reports: more are represented by a random choice of that size."""


class Buckets:
    """
    A histogram that counts values up to each bound, for ever.
    """

    def __init__(self, bounds: Tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values in each bucket; the last one has those above all bounds."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        """
        Count a value.
        """
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Samples:
    """
    Values to hand on; of too many a fair choice.
    """

    def __init__(self, _: Tuple[float, ...] = ()) -> None:
        self.values: List[float] = []
        self.seen = 0

    def add(self, value: float) -> None:
        """
        Keep a value, or let it replace another one by chance, so that each that came has the same chance to be here.
        """
        self.seen += 1
        if len(self.values) < MOST_SAMPLES:
            self.values.append(value)
            return
        index = randrange(self.seen)
        if index < MOST_SAMPLES:
            self.values[index] = value


Histogram = Union[Buckets, Samples]


class Aggregates:
    """
    Counters and histograms of one reporter. Thread-safe.

    Args:
        make_histogram: :class:`Buckets` or :class:`Samples`.
    """

    def __init__(self, make_histogram: Callable[[Tuple[float, ...]], Histogram]) -> None:
        self._make_histogram = make_histogram
        # Guards the fields below. Innermost, held for a few additions: stages wait for it. Reentrant, as a garbage
        # collection may run a finalizer in between, and that may do anything, emit an event for example.
        self._lock = threading.RLock()
        self._counters: Dict[Key, float] = {}
        self._reported: Dict[Key, float] = {}  # what take() has returned so far
        self._histograms: Dict[Key, Any] = {}
        self.dropped = 0
        """Values that belong to no series, because there are :data:`MOST_SERIES` already; a rough count."""

    def add(self, counts: List[Tuple[Metric, Labels, float]], values: List[Tuple[Metric, Labels, float]]) -> None:
        """
        Add to counters and to histograms.
        """
        with self._lock:
            counters, histograms = self._counters, self._histograms
            for metric, labels, amount in counts:
                key = (metric, labels)
                if key in counters or self._has_room():
                    counters[key] = counters.get(key, 0) + amount
            for metric, labels, value in values:
                key = (metric, labels)
                histogram = histograms.get(key)
                if histogram is None:
                    if not self._has_room():
                        continue
                    histogram = histograms[key] = self._make_histogram(metric.buckets)
                histogram.add(value)

    def _has_room(self) -> bool:
        if len(self._counters) + len(self._histograms) < MOST_SERIES:
            return True
        self.dropped += 1
        return False

    def counters(self) -> Dict[Key, float]:
        """
        Return all counters since the beginning.
        """
        with self._lock:
            return dict(self._counters)

    def histograms(self) -> Dict[Key, Tuple[List[int], float]]:
        """
        Return the counts of the buckets, and the sum, of each histogram. Needs :class:`Buckets`.
        """
        with self._lock:
            return {key: (list(buckets.counts), buckets.sum) for key, buckets in self._histograms.items()}

    def take(self) -> Tuple[Dict[Key, float], Dict[Key, Samples]]:
        """
        Return what was added to each counter, and to the histograms, since the last time. Needs :class:`Samples`.
        """
        with self._lock:
            samples, self._histograms = self._histograms, {}
            reported, self._reported = self._reported, dict(self._counters)
            added = {key: value - reported.get(key, 0) for key, value in self._reported.items()}
        return {key: value for key, value in added.items() if value}, samples

    def forget(self) -> None:
        """
        In a forked child: what was counted is the parent's, and the lock may have been held.
        """
        self._lock = threading.RLock()
        self._counters, self._reported, self._histograms = {}, {}, {}
        self.dropped = 0
