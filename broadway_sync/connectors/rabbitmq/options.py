"""
Every option of :class:`RabbitMQProducer`.

Names and defaults are those of Broadway's RabbitMQ connector, with seconds for milliseconds and str for atoms. What
differs: ``on_failure`` has no default, ``connection`` also takes a list, and there is no ``buffer_keep``, as nothing is
ever dropped.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import attrs

from ...errors import ConfigurationError
from ...log import safe_repr
from ...rules import (
    boolean,
    build,
    construct,
    int_from_zero,
    is_int,
    mistake,
    non_empty_str,
    one_of,
    option,
    optional,
    positive_int,
    rule,
    takes,
)
from ..common.options import BackoffOptions
from .address import any_str, arguments, shown, to_connections

ACK = "ack"
REJECT = "reject"
REQUEUE = "reject_and_requeue"
REQUEUE_ONCE = "reject_and_requeue_once"
OUTCOMES = (ACK, REJECT, REQUEUE, REQUEUE_ONCE)
"""What can become of a message; ``"reject_and_requeue_once"`` requeues unless it was redelivered already."""

FROM_METHOD = ("delivery_tag", "redelivered", "exchange", "routing_key")
FROM_PROPERTIES = (
    "content_type", "content_encoding", "headers", "priority", "correlation_id", "reply_to", "expiration",
    "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip
METADATA_KEYS = (*FROM_METHOD, *FROM_PROPERTIES, "persistent")
"""What ``metadata`` may ask for."""

MAX_PREFETCH = 65535
"""The protocol's limit."""

_prefetch = rule(lambda value: is_int(value, 0) and value <= MAX_PREFETCH, f"an int from 0 to {MAX_PREFETCH}")


@attrs.frozen(kw_only=True)
class QosOptions:
    """
    How much the broker sends ahead.
    """

    prefetch_count: int = option(
        50, _prefetch, "messages that may be unacknowledged, for each producer; 0 (no limit) needs buffer_size"
    )
    prefetch_size: int = option(0, int_from_zero, "the same in bytes; RabbitMQ knows only 0, no limit")


@attrs.frozen(kw_only=True)
class DeclareOptions:
    """
    How the queue is declared.
    """

    passive: bool = option(False, boolean, "only check that the queue exists")
    durable: bool = option(False, boolean, "the queue survives a restart of the broker")
    exclusive: bool = option(False, boolean, "only this connection may use the queue, which goes with it")
    auto_delete: bool = option(False, boolean, "the queue goes with its last consumer")
    arguments: Mapping[str, Any] = arguments('arguments of the queue, such as {"x-queue-type": "quorum"}')


@attrs.frozen(kw_only=True)
class ConsumeOptions:
    """
    How the queue is consumed.
    """

    consumer_tag: str = option("", any_str, "the consumer's name; the default is one made by the client")
    no_ack: bool = option(False, boolean, "the broker forgets messages as it sends them: at most once")
    exclusive: bool = option(False, boolean, "no other consumer on the queue")
    arguments: Mapping[str, Any] = arguments('arguments of the consumer, such as {"x-priority": 10}')


@attrs.frozen(kw_only=True)
class BindingOptions:
    """
    One binding of the queue to an exchange.
    """

    routing_key: str = option("", any_str, "the routing key")
    arguments: Mapping[str, Any] = arguments("arguments of the binding")


def _to_qos(value: Any) -> QosOptions:
    return build(QosOptions, value, "qos")


def _to_declare(value: Any) -> Optional[DeclareOptions]:
    return None if value is None else build(DeclareOptions, value, "declare")


def _to_consume(value: Any) -> ConsumeOptions:
    return build(ConsumeOptions, value, "consume_options")


def _to_bindings(value: Any) -> Tuple[Tuple[str, BindingOptions], ...]:
    if not isinstance(value, (list, tuple)):
        raise mistake("bindings", f"expected a list of (exchange, {{options}}), got: {safe_repr(value)}")
    return tuple(_to_binding(number, binding) for number, binding in enumerate(value))


def _to_binding(number: int, binding: Any) -> Tuple[str, BindingOptions]:
    name = f"bindings[{number}]"
    exchange, options = binding if isinstance(binding, (list, tuple)) and len(binding) == 2 else (binding, {})
    if not isinstance(exchange, str) or not exchange:
        raise mistake(name, f"expected (exchange, {{options}}) with the name of an exchange, got: {safe_repr(binding)}")
    return exchange, build(BindingOptions, options, name)


def _is_metadata(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(key, str) and key in METADATA_KEYS for key in value)


