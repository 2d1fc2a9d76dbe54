"""
The seam: everything that is said to pika is said here, and a test may put something else in its place.

pika's ``BlockingConnection`` belongs to one thread, does nothing at all between two calls, and waits for the broker
without a limit. Hence everything here is called on the connection's own thread, except :meth:`Link.wake` and
:meth:`Link.abort`.
"""

from __future__ import annotations

import contextlib
import copy
import ssl
from typing import Any, Callable, Iterable, List, Protocol, Set, Tuple

from ...errors import ConfigurationError, ConnectorError
from .options import ACK, REQUEUE, ConnectionOptions, RabbitMQOptions, SslOptions
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


class PikaClient:
    """
    Opens links with pika.
    """

    def check(self, options: RabbitMQOptions) -> None:
        """
        See :meth:`Client.check`.
        """
        for address in options.connection:
            if isinstance(address, str):
                _parse(address)
        _pika()

    def connect(self, options: RabbitMQOptions, name: str, on_delivery: OnDelivery, say: Callable[[str], None]) -> Link:
        """
        See :meth:`Client.connect`.
        """
        parameters = [to_parameters(address, options.name or name) for address in options.connection]
        return PikaLink(_connect(parameters), options, on_delivery, say)


def _connect(parameters: List[Any]) -> Any:
    pika = _pika()
    try:
        return pika.BlockingConnection(parameters)
    except pika.exceptions.AMQPConnectionError as error:
        # pika wraps what happened, a refused connection for instance, in errors that have no text of their own.
        cause: Any = error
        while not str(cause):
            inner = getattr(cause, "exception", None) or next(iter(cause.args), None)
            if not isinstance(inner, BaseException):
                break
            cause = inner
        raise cause from None


