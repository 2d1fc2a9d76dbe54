"""
The thread that owns a ``KafkaConsumer``: it alone polls, pauses, seeks and commits.

.. code-block:: text

    poll --> partitions (records that wait) --take()--> producer's thread --> pipeline --ack()--> inbox
      ^                                                                                            |
      +-- commit <-- partitions (first unfinished offset) <----------------------------------------+

It polls for as long as the producer lives, with partitions paused while enough waits: a member of a group that does not
poll is expelled. Rebalances happen inside ``poll``, on this thread or (kafka-python 3.x) on the client's I/O
thread while this one waits for it; see ``Rebalances``.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Callable, List, Optional, Set

from ...errors import ConnectorError
from ...producer import Stage
from ...runtime.stage_thread import StageThread, current_owner
from ...runtime.wait_list import WaitList
from ..common.events import CONNECT, RECEIVE
from ..common.reporter import Reporter, describe
from .acknowledger import KafkaAcknowledger
from .client import Client, GroupError, NoPositionError, UnavailableError
from .commits import Commits
from .options import KafkaOptions
from .partitions import Partitions, Share
from .rebalances import Rebalances
from .watch import Watch

# Records in one poll: each costs some thread switches, here and in the stages that get what it brings.
_MOST_POLLED = 2000
# While enough waits the client is polled only so often: it has to be, to stay a member and to learn of a rebalance.
# Pausing at once would be wasteful in 2.x, which throws away what it has fetched of a partition that is paused.
_FULL_SECONDS = 0.5
# While nothing is fetched, acknowledgements are looked after so often.
_STEP_SECONDS = 0.05
# The shortest poll while some partitions are paused and others have nothing.
_LEAST_PATIENCE = 0.001
# The longest poll while messages are in the pipeline, and while none are. Nothing ends a poll that finds nothing:
# acknowledgements wait for it, and so does a stop.
_BUSY_SECONDS, _IDLE_SECONDS = 0.1, 1.0
# The shortest, whatever the options say: no busy loop.
_LEAST_SECONDS = 0.01
# The last commit, and then leaving the group.
_FLUSH_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
# So many errors of poll() in a row, and the consumer is made anew.
_MOST_ERRORS = 5


class Consumer:
    """
    One producer's consumer. :meth:`take`, :meth:`stop_receiving` and :meth:`close` are called by the producer's thread,
    the acknowledger by stages, everything else happens on its own thread.
    """

    def __init__(
        self,
        make_client: Callable[[], Client],
        options: KafkaOptions,
        partitions: Partitions,
        reporter: Reporter,
        stage: Stage,
    ) -> None:
        self._make_client = make_client
        self._options = options
        self._reporter = reporter
        self._stage = stage
        self._backoff = options.backoff()
        self._alarm = WaitList()  # this thread, while it waits for something else than the client
        # A rebalance, while it waits for messages. Not the alarm: that would be two thread switches for each chunk.
        acknowledged = WaitList()
        self.acknowledger = KafkaAcknowledger(acknowledged)
        # Guards _partitions. Held for a moment only, and nothing but Placement's lock is taken inside: the listener
        # takes it, possibly on the client's thread.
        self._lock = threading.Lock()
        self._partitions = partitions
        self._rebalances = Rebalances(self._lock, partitions, self.acknowledger, acknowledged, reporter, options)
        self._commits = Commits(self._lock, partitions, reporter, options.commit_interval)
        self._watch = Watch(self._lock, partitions, reporter)
        self._client: Optional[Client] = None
        self._thread: Optional[StageThread] = None
        # Set by the producer's thread, read by this one.
        self._is_receiving = True
        self._closes_at: Optional[float] = None
        # Set once, by this thread.
        self._error: Optional[BaseException] = None
        self._is_waiting_for_room = False
        # Of this thread alone.
        self._polled_at = 0.0
        self._paused: Set[Any] = set()
        self._patience = _LEAST_PATIENCE
        self._is_full = False
        self._errors = 0  # of poll, in a row

    # For the producer's thread.

    def start(self) -> None:
        """
        Start the thread; it connects.
        """
        self._thread = StageThread(f"{self._stage.name}.Consumer", self._run, self._ended, current_owner())
        self._thread.start()

    def take(self, demand: int) -> List[Share]:
        """
        Return up to *demand* records that were fetched; wakes the stage when there are more.

        Raises:
            BaseException: What ended the thread.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            shares = self._partitions.take(demand)
            has_room = self._is_waiting_for_room and self._partitions.has_room()
        if has_room:
            self._alarm.wake_all()
        return shares

    def stop_receiving(self) -> None:
        """
        Hand over nothing more; what waits stays in Kafka. The member stays in its group until :meth:`close`.
        """
        self._is_receiving = False
        with self._lock:
            self._partitions.drop_waiting()
        self._alarm.wake_all()

    def close(self) -> None:
        """
        Commit what is finished, leave the group, end the thread; waits for that a bounded time.
        """
        self.stop_receiving()
        seconds = min(_FLUSH_SECONDS, self._stage.options.shutdown / 2)
        self._closes_at = monotonic() + seconds
        self._rebalances.hurry()
        self._alarm.wake_all()
        thread = self._thread
        if thread is not None:
            # While a broker is not there the client may be in an attempt to reach it, which nothing ends early: the
            # thread closes the client when it comes back.
            is_idle = self._client is None or not self._rebalances.has_joined
            thread.join(_CLOSE_SECONDS if is_idle else seconds + _CLOSE_SECONDS)

    def _is_over(self) -> bool:
        return self._closes_at is not None

    # The thread.

    def _run(self) -> None:
        while not self._is_over():
            client = self._connect()
            if client is None:
                continue
            self._client = client
            try:
                self._serve(client)
            finally:
                self._leave(client)

    def _ended(self, thread: Any, error: Optional[BaseException]) -> None:
        if error is not None:
            self._reporter.error("the consumer's thread died, the producer is made again", error)
            self._error = error
            self._stage.wake()

    def _connect(self) -> Optional[Client]:
        """
        Make one attempt; None if it failed, after the pause that is due.

        Raises:
            ConnectorError: It failed, and there is to be no second one.
        """
        try:
            with self._reporter.span(CONNECT, hosts=list(self._options.hosts)):
                client = self._make_client()
                client.connect(self._rebalances.listener(client), self._is_over)
        except ConnectorError as error:
            if not self._is_over():
                self._pause_after(error)
            return None
        self._errors = 0
        return client

    def _pause_after(self, error: BaseException) -> None:
        seconds = self._backoff.next()
        if seconds is None:
            raise error if isinstance(error, ConnectorError) else ConnectorError(describe(error)) from error
        self._reporter.down(error, f"next attempt in {seconds:.1f} s")
        self._alarm.wait_for(self._is_over, seconds)

    def _serve(self, client: Client) -> None:
        """
        Poll until a stop, or until this consumer is of no use any more.
        """
        self._paused = set()
        while not self._is_over() and self._errors < _MOST_ERRORS:
            self._look_after(client)
            try:
                self._receive(client)
            except UnavailableError as error:
                self._refused(error)
            except NoPositionError as error:
                self._find_position(client, error)
            except Exception as error:  # a client library: what it refuses may be accepted later
                self._refused(error)

    def _refused(self, error: Exception) -> None:
        """
        The client raised: wait, and let it try again. It keeps its membership and its positions.
        """
        self._errors += 1
        if self._errors < _MOST_ERRORS:
            if not isinstance(error, GroupError):  # which is what the next poll mends
                self._reporter.down(error, "trying again")
            self._alarm.wait_for(self._is_over, self._options.group_config.rejoin_delay_seconds or 0.01)
        else:
            self._pause_after(error)

    def _leave(self, client: Client) -> None:
        """
        Commit for the last time and close the client.
        """
        seconds = _FLUSH_SECONDS if self._closes_at is None else max(0.0, self._closes_at - monotonic())
        if client.is_connected():
            self._rebalances.settle()
            self._commits.commit(client, seconds)
        self._rebalances.leave()
        client.close(_CLOSE_SECONDS)
        with self._lock:
            self._partitions.give_up_all()
        self._rebalances.left()
        self._client = None

    # Between two polls.

    def _look_after(self, client: Client) -> None:
        """
        Take acknowledgements, commit, look around.
        """
        self._rebalances.settle()
        self._commits.commit_if_due(client)
        watch = self._watch
        if watch.is_due() or self._rebalances.has_changed:
            if self._is_receiving:  # what a stop leaves behind is gone, but not lost
                watch.look_for_lost(client)
            if watch.look(client, self._rebalances.has_joined):
                self._backoff.reset()
        if self._is_receiving:  # what a stop leaves behind is finished nowhere
            watch.report_lag(client)

    # Receiving.

    def _receive(self, client: Client) -> None:
        """
        Wait for records and take them.
        """
        if self._wait_for_room():
            return
        self._reset_positions(client)
        timeout = self._pause_and_resume(client)
        with self._reporter.span(RECEIVE, demand=_MOST_POLLED) as span:
            records = client.poll(timeout, _MOST_POLLED)
            span.stop_metadata["count"] = sum(map(len, records.values()))
        self._polled_at = monotonic()
        if self._errors:
            self._errors = 0
            self._watch.hurry()
        if records:
            with self._lock:
                if self._is_receiving:
                    self._partitions.add(records)
            self._stage.wake()

    def _wait_for_room(self) -> bool:
        """
        Return whether polling can wait, after waiting a moment: there is enough to hand over, or a stop has begun.
        """
        seconds = self._polled_at + _FULL_SECONDS - monotonic()
        if seconds <= 0 or not self._rebalances.has_joined or self._has_room():
            return False
        self._is_waiting_for_room = True
        try:
            self._alarm.wait_for(lambda: self._is_over() or self._has_room(), min(seconds, _STEP_SECONDS))
        finally:
            self._is_waiting_for_room = False
        return not self._has_room()

    def _has_room(self) -> bool:
        # By the same rule as below for those that are paused: where it says that all are full, polls do not wait.
        paused = None if self._is_full else self._paused
        with self._lock:
            has_room = self._is_receiving and self._partitions.has_room(paused)
        self._is_full = not has_room
        return has_room

    def _pause_and_resume(self, client: Client) -> float:
        """
        Let the client fetch from those partitions only that have room; return how long to wait for records.
        """
        if self._rebalances.has_changed:
            self._rebalances.has_changed = False
            self._paused = client.paused()  # 2.x forgets it in a rebalance, 3.x does not
        with self._lock:
            keys = set(self._partitions.keys())
            full = self._partitions.full(self._paused) if self._is_receiving else keys
        if full - self._paused:
            client.pause(full - self._paused)
        if self._paused - full:
            client.resume(self._paused - full)
            self._patience = _LEAST_PATIENCE
        self._paused = full
        longest = self._longest_poll()
        if not full:
            return longest
        if full == keys:
            return 0.0
        # Nothing wakes the client when a paused partition has room again: look often while they move.
        self._patience = min(2 * self._patience, longest)
        return self._patience

    def _longest_poll(self) -> float:
        with self._lock:
            is_idle = self._partitions.is_idle()
        longest = _IDLE_SECONDS if is_idle else _BUSY_SECONDS
        return max(_LEAST_SECONDS, min(self._options.receive_interval, longest))

    # Positions.

    def _reset_positions(self, client: Client) -> None:
        """
        Apply ``begin_offset="reset"`` to partitions that are new.
        """
        keys = set(self._rebalances.to_reset)
        if keys and self._rebalances.has_joined:  # else 2.x forgets where they go on when they come back
            client.reset(keys)
            self._rebalances.to_reset -= keys
            self._rebalances.has_changed = True  # they are paused

    def _find_position(self, client: Client, error: NoPositionError) -> None:
        """
        Begin where the policy says, or where the brokers' log agrees with what we have read.
        """
        if not error.keys:
            self._refused(error)
            return
        if error.is_out_of_range:
            names = ", ".join(f"{topic}/{number}" for topic, number in error.keys)
            self._reporter.warning(f"offset out of range in {names}, going on by offset_reset_policy: {error}")
            with self._lock:
                for key in error.keys:
                    self._partitions.restart(key)
        for key, offset in error.keys.items():
            if offset is not None:
                client.seek(key, offset)
        try:
            client.reset([key for key, offset in error.keys.items() if offset is None])
        except UnavailableError as unavailable:
            self._refused(unavailable)
