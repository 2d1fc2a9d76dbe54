"""
Producers that poll a source which leases its messages: what SQS and Pub/Sub have in common.

.. code-block:: text

    receiver --ready--> producer's thread --> pipeline --ack()--> settler --> source
        |                                                            |
        +------------------------ leases (lease keeper) <------------+

===============================  ==========================================  =========================================
thread                           blocks on                                   ends
===============================  ==========================================  =========================================
producer (the stage's own)       demand, ``stage.wake()``                    with its stage
``.Receiver``                    the long poll; room; the back-off           after a stop, once its poll has returned
``.Settler``                     acknowledgements; the source                when everything is sent, or time is over
``.Leases``                      the next lease that falls due; the source   with the settler
===============================  ==========================================  =========================================

None of them runs user code. A message is leased from its receipt until the source has accepted its acknowledgement. A
stop closes the receiver and hands back what was received and not handed over; ``terminate``, which comes after the
last acknowledgement, waits until the settler has sent everything; whoever of the three ends last closes the client.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from functools import partial
from time import monotonic
from typing import Any, Callable, Deque, Dict, Iterable, List, Mapping, Optional, Type

import attrs

from ...acknowledger import Acknowledger
from ...core.copies import Copies
from ...core.ordered_groups import OrderedGroups
from ...message import Message
from ...producer import Producer, Stage
from ...runtime.deadline import Deadline
from ...runtime.stage_thread import StageThread, current_owner
from .events import ACKNOWLEDGE
from .lease_keeper import LeaseKeeper
from .options import build
from .outcomes import Receipt, to_action, to_actions
from .polling_client import RELEASE, Action, Delivery, PollingClient
from .receiver import Receiver
from .reporter import Reporter, describe
from .settler import Settler

# Nothing more is received while so many acknowledgements wait: a source that hands out messages but takes no
# acknowledgements must not fill the memory.
_MOST_UNSETTLED = 10_000
# How long a producer that ends waits for its last acknowledgements.
_FLUSH_SECONDS = 10.0
# How long, at least, an acknowledgement that fails is tried again.
_PATIENCE = 60.0
# How long a stop waits for a thread that has nothing left to do, or is in a long poll.
_JOIN_SECONDS = 0.5
# How long the end of a pipeline waits for the last acknowledgements of a producer that had crashed before.
_LAST_SECONDS = 2.0


class PollingProducer(Producer):
    """
    Base of the producers that poll.
    """

    poll_interval = math.inf  # the receiver wakes it

    connector: str
    """Short name, in telemetry."""

    options_class: Type[Any]
    """A subclass of :class:`PollingOptions`."""

    def __init__(self, **options: Any) -> None:
        self._options = build(self.options_class, options)
        self._session: Optional[Session] = None

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Check the options.
        """
        build(cls.options_class, options)
        return options

    def make_client(self, options: Any) -> PollingClient:
        """
        Return the client of one session, not connected; :attr:`stage` is set.
        """
        raise NotImplementedError

    def init(self) -> None:
        """
        Begin to connect, without waiting for it.
        """
        client = (self._options.client or self.make_client)(self._options)
        self._session = Session(client, self._options, Reporter(self.connector, self.stage), self.stage)
        self._session.start()

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Return what has been received, up to *demand*.

        Raises:
            BaseException: What ended one of the threads.
        """
        assert self._session is not None
        return self._session.take(demand)

    def prepare_for_draining(self) -> Iterable[Message]:
        """
        Receive nothing more, and hand back what was not handed over.
        """
        assert self._session is not None
        self._session.stop_receiving()
        return ()

    def terminate(self, reason: Any) -> None:
        """
        Send the last acknowledgements, a bounded time long; the client is closed when its last request has returned.
        """
        if self._session is not None:
            self._session.close(reason)


class Session(Acknowledger):
    """
    The life of one instance of a polling producer, and the acknowledger of its messages. Thread-safe.
    """

    def __init__(self, client: PollingClient, options: Any, reporter: Reporter, stage: Stage) -> None:
        self._client = client
        self._options = options
        self._reporter = reporter
        self._stage = stage
        self._owner = current_owner()  # this is made on the producer's thread
        # Guards the fields up to the next comment. Innermost: nothing is called while it is held.
        self._lock = threading.Lock()
        self._ready: Deque[Message] = deque()  # received, not handed over
        self._groups: OrderedGroups[Message] = OrderedGroups()
        self._copies = Copies()
        self._wanted = 0  # what the pipeline still asks for beyond what is ready
        self._in_pipeline = 0
        self._is_closed = False
        self._threads: List[StageThread] = []
        self._threads_left = 0
        # Owned by the producer's thread: what the last call of take() returned, if a transformer may refuse it.
        self._taken: List[Receipt] = []
        # Written once, by whichever thread dies.
        self._error: Optional[BaseException] = None
        self._receiver = Receiver(
            client,
            reporter,
            options.backoff(),
            options.receive_interval,
            self._room,
            self._connected,
            self._accept,
        )
        # Made when the client is connected, before anything is received.
        self._leases: Optional[LeaseKeeper] = None
        self._settler: Optional[Settler] = None
        self._actions = (to_action(options.on_success), to_action(options.on_failure))

    def start(self) -> None:
        """
        Start the receiver; the other threads follow when the client is connected.
        """
        self._start_thread("Receiver", self._receiver.run)

    # On the producer's thread.

    def take(self, demand: int) -> List[Message]:
        """
        Return up to *demand* messages that are ready, and ask for the rest.
        """
        self._taken = []  # it was handed over, or this would not be called
        if self._error is not None:
            raise self._error
        with self._lock:
            ready = self._ready
            messages = [ready.popleft() for _ in range(min(demand, len(ready)))]
            self._wanted = demand - len(messages)
            self._in_pipeline += len(messages)
        if self._wanted:
            self._receiver.wake()
        if self._stage.options.producer.transformer is not None:
            self._taken = [message.acknowledger[2] for message in messages]
        return messages

    def stop_receiving(self) -> None:
        """
        Receive nothing more; release what was not handed over, but for what waits behind a message that was.
        """
        self._receiver.close()
        with self._lock:
            self._is_closed = True
            messages = list(self._ready)
            self._ready.clear()
            groups = [message.acknowledger[2].group for message in messages]
            messages += [message for group in groups if group is not None for message in self._groups.release(group)]
        self._release(messages)

    def close(self, reason: Any) -> None:
        """
        End the threads; *reason* is that of ``terminate``.

        After a crash the messages that are still in the pipeline are acknowledged when they are done with, and after
        a restart those that the new stages took over; otherwise, and at the end of the pipeline, whatever is there was
        abandoned, and is left to the source.
        """
        self.stop_receiving()
        has_crashed = isinstance(reason, BaseException)
        if has_crashed and self._stage.has_refused:
            self._leave(self._taken)
        with self._lock:
            if not has_crashed and reason != "restart":
                self._in_pipeline = 0
            is_done = self._in_pipeline <= 0
        flush_seconds = min(_FLUSH_SECONDS, self._stage.options.shutdown / 2)
        patience = flush_seconds if is_done else self._options.max_lease if has_crashed else self._patience()
        if self._settler is not None:
            self._settler.close(monotonic() + patience)
        if is_done:
            self._join(flush_seconds)
        elif self._owner is not None:
            self._owner.at_end(partial(_end, weakref.ref(self)))

    def _leave(self, receipts: List[Receipt]) -> None:
        """
        Let messages come again that the pipeline has not got: the transformer raised, for one of them.
        """
        groups = [receipt.group for receipt in receipts if receipt.group is not None]
        with self._lock:
            self._in_pipeline -= len(receipts)
            followers = [message for group in groups for message in self._groups.release(group)]
        if receipts:
            self._forget([receipt.handle for receipt in receipts])
            self._release(followers, self._client.action_for_followers(None))

    def end(self) -> None:
        """
        The pipeline has ended: send what is not sent yet, a short time long, and keep nothing any more.
        """
        with self._lock:
            self._in_pipeline = 0
        if self._settler is not None:
            self._settler.close(monotonic() + _LAST_SECONDS)
        _join_all(self._threads[1:], Deadline(_LAST_SECONDS))

    def _patience(self) -> float:
        return max(_PATIENCE, 2 * self._client.lease)

    def _join(self, flush_seconds: float) -> None:
        """
        Wait for the threads, a bounded time: the receiver may be in a long poll, and a request may hang.
        """
        deadline = Deadline(flush_seconds + _JOIN_SECONDS)
        receiver, *others = list(self._threads)
        _join_all(others, deadline)
        deadline.tighten(_JOIN_SECONDS)
        _join_all([receiver], deadline)

    # On the threads of processors and batch processors.

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Have the source told, soon; let the next message of each group follow.
        """
        actions: Dict[Optional[Action], List[str]] = {}
        for message in successful:
            receipt = message.acknowledger[2]
            self._note(receipt, receipt.on_success, actions)
        for message in failed:
            receipt = message.acknowledger[2]
            self._note(receipt, receipt.on_failure, actions)
        assert self._settler is not None
        for action, handles in actions.items():
            if action is None or action[0] != "ack":
                self._forget(handles)  # they come again: an extension now would only put that off
            if action is not None:
                self._settler.post(action, handles)
        with self._lock:
            self._in_pipeline -= len(successful) + len(failed)
            is_last = self._is_closed and self._in_pipeline <= 0
        if is_last:
            self._settler.wake()

    def configure(self, ack_ref: Any, ack_data: Receipt, options: Dict[str, Any]) -> Receipt:
        """
        Replace ``on_success`` or ``on_failure`` of one message; what is not given keeps its value.

        Raises:
            ConfigurationError: An option is unknown, or its value breaks the rule.
        """
        return attrs.evolve(ack_data, **to_actions(options, type(self._options)))

    def _note(self, receipt: Receipt, action: Optional[Action], actions: Dict[Optional[Action], List[str]]) -> None:
        handle = self._finish_copy(receipt, is_gone=action is not None and action[0] == "ack")
        if handle is not None:
            actions.setdefault(action, []).append(handle)
        if receipt.group is not None:
            self._advance(receipt.group, action, actions)

    def _finish_copy(self, receipt: Receipt, is_gone: bool) -> Optional[str]:
        """
        Return the handle by which to tell the source of a message, None if another copy of it does or did.
        """
        if receipt.identity is None:
            return receipt.handle
        with self._lock:
            return self._copies.finish(receipt.identity, is_gone)

    def _advance(self, group: str, action: Optional[Action], actions: Dict[Optional[Action], List[str]]) -> None:
        """
        Let the next message of *group* follow one that is gone for good; behind one that will come again, or after
        a stop, hand the rest back.
        """
        is_gone = action is not None and action[0] == "ack"
        with self._lock:
            is_over = self._is_closed or not is_gone
            released = self._groups.release(group) if is_over else []
            following = None if is_over else self._follower(group)
            if following is not None:
                if self._groups.has_followers(group):
                    following.batch_mode = "flush"
                self._ready.append(following)
        if following is not None:
            self._stage.wake()
        if released:
            # With the one that failed, and behind it: in this order they are delivered again.
            behind = RELEASE if is_gone else self._client.action_for_followers(action)
            actions.setdefault(behind, []).extend(self._unfinished_handles(released))
        self._receiver.wake()

    def _follower(self, group: str) -> Optional[Message]:
        """
        Return the next message of *group*, passing over copies of messages that are gone. Holds the lock.
        """
        while True:
            message = self._groups.finish(group)
            identity = None if message is None else message.acknowledger[2].identity
            if identity is None or not self._copies.is_gone(identity):
                return message
            self._copies.finish(identity, is_gone=True)

    # On the receiver's thread.

    def _room(self) -> int:
        """
        Return how many messages to ask for.
        """
        if self._settler is None or self._settler.backlog() > _MOST_UNSETTLED:
            return 0
        with self._lock:
            wanted = self._wanted - len(self._ready) - self._groups.held_count
        return min(wanted, int(self._options.max_number_of_messages))

    def _connected(self) -> None:
        client = self._client
        settler = Settler(client, self._reporter, self._patience(), self._settled, lambda: self._in_pipeline <= 0)
        longest = min(self._options.max_lease, client.longest_lease)
        leases = LeaseKeeper(client, self._reporter, longest, settler.handles)
        with self._lock:
            if self._is_closed:
                return
            self._leases, self._settler = leases, settler
        # In this order: should the system refuse the second thread, the first one ends without it.
        self._start_thread("Settler", self._run_settler)
        self._start_thread("Leases", leases.run)

    def _accept(self, deliveries: List[Delivery], since: float) -> None:
        """
        Take what was received: to the pipeline, or back if it is too late.
        """
        assert self._leases is not None
        self._leases.add([delivery.handle for delivery in deliveries], since)
        messages = self._to_messages(deliveries)
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                older = self._add_copies(deliveries)
                self._admit(messages)
        if is_closed:
            self._release_at_once([delivery.handle for delivery in deliveries])
        else:
            self._forget(older)
            self._stage.wake()

    def _add_copies(self, deliveries: List[Delivery]) -> List[str]:
        """
        Note what came; return the handles of older copies, which are good for nothing any more.
        """
        identified = [(each.identity, each.handle) for each in deliveries if each.identity is not None]
        replaced = [self._copies.add(identity, handle) for identity, handle in identified]
        return [handle for handle in replaced if handle is not None]

    def _admit(self, messages: List[Message]) -> None:
        out = []
        first = []
        for message in messages:
            group = message.acknowledger[2].group
            if group is None:
                out.append(message)
            elif self._groups.add(group, message):
                out.append(message)
                first.append((group, message))
        for group, message in first:
            if self._groups.has_followers(group):
                message.batch_mode = "flush"  # or its follower would wait for a batch timeout
        self._ready.extend(out)

    def _to_messages(self, deliveries: List[Delivery]) -> List[Message]:
        success, failure = self._actions
        return [
            Message(
                each.data,
                (self, None, Receipt(each.handle, each.group, success, failure, each.identity)),
                metadata=each.metadata,
            )
            for each in deliveries
        ]

    def _release(self, messages: List[Message], action: Action = RELEASE) -> None:
        handles = self._unfinished_handles(messages)
        if handles:
            assert self._settler is not None
            self._forget(handles)
            self._settler.post(action, handles)

    def _unfinished_handles(self, messages: List[Message]) -> List[str]:
        """
        Return the handles of messages that are handed back, but for those of which another copy is here.
        """
        finished = [self._finish_copy(message.acknowledger[2], is_gone=False) for message in messages]
        return [handle for handle in finished if handle is not None]

    def _release_at_once(self, handles: List[str]) -> None:
        """
        Hand back what a poll brought after the stop, when there may be no settler any more.
        """
        self._forget(handles)
        for at in range(0, len(handles), self._client.lot):
            lot = handles[at : at + self._client.lot]
            try:
                with self._reporter.span(ACKNOWLEDGE, action=RELEASE[0], count=len(lot)) as span:
                    span.stop_metadata["failed"] = len(self._client.settle(RELEASE, lot))
            except Exception as error:  # a client library: the leases run out by themselves
                self._reporter.warning(f"messages that came after the stop were not released: {describe(error)}")

    # Threads.

    def _forget(self, handles: List[str]) -> None:
        assert self._leases is not None
        self._leases.remove(handles)

    def _settled(self, handles: List[str]) -> None:
        self._forget(handles)
        self._receiver.wake()  # it may have waited for the settler to catch up

    def _run_settler(self) -> None:
        assert self._settler is not None and self._leases is not None
        try:
            self._settler.run()
        finally:
            self._leases.close()

    def _start_thread(self, role: str, body: Callable[[], None]) -> None:
        thread = StageThread(f"{self._stage.name}.{role}", body, self._ended, self._owner)
        with self._lock:
            self._threads_left += 1
            self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            self._ended(thread, error)
            raise

    def _ended(self, thread: Any, error: Optional[BaseException]) -> None:
        if error is not None:
            self._error = error
            self._stage.wake()
        with self._lock:
            self._threads_left -= 1
            is_last = self._threads_left == 0
        if is_last:
            self._close_client()

    def _close_client(self) -> None:
        try:
            self._client.close()
        except Exception as error:  # a client library: there is nothing left that it could disturb
            self._reporter.warning(f"closing the client failed: {describe(error)}")


def _join_all(threads: Iterable[StageThread], deadline: Deadline) -> None:
    for thread in threads:
        if thread.is_alive():  # one that is just being started finds that it is too late
            thread.join(deadline.remaining())


def _end(reference: Callable[[], Optional[Session]]) -> None:
    session = reference()
    if session is not None:
        session.end()
