"""
Every option of a pipeline: type, default, rule and meaning, once.

The classes are frozen values. A mapping and its typed twin are checked by the same code, so that both give the
same error: ``processors.default.concurency: unknown option, valid options are: concurrency, max_demand, ...``.
Units: seconds, int or float.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Tuple, Type, TypeVar, Union

import attrs

from .around import to_hooks
from .log import safe_repr
from .masking import mask_module
from .rules import (
    build,
    construct,
    int_from_zero,
    is_int,
    mistake,
    non_empty_str,
    option,
    positive_int,
    positive_seconds,
    rule,
    seconds_from_zero,
    takes,
)

if TYPE_CHECKING:
    from .message import Message

PartitionBy = Callable[["Message"], int]
"""``partition_by(message) -> int >= 0``: the remainder by the stage's concurrency picks the thread."""

Splitter = Callable[["Message", Any], Tuple[str, Any]]
"""``function(message, accumulator) -> ("emit" | "cont", accumulator)``: decides where a batch ends."""

T = TypeVar("T")

_optional_partition_by = rule(
    lambda value: value is None or takes(1)(value), "None or a function of one argument, the message"
)
_optional_transformer = rule(
    lambda value: value is None or takes(1)(value), "None or a function of one argument, the event"
)


@attrs.frozen(kw_only=True)
class RateLimiting:
    """
    How many messages all producers of the pipeline may hand on in which time.
    """

    allowed_messages: int = option(attrs.NOTHING, positive_int, "messages in each interval, over all producers")
    interval: float = option(attrs.NOTHING, positive_seconds, "length of the fixed window, seconds")


