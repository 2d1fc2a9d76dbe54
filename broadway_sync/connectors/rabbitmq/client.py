"""
pika in the place of a ``link.Client``: the only module that imports it, and not before a pipeline is made.

pika's ``BlockingConnection`` belongs to one thread, does nothing at all between two calls, and waits for the broker
without a limit.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterable, List, Set

from ...errors import ConfigurationError, ConnectorError
from ...extras import import_codec_of_host_names
from .link import ConsumerCancelledError, Delivery, Link, OnDelivery
from .options import ACK, REQUEUE, RabbitMQOptions
from .parameters import parse, to_parameters
from .tags import Frame


class PikaClient:
    """
    Opens links with pika.
    """

    def check(self, options: RabbitMQOptions) -> None:
        """
        See :meth:`Client.check`.
        """
        pika = _pika()
        for address in options.connection:
            if isinstance(address, str):
                parse(pika, address)

    def connect(self, options: RabbitMQOptions, name: str, on_delivery: OnDelivery, say: Callable[[str], None]) -> Link:
        """
        See :meth:`Client.connect`.
        """
        pika = _pika()
        parameters = [to_parameters(pika, address, options.name or name) for address in options.connection]
        return PikaLink(_connect(pika, parameters), options, on_delivery, say)


def _connect(pika: Any, parameters: List[Any]) -> Any:
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

    def wake_in(self, seconds: float) -> None:
        """
        See :meth:`Link.wake_in`.
        """
        self._connection.call_later(seconds, _nothing)

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


def _blocked(frame: Any) -> str:
    return (
        f"the broker blocks the connection ({frame.method.reason}): acknowledgements may wait until it has room again"
    )


def _nothing() -> None:
    pass


def _pika() -> Any:
    import_codec_of_host_names()
    try:
        import pika
    except ImportError:
        raise ConfigurationError(
            "producer.module: RabbitMQProducer needs pika, which is not installed: pip install broadway_sync[rabbitmq]"
        ) from None
    return pika