class PikaLink:
    """
    A ``BlockingConnection`` with one channel, see :class:`Link`.

    What it uses of pika beyond the manual: ``_impl``, the asynchronous connection or channel inside a blocking one,
    for what the blocking one cannot do: send many frames with one flush, be interrupted while it waits, and
    (``_cancelled``) stop a consumer with ``no_ack`` without losing messages.
    """

    def __init__(
        self, connection: Any, options: RabbitMQOptions, on_delivery: OnDelivery, say: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._options = options
        self._on_delivery = on_delivery
        self._channel: Any = None
        self._queue = ""
        self._tag = ""
        self._cancelled: List[str] = []  # consumers that the broker cancelled
        self.is_shared = False
        # Those of the BlockingConnection are called from process_data_events only, but a call may hang just for this.
        connection._impl.add_on_connection_blocked_callback(lambda _, frame: say(_blocked(frame)))
        connection._impl.add_on_connection_unblocked_callback(
            lambda _, frame: say("the broker unblocked the connection")
        )

    def set_up(self) -> None:
        """
        See :meth:`Link.set_up`.
        """
        self._channel = self._connection.channel()
        self._queue = set_up(self._channel, self._options)
        if self._options.is_no_ack:
            self._channel._impl._cancelled = _Nothing()
        self.is_shared = bool(self._channel.consumer_tags)
        # A cancelled consumer is no error to pika: without this the connection would idle for ever.
        self._channel.add_on_cancel_callback(lambda frame: self._cancelled.append(frame.method.consumer_tag))
        self.consume()

    def consume(self) -> None:
        """
        See :meth:`Link.consume`.
        """
        options = self._options.consume_options
        self._tag = self._channel.basic_consume(
            self._queue,
            on_message_callback=self._on_delivery,
            auto_ack=options.no_ack,
            exclusive=options.exclusive,
            consumer_tag=options.consumer_tag or None,
            arguments=dict(options.arguments) or None,
        )

    def run(self) -> None:
        """
        See :meth:`Link.run`.
        """
        # No time limit: heartbeats and wake-ups are served inside, and a timer for each call is not free.
        self._connection.process_data_events(time_limit=None)
        if self._channel.is_closed:  # by the broker: no exception comes out of the call above
            raise getattr(self._channel, "_closing_reason", None) or ConnectorError("the channel is closed")
        if self._tag in self._cancelled:
            raise ConsumerCancelledError(
                f"the broker cancelled the consumer of queue {self._queue!r}: was the queue deleted?"
            )

    def settle(self, frames: Iterable[Frame]) -> None:
        """
        See :meth:`Link.settle`.
        """
        # Not through the BlockingChannel, which would flush (poll, send, receive) after each frame.
        channel = self._channel._impl
        for action, tag, multiple in frames:
            if action == ACK:
                channel.basic_ack(tag, multiple)
            else:
                channel.basic_reject(tag, requeue=action == REQUEUE)

    def cancel(self) -> List[Delivery]:
        """
        See :meth:`Link.cancel`.
        """
        return list(self._channel.basic_cancel(self._tag))

    def close(self, patience: float) -> None:
        """
        See :meth:`Link.close`.
        """
        connection = self._connection
        if not connection.is_open:
            return
        with contextlib.suppress(Exception):  # it may go at any moment, and then it is closed too
            timer = connection._impl.ioloop.call_later(patience, self._drop)
            connection.close()
            connection._impl.ioloop.remove_timeout(timer)

    def wake(self) -> None:
        """
        See :meth:`Link.wake`.
        """
        with contextlib.suppress(Exception):  # closed meanwhile: then nobody waits
            self._connection.add_callback_threadsafe(_nothing)

    def abort(self) -> None:
        """
        See :meth:`Link.abort`.
        """
        # Not add_callback_threadsafe of the connection: what that takes runs in process_data_events only.
        with contextlib.suppress(Exception):
            self._connection._impl.ioloop.add_callback_threadsafe(self._drop)

    def _drop(self) -> None:
        impl = self._connection._impl
        if not impl.is_closed:
            impl._terminate_stream(ConnectorError("the broker did not answer in time, the connection was cut"))


class _Nothing(Set[str]):
    """
    In place of the set of consumers that are being cancelled: pika discards what still arrives for those. For a
    consumer with ``no_ack`` that would be the end of these messages; so they come to its callback, and
    ``basic_cancel`` returns them, as its documentation says.
    """

    def add(self, consumer_tag: str) -> None:
        """
        Do not.
        """


def set_up(channel: Any, options: RabbitMQOptions) -> str:
    """
    Prepare a new *channel*; return the name of the queue to consume.

    The limit of the prefetch holds for consumers that begin after it, so it comes before. A queue that the broker
    names has another name after each declaration.
    """
    if options.after_connect is not None:
        options.after_connect(channel)
    channel.basic_qos(prefetch_size=options.qos.prefetch_size, prefetch_count=options.prefetch_count)
    queue = options.queue if options.declare is None else _declare(channel, options)
    for exchange, binding in options.bindings:
        channel.queue_bind(queue, exchange, routing_key=binding.routing_key, arguments=dict(binding.arguments) or None)
    return queue


def _declare(channel: Any, options: RabbitMQOptions) -> str:
    declare = options.declare
    assert declare is not None
    declared = channel.queue_declare(
        options.queue,
        passive=declare.passive,
        durable=declare.durable,
        exclusive=declare.exclusive,
        auto_delete=declare.auto_delete,
        arguments=dict(declare.arguments) or None,
    )
    return str(declared.method.queue)


def to_parameters(address: Any, name: str) -> Any:
    """
    Return the parameters of pika for one address, with *name* as the name of the connection unless it has one.
    """
    if isinstance(address, str):
        parameters = _parse(address)
    elif isinstance(address, ConnectionOptions):
        parameters = _from_options(address)
    else:
        parameters = copy.copy(address)  # the user's: not to be changed
    parameters.client_properties = {"connection_name": name, **(parameters.client_properties or {})}
    return parameters


def _parse(url: str) -> Any:
    try:
        return _pika().URLParameters(url)
    except ConfigurationError:
        raise
    except Exception as error:  # its text may quote a part of the password
        kind = type(error).__name__
    raise ConfigurationError(
        f"producer.module.connection: pika cannot read the URL ({kind}); expected "
        "amqp://user:password@host:port/virtual_host, with special characters quoted as in %2F"
    )


def _from_options(options: ConnectionOptions) -> Any:
    pika = _pika()
    given = {
        "port": options.port,
        "ssl_options": _ssl(options),
        "channel_max": options.channel_max,
        "frame_max": options.frame_max,
    }
    return pika.ConnectionParameters(
        host=options.host,
        virtual_host=options.virtual_host,
        credentials=pika.PlainCredentials(options.username, options.password),
        heartbeat=options.heartbeat,
        socket_timeout=options.connection_timeout,
        stack_timeout=options.connection_timeout,
        blocked_connection_timeout=options.blocked_connection_timeout,
        client_properties=dict(options.client_properties),
        **{key: value for key, value in given.items() if value is not None},
    )


def _ssl(options: ConnectionOptions) -> Any:
    if not options.ssl:
        return None
    context, server_hostname = options.ssl, options.host
    if isinstance(context, SslOptions):
        server_hostname = context.server_hostname or server_hostname
        context = _to_context(context)
    elif context is True:
        context = ssl.create_default_context()
    return _pika().SSLOptions(context, server_hostname)


def _to_context(options: SslOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.cafile)
        if options.certfile is not None:
            context.load_cert_chain(options.certfile, options.keyfile, options.password)
    except OSError as error:  # which does not say what file it is about
        files = ", ".join(filter(None, (options.cafile, options.certfile, options.keyfile)))
        raise ConnectorError(f"connection.ssl: cannot use {files}: {error}") from error
    context.check_hostname = options.check_hostname
    return context


def _blocked(frame: Any) -> str:
    return (
        f"the broker blocks the connection ({frame.method.reason}): acknowledgements may wait until it has room again"
    )


def _nothing() -> None:
    pass


def _pika() -> Any:
    try:
        import pika
    except ImportError:
        raise ConfigurationError(
            "producer.module: RabbitMQProducer needs pika, which is not installed: pip install broadway_sync[rabbitmq]"
        ) from None
    return pika


_ADVICE = {
    403: "check user, password and the user's permissions",
    404: "create it, or set declare or bindings",
    405: "the queue is exclusive to another connection",
    530: "check virtual_host and the user's permissions",
}


def advice(error: BaseException) -> str:
    """
    Return what may help against *error*, or nothing.
    """
    code, text = getattr(error, "reply_code", None), str(error)
    if code == 406 and "timeout" in text:
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
