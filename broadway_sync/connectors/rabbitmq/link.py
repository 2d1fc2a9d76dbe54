"""
What the connection wants of a client: a seam, so that tests may put something else in the place of pika.

Everything is called on the connection's own thread, except :meth:`Link.wake` and :meth:`Link.abort`.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, List, Protocol, Tuple

from ...errors import ConnectorError
from .options import RabbitMQOptions
from .tags import Frame

Delivery = Tuple[Any, Any, bytes]
"""``(method, properties, body)``, as pika has them."""

OnDelivery = Callable[[Any, Any, Any, bytes], None]
"""``on_delivery(channel, method, properties, body)``."""


class ConsumerCancelledError(ConnectorError):
    """
    The broker cancelled the consumer: its queue was deleted, or moved to another node.
    """


class Link(Protocol):
    """
    One connection with one channel and one consumer.
    """

    is_shared: bool
    """Whether somebody else consumes from the channel."""

    def set_up(self) -> None:
        """
        Open the channel, restore everything that the broker forgets with it, and begin to consume.

        Raises:
            Exception: Something of that failed.
        """

    def run(self) -> None:
        """
        Read, write and wait, until something was delivered or :meth:`wake` was called.

        Raises:
            Exception: The connection, the channel or the consumer is gone.
        """

    def settle(self, frames: Iterable[Frame]) -> None:
        """
        Send these frames, at the latest with the next :meth:`run`.
        """

    def cancel(self) -> List[Delivery]:
        """
        Stop the deliveries; return what had been received and not delivered (with ``no_ack``; else it is requeued).
        """

    def consume(self) -> None:
        """
        Begin the deliveries, again.
        """

    def close(self, patience: float) -> None:
        """
        Say good-bye to the broker, for at most so many seconds. Does not raise.
        """

    def wake(self) -> None:
        """
        End the present or the next :meth:`run`. Thread-safe. Does not raise.
        """

    def wake_in(self, seconds: float) -> None:
        """
        End the :meth:`run` that is under way so many seconds from now.

        Raises:
            Exception: The connection is gone.
        """

    def abort(self) -> None:
        """
        Cut the connection, so that every call fails at once. Thread-safe. Does not raise.
        """


class Client(Protocol):
    """
    What opens links.
    """

    def check(self, options: RabbitMQOptions) -> None:
        """
        Check what can be checked without a broker.

        Raises:
            ConfigurationError: An address cannot be read, or the client library is missing.
        """

    def connect(self, options: RabbitMQOptions, name: str, on_delivery: OnDelivery, say: Callable[[str], None]) -> Link:
        """
        Connect and log in.

        Args:
            name: Of the connection, unless the options have one.
            on_delivery: Called from within ``run``.
            say: Takes a warning for the log.
        """


_ADVICE = {
    403: "check user, password and the user's permissions",
    404: "create it, or set declare (a queue) or after_connect (an exchange)",
    405: "the queue is exclusive to another connection",
    530: "check virtual_host and the user's permissions",
}


def advice(error: BaseException) -> str:
    """
    Return what may help against *error*, or nothing.
    """
    code, text = getattr(error, "reply_code", None), str(error)
    if code == 403 and "exclusive use" in text:
        return "another consumer has the queue for itself"
    if code == 406 and "timed out" in text:
        return "a message took longer than the broker's consumer_timeout; it is delivered again"
    if code == 406 and "unknown delivery tag" in text:
        return "somebody else acknowledged on this channel"
    if code == 406 and "inequivalent arg" in text:
        return "declare contradicts what is there"
    if type(error).__name__ in ("ProbableAuthenticationError", "AuthenticationError"):
        return _ADVICE[403]
    if type(error).__name__ == "ProbableAccessDeniedError":
        return _ADVICE[530]
    return _ADVICE.get(code, "") if isinstance(code, int) else ""
