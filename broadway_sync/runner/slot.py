"""
The place of one forked process among several: who is in it now, and who follows.
"""

from __future__ import annotations

from time import monotonic
from typing import Optional, Tuple, Union

from .child import Child, ParentLine, fork
from .exit_codes import ExitCode
from .jobs import HealthJob, WorkerJob
from .restarts import Next, RestartPlan

Job = Union[WorkerJob, HealthJob]

Birth = Tuple[Job, ParentLine]
"""In a forked process: what it has to do, and the line to its parent."""


class Slot:
    """
    The succession of one process. For the parent's only thread.

    Args:
        name: In texts.
        job: What its processes do.
        is_first: Whether those behind it wait until it was ready: a mistake that all would make is made once.
    """

    def __init__(self, name: str, job: Job, *, is_first: bool) -> None:
        self.name = name
        self.job = job
        self.plan = RestartPlan()
        self.child: Optional[Child] = None
        self.due: Optional[float] = 0.0
        """When the next process is to be started; None while there is one, or when none follows."""
        self.code = ExitCode.DRAINED
        """How the last one ended."""
        self.was_ready = False
        self._is_first = is_first

    @property
    def is_open(self) -> bool:
        """
        Whether there is a process, or one to come.
        """
        return self.child is not None or self.due is not None

    @property
    def holds_back(self) -> bool:
        """
        Whether those behind it have to wait.
        """
        return self._is_first and not self.was_ready and self.is_open

    def start(self) -> Optional[Birth]:
        """
        Fork; return None in the parent, and in the child what it was born for.

        Raises:
            OSError: The system has no process left.
        """
        forked = fork()
        if isinstance(forked, ParentLine):
            return self.job, forked
        self.child, self.due = forked, None
        return None

    def hear(self) -> None:
        """
        Take in what the process says.
        """
        assert self.child is not None
        self.child.hear()
        self.was_ready = self.was_ready or self.child.is_ready

    def reap(self, *, is_stopping: bool, was_ready: bool) -> Optional[Tuple[int, Next]]:
        """
        Return how the process ended, and what follows; None while it runs.
        """
        assert self.child is not None
        code = self.child.reap()
        if code is None:
            return None
        self.hear()
        lived = monotonic() - self.child.started_at
        self.child.close()
        self.child = None
        follows = self.plan.ended(code, lived, is_stopping=is_stopping, was_ready=was_ready or self.was_ready)
        self.code = follows.code
        self.due = None if follows.pause is None else monotonic() + follows.pause
        return code, follows

    def describe(self) -> str:
        """
        Return what goes on here, for the dump.
        """
        if self.child is not None:
            return f"{self.name}: process {self.child.pid} for {monotonic() - self.child.started_at:.1f} s"
        if self.due is not None:
            return f"{self.name}: starts in {max(0.0, self.due - monotonic()):.1f} s, {self.plan.deaths} died in a row"
        return f"{self.name}: has ended"
