"""
``python -m bench``: run the scenarios, print the table, write the figures.

Exit codes: 0, 1 a scenario failed or lost messages, 2 wrong arguments, 3 a target was missed (with ``--check``), 4
ended early: by Ctrl-C, SIGTERM, SIGHUP or ``--time-limit``. What was measured until then is shown and written all the
same; the file is written anew after each case.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import attrs

from . import brokers, report, settings
from .ending import EndedError, ended_by_signals
from .runner import JobFailedError, Result, describe, fill
from .scenarios import CASES, Case, quick, scenarios


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    Run the command line.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    overrides = {name: getattr(chosen, name) for name in settings.options() if getattr(chosen, name) is not None}
    cases = _cases(chosen.scenarios, chosen.quick, overrides, chosen.peers)
    if chosen.list:
        _list(cases)
        return 0
    try:
        about = describe(chosen.python)
    except JobFailedError as error:
        parser.error(str(error))
    repetitions = chosen.repetitions or (2 if chosen.quick else 5)
    path = Path(chosen.json or f"bench/results/{time.strftime('%Y%m%d-%H%M%S')}-python{about['python']}.json")
    about = {**about, "repetitions": repetitions, "ended": ""}
    results = _measure(cases, about, path, chosen)
    _print(about, results, len(cases), path)
    return exit_code(results, chosen.check) or (4 if about["ended"] else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the pipeline against a bare loop that does the same work on one thread.",
        epilog="Each option of a run applies to all chosen scenarios; --list shows what they use without it.",
    )
    names = scenarios()
    # No choices=: with nargs="*" older Pythons check the empty list against them.
    parser.add_argument("scenarios", nargs="*", type=_scenario, metavar="SCENARIO", help=f"of {', '.join(names)} (all)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, 2 repetitions")
    parser.add_argument("--repetitions", type=_positive, help="runs of each case (5, with --quick 2)")
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the jobs (this one)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave the other libraries out")
    parser.add_argument("--check", action="store_true", help="exit with 3 when a target is missed")
    parser.add_argument("--json", help="file for all figures (bench/results/DATE-pythonVERSION.json)")
    parser.add_argument("--time-limit", type=_time_limit, metavar="SECONDS", help="end then, with what there is")
    parser.add_argument("--list", action="store_true", help="show the cases and their options, run nothing")
    group = parser.add_argument_group("options of a run")
    for name, convert in settings.options().items():
        option = "--" + name.replace("_", "-")
        group.add_argument(option, type=_not_negative(convert), metavar="N", help=settings.help_of(name))
    return parser


def _scenario(name: str) -> str:
    if name not in scenarios():
        raise argparse.ArgumentTypeError(f"unknown scenario {name!r}, valid ones are: {', '.join(scenarios())}")
    return name


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 1, got: {text}")
    return number


def _time_limit(text: str) -> float:
    seconds = float(text)
    if not hasattr(signal, "setitimer"):
        raise argparse.ArgumentTypeError("this platform has no timers")
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number > 0, got: {text}")
    return seconds


def _not_negative(convert: Any) -> Any:
    def number(text: str) -> Any:
        value = convert(text)
        if value < 0:
            raise argparse.ArgumentTypeError(f"expected a number >= 0, got: {text}")
        return value

    return number


def _cases(names: List[str], is_quick: bool, overrides: Dict[str, Any], with_peers: bool) -> List[Case]:
    """
    Return the chosen cases, each once: with an override two may become the same.
    """
    cases = [case for case in CASES if case.scenario in (names or scenarios())]
    cases = [case for case in cases if with_peers or not case.is_peer or (case.scenario == "peers" and names)]
    cases = [(quick(case) if is_quick else case).override(**overrides) for case in cases]
    return list({case.name: case for case in cases}.values())


def _list(cases: List[Case]) -> None:
    for case in cases:
        print(f"{case.name}\n    {' '.join(f'{k}={v}' for k, v in attrs.asdict(case.settings).items())}")


def _measure(cases: List[Case], about: Dict[str, Any], path: Path, chosen: argparse.Namespace) -> List[Result]:
    """
    Run the cases and return what they brought, also if that ends early: then *about* says why.
    """
    results: List[Result] = []
    try:
        with ended_by_signals(chosen.time_limit):
            for case in cases:
                results.append(Result(case))
                fill(results[-1], about["repetitions"], chosen.python, _say)
                write(path, about, results)
    except EndedError as reason:
        about["ended"] = str(reason)
        results = [result for result in results if result.is_of_use]
        write(path, about, results)
    finally:
        brokers.close_all()
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write(path: Path, about: Dict[str, Any], results: List[Result]) -> None:
    """
    Write all figures, in place of what *path* has.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {**about, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    content = {"about": about, "cases": [result.as_json() for result in results]}
    # Not in place: whoever is killed in between leaves the last whole file.
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def _print(about: Dict[str, Any], results: List[Result], chosen: int, path: Path) -> None:
    """
    Print the table of *results*, and what there is to know about them; *chosen*: how many there were to be.
    """
    repetitions = about["repetitions"]
    print(f"{about['implementation']} {about['python']}, {about['cores']} cores, {about['system']}")
    print(f"medians of {repetitions} runs; +-: from the least to the greatest, in % of the median")
    print("ratio: to the comparison of the same run; Broadway: what Broadway 1.3 reached where ours is compared\n")
    print(report.table(results))
    for result in results:
        if result.error:
            print(f"\n{result.case.name} FAILED: {result.error}")
    verdicts = [met for result in results for met in result.verdicts().values()]
    met, missed, unknown = (verdicts.count(verdict) for verdict in (True, False, None))
    print(f"\ntargets met: {met}, missed: {missed}, not measured: {unknown}")
    print(f"runs thrown away as other processes disturbed them: {sum(result.disturbed for result in results)}")
    if about["ended"]:
        print(f"ended by {about['ended']}: {chosen - len(results)} of {chosen} cases were not run")
        for result in results:
            if result.runs and not result.error and len(result.runs) < repetitions:
                print(f"    {result.case.name}: {len(result.runs)} of {repetitions} runs")
    print(f"all figures: {path}", flush=True)


def exit_code(results: List[Result], check: bool) -> int:
    if any(result.error for result in results):
        return 1
    missed = any(met is False for result in results for met in result.verdicts().values())
    return 3 if check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
