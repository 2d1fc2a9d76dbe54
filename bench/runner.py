"""
Runs the jobs of a case in turn, each in a fresh process: comparison, case, comparison, case, ...
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import attrs

from . import brokers, connectors
from .ending import postponed
from .scenarios import Case
from .settings import Settings
from .source import LostMessagesError
from .targets import Target, targets_of

ROOT = Path(__file__).resolve().parent.parent

# Above what the slowest job that is not hung takes: its messages at this rate, and a minute for all else.
SLOWEST_RATE = 5_000
GRACE = 60.0

# Cores in use by other processes while a job ran; with more, its figures say little.
TOO_MUCH_LOAD = 0.15

# Characters of a failed job's errors that are shown.
SHOWN = 4_000


class JobFailedError(Exception):
    """
    A job ended with an error, lost messages or hung.
    """


class JobSkippedError(Exception):
    """
    A job cannot run here.
    """


@attrs.define(eq=False)
class Result:
    """
    What the repetitions of one case brought.
    """

    case: Case
    runs: List[Dict[str, Any]] = attrs.Factory(list)
    baseline_runs: List[Dict[str, Any]] = attrs.Factory(list)
    disturbed: int = 0
    """Repetitions that were thrown away, as other processes used the cores."""
    skipped: str = ""
    error: str = ""

    @property
    def is_of_use(self) -> bool:
        """
        Whether there is anything to show.
        """
        return bool(self.runs or self.skipped or self.error)

    def values(self, figure: str) -> List[float]:
        """
        Return the figure of each run, without those in which it could not be measured.
        """
        return [run[figure] for run in self.runs if run.get(figure) is not None]

    def median(self, figure: str) -> Optional[float]:
        """
        Return the median, None if the figure was not measured.
        """
        values = self.values(figure)
        return statistics.median(values) if values else None

    def spread(self, figure: str) -> float:
        """
        Return the distance from the least to the greatest value over the median.
        """
        values = self.values(figure)
        middle = statistics.median(values) if values else 0.0
        return (max(values) - min(values)) / middle if middle else 0.0

    def baseline_median(self, figure: str) -> Optional[float]:
        """
        Return the median of the comparison.
        """
        values = [run[figure] for run in self.baseline_runs if run.get(figure) is not None]
        return statistics.median(values) if values else None

    def verdicts(self) -> Dict[Target, Optional[bool]]:
        """
        Return for each target whether it was met, None if it could not be measured.
        """
        medians = {target: self.median(target.figure) for target in targets_of(self.case.name)}
        return {target: None if value is None else target.is_met(value) for target, value in medians.items()}

    def as_json(self) -> Dict[str, Any]:
        """
        Return all of it for the file.
        """
        figures = sorted({figure for run in self.runs for figure in run})
        return {
            "name": self.case.name,
            "scenario": self.case.scenario,
            "settings": attrs.asdict(self.case.settings),
            "compared_with": self.case.compared_with,
            "medians": {figure: self.median(figure) for figure in figures},
            "targets": {str(target): met for target, met in self.verdicts().items()},
            "runs": self.runs,
            "baseline_runs": self.baseline_runs,
            "disturbed": self.disturbed,
            "skipped": self.skipped,
            "error": self.error,
        }


def run_case(case: Case, repetitions: int, python: str = sys.executable, say: Callable[[str], None] = print) -> Result:
    """
    Return what :func:`fill` brings.
    """
    result = Result(case)
    fill(result, repetitions, python, say)
    return result


def fill(result: Result, repetitions: int, python: str, say: Callable[[str], None]) -> None:
    """
    Run the case as often as *repetitions* says, its comparison before each time; stop at the first failure.

    Repetitions that other processes disturbed are thrown away and repeated, as long as they are not the majority.
    """
    case = result.case
    while len(result.runs) < repetitions:
        say(f"{case.name} ({len(result.runs) + 1} of {repetitions})")
        try:
            baseline, figures = _repeat(case, python)
        except JobSkippedError as reason:
            result.skipped = str(reason)
            break
        except JobFailedError as error:
            result.error = str(error)
            break
        load = max(run.get("other_load") or 0.0 for run in (baseline, figures))
        if load > TOO_MUCH_LOAD and result.disturbed < repetitions:
            say(f"    thrown away: other processes used {load:.2f} cores")
            result.disturbed += 1
            continue
        result.runs.append(figures)
        result.baseline_runs.append(baseline)


def _repeat(case: Case, python: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """
    Run the comparison, then the case; an empty dict if there is none.
    """
    baseline = run_job(*case.baseline, python=python) if case.baseline is not None else {}
    figures = run_job(case.job, case.settings, python=python)
    for name, figure in (("ratio", "rate"), ("memory_ratio", "peak_mb")):
        if baseline.get(figure) and figures.get(figure):
            figures[name] = figures[figure] / baseline[figure]
    return baseline, figures


def run_job(job: str, settings: Settings, python: str = sys.executable) -> Dict[str, Any]:
    """
    Run one job in a process of its own and return its figures.

    Raises:
        JobFailedError: It ended with an error, or did not end; says what it wrote.
        JobSkippedError: It cannot run here.
    """
    try:
        with connectors.target_of(job, settings) as environment:
            return _run_child(job, settings, python, environment)
    except brokers.MissingBrokerError as error:
        raise JobSkippedError(str(error)) from error
    except LostMessagesError as error:
        raise JobFailedError(f"{job}: {error}") from error


def _run_child(job: str, settings: Settings, python: str, environment: Mapping[str, str]) -> Dict[str, Any]:
    time_limit = GRACE + settings.messages / SLOWEST_RATE
    command = [python, "-m", "bench.child", job, json.dumps(attrs.asdict(settings)), str(time_limit)]
    environment = {**_environment(), **environment}
    # The child ends itself when its time is up, with the stacks of its threads; this limit is for one that cannot.
    code, out, err = _communicate(command, environment, time_limit + 10)
    if code is None:
        raise JobFailedError(f"{job}: killed after {time_limit + 10:.0f} s")
    if code:
        raise JobFailedError(f"{job}: exit code {code}\n{_both_ends(err.strip())}")
    answer = json.loads(out.splitlines()[-1])
    if "skipped" in answer:
        raise JobSkippedError(answer["skipped"])
    figures: Dict[str, Any] = answer["figures"]
    return figures


def _both_ends(errors: str) -> str:
    """
    Return *errors*, if they are long their start and their end.

    A hung job first says that its time is up, then where each thread is, its main thread last.
    """
    if len(errors) <= SHOWN:
        return errors
    return f"{errors[: SHOWN // 2]}\n[...]\n{errors[-SHOWN // 2 :]}"


def _communicate(command: List[str], environment: Mapping[str, str], limit: float) -> Tuple[Optional[int], str, str]:
    """
    Return exit code, output and errors of *command*; no code if it had to be killed after *limit* seconds.

    As ``subprocess.run``, but that loses sight of a process if a signal comes while it starts it.
    """
    process = None
    try:
        with postponed():
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                universal_newlines=True,
            )  # fmt: skip
        out, err = process.communicate(timeout=limit)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        return None, "", ""
    finally:
        if process is not None:
            process.kill()
            with process:  # waits for its end and closes the pipes
                pass


def _environment() -> Mapping[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def describe(python: str) -> Dict[str, Any]:
    """
    Return the version and the machine of the interpreter *python*.

    Raises:
        JobFailedError: It cannot be run, or lacks what the library needs.
    """
    code = (
        "import json, os, platform, attrs, broadway_sync; "
        "print(json.dumps({'python': platform.python_version(), 'implementation': platform.python_implementation(), "
        "'system': platform.platform(), 'machine': platform.machine(), 'cores': os.cpu_count()}))"
    )
    try:
        done = subprocess.run(
            [python, "-c", code], cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, timeout=60,
        )  # fmt: skip
    except OSError as error:
        raise JobFailedError(f"{python}: {error}") from error
    if done.returncode:
        raise JobFailedError(f"{python} cannot import the library and attrs:\n{done.stderr.strip()}")
    description: Dict[str, Any] = json.loads(done.stdout)
    return description
