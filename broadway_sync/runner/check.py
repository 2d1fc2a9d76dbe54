"""
Says whether pipelines can be made, and draws them; starts nothing.
"""

from __future__ import annotations

import sys
from typing import List

from ..errors import ConfigurationError
from .drawing import draw
from .exit_codes import ExitCode
from .group import check_names
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
    try:
        check_names(pipelines)
    except ConfigurationError as error:
        mistakes = mistakes or [str(error)]
    sys.stdout.write("\n".join(draw(pipeline.options) for pipeline in pipelines))
    sys.stdout.flush()
    sys.stderr.write("".join(f"broadway-sync: {mistake}\n" for mistake in mistakes))
    return ExitCode.CANNOT_START if mistakes else ExitCode.DRAINED