def _to_metadata(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_client(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("check", "connect"))


@attrs.frozen(kw_only=True)
class RabbitMQOptions(BackoffOptions):
    """
    All options of the producer.
    """

    queue: str = option(attrs.NOTHING, any_str, 'the queue; "" for one that the broker names, which needs declare')
    on_failure: str = option(
        attrs.NOTHING, one_of(*OUTCOMES), f"what becomes of failed messages, one of {', '.join(map(repr, OUTCOMES))}"
    )
    on_success: str = option(ACK, one_of(*OUTCOMES), "what becomes of the others")
    connection: Tuple[Any, ...] = attrs.field(
        default={},
        converter=to_connections,
        repr=False,
        metadata={"doc": "AMQP URL, mapping, pika parameters, or a list of these, tried in turn (default: localhost)"},
    )
    name: Optional[str] = option(
        None, optional(non_empty_str), "name of the connection in the broker's lists (default: the producer's)"
    )
    qos: QosOptions = option({}, None, "{prefetch_count, prefetch_size}: how much the broker sends ahead", _to_qos)
    declare: Optional[DeclareOptions] = option(
        None,
        None,
        "{durable, exclusive, auto_delete, passive, arguments}: declare the queue at each connect",
        _to_declare,
    )
    bindings: Tuple[Tuple[str, BindingOptions], ...] = option(
        (), None, "list of (exchange, {routing_key, arguments}): bind the queue at each connect", _to_bindings
    )
    consume_options: ConsumeOptions = option({}, None, "{consumer_tag, no_ack, exclusive, arguments}", _to_consume)
    after_connect: Optional[Callable[[Any], Any]] = option(
        None,
        optional(rule(takes(1), "a function of one argument, the channel")),
        "called with the channel at each connect, before anything else; what it raises fails the attempt",
    )
    merge_options: Optional[Callable[[int], Mapping[str, Any]]] = option(
        None,
        optional(rule(takes(1), "a function of one argument, the producer's index")),
        "called with the producer's index at each connect; returns options that replace these",
    )
    metadata: Tuple[str, ...] = option(
        (),
        rule(_is_metadata, f"a list of some of {', '.join(METADATA_KEYS)}"),
        "what message.metadata has, a list; delivery_count comes always, where the broker counts",
        _to_metadata,
    )
    buffer_size: Optional[int] = option(
        None, optional(positive_int), "messages that may wait, with no_ack (default: 1000) or prefetch_count 0"
    )
    client: Any = attrs.field(
        default=None,
        validator=optional(rule(_is_client, "an object with the methods check and connect")),
        repr=False,
        metadata={"doc": "in place of pika, for tests"},
    )

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if not self.queue and self.declare is None:
            raise mistake("queue", "expected a name, \"\" (named by the broker) only together with declare, got: ''")
        if not self.qos.prefetch_count and not self.is_no_ack and self.buffer_size is None:
            raise mistake("buffer_size", "required, an int > 0, when qos.prefetch_count is 0")

    @property
    def is_no_ack(self) -> bool:
        """
        Whether nothing is acknowledged.
        """
        return self.consume_options.no_ack

    @property
    def prefetch_count(self) -> int:
        """
        What the broker is told. Never "no limit": while messages are acknowledged, this is what bounds the intake.
        """
        return self.qos.prefetch_count or min(self.buffer_size or 0, MAX_PREFETCH)

    @property
    def intake_limit(self) -> int:
        """
        With ``no_ack``: consuming pauses when so many messages wait.
        """
        return self.buffer_size or 1000


MERGEABLE = (
    "queue", "connection", "name", "qos", "declare", "bindings", "consume_options", "after_connect", "metadata",
    "buffer_size",
)  # fmt: skip
"""What ``merge_options`` may return: all that concerns the connection."""


def merge(options: RabbitMQOptions, given: Dict[str, Any], index: int) -> RabbitMQOptions:
    """
    Return the options of one connect: *given*, and over it what ``merge_options`` returns for *index*.

    Raises:
        ConfigurationError: It returned something else than a mapping of valid options. What it raises.
    """
    if options.merge_options is None:
        return options
    more = options.merge_options(index)
    if not isinstance(more, Mapping):
        raise ConfigurationError(f"producer.module.merge_options: expected it to return a mapping, got: {shown(more)}")
    for name in more:
        if name not in MERGEABLE:
            raise ConfigurationError(
                f"producer.module.merge_options: returned {safe_repr(name)}, it may return: {', '.join(MERGEABLE)}"
            )
    return construct(RabbitMQOptions, {**given, **more}, "producer.module")


def warnings_for(options: RabbitMQOptions, pipeline: Any) -> List[str]:
    """
    Return what is legal and probably not meant: a prefetch with which the pipeline cannot work as it is configured.
    """
    if options.is_no_ack:
        return []
    ahead = options.prefetch_count * pipeline.producer.concurrency
    texts = []
    if ahead < pipeline.processor.concurrency:
        texts.append(
            f"qos.prefetch_count lets the broker send {ahead} messages, but there are {pipeline.processor.concurrency} "
            "processors: some will never have anything to do"
        )
    for key, batcher in pipeline.batchers.items():
        if isinstance(batcher.batch_size, int) and batcher.batch_size > ahead:
            texts.append(
                f"qos.prefetch_count lets the broker send {ahead} messages, fewer than batchers.{key}.batch_size "
                f"({batcher.batch_size}): its batches will never be full, and wait for batch_timeout"
            )
    return texts
