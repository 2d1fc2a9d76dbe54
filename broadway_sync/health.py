"""
Whether a pipeline makes progress: decided from its statistics alone.

Threads that are alive prove nothing: what counts is that messages come through. A pipeline is *stalled* when

* it has messages in flight,
* none has come through for ``stall_after`` seconds, and
* a stage has been busy with what it has in hand for as long.

The third part is what tells a stall from waiting that is meant to be: for the ``batch_timeout`` of an open batch, for
the rate limit, or for the next message after a quiet hour. One stage that hangs while others go on is stalled itself,
but its pipeline is not: messages still come through, and a restart would have those in hand delivered once more.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Tuple

import attrs

from .rules import is_seconds, mistake
from .statistics import StageStatistics, Statistics


@attrs.frozen(kw_only=True)
class StageHealth(StageStatistics):
    """
    What a stage is doing, and how that is.
    """

    status: str
    """``"idle"`` (it has no message), ``"waiting"`` (messages wait here, none is in hand), ``"busy"``, or ``"stalled"``
    (busy with the same messages for ``stall_after`` seconds)."""


@attrs.frozen(kw_only=True)
class Health(Statistics):
    """
    What a pipeline is doing, and how that is.
    """

    status: str
    """``"new"`` (never started in this process), ``"healthy"`` (messages in flight), ``"idle"`` (none), ``"stalled"``,
    ``"failed"`` (it gave up) or ``"stopped"``. While it drains it is healthy, idle or stalled, too: ``state`` tells."""
    stall_after: float
    """After how many seconds without progress it counts as stalled."""
    stages: Tuple[StageHealth, ...] = ()
    """All stages, in the order in which messages pass them; none when it is not running."""

    @property
    def oldest(self) -> float:
        """
        Seconds since the message that has waited longest reached the stage in which it is; 0 when there is none.
        """
        return max((stage.age for stage in self.stages if stage.age is not None), default=0.0)

    @property
    def stalled(self) -> Tuple[StageHealth, ...]:
        """
        The stages that are stalled; there may be some although the pipeline is not.
        """
        return tuple(stage for stage in self.stages if stage.status == "stalled")

    @property
    def is_live(self) -> bool:
        """
        Whether it is neither failed nor stalled: False means that only a restart of the process helps.

        One that is being stopped is live: its end is near, whatever hangs. To restart it would undo the stop.
        """
        return self.status != "failed" and (self.status != "stalled" or self.state == "draining")

    @property
    def is_ready(self) -> bool:
        """
        Whether it runs, is not being stopped, and :attr:`is_live`.
        """
        return self.state == "running" and self.is_live

    def as_dict(self) -> Dict[str, Any]:
        """
        Return everything, for JSON: times in seconds, to the millisecond.
        """
        fields = attrs.asdict(self, filter=lambda field, value: field.name != "stages")
        rest = {"oldest": self.oldest, "stages": [_rounded(attrs.asdict(stage)) for stage in self.stages]}
        return _rounded({"name": self.name, "status": self.status, **fields, **rest})

    def __str__(self) -> str:
        status = f"{self.status} (draining)" if self.state == "draining" else self.status
        return f"{self.name}: {'; '.join([status, *self._details()])}"

    def _details(self) -> Iterator[str]:
        if not self.stages:
            return
        if self.in_flight:
            yield f"{self.in_flight} messages in flight"
            yield f"the last one came through {self.idle_for:.1f} s ago" if self.handled else "none came through yet"
        else:
            yield f"no message in flight for {self.idle_for:.1f} s"
        yield f"{self.handled} handled in {self.uptime:.1f} s"
        for stage in self.stalled:
            yield f"{stage.name} has been busy with {stage.in_hand} messages for {stage.busy_for:.1f} s"


def assess(statistics: Statistics, stall_after: float = 60.0) -> Health:
    """
    Return how a pipeline with these *statistics* does.

    Args:
        stall_after: Seconds, > 0. Longer than the slowest chunk (``max_demand - min_demand`` messages, one after the
            other) or batch may take, retries and their pauses included.

    Raises:
        ConfigurationError: *stall_after* is no such number.
    """
    if not is_seconds(stall_after) or stall_after <= 0:
        raise mistake("stall_after", f"expected a finite number of seconds > 0, got: {stall_after!r}")
    fields = {field.name: getattr(statistics, field.name) for field in attrs.fields(Statistics)}
    stages = tuple(_assess_stage(stage, stall_after) for stage in statistics.stages)
    is_stuck = any(stage.status == "stalled" for stage in stages) and statistics.idle_for >= stall_after
    return Health(**{**fields, "stages": stages}, status=_status(statistics, is_stuck), stall_after=stall_after)


def _status(statistics: Statistics, is_stuck: bool) -> str:
    if statistics.state in ("new", "stopped", "failed"):
        return statistics.state
    if not statistics.in_flight:
        return "idle"
    return "stalled" if is_stuck else "healthy"


def _assess_stage(stage: StageStatistics, stall_after: float) -> StageHealth:
    return StageHealth(**attrs.asdict(stage), status=_stage_status(stage, stall_after))


def _stage_status(stage: StageStatistics, stall_after: float) -> str:
    # A producer is busy while it asks its source, for as long as that likes: a long poll is no stall.
    if stage.kind != "producer" and stage.busy_for is not None and stage.busy_for >= stall_after:
        return "stalled"
    if stage.in_hand:
        return "busy"
    return "waiting" if stage.waiting else "idle"


def _rounded(fields: Dict[str, Any]) -> Dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
