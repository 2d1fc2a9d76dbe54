"""
Runs pipelines as processes: ``broadway-sync run``, and what Django's and Flask's commands share with it.

Importing this package starts nothing.
"""

from __future__ import annotations

from .check import check
from .exit_codes import ExitCode
from .options import Flag, RunOptions, add_run_arguments, run_flags
from .run import leave, run
from .signals import run_until_signal

__all__ = [
    "run",
    "check",
    "leave",
    "run_until_signal",
    "RunOptions",
    "add_run_arguments",
    "run_flags",
    "Flag",
    "ExitCode",
]
