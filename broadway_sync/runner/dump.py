"""
What a process is doing, as text: pipelines, stages, queues, and the stack of every thread.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from ..pipeline import Pipeline
from ..runtime.frames import no_collection
from ..statistics import StageStatistics, Statistics

_COLUMNS = ("stage", "waiting", "in hand", "handled", "busy for", "oldest", "restarts")


def dump_text(pipelines: Iterable[Pipeline]) -> str:
    """
    Return what *pipelines* and all threads of this process are doing. Stops nothing, may be called at any time.
    """
    pipelines = list(pipelines)
    lines = [f"process {os.getpid()}, {threading.active_count()} threads"]
    shown: Set[str] = set()
    for pipeline in pipelines:
        stacks = pipeline.stacks()
        shown.update(stacks)
        lines += ["", *_describe_pipeline(pipeline.statistics()), *_describe_stacks(stacks.items())]
    others = [(name, stack) for name, stack in _all_stacks() if name not in shown]
    return "\n".join([*lines, "", "other threads", *_describe_stacks(others), ""])


def _describe_pipeline(statistics: Statistics) -> Iterator[str]:
    yield (
        f"pipeline {statistics.name!r}: {statistics.state} for {statistics.uptime:.1f} s, "
        f"{statistics.in_flight} messages in flight, {statistics.handled} handled, "
        f"the last one {statistics.idle_for:.1f} s ago, {statistics.restarts} restarts"
    )
    if statistics.stages:
        yield from _table([_COLUMNS, *(_row(stage) for stage in statistics.stages)])


def _row(stage: StageStatistics) -> Sequence[str]:
    figures = (stage.waiting, stage.in_hand, stage.handled)
    return (stage.name, *map(str, figures), _seconds(stage.busy_for), _seconds(stage.age), str(stage.restarts))


def _seconds(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:]))]
        yield "  " + "  ".join(cells)


def _describe_stacks(stacks: Iterable[Tuple[str, str]]) -> Iterator[str]:
    for name, stack in stacks:
        yield f"  thread {name}"
        yield from (f"    {line}" for line in stack.rstrip("\n").split("\n"))


def _all_stacks() -> List[Tuple[str, str]]:
    """
    Return name and stack of every thread, also of those that Python does not know by name.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    with no_collection():
        return [
            (names.get(ident, f"number {ident}"), "".join(traceback.format_stack(frame)))
            for ident, frame in sys._current_frames().items()
        ]
