"""
What happens when the group moves partitions.

On a revoke nothing more of these partitions is handed over and what waits is dropped (the next owner fetches it); what
is in the pipeline gets ``revoke_timeout_seconds`` to finish; what is finished is committed, still in the old generation
of the group; the rest is fenced: whatever is acknowledged of it later changes nothing, and the next owner handles it
again. Partitions that come back at once go on where they were.

All of it runs inside ``poll``, on the consumer's thread (kafka-python 2.x) or on the client's I/O thread while the
consumer's thread waits for it (3.x). There it must not raise, not call what blocks on that thread, and take no lock
that the consumer's thread holds while it polls: it holds none.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Dict, Generator, Iterator, List, Optional, Set

from ...runtime.wait_list import WaitList
from ..common.events import ASSIGNMENTS_REVOKED
from ..common.reporter import ReportedSpan, Reporter
from .acknowledger import KafkaAcknowledger
from .client import Client, GroupError, Listener, UnavailableError
from .commits import COMMIT_FAILED
from .options import KafkaOptions
from .partitions import Key, Partitions

# While it waits for messages it lets the client do something at least so often, or heartbeats would stop (3.x).
_BREATH_SECONDS = 0.05


class Rebalances:
    """
    The listener of one consumer. Fields without a lock: the consumer's thread reads them when ``poll`` has returned.
    """

    def __init__(
        self,
        lock: threading.Lock,
        partitions: Partitions,
        acknowledger: KafkaAcknowledger,
        acknowledged: WaitList,
        reporter: Reporter,
        options: KafkaOptions,
    ) -> None:
        """
        Args:
            lock: Guards *partitions*.
            acknowledged: Woken when something was acknowledged.
        """
        self._lock = lock
        self._partitions = partitions
        self._acknowledger = acknowledger
        self._acknowledged = acknowledged
        self._reporter = reporter
        self._timeout = options.group_config.revoke_timeout_seconds
        self._resets = options.begin_offset == "reset"
        self._is_hurried = self._is_leaving = False
        # Where the client was at the last revoke. It goes on there with partitions of which nothing has come yet: 2.x
        # would apply the policy once more, and by another one than "earliest" skip what came meanwhile.
        self._positions: Dict[Key, Optional[int]] = {}
        self._keeps_positions = options.offset_reset_policy != "earliest"
        self.has_joined = False
        """Whether this consumer is a member and no rebalance is going on."""
        self.has_changed = False
        """Whether partitions came since the consumer's thread last looked: which of them are paused is unknown."""
        self.to_reset: Set[Key] = set()
        """Paused partitions whose committed offset must not be used."""

    def listener(self, client: Client) -> Listener:
        """
        Return the listener to subscribe with.
        """
        return Listener(lambda keys: self._revoked(client, keys), lambda keys: self._assigned(client, keys), self._lost)

    def hurry(self) -> None:
        """
        From now on wait for no message: the consumer is being closed.
        """
        self._is_hurried = True
        self._acknowledged.wake_all()

    def leave(self) -> None:
        """
        All that could be was committed: what is revoked from now on is the client's good-bye (3.x).
        """
        self._is_leaving = True

    def left(self) -> None:
        """
        The consumer has left the group.
        """
        self._is_hurried = self._is_leaving = self.has_joined = False
        self.to_reset.clear()

    def settle(self) -> None:
        """
        Take what was acknowledged.
        """
        finished = self._acknowledger.fetch()
        if finished:
            with self._lock:
                self._partitions.finish(finished)

    def _revoked(self, client: Client, keys: List[Key]) -> Iterator[Dict[Key, int]]:
        """
        Wait for what is in the pipeline, and yield what to commit.
        """
        with self._lock:
            self._partitions.revoke(keys)
        if not keys or self._is_leaving:  # the first join; the end
            self.has_joined = False
            return
        self._positions = {key: client.position(key) for key in keys} if self._keeps_positions else {}
        fault: Optional[BaseException] = None
        try:
            with self._reporter.span(ASSIGNMENTS_REVOKED, partitions=list(keys)) as span:
                fault = yield from self._finish(client, keys, span)
                if fault is not None:
                    raise fault
        except GroupError:  # 2.x does not say that we were expelled: others had the partitions meanwhile
            self._lost(keys)
            raise
        except Exception as error:
            if error is not fault:
                raise
            self._reporter.error(COMMIT_FAILED, error)
        finally:
            self._let_go(client, keys)

    def _finish(self, client: Client, keys: List[Key], span: ReportedSpan) -> Generator[Dict[Key, int], None, Any]:
        """
        Yield what to commit, until all is finished or the time is up; return why the last commit failed, None if not.
        """
        deadline = monotonic() + self._timeout
        is_forced = True  # at least one commit, to see whether we are still a member
        is_certain = True  # not after a failure: 3.x may have looked for the coordinator only, and say that all is well
        while True:
            self.settle()
            with self._lock:
                points = self._partitions.to_commit(keys, is_forced)
                unfinished = span.stop_metadata["unfinished"] = self._partitions.unfinished(keys)
            error: Optional[BaseException] = None
            if points:
                yield points
                error = client.take_commit_error()
                is_certain = is_certain and error is None
                if is_certain:
                    with self._lock:
                        self._partitions.committed(points)
                elif error is not None and not isinstance(error, UnavailableError):
                    return error
            if self._is_hurried or monotonic() >= deadline or not (unfinished or error):
                return error
            is_forced = not self._wait(deadline)

    def _wait(self, deadline: float) -> bool:
        """
        Wait a moment for acknowledgements; False if none came, and the client has to have its turn.
        """
        seconds = min(_BREATH_SECONDS, max(0.0, deadline - monotonic()))
        return self._acknowledged.wait_for(lambda: self._is_hurried or not self._acknowledger.is_empty(), seconds)

    def _let_go(self, client: Client, keys: List[Key]) -> None:
        """
        Give up what is gone; in an eager rebalance the assignment that tells is yet to come.
        """
        assignment = client.assignment()
        gone = [key for key in keys if key not in assignment]
        if len(gone) < len(keys):
            self.has_joined = False
        self.to_reset.difference_update(gone)
        with self._lock:
            self._partitions.give_up(gone)

    def _assigned(self, client: Client, keys: List[Key]) -> None:
        """
        Take partitions, new ones and those that come back.
        """
        with self._lock:
            positions, fresh = self._partitions.assign(keys)
            held = self._partitions.keys()
        for key in set(keys).difference(fresh):
            offset = positions.get(key, self._positions.get(key))
            if offset is not None:
                client.seek(key, offset)
        if self._resets:
            self.to_reset = {*self.to_reset, *fresh}.intersection(held)
            client.pause(self.to_reset)  # poll() would return what follows the committed offset before it returns
        self.has_joined = self.has_changed = True

    def _lost(self, keys: List[Key]) -> None:
        """
        We were expelled, others have the partitions: commit nothing.
        """
        self.to_reset.difference_update(keys)
        self.has_joined = False
        with self._lock:
            self._partitions.give_up(keys)
