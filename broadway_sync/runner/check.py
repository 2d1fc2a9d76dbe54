"""
Says whether pipelines can be made, and draws them; starts nothing.
"""

from __future__ import annotations

from typing import List

from ..errors import ConfigurationError
from .drawing import draw
from .exit_codes import ExitCode
from .group import check_names
from .logs import say, show
from .targets import Targets, listed, load


def check(targets: Targets) -> int:
    """
    Write the topology of each pipeline to stdout, and what is wrong to stderr; return the exit code, 0 or 2.

    Args:
        targets: As for :func:`broadway_sync.runner.run`. They are imported and called, not started.
    """
    pipelines = []
    mistakes: List[str] = []
    for target in listed(targets):
        try:
            pipelines.append(load(target))
        except ConfigurationError as error:
            mistakes.append(str(error))
    if pipelines or not mistakes:
        try:
            check_names(pipelines)
        except ConfigurationError as error:
            mistakes.append(str(error))
    show("\n".join(draw(pipeline.options) for pipeline in pipelines))
    for mistake in mistakes:
        say(f"broadway-sync: {mistake}")
    return ExitCode.CANNOT_START if mistakes else ExitCode.DRAINED
