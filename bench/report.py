"""
The table, in Markdown that reads as plain text too.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

from .runner import Result
from .targets import BROADWAY

HEADINGS = [
    "scenario", "result", "+-", "compared with", "ratio", "target", "met", "Broadway",
    "CPU s/M", "peak MB", "switches/msg",
]  # fmt: skip


def _percentiles(figures: Dict[str, Any]) -> str:
    return "p50 {p50_us:.0f} us, p90 {p90_us:.0f} us, p99 {p99_us:.0f} us".format(**figures)


_SHOWN: Dict[str, Callable[[Dict[str, Any]], str]] = {
    "latency": _percentiles,
    "round_trip": _percentiles,
    "rate": lambda m: "{share_of_ideal:.4f} of ideal, at most {most_in_a_window} a window".format(**m),
    "idle": lambda m: "{threads} threads: {cpu_percent:.3f}% CPU, {wake_ups} wake-ups/s".format(**m),
    "start_stop": lambda m: "{threads} threads: {milliseconds:.1f} ms, worst {worst_milliseconds:.1f}".format(**m),
}


def table(results: Sequence[Result]) -> str:
    """
    Return one line for each case.
    """
    return render([HEADINGS, *map(_row, results)])


def _row(result: Result) -> List[str]:
    case = result.case
    if result.error or result.skipped:
        why = "FAILED, see below" if result.error else f"skipped: {result.skipped.splitlines()[0]}"
        return [case.name, why] + [""] * (len(HEADINGS) - 2)
    headline = "rate" if result.median("rate") is not None else next(iter(figures_of(result)), "")
    return [
        case.name,
        _headline(result),
        f"{result.spread(headline):.0%}" if len(result.runs) > 1 else "",
        _comparison(result),
        _number(result.median("ratio"), "{:.2f}"),
        "; ".join(str(target) for target in result.verdicts()),
        "; ".join({True: "yes", False: "NO", None: "not measured"}[met] for met in result.verdicts().values()),
        _number(BROADWAY.get(case.name), "{:g}"),
        _number(result.median("cpu_seconds_per_million"), "{:.2f}"),
        _number(result.median("peak_mb"), "{:.0f}"),
        _number(result.median("switches_per_message"), "{:.4f}"),
    ]


def figures_of(result: Result) -> List[str]:
    """
    Return the figures that tell this case's result, the first the most.
    """
    names = ("rate", "ratio", "memory_ratio", "share_of_ideal", "p50_us", "p99_us", "cpu_percent", "milliseconds")
    return [name for name in names if result.median(name) is not None]


def _headline(result: Result) -> str:
    figures: Dict[str, Any] = {name: result.median(name) for run in result.runs for name in run}
    figures["wake_ups"] = _number(figures.get("wake_ups_per_second"), "{:.1f}") or "?"
    shown = _SHOWN.get(result.case.job)
    if shown is not None:
        return shown(figures)
    text = f"{_thousands(figures['rate'])} msg/s"
    if figures.get("share_of_ideal") is not None:
        text += f", {figures['share_of_ideal']:.3f} of ideal"
    if figures.get("memory_at_tenth_mb") is not None:
        text += ", {memory_at_tenth_mb:.1f} / {memory_at_half_mb:.1f} / {memory_at_end_mb:.1f} MB".format(**figures)
    return text


def _comparison(result: Result) -> str:
    rate = result.baseline_median("rate")
    if rate is None:
        return ""
    text = f"{result.case.compared_with}: {_thousands(rate)}"
    memory = result.baseline_median("peak_mb")
    return text if memory is None or memory < 50 else f"{text}, {memory:.0f} MB"


def _thousands(rate: Optional[float]) -> str:
    if rate is None:
        return ""
    return f"{rate / 1000:,.0f}k" if rate >= 10_000 else f"{rate:,.0f}"


def _number(value: Optional[float], form: str) -> str:
    return "" if value is None else form.format(value)


def render(rows: Sequence[Sequence[str]]) -> str:
    """
    Return *rows*, the first of them the headings, as a Markdown table with aligned columns.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
