"""
The Kafka producer.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, List, Mapping, Optional, Tuple

import attrs

from ...errors import ConfigurationError
from ...message import Message
from ...options import PipelineOptions
from ...producer import Producer
from ..common.options import build
from ..common.reporter import Reporter
from .assignments import Placement
from .client import Client, check_options
from .consumer import Consumer
from .messages import RecordMessage, lot_of
from .offsets import Lot
from .options import KafkaOptions
from .partitions import Partitions


class KafkaProducer(Producer):
    """
    Reads topics as a member of a consumer group. Options: :class:`KafkaOptions`, by name.

    Messages of one topic partition keep their order through processors and batch processors; what is committed is the
    offset up to which every message is acknowledged, successful or failed. With ``concurrency`` each producer is a
    member of the group of its own.

    Data: the record's value, bytes or None. Metadata: ``topic``, ``partition``, ``offset``, ``key`` (bytes or None),
    ``ts`` (milliseconds since the epoch), ``headers`` (list of (str, bytes)). Batch key: ``(topic, partition)``.

    Follows BroadwayKafka, ``producer.ex``.
    """

    poll_interval = math.inf  # the consumer wakes it

    def __init__(self, *, placement: Optional[Placement] = None, **options: Any) -> None:
        """
        Args:
            placement: Given by :meth:`prepare_for_start`.
        """
        self._options = build(KafkaOptions, options)
        self._placement = placement
        self._consumer: Optional[Consumer] = None

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Check the options, and that kafka-python is there and knows those that are for it.
        """
        checked = build(KafkaOptions, options)
        if checked.client is None:
            check_options(checked)
        return options

    @classmethod
    def prepare_for_start(cls, handler: Any, options: PipelineOptions) -> Tuple[List[Any], PipelineOptions]:
        """
        Set ``partition_by`` of processors and batchers, so that one of each handles all messages of a topic partition.

        Raises:
            ConfigurationError: One of them is set, or this producer was not given as ``(KafkaProducer, options)``.
        """
        _check_partition_by(options)
        if not isinstance(options.producer.module, tuple):
            raise ConfigurationError("producer.module: expected (KafkaProducer, {options}), got a function")
        placement = Placement([options.processor.concurrency, *(b.concurrency for b in options.batchers.values())])
        cls_given, given = options.producer.module
        return [], attrs.evolve(
            options,
            producer=attrs.evolve(options.producer, module=(cls_given, {**given, "placement": placement})),
            processors={options.processor_key: attrs.evolve(options.processor, partition_by=_partition_by(0))},
            batchers={
                key: attrs.evolve(batcher, partition_by=_partition_by(number))
                for number, (key, batcher) in enumerate(options.batchers.items(), 1)
            },
        )

    def init(self) -> None:
        """
        Begin to connect, without waiting for it.
        """
        if self._placement is None:
            raise ConfigurationError("producer.module: expected (KafkaProducer, {options})")
        most_in_turn = self.stage.options.processor.max_demand
        partitions = Partitions(most_in_turn, self._placement.hold, self._placement.release)
        reporter = Reporter("kafka", self.stage)
        self._consumer = Consumer(self._make_client, self._options, partitions, reporter, self.stage)
        self._consumer.start()

    def _make_client(self) -> Client:
        make: Optional[Callable[[Any], Any]] = self._options.client
        if make is not None:
            client: Client = make(self._options)
            return client
        return Client(self._options, self.stage.name, self.stage.index)

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Return what was fetched, up to *demand*.

        Raises:
            BaseException: What ended the consumer's thread.
        """
        consumer = self._consumer
        assert consumer is not None
        acknowledger = consumer.acknowledger
        messages: List[Message] = []
        for key, lot, records in consumer.take(demand):
            lot.acknowledger = acknowledger
            # Each record goes when its message comes: more objects at a time would be more work for the collector.
            records.reverse()
            next_one = records.pop
            messages += [RecordMessage(next_one(), lot, key) for _ in range(len(records))]
        return messages

    def prepare_for_draining(self) -> Iterable[Message]:
        """
        Hand over nothing more: what was fetched stays in Kafka, uncommitted.
        """
        assert self._consumer is not None
        self._consumer.stop_receiving()
        return ()

    def terminate(self, reason: Any) -> None:
        """
        Commit what is finished and leave the group.
        """
        if self._consumer is not None:
            self._consumer.close()


def _partition_by(number: int) -> Callable[[Message], int]:
    """
    Return the function that says which index of stage *number* handles a message.
    """

    def partition_by(message: Message) -> int:
        # By the acknowledger, and not by batch_key: handle_message may put another one.
        lot = lot_of(message)
        if lot.__class__ is Lot:
            place: int = lot.places[number]
            return place
        return 0  # pushed by somebody else, or in a test

    return partition_by


def _check_partition_by(options: PipelineOptions) -> None:
    names = ["partition_by"] if options.partition_by is not None else []
    names += [f"processors.{key}.partition_by" for key, value in options.processors.items() if value.partition_by]
    names += [f"batchers.{key}.partition_by" for key, value in options.batchers.items() if value.partition_by]
    if names:
        raise ConfigurationError(f"{names[0]}: cannot be set with KafkaProducer, which sets it by topic and partition")
