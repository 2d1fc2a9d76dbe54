"""
What a pipeline is doing at a moment.

Read without stopping anything: figures of stages that are at work may be a step apart.
"""

from __future__ import annotations

from typing import Optional, Tuple

import attrs


@attrs.frozen(kw_only=True)
class StageStatistics:
    """
    One producer, processor, batcher or batch processor.
    """

    name: str
    """Name of its thread."""
    kind: str
    """``"producer"``, ``"processor"``, ``"batcher"`` or ``"batch_processor"``."""
    key: Optional[str] = None
    """Key of the processors or of the batcher; None for producers."""
    index: Optional[int] = None
    """Number among its like; None for batchers."""
    waiting: int = 0
    """Messages that wait here. Producer: handed over and not taken by a processor, or held back by the rate limit.
    Batcher: in open batches, and in batches that wait for a batch processor."""
    in_hand: int = 0
    """Messages that its callback is working on."""
    handled: int = 0
    """Messages that it is through with. Producer: those that it has handed over."""
    busy_for: Optional[float] = None
    """Seconds since it took what it has in hand; None when it has nothing."""
    age: Optional[float] = None
    """Seconds since the oldest message that it has reached it; None when it has none, or for producers."""
    restarts: int = 0
    """How often the producer was made again after a crash."""


@attrs.frozen(kw_only=True)
class Statistics:
    """
    A pipeline. Counters begin at its start and go on over restarts.
    """

    name: str
    """Name of the pipeline."""
    state: str
    """See :attr:`broadway_sync.Pipeline.state`."""
    uptime: float = 0.0
    """Seconds since the start; 0 when it is not running."""
    in_flight: int = 0
    """Messages that were taken from producers and are not through."""
    handled: int = 0
    """Messages that are through: acknowledged, or beyond the pipeline's reach."""
    idle_for: float = 0.0
    """Seconds since the last message was through, or since the start."""
    restarts: int = 0
    """Restarts of the whole pipeline."""
    stages: Tuple[StageStatistics, ...] = ()
    """All stages, in the order in which messages pass them; none when it is not running."""
