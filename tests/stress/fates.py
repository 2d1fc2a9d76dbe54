"""
What will happen to each message, decided when it is made, by the seed and its place in its stream alone.
"""

from __future__ import annotations

import random
from typing import Any, Dict, Hashable, List, NamedTuple, Optional, Tuple

from broadway_sync import Message

from .plan import Plan

Stream = Tuple[str, int]
"""Who made a message: a producer, an emitting or a pushing thread. Within a stream order is kept."""

HANDLE_FAULTS = ["fail", "raise", "exit", "none", "type", "unknown batcher", "bad key", "bad mode"]
BATCH_FAULTS = ["fail", "raise", "missing", "foreign", "twice"]
PREPARE_FAULTS = ["raise", "short", "twice", "fail"]
FAILED_FAULTS = ["raise", "short", "twice", "none"]
PARTITION_FAULTS = ["raise", -1, True, None]


class Fate(NamedTuple):
    """
    What the callbacks do with a message.
    """

    batcher: str
    key: Hashable
    mode: str
    partition: Any
    """What ``partition_by`` returns, or a fault."""
    weight: Any
    """For the ``batch_size`` function; a str: it raises."""
    handle: str
    batch: str
    prepare: str
    failed: str
    pause: float
    acknowledges_at: str
    ack_raises: bool


class Record:
    """
    What has happened to a message so far. Guarded by the witness's lock.
    """

    def __init__(self, number: int, stream: Stream, place: int, fate: Fate) -> None:
        self.number = number
        self.stream = stream
        self.place = place
        self.fate = fate
        self.is_held = False
        """Whether it counts against the capacity."""
        self.is_doomed = False
        """Whether it has to be acknowledged as failed."""
        self.is_early = False
        """Whether a callback acknowledged it."""
        self.handled = 0
        self.handled_at: Optional[float] = None
        self.batched = 0
        self.shown = 0
        self.acks: List[bool] = []

    def __repr__(self) -> str:
        return f"message {self.number} ({self.stream[0]} {self.stream[1]}, place {self.place}, {self.fate})"


def record_of(message: Message) -> Record:
    """
    Return the record of a message.
    """
    record: Record = message.metadata["record"]
    return record


def make_fate(plan: Plan, stream: Stream, place: int) -> Fate:
    """
    Return the fate of a message.
    """
    rng = random.Random(f"{plan.seed} {stream} {place}")

    def fault(kinds: List[Any], plain: Any) -> Any:
        # Each message meets several callbacks: most faults of one kind would hide the others.
        return rng.choice(kinds) if rng.random() < plan.fail_rate / 3 else plain

    return Fate(
        batcher=f"b{rng.randrange(max(1, len(plan.batchers)))}",
        key=rng.choice(plan.keys),
        mode="flush" if rng.random() < plan.flush_rate else "bulk",
        partition=fault(PARTITION_FAULTS, rng.randrange(plan.partitions)),
        weight=fault(["raise", "wrong"], rng.choice([1, 1, 2])),
        handle=fault(HANDLE_FAULTS, "ok"),
        batch=fault(BATCH_FAULTS, "ok"),
        prepare=fault(PREPARE_FAULTS, "ok"),
        failed=fault(FAILED_FAULTS, "ok"),
        pause=rng.choice([0.0, 0.0005, 0.003]) if rng.random() < plan.slow_rate else 0.0,
        acknowledges_at=rng.choice(["handle", "batch", "failed"]) if rng.random() < plan.ack_rate else "never",
        ack_raises=rng.random() < plan.fail_rate / 3,
    )


def summary(records: List[Record]) -> Dict[str, Any]:
    """
    Return what the messages of a fault have been through, for its text.
    """
    return {str(record): (record.handled, record.batched, record.shown, record.acks) for record in records[:3]}
