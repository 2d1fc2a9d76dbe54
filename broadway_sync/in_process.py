"""
Producers that need no broker.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Tuple

import attrs

from .acknowledger import NoopAcknowledger
from .errors import ConfigurationError, EndOfStream
from .log import safe_repr
from .message import Message
from .options import PipelineOptions
from .producer import Producer

# How long items are collected before they are handed over: a slow iterable must not hold back what it has given.
_PATIENCE = 0.01


class DummyProducer(Producer):
    """
    Produces nothing; for tests, with ``test_message`` and ``push_messages``.
    """

    poll_interval = math.inf


class _Position:
    """
    An iterator that several instances of a producer go on with, one after the other.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.iterator: Iterator[Any] = iter(iterable)
        self.error: Optional[BaseException] = None
        """What it raised last, unless it has given something since."""

    def __iter__(self) -> Iterator[Any]:
        return self.iterator


class IterableProducer(Producer):
    """
    Takes its messages from an iterable, endless or not, and ends the pipeline when that is exhausted.

    Items that are no Message become the data of one that nobody is told of; with a transformer they are given to
    it as they are. Takes ``concurrency`` 1 only. Each ``start()`` calls ``iter(iterable)`` once: after a crash the
    producer goes on with the same iterator. One that has raised and then gives nothing more, as generators do, has
    broken off and is not exhausted: the producer crashes with the same error until the pipeline gives up. An iterator
    that blocks for ever cannot be stopped: a stop leaves it behind.

    Args:
        iterable: Anything that ``iter`` takes.
    """

    poll_interval = 0.0
    max_concurrency = 1

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._position = iterable if isinstance(iterable, _Position) else _Position(iterable)
        self._error: Optional[BaseException] = None
        self._is_raw = False

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Check that ``iterable``, and nothing else, is given.
        """
        if set(options) != {"iterable"}:
            raise ConfigurationError(
                f"producer.module: IterableProducer expects {{'iterable': ...}}, got: {safe_repr(options)}"
            )
        iterable = options["iterable"]
        if not hasattr(type(iterable), "__iter__") and not hasattr(type(iterable), "__getitem__"):
            raise ConfigurationError(f"producer.module: expected an iterable, got: {safe_repr(iterable)}")
        return options

    @classmethod
    def prepare_for_start(cls, handler: Any, options: PipelineOptions) -> Tuple[List[Any], PipelineOptions]:
        """
        Make the iterator of this start, which all instances share.
        """
        module = (cls, {"iterable": _Position(options.producer.module[1]["iterable"])})
        return [], attrs.evolve(options, producer=attrs.evolve(options.producer, module=module))

    def init(self) -> None:
        """
        See whether a transformer wants the items as they are.
        """
        self._is_raw = self.stage.options.producer.transformer is not None

    def handle_demand(self, demand: int) -> Iterable[Any]:
        """
        Return up to *demand* items; fewer if the iterable takes its time.

        Raises:
            EndOfStream: The iterable is exhausted.
            BaseException: What the iterable raised, after what it gave before has been handed over.
        """
        if self._error is not None:
            raise self._error
        items: List[Any] = []
        try:
            self._collect(demand, items)
        except EndOfStream as end:
            self._error = end if self._position.error is None else self._position.error
        except BaseException as error:  # raised at the next demand, so that the items are not lost
            self._error = self._position.error = error
        if self._error is not None and not items:
            raise self._error
        return items if self._is_raw else [_to_message(item) for item in items]

    def _collect(self, demand: int, items: List[Any]) -> None:
        deadline = monotonic() + _PATIENCE
        for item in self._position.iterator:
            items.append(item)
            self._position.error = None
            if len(items) >= demand or monotonic() > deadline or self.stage.draining:
                return
        raise EndOfStream


def _to_message(item: Any) -> Message:
    return item if isinstance(item, Message) else Message(item, NoopAcknowledger.init())