def _is_module(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and inspect.isclass(value[0]) and isinstance(value[1], Mapping)
    return takes(0)(value)


def _to_rate_limiting(value: Any) -> Optional[RateLimiting]:
    return None if value is None else build(RateLimiting, value, "rate_limiting")


@attrs.frozen(kw_only=True)
class ProducerOptions:
    """
    Where messages come from.
    """

    module: Any = attrs.field(
        validator=rule(
            _is_module, "(ProducerClass, {options}) or a callable without arguments that returns a Producer"
        ),
        repr=lambda module: repr(mask_module(module)),
        metadata={"doc": "(ProducerClass, options), or a callable without arguments that returns a new Producer"},
    )
    concurrency: int = option(1, positive_int, "number of producers")
    transformer: Optional[Callable[[Any], Any]] = option(
        None, _optional_transformer, "called with each event that a producer emits; returns its Message"
    )
    rate_limiting: Optional[RateLimiting] = option(
        None, None, "{allowed_messages, interval}: at most so many messages in each fixed window", _to_rate_limiting
    )


def _default_concurrency() -> int:
    return 2 * (os.cpu_count() or 1)


@attrs.frozen(kw_only=True)
class ProcessorOptions:
    """
    The threads that run ``handle_message``.
    """

    concurrency: int = option(attrs.Factory(_default_concurrency), positive_int, "number of processors")
    max_demand: int = option(10, positive_int, "messages demanded and not yet handled, for each processor and producer")
    min_demand: int = option(
        attrs.Factory(lambda self: self.max_demand // 2 if is_int(self.max_demand, 1) else 0, takes_self=True),
        int_from_zero,
        "more is demanded when this many are left; max_demand - min_demand messages are handled at a time",
    )
    partition_by: Optional[PartitionBy] = option(
        None, _optional_partition_by, "partition_by(message) -> int >= 0 picks the processor"
    )

    def __attrs_post_init__(self) -> None:
        if self.min_demand >= self.max_demand:
            raise mistake(
                "min_demand", f"expected an int < max_demand, which is {self.max_demand}, got: {self.min_demand!r}"
            )


def _batch_size(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, tuple):
        if len(value) == 2 and takes(2)(value[1]):
            return
        expected = "(initial, function) with a function of two arguments, the message and the accumulator"
        raise mistake(attribute.name, f"expected {expected}, got: {safe_repr(value)}")
    if not is_int(value, 1):
        raise mistake(attribute.name, f"expected an int > 0 or (initial, function), got: {safe_repr(value)}")


@attrs.frozen(kw_only=True)
class BatcherOptions:
    """
    One batcher and the threads that run ``handle_batch`` for it.
    """

    concurrency: int = option(1, positive_int, "number of batch processors")
    batch_size: Union[int, Tuple[Any, Splitter]] = option(
        100, _batch_size, "messages in a batch, or (initial, function) that decides where a batch ends"
    )
    batch_timeout: float = option(
        1.0, positive_seconds, "seconds from the first message of a batch until it is cut, filled or not"
    )
    max_demand: int = option(
        attrs.Factory(lambda self: self._default_max_demand(), takes_self=True),
        positive_int,
        "messages of each processor that may wait for a busy batch processor (default: batch_size)",
    )
    partition_by: Optional[PartitionBy] = option(
        None, _optional_partition_by, "partition_by(message) -> int >= 0 picks the batch processor"
    )

    def _default_max_demand(self) -> int:
        if isinstance(self.batch_size, tuple):
            raise mistake("max_demand", "required, an int > 0, when batch_size is (initial, function)")
        return self.batch_size


def _to_producer(value: Any) -> ProducerOptions:
    return build(ProducerOptions, value, "producer")


def _to_processors(value: Any) -> Dict[str, ProcessorOptions]:
    processors = _build_group(ProcessorOptions, value, "processors")
    if len(processors) != 1:
        raise mistake("processors", f"expected a mapping with exactly one key, got: {safe_repr(value)}")
    return processors


def _to_batchers(value: Any) -> Dict[str, BatcherOptions]:
    return {} if value is None else _build_group(BatcherOptions, value, "batchers")


@attrs.frozen(kw_only=True)
class PipelineOptions:
    """
    All options of a pipeline, validated; change them with ``attrs.evolve``.
    """

    name: str = option(attrs.NOTHING, non_empty_str, "unique among the running pipelines; prefix of every thread name")
    producer: ProducerOptions = option(attrs.NOTHING, None, "where messages come from", _to_producer)
    processors: Mapping[str, ProcessorOptions] = option(
        attrs.NOTHING, None, "exactly one key and its options", _to_processors
    )
    batchers: Mapping[str, BatcherOptions] = option(
        attrs.Factory(dict), None, "keys and their options; without any, processors acknowledge", _to_batchers
    )
    context: Any = option(None, None, "handed as it is to every callback; shared by all threads")
    shutdown: float = option(30.0, positive_seconds, "how long a graceful stop may take")
    max_restarts: int = option(3, int_from_zero, "restarts of the whole pipeline within max_seconds before it gives up")
    max_seconds: float = option(5.0, positive_seconds, "the time in which restarts are counted")
    resubscribe_interval: float = option(0.1, seconds_from_zero, "pause between a producer's crash and its next demand")
    partition_by: Optional[PartitionBy] = option(
        None, _optional_partition_by, "inherited by processors and batchers that set none"
    )
    around: Tuple[Any, ...] = option(
        (), None, "function of (call, messages) that returns call(), or several: run around each callback", to_hooks
    )

    @property
    def processor_key(self) -> str:
        """
        The one key of the processors.
        """
        return next(iter(self.processors))

    @property
    def processor(self) -> ProcessorOptions:
        """
        The options of the processors.
        """
        return self.processors[self.processor_key]


def build_options(**given: Any) -> PipelineOptions:
    """
    Check the arguments of a pipeline and return them typed, with every default filled in.

    Raises:
        ConfigurationError: The first mistake that is found; the text names the option by its path.
    """
    return inherit(construct(PipelineOptions, given, ""))


def inherit(options: PipelineOptions) -> PipelineOptions:
    """
    Return *options* with the pipeline's ``partition_by`` in the processors and batchers that set none.
    """
    if options.partition_by is None:
        return options
    return attrs.evolve(
        options,
        processors={key: _inherit(value, options) for key, value in options.processors.items()},
        batchers={key: _inherit(value, options) for key, value in options.batchers.items()},
    )


def _inherit(stage: Any, options: PipelineOptions) -> Any:
    return stage if stage.partition_by is not None else attrs.evolve(stage, partition_by=options.partition_by)


def _build_group(cls: Type[T], given: Any, path: str) -> Dict[str, T]:
    if not isinstance(given, Mapping):
        raise mistake(path, f"expected a mapping of key to options, got: {safe_repr(given)}")
    for key in given:
        if not isinstance(key, str) or not key:
            raise mistake(path, f"expected keys that are non-empty str, got: {safe_repr(key)}")
    return {key: build(cls, value, f"{path}.{key}") for key, value in given.items()}


def check_rate_limiting(allowed_messages: Any, interval: Any, current: RateLimiting) -> RateLimiting:
    """
    Return *current* with what is not None replaced.

    Raises:
        ConfigurationError: One of the values is out of range.
    """
    values: Dict[str, Any] = attrs.asdict(current)
    changes = {"allowed_messages": allowed_messages, "interval": interval}
    values.update({name: value for name, value in changes.items() if value is not None})
    return construct(RateLimiting, values, "rate_limiting")
