"""
Connects and receives, on a thread of its own: long polls must not hold up a stop, a push or an acknowledgement.
"""

from __future__ import annotations

from time import monotonic
from typing import Callable, List

from ...core.backoff import Backoff
from ...errors import ConnectorError
from ...runtime.wait_list import WaitList
from .events import CONNECT, RECEIVE
from .polling_client import Delivery, PollingClient
from .reporter import Reporter, describe

# Between two requests that find nothing, if the source does not wait and the user wants no pause: no busy loop.
_LEAST_INTERVAL = 0.01


class Receiver:
    """
    One receiving thread. :meth:`run` is the thread; :meth:`wake` and :meth:`close` may be called by any.
    """

    def __init__(
        self,
        client: PollingClient,
        reporter: Reporter,
        backoff: Backoff,
        interval: float,
        room: Callable[[], int],
        connected: Callable[[], None],
        accept: Callable[[List[Delivery], float], None],
    ) -> None:
        """
        Args:
            interval: Least seconds from the start of a receive that found nothing to the start of the next.
            room: How many messages are wanted now.
            connected: Called once, on the thread, when the client is connected.
            accept: Takes what was received, and the monotonic time at which it arrived: the lease of a message begins
                when the source hands it out, which in a long poll is long after the request.
        """
        self._client = client
        self._reporter = reporter
        self._backoff = backoff
        self._interval = max(interval, _LEAST_INTERVAL)
        self._room = room
        self._connected = connected
        self._accept = accept
        self._may_receive_at = 0.0
        self._is_closed = False
        self._waits = WaitList()

    def wake(self) -> None:
        """
        Look again how much is wanted.
        """
        self._waits.wake_all()

    def close(self) -> None:
        """
        Receive nothing more; a request that is under way ends in its own time.
        """
        self._is_closed = True
        self._waits.wake_all()

    def run(self) -> None:
        """
        Connect, then receive until closed.

        Raises:
            ConnectorError: Something failed, and the back-off is "stop".
        """
        while not self._is_closed:
            if self._try_to(self._connect):
                self._connected()
                break
        while not self._is_closed:
            self._wait(self._may_receive_at - monotonic())
            self._waits.wait_for(lambda: self._is_closed or self._room() > 0)
            demand = self._room()
            if demand > 0 and not self._is_closed:
                self._try_to(lambda demand=demand: self._receive(demand))  # type: ignore[misc]

    def _try_to(self, step: Callable[[], None]) -> bool:
        """
        Do one step; if it fails, say so and wait.
        """
        try:
            step()
        except Exception as error:  # a client library: the next attempt may succeed
            if self._is_closed:
                return False
            pause = self._backoff.next()
            if pause is None:
                raise ConnectorError(f"no connection, and backoff_type is 'stop': {describe(error)}") from error
            self._reporter.down(error)
            self._wait(pause)
            return False
        self._reporter.up()
        self._backoff.reset()
        return True

    def _connect(self) -> None:
        with self._reporter.span(CONNECT):
            self._client.connect()

    def _receive(self, demand: int) -> None:
        started = monotonic()
        with self._reporter.span(RECEIVE, demand=demand) as span:
            deliveries = self._client.receive(demand)
            span.stop_metadata["count"] = len(deliveries)
        if deliveries:
            self._accept(deliveries, monotonic())
        else:
            self._may_receive_at = started + self._interval

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._waits.wait_for(lambda: self._is_closed, seconds)
