"""
Dead letters in a queue of RabbitMQ.
"""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import Any, Iterator, List, Sequence

from ..connectors.common.reporter import describe
from ..connectors.rabbitmq.address import to_connections
from ..connectors.rabbitmq.parameters import to_parameters
from ..errors import ConnectorError
from ..extras import load
from ..rules import mistake
from .errors import LetterRefusedError, PartlyWrittenError
from .held import CLOSE_PATIENCE, Held, Mutex
from .letter import Letter

# Nobody answers the broker's heartbeats between two letters. After so many seconds the connection is made anew rather
# than trusted; it is shorter than any heartbeat that makes sense.
_LONGEST_REST = 15.0
# For the confirmations of a lot, and for the end of a connection: a broker that is short of memory or disk stops
# whoever publishes, and one that hangs says nothing at all.
_PATIENCE = 20.0


class RabbitMQLetters:
    """
    Publishes to a queue, or to an exchange.

    Accepted means confirmed by the broker, and routed to a queue (messages are mandatory and persistent). The letter's
    body is the message's body, everything else is in its headers. One connection, shared by all threads.
    """

    def __init__(self, queue: str = "", *, exchange: str = "", routing_key: str = "", connection: Any = None) -> None:
        """
        Args:
            queue: The queue; it must be there.
            exchange, routing_key: In place of a queue.
            connection: As the option of :class:`~broadway_sync.connectors.rabbitmq.RabbitMQProducer`.

        Raises:
            ConfigurationError: An argument is wrong, or pika is missing.
        """
        for name, value in (("queue", queue), ("exchange", exchange), ("routing_key", routing_key)):
            if not isinstance(value, str):
                raise mistake(name, f"expected a str, got: {value!r}")
        if bool(queue) == bool(exchange):
            raise mistake("queue", "expected either a queue or an exchange with a routing_key")
        self._exchange = exchange
        self._routing_key = queue or routing_key
        self._addresses = to_connections({} if connection is None else connection)
        self._pika = load("pika", "rabbitmq", "RabbitMQLetters")
        self._held = Held(self._open, _close)
        # Guards the channel while it publishes: connections of pika are not thread-safe. A child of a fork has another.
        self._mutex = Mutex()
        self._used_at = 0.0

    def __repr__(self) -> str:
        return f"RabbitMQLetters(exchange={self._exchange!r}, routing_key={self._routing_key!r})"

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Publish *letters*, one after the other.

        Raises:
            LetterRefusedError: Some are larger than the broker takes.
            PartlyWrittenError: Some are not confirmed, or none, as there is no connection.
        """
        with self._mutex.lock:
            if monotonic() - self._used_at > _LONGEST_REST:
                self._held.close()
            try:
                self._publish_all(letters)
            finally:
                self._used_at = monotonic()

    def close(self) -> None:
        """
        Close the connection; the next letter opens another one.
        """
        if self._mutex.lock.acquire(timeout=CLOSE_PATIENCE):  # else see Held.close
            try:
                self._held.close()
            finally:
                self._mutex.lock.release()

    def _open(self) -> Any:
        parameters = [to_parameters(self._pika, address, "dead letters") for address in self._addresses]
        connection = self._pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
        except BaseException:
            connection.close()
            raise
        return channel

    def _publish_all(self, letters: Sequence[Letter]) -> None:
        refused: List[Letter] = []
        reason = ""
        for number, letter in enumerate(letters):
            try:
                channel = self._held.get()
                with _limited(channel.connection, _PATIENCE):
                    self._publish(channel, letter)
            except Exception as error:  # a client library: whatever it is, this letter was not confirmed
                self._held.close()
                reason = describe(error)
                if not _is_too_large(error):
                    left = refused + list(letters[number:])
                    raise PartlyWrittenError(_told(letters, left, reason), left) from error
                refused.append(letter)
        if refused:
            raise LetterRefusedError(_told(letters, refused, reason), refused)

    def _publish(self, channel: Any, letter: Letter) -> None:
        properties = self._pika.BasicProperties(
            content_type=letter.content_type,
            delivery_mode=2,
            headers=letter.headers(),
            timestamp=int(letter.failed_at.timestamp()),
        )
        channel.basic_publish(self._exchange, self._routing_key, letter.body, properties, mandatory=True)


def _told(letters: Sequence[Letter], left: Sequence[Letter], reason: str) -> str:
    return f"{len(letters) - len(left)} of {len(letters)} letters were confirmed: {reason}"


def _is_too_large(error: Exception) -> bool:
    """
    Whether the broker has closed the channel over ``max_message_size``.
    """
    return getattr(error, "reply_code", None) == 406 and "max size" in str(error)


@contextlib.contextmanager
def _limited(connection: Any, seconds: float) -> Iterator[None]:
    """
    Cut *connection* if what is done with it takes longer than so many seconds.
    """
    # Of the asynchronous connection inside the blocking one: timers of the blocking one do not run while it waits.
    impl = connection._impl
    timer = impl.ioloop.call_later(
        seconds, lambda: impl._terminate_stream(ConnectorError("the broker did not answer in time"))
    )
    try:
        yield
    finally:
        impl.ioloop.remove_timeout(timer)


def _close(channel: Any) -> None:
    connection = channel.connection
    if connection.is_open:
        with _limited(connection, CLOSE_PATIENCE):
            connection.close()
