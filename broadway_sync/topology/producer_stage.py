"""
Producers: make an instance, ask it for messages, make it again when it crashes, terminate it last.
"""

from __future__ import annotations

import math
import threading
from time import monotonic, time_ns
from typing import Any, Callable, Iterable, List, Optional, TypeVar

from ..around import surround_producer
from ..errors import EndOfStream, NotRunningError
from ..log import log_error, safe_repr
from ..message import Message
from ..producer import Producer, Stage, to_messages
from ..runtime.wait_list import Latch, WaitList
from ..statistics import StageStatistics
from ..telemetry.events import PRODUCER_RESTART
from ..telemetry.registry import execute
from .dispatcher import Source
from .settings import Settings

T = TypeVar("T")


class ProducerStage:
    """
    One producer index: its instances, one after the other, and their source. Everything runs on its thread,
    except :meth:`drain`, :meth:`wake`, :meth:`emit` and :meth:`abandon`, which any thread may call.

    Follows Broadway 1.3, ``producer_stage.ex``.
    """

    def __init__(
        self,
        index: int,
        name: str,
        settings: Settings,
        make: Callable[[], Producer],
        source: Source,
        restart: Callable[[], bool],
        drained: Latch,
    ) -> None:
        """
        Args:
            make: Returns a new instance.
            restart: Records a crash and says whether this producer may be made again.
            drained: Opened when everything that the pipeline had taken is acknowledged.
        """
        self.index = index
        self.name = name
        self.settings = settings
        self.source = source
        self._make = make
        self._restart = restart
        self._drained = drained
        self._producer: Optional[Producer] = None
        self._stage: Optional[_Stage] = None
        self.is_exhausted = False
        """Whether the producer raised EndOfStream."""
        self.is_draining = False
        self.is_stopping = False
        """Whether it is asked no more: true before ``is_draining``, as the supervisor may have to wait for its turn
        while this thread and quick handlers go on and on."""
        self.late = 0
        """Messages that it brought when the stop went on without it already: nobody takes them any more."""
        self.is_forgotten = False
        """Whether this is a forked child's copy of a stage: it ends without touching anything."""
        # Numbers of calls of wake(): the last one, and the last one that the producer's thread has acted on.
        self._wakes = 0
        self._seen_wakes = 0
        self._thread_id = 0
        self._alarm = WaitList()  # the producer's thread, while it waits for the time, wake() or a stop
        self._stop_reason: Any = "shutdown"
        self._restarts = 0

    def run(self) -> None:
        """
        Produce until the end of the stream or the beginning of a stop; terminate when all is acknowledged.

        Raises:
            BaseException: The last crash, when the producer crashed too often.
        """
        self._thread_id = threading.get_ident()
        error = self._produce()
        if self.is_forgotten:
            return
        if error is not None:
            # The source stays open until the supervisor knows: a push meets a pipeline that restarts, not one that
            # has ended.
            raise error
        self.source.close()
        self._drained.wait()
        self._terminate("normal" if self.is_exhausted else self._stop_reason)

    def drain(self, reason: str) -> None:
        """
        Begin the stop of this producer.
        """
        if not isinstance(self._stop_reason, BaseException):  # else it has crashed since the stop was asked for
            self._stop_reason = reason
        self.is_draining = self.is_stopping = True
        self._alarm.wake_all()
        self.source.producer.wake_all()
        self.source.emitters.wake_all()

    def wake(self) -> None:
        """
        Ask the producer again at once.
        """
        self._wakes += 1  # if two threads count as one, it has changed all the same
        self._alarm.wake_all()

    def wait(self, seconds: float, is_over: Callable[[], bool]) -> bool:
        """
        Wait until the time is over, :meth:`wake` is called or *is_over* says so; False if the time is over.

        On the producer's thread a :meth:`wake` since its last demand or wait counts too; on others, later ones only.
        """
        is_own_thread = threading.get_ident() == self._thread_id
        seen = self._seen_wakes if is_own_thread else self._wakes
        timeout = None if seconds == math.inf else max(0.0, seconds)
        is_early = self._alarm.wait_for(lambda: self._wakes != seen or is_over(), timeout)
        if is_own_thread:
            self._seen_wakes = self._wakes
        return is_early

    def emit(self, events: Iterable[Any], buffer_size: int, is_over: Callable[[], bool]) -> None:
        """
        Hand over what a source pushes, see :meth:`Stage.emit`.
        """
        messages = to_messages(list(events), self.settings.options.producer.transformer)
        source = self.source
        placed = source.place(messages)

        def has_room(outstanding: int) -> bool:
            return outstanding - source.in_hand() < buffer_size

        while not source.take(placed, has_room=has_room):
            source.emitters.wait_for(lambda: is_over() or source.is_closed or has_room(source.outstanding()))
            if is_over():
                raise NotRunningError(f"{self.name} takes no more messages: it drains, or this producer was terminated")

    def statistics(self, now: float) -> StageStatistics:
        """
        Return what it is doing. Any thread.
        """
        waiting, handed_over = self.source.counts()
        return StageStatistics(
            name=self.name,
            kind="producer",
            index=self.index,
            waiting=waiting,
            handled=handed_over,
            restarts=self._restarts,
        )

    def abandon(self) -> int:
        """
        Give up on a thread that hangs: what it may still return is dropped. Returns 0, it has handed over nothing more.
        """
        self.drain(self._stop_reason)
        self.source.close()
        self._drained.open()
        return 0

    # On the producer's thread.

    def _produce(self) -> Optional[BaseException]:
        """
        Run instances until one ends well; return the error of the last one if it crashed for good.
        """
        while True:
            try:
                self._run_instance()
                return None
            except NotRunningError as error:
                if self.source.is_closed:  # abandoned: it came back too late
                    return None
                crash: BaseException = error
            except BaseException as error:  # user code, a client library: the producer has crashed
                crash = error
            self._log("the producer crashed", crash)
            if self.is_stopping:  # it is terminated when its messages are acknowledged, as in any stop
                self._stop_reason = crash
                return None
            self._terminate(crash)
            if not self._restart():
                return crash
            self._restarts += 1
            metadata = {"topology_name": self.settings.name, "name": self.name, "reason": crash}
            execute(PRODUCER_RESTART, {"system_time": time_ns()}, metadata)
            del metadata
            del crash  # its traceback keeps the messages of the answer alive
            self._alarm.wait_for(lambda: self.is_stopping, self.settings.options.resubscribe_interval)
            if self.is_stopping:
                return None

    def _run_instance(self) -> None:
        self._producer = None
        producer = self._make()
        self._stage = producer.stage = _Stage(self, producer)
        self._producer = producer
        try:
            self._surround("init", producer.init)
            self._ask(producer)
        except EndOfStream as end:
            self._hand_over(end.messages, "EndOfStream")
            self.is_exhausted = True
        else:
            if not self.is_forgotten:
                self._surround("prepare_for_draining", lambda: self._last_messages(producer))

    def _ask(self, producer: Producer) -> None:
        """
        Meet demand until a stop begins; what ends the stream, or crashes, is raised.
        """
        try:
            self._ask_until_draining(producer)
        finally:
            self.source.wake_takers()

    def _ask_until_draining(self, producer: Producer) -> None:
        source, may_ask_at = self.source, 0.0
        while not self.is_draining:
            demand = self._demand()
            if not demand:
                source.producer.wait_for(lambda: self.is_draining or self._demand(), before=source.wake_takers)
                continue
            source.wake_takers()
            pause = may_ask_at - monotonic()
            if pause > 0:
                self.wait(pause, lambda: self.is_draining)
                may_ask_at = 0.0
                continue
            self._seen_wakes = self._wakes
            if self.settings.hooks:
                count = self._surround("handle_demand", lambda: self._meet(producer, demand))  # noqa: B023
            else:
                count = self._meet(producer, demand)
            is_short = count < demand and self._wakes == self._seen_wakes
            may_ask_at = monotonic() + producer.poll_interval if is_short else 0.0

    def _demand(self) -> int:
        return 0 if self.is_stopping else self.source.unmet_demand()

    def _meet(self, producer: Producer, demand: int) -> int:
        return self._hand_over(producer.handle_demand(demand), "handle_demand")

    def _last_messages(self, producer: Producer) -> int:
        return self._hand_over(producer.prepare_for_draining(), "prepare_for_draining")

    def _surround(self, name: str, callback: Callable[[], T]) -> T:
        """
        Return ``callback()``, called inside the hooks: that includes what a lazy iterable does when it is read.
        """
        return surround_producer(callback, name, self.settings.hooks, self.settings.name)

    def _hand_over(self, returned: Any, callback: str) -> int:
        """
        Pass on what a callback returned, up to where a lazy iterable raised; return how many messages that were.
        """
        events: List[Any] = []
        try:
            if returned is None and callback == "handle_demand":
                raise TypeError("handle_demand must return an iterable of messages, got: None")
            events.extend(returned if returned is not None else ())
        finally:
            assert self._stage is not None
            self._stage.has_refused = True
            messages = to_messages(events, self.settings.options.producer.transformer)
            self._stage.has_refused = False
            if messages:
                self._offer(messages, is_quiet=callback == "handle_demand")
        return len(messages)

    def _offer(self, messages: List[Message], *, is_quiet: bool) -> None:
        try:
            (self.source.offer_quietly if is_quiet else self.source.offer)(messages)
        except NotRunningError:  # the stop goes on without this producer
            self.late += sum(message.claim() for message in messages)
            raise

    def _terminate(self, reason: Any) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        assert self._stage is not None
        self._stage.is_over = True
        self._alarm.wake_all()
        self.source.emitters.wake_all()
        try:
            self._surround("terminate", lambda: producer.terminate(reason))
        except BaseException as error:  # user code: the producer ends all the same
            self._log("terminate raised", error)

    def _log(self, text: str, error: BaseException) -> None:
        log_error(text, error, self.settings.name, self.name)


