"""
The health file: for probes that run a command, such as ``broadway-sync health FILE``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from contextlib import suppress
from typing import List, Optional

from .health_report import Report, merge
from .logs import show

MAX_AGE = 30.0
"""Seconds after which nobody believes a health file any more, unless told otherwise."""


def write_file(path: str, report: Report) -> None:
    """
    Write *report* to *path*, at once and as a whole: whoever reads it sees the last report or this one.

    Raises:
        OSError: It cannot be written.
    """
    text = json.dumps({"timestamp": time.time(), **report.as_dict()}, default=str)
    folder, name = os.path.split(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
        os.chmod(temporary, 0o644)  # the probe may be another user
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def remove_file(path: str) -> None:
    """
    Remove the file, if it is there.
    """
    with suppress(OSError):
        os.unlink(path)


def read_file(path: str, max_age: float = MAX_AGE, *, missing_ok: bool = False) -> Report:
    """
    Return the report in a health file. One that is missing, unreadable or too old is neither live nor ready.

    Args:
        max_age: Seconds, of the clock on the wall; a file from the future is no better than an old one.
        missing_ok: Whether one that is missing counts as live, though not ready: its process starts, or has ended.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            fields = json.load(stream)
        age = time.time() - fields["timestamp"]
        report = Report.from_dict(fields)
    except FileNotFoundError:
        return Report(live=missing_ok, ready=False, problems=(f"there is no {path}",))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _no_report(f"no health in {path}: {type(error).__name__}: {error}")
    if abs(age) > max_age:
        return _no_report(f"the health in {path} is {age:.0f} s old")
    return report


def _no_report(problem: str) -> Report:
    return Report(live=False, ready=False, problems=(problem,))


def main(arguments: Optional[List[str]] = None) -> int:
    """
    Print the problems that health files tell of; return 0 if all their processes are live (or ready), 1 if not.
    """
    parser = argparse.ArgumentParser(prog="broadway-sync health", description="Read health files.")
    parser.add_argument("files", metavar="FILE", nargs="+", help="what --health-file of the running process names")
    parser.add_argument("--ready", action="store_true", help="ask whether it is ready, not whether it is live")
    parser.add_argument("--max-age", type=float, default=MAX_AGE, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("--missing-ok", action="store_true", help="a missing file is no bad sign: nothing runs there")
    options = parser.parse_args(arguments)
    report = merge(read_file(file, options.max_age, missing_ok=options.missing_ok) for file in options.files)
    is_good = report.ready if options.ready else report.live
    show(report.text(is_good))
    return 0 if is_good else 1
