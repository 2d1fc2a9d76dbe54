"""
All stages of one generation, how they are connected, and in which order they end.

.. code-block:: text

    producers --> dispatcher --> processors --> batchers --> batch processors
                 (rate limiter)

A generation lives from a start, or a restart, until its last thread has ended. It ends layer by layer: the last source
that closes closes the channels; processors end when their channel is empty; the last processor closes
the batchers, which flush; batch processors end when their batcher has nothing left; then :attr:`Topology.drained`
opens and producers terminate.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from ..core.restart_intensity import RestartIntensity
from ..message import Message
from ..options import PipelineOptions
from ..runtime.wait_list import Latch
from ..statistics import StageStatistics
from .batch_processor_stage import BatchProcessorStage
from .batcher_stage import BatcherStage
from .dispatcher import Dispatcher
from .processor_stage import ProcessorStage
from .producer_stage import ProducerStage, make_factory
from .rate_limiter import RateLimiter, SharedRateLimit
from .settings import Settings


class Names:
    """
    The names of stages and threads. Follows Broadway 1.3, ``topology.ex``, ``process_name``.
    """

    def __init__(self, options: PipelineOptions) -> None:
        self._options = options
        self._prefix = f"{options.name}.Broadway."
        self.supervisor = self._prefix + "Supervisor"
        self.rate_limiter = self._prefix + "RateLimiter"
        self.producer = self._prefix + "Producer"
        self.processor = f"{self._prefix}Processor_{options.processor_key}"

    def batcher(self, key: str) -> str:
        """
        Return the name of a batcher.
        """
        return f"{self._prefix}Batcher_{key}"

    def batch_processor(self, key: str) -> str:
        """
        Return the name of a batcher's batch processors, without the index.
        """
        return f"{self._prefix}BatchProcessor_{key}"

    def producers(self) -> List[str]:
        """
        Return the names of all producers.
        """
        return [f"{self.producer}_{index}" for index in range(self._options.producer.concurrency)]

    def topology(self) -> Dict[str, List[Dict[str, Any]]]:
        """
        Return what :meth:`Pipeline.topology` documents.
        """
        options = self._options
        return {
            "producers": [{"name": self.producer, "concurrency": options.producer.concurrency}],
            "processors": [
                {
                    "name": self.processor,
                    "processor_key": options.processor_key,
                    "concurrency": options.processor.concurrency,
                }
            ],
            "batchers": [
                {
                    "batcher_name": self.batcher(key),
                    "batcher_key": key,
                    "name": self.batch_processor(key),
                    "concurrency": batcher.concurrency,
                }
                for key, batcher in options.batchers.items()
            ],
        }


class Topology:
    """
    One generation of stages. Its owner is the supervisor; stages know each other only as far as they are connected.
    """

    def __init__(self, settings: Settings, limit: Optional[SharedRateLimit], exhausted: Set[int]) -> None:
        """
        Args:
            exhausted: Indexes of the producers that have reached the end of their stream.
        """
        self._settings = settings
        self._exhausted = exhausted
        self._names = names = Names(settings.options)
        self.drained = Latch()
        """Opened when everything that was taken is acknowledged, or given up."""
        self.abandoned = Latch()
        """Opened when threads that hang are given up."""
        limiter = None if limit is None else RateLimiter(names.rate_limiter, limit)
        self.dispatcher = Dispatcher(
            settings.options.processor, settings.options.producer.concurrency, limiter, settings.name
        )
        self._batchers = {
            key: BatcherStage(key, names.batcher(key), settings, self.dispatcher.wake_processors)
            for key in settings.options.batchers
        }
        self.dispatcher.hold_while_full(self._batchers.values())
        self._batch_processors = [
            stage for batcher in self._batchers.values() for stage in self._build_batch_processors(batcher)
        ]
        self._processors = self.dispatcher.processors = self._build_processors()
        self.producers = self._build_producers()
        self._are_batchers_closed = False
        # Consumers first: when a producer's thread starts, everything behind it is there.
        self.stages: List[Any] = [*self._batch_processors, *self._batchers.values(), *self._processors]
        self.stages += [limiter] if limiter is not None else []
        self.stages += self.producers
        self._alive = set(self.stages)

    def _build_processors(self) -> List[ProcessorStage]:
        name, concurrency = self._names.processor, self._settings.options.processor.concurrency
        return [
            ProcessorStage(index, f"{name}_{index}", self._settings, self.dispatcher.channel_of(index), self._batchers)
            for index in range(concurrency)
        ]

    def _build_batch_processors(self, batcher: BatcherStage) -> List[BatchProcessorStage]:
        name = self._names.batch_processor(batcher.key)
        return [
            BatchProcessorStage(index, f"{name}_{index}", self._settings, batcher)
            for index in range(len(batcher.inboxes))
        ]

    def _build_producers(self) -> List[ProducerStage]:
        options = self._settings.options.producer
        make = make_factory(options.module)
        # One budget for all producers; the lock guards it, and is innermost.
        intensity = RestartIntensity(2 * options.concurrency, options.concurrency)
        lock = threading.Lock()

        def restart() -> bool:
            with lock:
                return intensity.allows(monotonic())

        return [
            ProducerStage(index, name, self._settings, make, self.dispatcher.sources[index], restart, self.drained)
            for index, name in enumerate(self._names.producers())
            if index not in self._exhausted
        ]

    def carry_over(self, pushed: List[Message], held: List[Message]) -> None:
        """
        Take over messages of the generation before.
        """
        if pushed:
            self.dispatcher.push(pushed)
        if held:
            self.dispatcher.sources[0].offer(held)

    def close_exhausted(self) -> None:
        """
        Close the sources of producers that have reached the end of their stream.
        """
        for index in self._exhausted:
            self.dispatcher.sources[index].close()

    @property
    def exhausted(self) -> Set[int]:
        """
        Indexes of the producers that have reached the end of their stream by now.
        """
        return self._exhausted | {producer.index for producer in self.producers if producer.is_exhausted}

    def statistics(self, now: float) -> Tuple[StageStatistics, ...]:
        """
        Return what each stage is doing. Any thread.
        """
        groups = self.producers, self._processors, self._batchers.values(), self._batch_processors
        return tuple(stage.statistics(now) for group in groups for stage in group)

    def finished_at(self) -> float:
        """
        Return the monotonic time at which a callback was last through with messages, 0 if none was.
        """
        handling: List[Any] = [*self._processors, *self._batch_processors]
        return max((stage.finished_at for stage in handling), default=0.0)

    def stop_asking(self) -> None:
        """
        Ask producers for nothing more. Only sets attributes: any thread, and signal handlers.
        """
        for producer in self.producers:
            producer.is_stopping = True

    def drain(self, reason: str) -> None:
        """
        Begin the end: producers stop their sources and hand over their last messages.
        """
        for producer in self.producers:
            producer.drain(reason)

    def flush(self) -> None:
        """
        Hand on open batches while a producer has not come back from its last demand.
        """
        if not all(source.is_closed for source in self.dispatcher.sources):
            for batcher in self._batchers.values():
                batcher.flush()

    def close_sources(self) -> None:
        """
        Go on without producers that do not come back.
        """
        for source in self.dispatcher.sources:
            source.close()

    def stage_ended(self, stage: Any) -> int:
        """
        Let the next layer end once a layer has; return how many messages the stage brought too late.
        """
        self._alive.discard(stage)
        late = 0
        if stage in self.producers:
            stage.source.close()
            late = stage.late
        if self._alive.isdisjoint(self._processors):
            self._processors_ended()
        return late

    def _processors_ended(self) -> None:
        if not self._are_batchers_closed:
            self._are_batchers_closed = True
            for batcher in self._batchers.values():
                batcher.close()
        if self._alive.isdisjoint(self._batch_processors):
            self.drained.open()

    def forget(self) -> None:
        """
        In a forked child: let the one stage whose thread is here end, without acknowledging or terminating anything.

        Only attributes are set: locks may be held by threads that do not exist here.
        """
        handling: List[Any] = [*self._processors, *self._batch_processors]
        for stage in handling:
            stage.is_abandoned = True
        for producer in self.producers:
            producer.is_forgotten = producer.is_draining = producer.is_stopping = True
            producer.source.renew_lock()

    def late(self, stages: Iterable[Any]) -> int:
        """
        Return how many messages producers among these *stages* brought when nobody took them any more.
        """
        return sum(stage.late for stage in stages if stage in self.producers)

    def abandon(self, stages: Iterable[Any]) -> int:
        """
        Give up on these stages and unpark their threads; return how many messages were left unacknowledged.
        """
        self.dispatcher.abandon()  # first: a processor that is given up would drop what it takes
        # The way that messages go: those that go on meanwhile are met at the next stage. Producers come after them all:
        # until then there is somebody to acknowledge to.
        way: List[Any] = [*self._processors, *self._batchers.values(), *self._batch_processors]
        places = {stage: place for place, stage in enumerate(way)}
        left: int = sum(stage.abandon() for stage in sorted(stages, key=lambda stage: places.get(stage, len(places))))
        self.drained.open()
        self.abandoned.open()
        return left
