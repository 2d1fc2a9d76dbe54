"""
One consumer on one connection, kept alive by a thread of its own.

The thread is the only one that touches the client. It runs no handler, so that heartbeats are answered while handlers
take minutes. Others leave it work (what is finished; that a stop has begun) and wake it.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Callable, Deque, Dict, List, Optional, TypeVar

from ...errors import ConnectorError
from ...message import Message
from ...producer import Stage
from ...runtime.stage_thread import StageThread, current_owner
from ...runtime.wait_list import Latch, WaitList
from ..common.events import ACKNOWLEDGE, CONNECT
from ..common.reporter import Reporter, describe
from .link import Client, advice
from .messages import ack_data_of
from .options import REQUEUE, RabbitMQOptions, merge
from .session import Session
from .settling import Settling

T = TypeVar("T")

CONSUME, DRAIN, CLOSE = range(3)
"""What is wanted of a connection: deliveries; only acknowledgements; its end."""

CANCEL_PATIENCE = 1.0
"""Seconds that a stop waits for the broker to confirm the end of the deliveries."""

CLOSE_PATIENCE = 2.0
"""Seconds that a stop waits for the broker to confirm the end of the connection, and all that was sent before."""

ABORT_PATIENCE = 0.5
"""Seconds that a thread has to end when its connection has been cut, or while it has none."""

SHORT_LIFE = 0.1
"""Seconds: a connection that was lost sooner is not replaced at once, even if ``backoff_min`` is less."""


class _LostError(Exception):
    """
    A call to the broker failed; ``__cause__`` says how.
    """


class Connection:
    """
    Keeps a consumer alive, from :meth:`start` to :meth:`close`.

    What is not marked as for any thread is called on the producer's thread or, where it begins with an underscore,
    on the connection's.
    """

    def __init__(
        self, client: Client, options: RabbitMQOptions, given: Dict[str, Any], stage: Stage, reporter: Reporter
    ) -> None:
        """
        Args:
            given: What *options* were made from, for ``merge_options``.
        """
        self._client = client
        self._options = options
        self._given = given
        self._stage = stage
        self._reporter = reporter
        self._backoff = options.backoff()
        self.waiting: Deque[Message] = deque()
        """What was delivered and nobody has asked for; the connection's thread appends, the producer's takes."""
        self.failure: Optional[BaseException] = None
        """Why the thread has ended, unless it was asked to."""
        self._session: Optional[Session] = None
        self._wanted = CONSUME
        self._alarm = WaitList()  # the connection's thread, between two attempts
        self._drained = Latch()
        self._ended = Latch()
        self._thread = StageThread(f"{stage.name}.IO", self._run, self._end, current_owner())

    def start(self) -> None:
        """
        Start the thread; it connects by itself.
        """
        self._thread.start()

    def take(self, demand: int) -> List[Message]:
        """
        Return up to *demand* messages of those that wait.
        """
        next_one, messages = self.waiting.popleft, []
        try:
            for _ in range(demand):
                messages.append(next_one())
        except IndexError:
            pass
        session_now = self._session
        if session_now is not None and not session_now.is_consuming and self._has_room(session_now):
            session_now.link.wake()
        return messages

    def drain(self) -> List[Message]:
        """
        Stop the deliveries and hand back what waits; return what cannot be handed back.
        """
        self._want(DRAIN)
        session = self._session
        # One that is not ready has no deliveries; but with no_ack the broker may send, and forget, some before its end.
        if session is not None and (session.is_ready or session.is_no_ack):
            self._drained.wait(CANCEL_PATIENCE)
        is_kept = self._options.is_no_ack if session is None else session.is_no_ack
        return self.take(len(self.waiting)) if is_kept else []

    def close(self) -> None:
        """
        Send what is finished, close the connection, end the thread; all in bounded time, whatever the broker does.
        """
        self._want(CLOSE)
        session = self._session
        is_ready = session is not None and session.is_ready
        if self._ended.wait(CLOSE_PATIENCE if is_ready else ABORT_PATIENCE):
            return
        session = self._session
        if session is None:
            return  # in the middle of connecting: the thread ends as soon as that has succeeded or failed
        session.link.abort()
        if is_ready:
            self._reporter.warning(
                "the broker did not confirm the end of the connection: it may deliver messages again"
            )
        self._ended.wait(ABORT_PATIENCE)

    def _want(self, wanted: int) -> None:
        self._wanted = max(self._wanted, wanted)
        self._alarm.wake_all()
        session = self._session
        if session is not None:
            session.link.wake()

    # On the connection's thread.

    def _run(self) -> None:
        pause = 0.0
        while not self._alarm.wait_for(lambda: self._wanted != CONSUME, pause):
            pause = self._live()

    def _end(self, thread: Any, error: Optional[BaseException]) -> None:
        """
        The thread ends: nobody shall wait for it, and it shall not be missed if nobody wanted that.
        """
        self._drained.open()
        self._ended.open()
        if error is not None:
            if not self._options.is_no_ack:
                self.waiting.clear()
            self.failure = error
            self._stage.wake()

    def _live(self) -> float:
        """
        Connect, and serve until the connection is lost or not wanted any more; return the pause after that.
        """
        try:
            session = self._open()
        except Exception as error:  # the broker, the network, after_connect, merge_options: all may be mended
            return self._pause(error)
        began = monotonic()
        self._reporter.up()
        try:
            self._serve(session)
            return 0.0
        except _LostError as lost:
            cause = lost.__cause__
            assert isinstance(cause, Exception)
            self._forget(session, cause)
        finally:
            self._finish(session)
        # At once, unless it was lost so soon after it was made that this could go on for ever.
        if monotonic() - began < max(self._options.backoff_min, SHORT_LIFE):
            return self._pause(cause)
        self._backoff.reset()
        return 0.0

    def _open(self) -> Session:
        with self._reporter.span(CONNECT):
            options = merge(self._options, self._given, self._stage.index)
            session = Session(options, self._drop)
            on_delivery, say = session.delivery_callback(self.waiting), self._reporter.warning
            session.link = self._client.connect(options, self._stage.name, on_delivery, say)
            self._session = session
            try:
                if self._wanted != CONSUME:  # nothing of the user's, and nothing at the broker, begins after a stop
                    raise ConnectorError("a stop came while it was connecting")
                session.link.set_up()
            except BaseException:
                self._finish(session)
                raise
            session.is_ready = True
            return session

    def _finish(self, session: Session) -> None:
        session.end()
        session.link.close(CLOSE_PATIENCE)
        self._session = None

    def _pause(self, error: Exception) -> float:
        """
        Report that there is no connection; return how long to wait, or give up.

        Raises:
            ConnectorError: There is to be no other attempt.
        """
        if self._wanted != CONSUME:  # a stop has cut the connection, or came while it was made
            return 0.0
        pause = self._backoff.next()
        if pause is None:
            raise ConnectorError(f"no connection to RabbitMQ: {describe(error)}") from error
        self._reporter.down(error, advice(error))
        return pause

    def _forget(self, session: Session, error: Exception) -> None:
        """
        The connection is lost: drop what waits, as the broker delivers it again.
        """
        left = len(session.tags.open) + len(session.tags.held)
        session.end()
        if not session.is_no_ack:
            self.waiting.clear()
        elif self.waiting:  # delivered right before the loss
            self._stage.wake()
        if self._wanted == CONSUME:
            again = f"{left} messages will be delivered again" if left else ""
            self._reporter.down(error, "; ".join(filter(None, (advice(error), again))))

    def _serve(self, session: Session) -> None:
        """
        Let the connection work until its end is wanted.

        Raises:
            _LostError: It is gone.
        """
        settling = Settling(session, self._reporter, self._call)
        while self._wanted != CLOSE:
            if self._wanted == DRAIN and not self._drained.is_open:
                self._stop_deliveries(session, settling)
            self._call(session.link.run)
            if self.waiting:
                self._stage.wake()
            settling.settle(session.fetch())
            settling.release_in_time()
            if session.is_no_ack:
                self._regulate(session)
        settling.settle(session.fetch())
        settling.release()
        session.link.close(CLOSE_PATIENCE)

    def _stop_deliveries(self, session: Session, settling: Settling) -> None:
        """
        Cancel the consumer; what waits goes back to the broker, or with ``no_ack`` to the producer.
        """
        self._cancel(session)
        if not session.is_no_ack:
            tags = []
            while self.waiting:
                tags.append(ack_data_of(self.waiting.popleft())[0])
            settling.settle([(REQUEUE, tags)])
        self._drained.open()

    def _cancel(self, session: Session) -> None:
        if session.is_consuming:
            session.is_consuming = False
            rest = self._call(session.link.cancel)
            self.waiting.extend(session.to_message(*delivery) for delivery in rest)

    def _regulate(self, session: Session) -> None:
        """
        With ``no_ack`` the broker knows no limit: stop and resume the deliveries by what waits.
        """
        if session.is_consuming and len(self.waiting) >= session.options.intake_limit:
            self._cancel(session)
        # Looked at after is_consuming has changed: the producer's thread takes messages first and looks at that then.
        if not session.is_consuming and self._wanted == CONSUME and self._has_room(session):
            session.is_consuming = True
            self._call(session.link.consume)

    def _has_room(self, session: Session) -> bool:
        return len(self.waiting) <= session.options.intake_limit // 2

    def _call(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except Exception as error:  # whatever a client library makes of a connection that breaks
            raise _LostError from error

    def _drop(self, session: Session, number: int) -> None:
        """
        Any thread: count outcomes that came too late, and say so once for each lost connection.
        """
        try:
            with self._reporter.span(ACKNOWLEDGE, action="none", count=number):
                raise ConnectorError("the connection that delivered these messages is gone")
        except ConnectorError:
            pass
        if not session.has_told:
            session.has_told = True
            self._reporter.warning(
                "acknowledgements are dropped: the connection that delivered these messages is gone, the broker "
                "delivers them again"
            )
