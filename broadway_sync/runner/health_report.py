"""
What the outside is told about the health of a process: whether it is live, whether it is ready, and why not.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

import attrs

from ..health import Health


@attrs.frozen(kw_only=True)
class Report:
    """
    The health of the pipelines of one process, or of several (:func:`merge`).
    """

    live: bool
    """No pipeline has failed, or is stalled and not being stopped."""
    ready: bool
    """It is live, at least one pipeline runs, and none is about to start, being stopped, or without its broker."""
    problems: Tuple[str, ...] = ()
    """Why it is not live or not ready, one text each."""
    pipelines: Tuple[Mapping[str, Any], ...] = ()
    """:meth:`Health.as_dict` of each pipeline, with ``pid`` and ``connections_down`` (producer to reason)."""
    pid: Optional[int] = None
    """Of the process; None when there are several, or none."""

    def text(self, is_good: bool) -> str:
        """
        Return what a probe that asked one question is told: ``ok`` or ``not ok``, and every problem.
        """
        return "".join(f"{line}\n" for line in ["ok" if is_good else "not ok", *self.problems])

    def as_dict(self) -> Dict[str, Any]:
        """
        Return everything, for JSON.
        """
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Report:
        """
        Return the report that :meth:`as_dict` was made from; fields of others do no harm.

        Raises:
            KeyError: It is no report.
        """
        return cls(
            live=fields["live"] is True,
            ready=fields["ready"] is True,
            problems=tuple(fields["problems"]),
            pipelines=tuple(fields["pipelines"]),
            pid=fields["pid"],
        )


def make_report(healths: Iterable[Health], disconnected: Mapping[str, Mapping[str, str]]) -> Report:
    """
    Return the report on the pipelines of this process.

    Args:
        disconnected: By pipeline, then by producer, why there is no connection.
    """
    healths = list(healths)
    problems = []
    for health in healths:
        if health.status in ("stalled", "failed") or health.state in ("new", "draining"):
            problems.append(str(health))
        if health.state == "running":
            for producer, reason in disconnected.get(health.name, {}).items():
                problems.append(f"{health.name}: {producer} has no connection: {reason}")
    if not any(health.state in ("running", "draining") for health in healths):
        problems.append("no pipeline is running")
    pid = os.getpid()
    pipelines = tuple(
        {**health.as_dict(), "pid": pid, "connections_down": dict(disconnected.get(health.name, {}))}
        for health in healths
    )
    is_live = all(health.is_live for health in healths)
    return Report(live=is_live, ready=not problems, problems=tuple(problems), pipelines=pipelines, pid=pid)


def merge(reports: Iterable[Report]) -> Report:
    """
    Return the report on several processes, which is as bad as the worst of them; none at all are not ready.
    """
    reports = list(reports)
    problems = tuple(_prefix(report) + problem for report in reports for problem in report.problems)
    return Report(
        live=all(report.live for report in reports),
        ready=bool(reports) and all(report.ready for report in reports),
        problems=problems if reports else ("no process reports",),
        pipelines=tuple(pipeline for report in reports for pipeline in report.pipelines),
    )


def _prefix(report: Report) -> str:
    return "" if report.pid is None else f"process {report.pid}: "
