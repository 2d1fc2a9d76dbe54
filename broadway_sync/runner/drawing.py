"""
The topology of a pipeline as text: who hands messages to whom, on how many threads, and how many it can hold.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Optional

from ..log import safe_repr
from ..options import BatcherOptions, PipelineOptions


def draw(options: PipelineOptions) -> str:
    """
    Return the topology of a pipeline with these *options*, in ASCII.
    """
    return "\n".join([_headline(options), *(f"  {line}" for line in _stages(options))]) + "\n"


def count_threads(options: PipelineOptions) -> int:
    """
    Return how many threads the pipeline itself has while it runs; connectors add their own.
    """
    stages = options.producer.concurrency + options.processor.concurrency
    batchers = sum(1 + batcher.concurrency for batcher in options.batchers.values())
    return stages + batchers + (options.producer.rate_limiting is not None) + 1  # the supervisor


def capacity(options: PipelineOptions) -> Optional[int]:
    """
    Return the most messages that the pipeline can hold with one batch key, as ``explanation/architecture`` derives it.

    None: a ``batch_size`` function decides, and only it knows.
    """
    processor = options.processor
    demanded = options.producer.concurrency * processor.concurrency * processor.max_demand
    batchers = [_batcher_capacity(options, batcher) for batcher in options.batchers.values()]
    return None if None in batchers else demanded + sum(each or 0 for each in batchers)


def _batcher_capacity(options: PipelineOptions, batcher: BatcherOptions) -> Optional[int]:
    size, concurrency = batcher.batch_size, batcher.concurrency
    if not isinstance(size, int):
        return None
    processors, chunk = options.processor.concurrency, options.processor.max_demand - options.processor.min_demand
    open_batches = 1 if batcher.partition_by is None else concurrency
    waiting = processors * batcher.max_demand * concurrency - 1
    return open_batches * (size - 1) + waiting + 2 * processors * chunk + concurrency * size


def _headline(options: PipelineOptions) -> str:
    most = capacity(options)
    keys = " of one batch key" if options.batchers else ""
    holds = "its batch_size function decides how many messages it holds"
    if most is not None:
        holds = f"holds at most {most} messages{keys}"
    return f"pipeline {options.name!r}: {count_threads(options)} threads, {holds}"


def _stages(options: PipelineOptions) -> Iterator[str]:
    producer, processor = options.producer, options.processor
    yield _line("producers", _module(producer.module), f"concurrency {producer.concurrency}")
    if producer.rate_limiting is not None:
        limit = producer.rate_limiting
        yield f"  | at most {limit.allowed_messages} messages in {limit.interval:g} s"
    yield "  v"
    demand = f"max_demand {processor.max_demand}, min_demand {processor.min_demand}{_partitioned(processor)}"
    yield _line("processors", options.processor_key, f"concurrency {processor.concurrency}, {demand}")
    for number, (key, batcher) in enumerate(options.batchers.items(), 1):
        is_last = number == len(options.batchers)
        yield from _batcher(key, batcher, " " if is_last else "|")


def _batcher(key: str, batcher: BatcherOptions, side: str) -> List[str]:
    size = batcher.batch_size if isinstance(batcher.batch_size, int) else "by a function"
    settings = f"batch_size {size}, batch_timeout {batcher.batch_timeout:g} s, max_demand {batcher.max_demand}"
    own = f"concurrency {batcher.concurrency}{_partitioned(batcher)}"
    return [
        "  |",
        f"  +-> {_line('batcher', key, settings)}",
        f"  {side}     v",
        f"  {side}   {_line('batch processors', key, own)}",
    ]


def _line(kind: str, key: str, settings: str) -> str:
    return f"{kind} {key}: {settings}"


def _partitioned(stage: Any) -> str:
    return "" if stage.partition_by is None else ", partitioned"


def _module(module: Any) -> str:
    made = module[0] if isinstance(module, tuple) else module
    return getattr(made, "__qualname__", None) or safe_repr(made)
