"""
What one stress run does: a random topology, the faults that happen in it, and how it ends.

A plan is made by a function that chooses: ``random.Random(seed).choice`` in the seeded runs, a draw of hypothesis in
the property. Of all options the first is the plainest, which is where hypothesis shrinks to.
"""

from __future__ import annotations

from typing import Any, Callable, Hashable, NamedTuple, Optional, Sequence, Tuple

Choose = Callable[[Sequence[Any]], Any]

NEVER = 3600.0


class BatcherPlan(NamedTuple):
    """
    One batcher.
    """

    concurrency: int
    size: int
    """The most messages of a batch, in either form of ``batch_size``."""
    is_function: bool
    max_demand: int
    timeout: float
    is_partitioned: bool


class Plan(NamedTuple):
    """
    One run.
    """

    seed: int
    producers: int
    messages: Optional[int]
    """How many each producer has; None: it never ends."""
    processors: int
    max_demand: int
    min_demand: int
    is_partitioned: bool
    batchers: Tuple[BatcherPlan, ...]
    keys: Tuple[Hashable, ...]
    partitions: int
    """``partition_by`` returns numbers below this."""
    flush_rate: float
    fail_rate: float
    """How likely each callback fails, in one of several ways."""
    slow_rate: float
    ack_rate: float
    """How likely a callback acknowledges at once."""
    has_prepare: bool
    has_failed: bool
    overlong: int
    """The most messages of an answer beyond demand."""
    short_rate: float
    crash_rate: float
    max_restarts: int
    last_words: int
    """The most messages that ``prepare_for_draining`` returns."""
    has_transformer: bool
    emitters: int
    """Threads that call ``stage.emit``, for each producer."""
    emit_length: int
    buffer_size: int
    pushes: int
    rate: Optional[Tuple[int, float]]
    is_observed: bool
    """Whether telemetry handlers are attached."""
    stop_by: str
    stop_after: int
    """Acknowledgements after which the stop begins."""
    switch_interval: float

    @property
    def chunk(self) -> int:
        """
        How many messages a processor handles at a time.
        """
        return self.max_demand - self.min_demand

    @property
    def is_ordered(self) -> bool:
        """
        Whether processors keep the order of the messages of a partition.
        """
        return self.is_partitioned or self.processors == 1


def make_plan(seed: int, choose: Choose) -> Plan:
    """
    Choose a plan. *seed* is that of the faults of single messages.
    """
    max_demand = choose([1, 2, 3, 5, 10])
    stop_by = choose(["nobody", "nobody", "main", "thread", "two threads", "callback", "request"])
    is_endless = stop_by != "nobody" and choose([False, True])
    return Plan(
        seed=seed,
        producers=choose([1, 1, 2, 3]),
        messages=None if is_endless else choose([20, 60, 150]),
        processors=choose([1, 2, 3, 5]),
        max_demand=max_demand,
        min_demand=choose([0, max_demand // 2, max_demand - 1]),
        is_partitioned=choose([False, True]),
        batchers=tuple(_make_batcher(choose) for _ in range(choose([0, 1, 1, 2]))),
        keys=choose([("default",), ("default", "a"), ("a",), ("default", "a", "b", 1, 1.0), tuple(range(20))]),
        partitions=choose([1, 3, 8]),
        flush_rate=choose([0.0, 0.0, 0.1, 0.5]),
        fail_rate=choose([0.0, 0.02, 0.2]),
        slow_rate=choose([0.0, 0.05, 0.3]),
        ack_rate=choose([0.0, 0.1]),
        has_prepare=choose([False, True]),
        has_failed=choose([False, True]),
        overlong=choose([0, 0, 1, 7]),
        short_rate=choose([0.0, 0.3]),
        crash_rate=choose([0.0, 0.0, 0.03, 0.15]),
        max_restarts=choose([1000, 1000, 1, 0]),
        last_words=choose([0, 0, 3]),
        has_transformer=choose([False, True]),
        emitters=choose([0, 0, 1, 2]),
        emit_length=choose([1, 4]),
        buffer_size=choose([1, 3, 20]),
        pushes=choose([0, 0, 5, 30]),
        rate=choose([None, None, None, (5, 0.005), (40, 0.02)]),
        is_observed=choose([False, False, True]),
        stop_by=stop_by,
        stop_after=choose([1, 10, 50]),
        switch_interval=choose([0.005, 1e-4, 1e-6]),
    )


def _make_batcher(choose: Choose) -> BatcherPlan:
    size = choose([1, 2, 3, 8])
    return BatcherPlan(
        concurrency=choose([1, 2, 3]),
        size=size,
        is_function=choose([False, False, True]),
        max_demand=choose([size, 1, 2 * size]),
        timeout=choose([0.01, 0.001, NEVER]),
        is_partitioned=choose([False, True]),
    )


def capacity(plan: Plan) -> int:
    """
    Return the most messages that the pipeline can hold: produced and not acknowledged.

    Demanded and not yet handled are ``producers * processors * max_demand``, and what came past demand. Past the
    processors each batcher holds: open batches, one for each key and partition, never full; batches that wait, with
    fewer than ``processors * max_demand`` messages while processors pass its gate (once more for each batch processor
    that is idle while batches of an explicit key or a partition have to wait); what is on its way into it when the
    gate shuts: a chunk for each processor that has passed it, and as many that were left to whoever runs the steps; and
    one batch for each batch processor.
    """
    return _undelivered(plan) + sum(_in_batcher(plan, batcher) for batcher in plan.batchers)


def _undelivered(plan: Plan) -> int:
    demanded = plan.producers * plan.processors * plan.max_demand
    beyond = plan.producers * (plan.overlong + plan.last_words)
    # What processors have in hand takes up no room in the buffer; a producer may be asked before all of it came.
    emitted = plan.processors * plan.chunk + plan.buffer_size - 1 + plan.emit_length
    return demanded + beyond + plan.pushes + (plan.producers * emitted if plan.emitters else 0)


def _in_batcher(plan: Plan, batcher: BatcherPlan) -> int:
    partitions = batcher.concurrency if batcher.is_partitioned else 1
    still_open = len(set(plan.keys)) * partitions * (batcher.size - 1)
    # Batches wait beside idle batch processors only if their key or partition has to wait.
    is_serial = batcher.is_partitioned or plan.keys != ("default",)
    lots = batcher.concurrency if is_serial else 1
    waiting = plan.processors * batcher.max_demand * lots - 1 + 2 * plan.processors * plan.chunk
    return still_open + waiting + batcher.concurrency * batcher.size
