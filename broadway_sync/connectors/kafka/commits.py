"""
When offsets are committed, and what is said when that fails.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Optional

from ..common.events import ACKNOWLEDGE
from ..common.reporter import Reporter
from .client import Client, GroupError, UnavailableError
from .partitions import Partitions

COMMIT_FAILED = "a commit failed; what is finished is committed later, or delivered again"
# How long one commit may take; the consumer's thread fetches nothing meanwhile.
_SECONDS = 2.0
# The next attempt after one that failed.
_PAUSE = 0.5


class Commits:
    """
    Commits what is finished, as often as the options say. Belongs to the consumer's thread.

    Each commit has the offsets of its own time: one that failed is never repeated with its old ones, which could undo
    what others have committed since.
    """

    def __init__(self, lock: threading.Lock, partitions: Partitions, reporter: Reporter, interval: float) -> None:
        """
        Args:
            lock: Guards *partitions*.
        """
        self._lock = lock
        self._partitions = partitions
        self._reporter = reporter
        self._interval = interval
        self._due_at = 0.0
        self._fault: Optional[type] = None

    def commit_if_due(self, client: Client) -> None:
        """
        Commit, unless that has been done a moment ago.
        """
        now = monotonic()
        if now >= self._due_at:
            self._due_at = now + self._interval
            self.commit(client, _SECONDS)

    def commit(self, client: Client, seconds: float = _SECONDS) -> None:
        """
        Commit what has moved.
        """
        with self._lock:
            points = self._partitions.to_commit()
            count = self._partitions.acknowledged() if points else 0
        if not points:
            return
        try:
            with self._reporter.span(ACKNOWLEDGE, action="commit", count=count, offsets=points) as span:
                client.commit(points, seconds)
                span.stop_metadata["failed"] = 0
        except Exception as error:  # a client library
            self._failed(client, error)
            return
        self._fault = None
        with self._lock:
            self._partitions.committed(points)

    def _failed(self, client: Client, error: Exception) -> None:
        """
        Say so, once for each kind of error in a row.
        """
        self._due_at = monotonic() + max(self._interval, _PAUSE)
        if isinstance(error, UnavailableError) and not client.is_connected():
            self._reporter.down(error, "the client goes on trying")
        elif type(error) is not self._fault and not isinstance(error, GroupError):  # then the partitions are moving
            self._fault = type(error)
            self._reporter.error(COMMIT_FAILED, error)
