"""
A client in place of pika: tests put deliveries and faults into it, and read what the producer sent.
"""

from __future__ import annotations

import queue
import threading
from time import monotonic
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from broadway_sync.connectors.rabbitmq.options import FROM_PROPERTIES, RabbitMQOptions
from tests.helpers import eventually, get

PROPERTIES = SimpleNamespace(**dict.fromkeys((*FROM_PROPERTIES, "delivery_mode")))


class FakeLink:
    """
    A connection: ``run`` obeys one command of the test at a time.
    """

    def __init__(self, options: RabbitMQOptions, name: str, on_delivery: Callable[..., None]) -> None:
        self.options = options
        self.name = name
        self.thread = threading.current_thread().name
        self.is_shared = False
        self.is_consuming = True
        self.is_closed = threading.Event()
        self.is_aborted = threading.Event()
        self.wakes = 0
        self.calls: List[Any] = []
        self.frames: List[Tuple[str, int, bool]] = []
        self.before_settle: Callable[[], Any] = lambda: None
        self.settle_errors: List[BaseException] = []
        self.cancel_gate: Any = None
        self.during_set_up: Callable[[], Any] = lambda: None
        self.rest: List[Any] = []
        self.on_delivery = on_delivery
        self.last_tag = 0
        self._wakes_at: Optional[float] = None
        self._commands: queue.Queue[Callable[[], Any]] = queue.Queue()

    # ---- for tests

    def command(self, function: Callable[[], Any]) -> None:
        """
        Let ``run`` call this, and return.
        """
        self._commands.put(function)

    def deliver(self, *data: bytes, redelivered: bool = False) -> None:
        """
        Let one lot arrive.
        """
        self._commands.put(lambda: self._deliver(data, redelivered))

    def _deliver(self, data: Iterable[bytes], redelivered: bool) -> None:
        for body in data:
            self.on_delivery(self, *self.delivery(body, redelivered))

    def delivery(self, body: bytes, redelivered: bool = False) -> Tuple[Any, Any, bytes]:
        """
        Return the next delivery.
        """
        self.last_tag += 1
        method = SimpleNamespace(
            delivery_tag=self.last_tag, redelivered=redelivered, exchange="", routing_key="q", consumer_tag="c"
        )
        return method, PROPERTIES, body

    def fail(self, error: BaseException) -> None:
        """
        Break the connection.
        """
        self._commands.put(lambda: _raise(error))

    def fail_with(self, error: BaseException, *data: bytes) -> None:
        """
        Let one lot arrive, and break the connection before anybody knows.
        """
        self._commands.put(lambda: (self._deliver(data, False), _raise(error)))

    def wait_for_frames(self, count: int) -> List[Tuple[str, int, bool]]:
        """
        Wait until so many frames were sent; return all.
        """
        eventually(lambda: len(self.frames) >= count, f"{count} frames are sent")
        return list(self.frames)

    # ---- what the producer calls

    def set_up(self) -> None:
        """
        Begin the deliveries.
        """
        self.calls.append("set_up")
        self.during_set_up()

    def run(self) -> None:
        """
        Obey the next command.
        """
        assert threading.current_thread().name == self.thread
        if self._wakes_at is None:
            get(self._commands, "a command")()
            return
        try:
            self._commands.get(timeout=max(0.0, self._wakes_at - monotonic()))()
        except queue.Empty:
            self._wakes_at = None

    def settle(self, frames: Iterable[Tuple[str, int, bool]]) -> None:
        """
        Record the frames.
        """
        assert threading.current_thread().name == self.thread
        assert not self.is_closed.is_set()
        self.before_settle()
        if self.settle_errors:
            raise self.settle_errors.pop()
        self.calls.append("settle")
        self.frames += frames

    def cancel(self) -> List[Any]:
        """
        Record the end of the deliveries.
        """
        assert threading.current_thread().name == self.thread
        self.calls.append("cancel")
        if self.cancel_gate is not None:
            self.cancel_gate.wait()
        if self.is_aborted.is_set():
            raise OSError("aborted")
        self.is_consuming = False
        return self.rest

    def consume(self) -> None:
        """
        Record the begin of the deliveries.
        """
        self.calls.append("consume")
        self.is_consuming = True

    def close(self, patience: float) -> None:
        """
        Record the end.
        """
        assert threading.current_thread().name == self.thread
        if not self.is_closed.is_set():
            self.calls.append("close")
            self.is_closed.set()

    def wake(self) -> None:
        """
        End ``run``.
        """
        self.wakes += 1
        self._commands.put(lambda: None)

    def wake_in(self, seconds: float) -> None:
        """
        End ``run`` then.
        """
        assert threading.current_thread().name == self.thread
        self._wakes_at = monotonic() + seconds

    def abort(self) -> None:
        """
        Break the connection.
        """
        self.is_aborted.set()
        self.fail(OSError("aborted"))


class FakeClient:
    """
    Makes a link for each attempt, or raises what the test has prepared.
    """

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.attempts = 0
        self.links: List[FakeLink] = []
        self.say: Any = None
        self.during_set_up: Callable[[], Any] = lambda: None
        self.connections: queue.Queue[FakeLink] = queue.Queue()

    def check(self, options: RabbitMQOptions) -> None:
        """
        Accept everything.
        """

    def connect(self, options: RabbitMQOptions, name: str, on_delivery: Any, say: Any) -> FakeLink:
        """
        Open the next link, or fail.
        """
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        self.say = say
        link = FakeLink(options, name, on_delivery)
        link.during_set_up = self.during_set_up
        self.links.append(link)
        self.connections.put(link)
        return link

    def opened(self) -> FakeLink:
        """
        Wait for the next link.
        """
        return get(self.connections, "a connection")

    def producer(self, **options: Any) -> Dict[str, Any]:
        """
        Return the option ``producer`` of a pipeline that uses this client.
        """
        from broadway_sync.connectors.rabbitmq import RabbitMQProducer

        given = {"queue": "q", "on_failure": "reject", "backoff_min": 0.01, "client": self, **options}
        return {"module": (RabbitMQProducer, given)}


def _raise(error: BaseException) -> None:
    raise error
