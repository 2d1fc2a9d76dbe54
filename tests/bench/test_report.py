"""
What the command prints, writes and returns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from bench import __main__ as command
from bench import compare, report
from bench.runner import Result
from bench.scenarios import CASES
from bench.targets import Target


def result_of(name: str, runs: List[Dict[str, Any]], **more: Any) -> Result:
    """
    The result of a case as the runner makes it.
    """
    case = next(case for case in CASES if case.name == name)
    return Result(case, runs, **more)


def test_a_target_is_a_bound_on_one_side() -> None:
    assert Target("ratio", at_least=0.6).is_met(0.6)
    assert not Target("ratio", at_least=0.6).is_met(0.59)
    assert Target("p50_us", at_most=30).is_met(30)
    assert not Target("p50_us", at_most=30).is_met(31)
    assert str(Target("p50_us", at_most=30)) == "p50 <= 30"


def test_verdicts_are_those_of_the_medians() -> None:
    """
    One bad run of three does not miss a target; what was not measured is neither met nor missed.
    """
    runs = [{"rate": 1.0, "ratio": ratio, "peak_mb": None} for ratio in (0.1, 0.7, 0.8)]
    good = result_of("batch_keys keys=100000 max_demand=10", runs)
    assert list(good.verdicts().values()) == [True, None]
    missed = result_of("batch max_demand=10", runs[:1])
    assert list(missed.verdicts().values()) == [False]


def test_exit_codes() -> None:
    """
    A failure always counts, a missed target only with --check.
    """
    good = result_of("batch max_demand=10", [{"rate": 2.0, "ratio": 0.9}])
    slow = result_of("batch max_demand=10", [{"rate": 2.0, "ratio": 0.1}])
    failed = result_of("batch max_demand=10", [], error="lost messages")
    assert command.exit_code([good], check=True) == 0
    assert command.exit_code([slow], check=False) == 0
    assert command.exit_code([slow], check=True) == 3
    assert command.exit_code([good, failed], check=False) == 1


def test_the_table_has_one_line_for_each_case() -> None:
    """
    Failed and skipped ones included.
    """
    run = {
        "rate": 900_000.0,
        "ratio": 0.65,
        "cpu_seconds_per_million": 1.1,
        "peak_mb": 20.0,
        "switches_per_message": 0.01,
    }
    results = [
        result_of("batch max_demand=10", [run], baseline_runs=[{"rate": 1_384_615.0, "peak_mb": 20.0}]),
        result_of("proc concurrency=2 max_demand=10", [], error="exit code 1"),
        result_of("pinned max_demand=10", [], skipped="cannot pin"),
    ]
    lines = report.table(results).splitlines()
    assert len(lines) == 2 + len(results)
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert dict(zip(report.HEADINGS, cells)) == {
        "scenario": "batch max_demand=10",
        "result": "900k msg/s",
        "+-": "",
        "compared with": "bare loop: 1,385k",
        "ratio": "0.65",
        "target": "ratio >= 0.6",
        "met": "yes",
        "Broadway": "0.51",
        "CPU s/M": "1.10",
        "peak MB": "20",
        "switches/msg": "0.0100",
    }
    assert "FAILED" in lines[3]
    assert "skipped: cannot pin" in lines[4]


def figures_file(path: Path, rates: List[float], **more: Any) -> str:
    """
    A file as the command writes it.
    """
    result = result_of("batch max_demand=10", [{"rate": rate} for rate in rates], **more)
    about = {"python": "3.11.7", "system": "Linux", "implementation": "CPython", "cores": 2, "repetitions": len(rates)}
    command.write(path, about, [result])
    return str(path)


def test_compare_shows_what_changed_beyond_the_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Values that overlap say nothing, unless asked for.
    """
    a = figures_file(tmp_path / "a.json", [100.0, 110.0, 105.0])
    b = figures_file(tmp_path / "b.json", [220.0, 210.0, 230.0])
    c = figures_file(tmp_path / "c.json", [109.0, 104.0, 120.0])
    assert compare.main([a, b]) == 0
    assert "| batch max_demand=10 | rate   | 105 | 220 | +109.5% | better |" in capsys.readouterr().out
    assert compare.main([b, a]) == 0
    assert "WORSE" in capsys.readouterr().out
    assert compare.main([a, c]) == 0
    assert "nothing changed beyond the spread" in capsys.readouterr().out
    assert compare.main([a, c, "--all"]) == 0
    assert "within the spread" in capsys.readouterr().out


def test_compare_names_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A case that failed in one of the files is no improvement.
    """
    a = figures_file(tmp_path / "a.json", [100.0])
    b = figures_file(tmp_path / "b.json", [], error="lost messages")
    assert compare.main([a, b]) == 0
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"about": {}, "cases": [1]})])
def test_compare_refuses_other_files(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    One line, exit code 2.
    """
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(SystemExit) as exit_:
        compare.main([str(tmp_path / "other.json")] * 2)
    assert exit_.value.code == 2
    assert "cannot read the figures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nowhere"], ["proc", "--messages", "-1"], ["--repetitions", "0"], ["--check=1"]]
)
def test_wrong_arguments_are_refused(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(arguments)
    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_an_interpreter_that_cannot_be_used_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Before anything is run.
    """
    with pytest.raises(SystemExit) as exit_:
        command.main(["proc", "--python", str(tmp_path / "python")])
    assert exit_.value.code == 2
    assert str(tmp_path / "python") in capsys.readouterr().err


def test_list_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """
    It shows what an option changes.
    """
    assert command.main(["batch", "--list", "--batch-size", "7"]) == 0
    out = capsys.readouterr().out
    assert "batch max_demand=100 batch_size=7\n" in out
    assert "batch_size=100" not in out


@pytest.mark.timeout(120)
def test_the_command_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    From the command line to the file.
    """
    path = tmp_path / "figures" / "out.json"
    arguments = ["batch_tuned", "--messages", "3000", "--repetitions", "2", "--json", str(path)]
    assert command.main(arguments) == 0
    assert "batch_tuned max_demand=1000" in capsys.readouterr().out
    content = json.loads(path.read_text())
    (case,) = content["cases"]
    assert case["settings"]["messages"] == 3000
    assert len(case["runs"]) == len(case["baseline_runs"]) == 2
    assert case["medians"]["ratio"] > 0
    assert case["targets"].keys() == {"ratio >= 0.7"}
