"""
What a process is doing, as text: pipelines, stages, queues, and the stack of every thread.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ..pipeline import Pipeline
from ..runtime.frames import no_collection
from ..runtime.stage_thread import StageThread
from ..statistics import StageStatistics, Statistics

_COLUMNS = ("stage", "waiting", "in hand", "handled", "busy for", "oldest", "restarts")


def dump_text(pipelines: Iterable[Pipeline]) -> str:
    """
    Return what *pipelines* and all threads of this process are doing. Stops nothing, may be called at any time.
    """
    # Not Pipeline.stacks(): threads that were given up and still hang have the names of those that came after them.
    stacks = _all_stacks()
    lines = [f"process {os.getpid()}, {threading.active_count()} threads"]
    for pipeline in pipelines:
        own = stacks.pop(pipeline.name, [])
        lines += ["", *_describe_pipeline(pipeline.statistics()), *_describe_stacks(own)]
    others = [each for rest in stacks.values() for each in rest]
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


def _all_stacks() -> Dict[Optional[str], List[Tuple[str, str]]]:
    """
    Return name and stack of every thread, also of those that Python does not know by name, by the pipeline that they
    belong to.
    """
    threads = {thread.ident or -1: thread for thread in threading.enumerate()}
    with no_collection():
        stacks = {ident: "".join(traceback.format_stack(frame)) for ident, frame in sys._current_frames().items()}
    found: Dict[Optional[str], List[Tuple[str, str]]] = {}
    for ident in filter(stacks.__contains__, dict.fromkeys((*threads, *stacks))):  # those with names first
        thread = threads.get(ident)
        name = f"number {ident}" if thread is None else thread.name
        owner = thread.owner if isinstance(thread, StageThread) else None
        pipeline = None if owner is None else owner.name
        found.setdefault(pipeline, []).append((name, stacks[ident]))
    return found
