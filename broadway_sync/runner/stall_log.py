"""
The log of stalls: once when one begins, with the stacks, and once when it is over.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Set, Tuple

from ..health import Health
from ..log import log_error, log_info, log_warning

_WHOLE = ""  # in place of a stage's name


class StallLog:
    """
    Remembers what of which pipeline is stalled. Not thread-safe: owned by the watcher.
    """

    def __init__(self) -> None:
        self._stalled: Dict[str, Set[str]] = {}

    def look_at(self, looks: Iterable[Tuple[Any, Health]]) -> None:
        """
        Log what has changed since the last look: at all pipelines that are watched, each with its health.
        """
        names = set()
        for pipeline, health in looks:
            names.add(health.name)
            self._look(pipeline, health)
        for name in [name for name in self._stalled if name not in names]:
            if self._stalled.pop(name):
                log_info("no longer stalled: it is not running any more", name, name)

    def _look(self, pipeline: Any, health: Health) -> None:
        before = self._stalled.get(health.name, set())
        now = _stalled(health, before)
        begun, over = now - before, before - now
        if _WHOLE in begun:
            text = f"{health}; its threads are at:\n{format_stacks(pipeline.stacks())}"
            log_error(text, None, health.name, health.name)
        elif begun and _WHOLE not in now:
            self._log_stages(pipeline, health, begun)
        if _WHOLE in over:
            log_info(f"no longer stalled; {health}", health.name, health.name)
        for stage in sorted(over - {_WHOLE}):
            log_info("no longer stalled", health.name, stage)
        self._stalled[health.name] = now

    def _log_stages(self, pipeline: Any, health: Health, names: Set[str]) -> None:
        stacks = pipeline.stacks()
        for stage in health.stalled:
            if stage.name in names:
                stack = format_stacks({stage.name: stacks.get(stage.name, "  (ended)\n")})
                text = f"stalled: busy with {stage.in_hand} messages for {stage.busy_for:.1f} s, while others go on; "
                log_warning(f"{text}it is at:\n{stack}", health.name, stage.name)


def _stalled(health: Health, before: Set[str]) -> Set[str]:
    """
    Return the names of what is stalled, as far as it is to be talked about.
    """
    names = {stage.name for stage in health.stalled}
    if health.status == "stalled":
        return names | {_WHOLE}
    if health.idle_for < health.stall_after / 2:
        return names
    # Perhaps the whole pipeline is about to stall, and this stage is only the first to be noticed: wait and see.
    return names & before


def format_stacks(stacks: Mapping[str, str]) -> str:
    """
    Return the stacks of threads as one text; threads that are at the same place share theirs.
    """
    names: Dict[str, List[str]] = {}
    for name, stack in sorted(stacks.items()):
        names.setdefault(stack, []).append(name)
    return "\n".join(f"{', '.join(threads)}:\n{stack}" for stack, threads in names.items())
