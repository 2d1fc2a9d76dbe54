"""
``python -m bench.compare A.json B.json``: what changed from A to B.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Dict, Iterator, List, Optional, Sequence

from .report import render

Case = Dict[str, Any]

# Figures worth comparing, and whether more of them is better.
FIGURES = {
    "rate": True,
    "ratio": True,
    "share_of_ideal": True,
    "cpu_seconds_per_million": False,
    "peak_mb": False,
    "switches_per_message": False,
    "p50_us": False,
    "p99_us": False,
    "most_in_a_window": False,
    "cpu_percent": False,
    "wake_ups_per_second": False,
    "milliseconds": False,
    "growth_mb": False,
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    Run the command line; exit code 2 for files that are no figures of the benchmark.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="Show what changed from A to B.")
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")
    parser.add_argument("--all", action="store_true", help="also what stayed within the spread of the runs")
    chosen = parser.parse_args(arguments)
    try:
        before, after = _read(chosen.a), _read(chosen.b)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"cannot read the figures: {error!r}")
    for path, figures in ((chosen.a, before), (chosen.b, after)):
        print("{}: Python {python}, {date}, {repetitions} runs, {system}".format(path, **figures["about"]))
    rows = list(_rows(before["cases"], after["cases"], chosen.all))
    print()
    headings = ["scenario", "figure", "A", "B", "change", ""]
    print(render([headings, *rows]) if rows else "nothing changed beyond the spread")
    return 0


def _read(path: str) -> Dict[str, Any]:
    with open(path) as file:
        content = json.load(file)
    return {"about": content["about"], "cases": {case["name"]: case for case in content["cases"]}}


def _rows(before: Dict[str, Any], after: Dict[str, Any], everything: bool) -> Iterator[List[str]]:
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            yield [name, "", *(("", "new") if name in after else ("gone", "")), "", ""]
            continue
        if before[name]["error"] or after[name]["error"]:
            yield [name, "", *("FAILED" if case[name]["error"] else "ran" for case in (before, after)), "", ""]
            continue
        for figure in FIGURES:
            yield from _row(name, figure, before[name], after[name], everything)


def _row(name: str, figure: str, before: Case, after: Case, everything: bool) -> Iterator[List[str]]:
    """
    Yield the line of *figure*, if it has something to say.
    """
    a, b = before["medians"].get(figure), after["medians"].get(figure)
    if a is None or b is None:
        return
    apart = _are_apart(_values(before, figure), _values(after, figure))
    if apart or everything:
        verdict = ("better" if (b > a) == FIGURES[figure] else "WORSE") if apart else "within the spread"
        yield [name, figure, _short(a), _short(b), f"{(b - a) / a:+.1%}" if a else "", verdict]


def _values(case: Dict[str, Any], figure: str) -> List[float]:
    return [run[figure] for run in case["runs"] if run.get(figure) is not None]


def _are_apart(a: List[float], b: List[float]) -> bool:
    """
    Whether every value of one is above every value of the other: with 5 runs each, chance does that once in 126 times.
    """
    return max(a) < min(b) or max(b) < min(a)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
