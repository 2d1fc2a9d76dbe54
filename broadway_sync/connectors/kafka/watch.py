"""
What is looked after every now and then: the connection, topics that do not exist, messages that are lost, the lag.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import List

from ..common.events import CONSUMER_LAG
from ..common.reporter import Reporter
from .client import Client, UnavailableError
from .partitions import Key, Partitions

_SECONDS = 0.5
_LAG_SECONDS = 1.0


class Watch:
    """
    Looks and tells. Belongs to the consumer's thread; asks no broker.
    """

    def __init__(self, lock: threading.Lock, partitions: Partitions, reporter: Reporter) -> None:
        """
        Args:
            lock: Guards *partitions*.
        """
        self._lock = lock
        self._partitions = partitions
        self._reporter = reporter
        self._looks_at = 0.0
        self._reports_lag_at = 0.0
        self._is_missed = False  # the brokers, at the last look
        self._missing: List[str] = []

    def is_due(self) -> bool:
        """
        Whether it is time for :meth:`look`.
        """
        return monotonic() >= self._looks_at

    def hurry(self) -> None:
        """
        Look soon: something has changed.
        """
        self._looks_at = 0.0

    def look(self, client: Client, has_joined: bool) -> bool:
        """
        Look at the connection and the topics; return whether all is well.

        The client itself says nothing when it loses its connections, or has one again.
        """
        self._looks_at = monotonic() + _SECONDS
        was_missed, self._is_missed = self._is_missed, not client.is_connected()
        if self._is_missed:
            if was_missed:  # the first time it may just be changing to another one
                self._reporter.down(UnavailableError("no connection to any broker"), "the client goes on trying")
            return False
        self._look_for_topics(client)
        if has_joined:
            self._reporter.up()
        return has_joined

    def _look_for_topics(self, client: Client) -> None:
        missing = client.unknown_topics()
        if missing and missing != self._missing:
            self._reporter.warning(f"the brokers have no topic {', '.join(missing)}; waiting for it")
        self._missing = missing

    def look_for_lost(self, client: Client) -> None:
        """
        Have messages delivered again that can never be acknowledged; once, then they count as failed.
        """
        with self._lock:
            losses = self._partitions.find_lost()
        for loss in losses:
            topic, number = loss.key
            text = f"{len(loss.offsets)} messages of {topic}/{number} from offset {loss.offsets[0]} on were dropped"
            if loss.is_given_up:
                self._reporter.error(f"{text} again without an acknowledgement; they count as failed")
            else:
                self._reporter.error(f"{text} without an acknowledgement; the partition is read again from there")
                self._rewind(client, loss.key)

    def _rewind(self, client: Client, key: Key) -> None:
        with self._lock:
            offset = self._partitions.rewind(key)
        if offset is not None:
            client.seek(key, offset)

    def report_lag(self, client: Client) -> None:
        """
        Tell how far behind each partition is, if anybody listens, and not too often.
        """
        if not self._reporter.is_heard(CONSUMER_LAG) or monotonic() < self._reports_lag_at:
            return
        self._reports_lag_at = monotonic() + _LAG_SECONDS
        with self._lock:
            points = self._partitions.commit_points()
        for (topic, number), point in points.items():
            highwater = client.highwater((topic, number))
            if point is None:  # past what holds no messages: markers of transactions, and those that were aborted
                point = client.position((topic, number))
            if highwater is not None and point is not None:
                lag = max(0, highwater - point)
                self._reporter.execute(CONSUMER_LAG, {"lag": lag}, topic=topic, partition=number)