class _Stage(Stage):
    """
    What one instance of a producer sees of its stage.
    """

    def __init__(self, stage: ProducerStage, producer: Producer) -> None:
        self._owner = stage
        self._buffer_size = producer.buffer_size
        self.is_over = False
        self.pipeline_name = stage.settings.name
        self.name = stage.name
        self.index = stage.index
        self.options = stage.settings.options

    @property
    def draining(self) -> bool:
        return self._owner.is_stopping or self.is_over

    def emit(self, messages: Iterable[Any]) -> None:
        if self.draining:
            raise NotRunningError(f"{self.name} takes no more messages: it drains, or this producer was terminated")
        self._owner.emit(messages, self._buffer_size, lambda: self.draining)

    def wake(self) -> None:
        if not self.is_over:
            self._owner.wake()

    def wait(self, seconds: float) -> bool:
        return self._owner.wait(seconds, lambda: self.draining)


def make_factory(module: Any) -> Callable[[], Producer]:
    """
    Return a function that makes an instance of the configured producer.
    """

    def make() -> Producer:
        producer = module[0](**module[1]) if isinstance(module, tuple) else module()
        if not isinstance(producer, Producer):
            raise TypeError(f"producer.module must give a Producer, got: {safe_repr(producer)}")
        return producer

    return make
