"""
Every case of the benchmark runs, in a process of its own as in earnest, with few messages. Those on brokers: see
``test_connectors.py``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List

import attrs
import pytest

from bench import jobs, runner
from bench.scenarios import CASES, Case, quick, scenarios
from bench.settings import Settings
from bench.targets import BROADWAY, TARGETS

SMALL = {"messages": 2_000, "times": 2, "seconds": 0.3}


def small(case: Case) -> Case:
    """
    A version of the case that is over in a moment.
    """
    baseline = case.baseline and (case.baseline[0], attrs.evolve(case.baseline[1], **SMALL))
    return attrs.evolve(case.override(**SMALL), baseline=baseline)


def silent(text: str) -> None:
    """
    Say nothing.
    """


@pytest.mark.parametrize("case", [case for case in CASES if not case.broker], ids=lambda case: case.name)
@pytest.mark.timeout(120)
def test_case_runs(case: Case) -> None:
    """
    It brings figures above zero, and a ratio if it is compared with something.
    """
    result = runner.run_case(small(case), 1, say=silent)
    if result.skipped:
        pytest.skip(result.skipped)
    assert not result.error
    figures = result.runs[0]
    # All that a machine can tell is a number; what must not be zero, is not.
    assert all(isinstance(value, (int, float)) for value in figures.values() if value is not None), figures
    positive = {"rate", "seconds", "ratio", "p50_us", "p99_us", "milliseconds", "share_of_ideal", "threads"}
    assert all(value > 0 for name, value in figures.items() if name in positive), figures
    assert ("ratio" in figures) == (case.baseline is not None)


@pytest.mark.timeout(60)
def test_rate_stays_within_the_limit() -> None:
    """
    The figure of the scenario counts the messages of a window.
    """
    figures = runner.run_job("rate", Settings(messages=60, allowed_messages=20, interval=0.1))
    assert figures["most_in_a_window"] == 20
    assert figures["share_of_ideal"] == pytest.approx(1, abs=0.25)


def test_most_in_a_window_finds_a_limiter_that_lets_too_many_through() -> None:
    """
    Whatever the phase of its windows.
    """
    bursts = [0.1 * window + 0.033 + 0.0001 * number for window in range(5) for number in range(10)]
    assert jobs.most_in_a_window(bursts, 0.1) == 10
    assert jobs.most_in_a_window(sorted([*bursts, 0.2335]), 0.1) == 11


@pytest.fixture
def log_as_before() -> Iterator[None]:
    """
    Undo what a job, meant for a process of its own, does to the library's logger.
    """
    logger = logging.getLogger("broadway_sync")
    propagate, attached = logger.propagate, list(logger.handlers)
    yield
    logger.propagate, logger.handlers[:] = propagate, attached


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("log_as_before")
def test_telemetry_handlers_are_called() -> None:
    """
    The scenario measures what it says: its events are those that the library sends.
    """
    from broadway_sync import telemetry

    seen: Dict[Any, int] = {}

    def count(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        seen[event] = seen.get(event, 0) + 1

    telemetry.attach_many("test", jobs.EVENTS, count)
    try:
        jobs.pipeline(Settings(messages=50, fail_every=10))
    finally:
        telemetry.detach("test")
    assert seen[("broadway", "processor", "message", "start")] == 50
    assert seen[("broadway", "processor", "message", "stop")] == 45
    assert seen[("broadway", "processor", "message", "exception")] == 5
    assert set(jobs.EVENTS) >= set(seen)


def test_lost_messages_fail_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A yardstick that forgets a batch is found out.
    """
    monkeypatch.setattr("bench.limit.Batches.flush", lambda self: None)
    with pytest.raises(Exception, match=r"acknowledged: \(100, 0\), expected: \(150, 0\)"):
        jobs.limit(Settings(messages=150))


def test_a_job_that_fails_is_reported(tmp_path: Path) -> None:
    """
    With what it wrote.
    """
    with pytest.raises(runner.JobFailedError, match="only one of keys, sleep, sha and fail_every"):
        runner.run_job("limit", Settings(keys=1, sha=1))
    with pytest.raises(runner.JobFailedError, match="no-such-python"):
        runner.describe(str(tmp_path / "no-such-python"))


def test_a_peer_that_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    With the reason.
    """
    (tmp_path / "pypeln.py").write_text("raise ImportError('No module named pypeln')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    case = next(case for case in CASES if case.job == "pypeln")
    result = runner.run_case(small(case), 3, say=silent)
    assert result.skipped == "No module named pypeln; pip install 'broadway_sync[bench]'"
    assert result.runs == []


@pytest.mark.timeout(60)
def test_a_job_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It shows where it hung, also when the stacks of its threads are more than is shown.
    """
    monkeypatch.setattr(runner, "GRACE", 5.0)
    with pytest.raises(runner.JobFailedError, match=r"Timeout(.|\n)*\[\.\.\.\](.|\n)*in idle") as caught:
        runner.run_job("idle", Settings(messages=0, seconds=3600.0, concurrency=20))
    assert len(str(caught.value)) < runner.SHOWN + 100


def test_disturbed_repetitions_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    But not for ever.
    """
    loads = iter([0.0, 0.9, 0.0, 0.9, 0.9, 0.9])
    monkeypatch.setattr(runner, "run_job", lambda *_, **__: {"rate": 1.0, "other_load": next(loads)})
    case = Case("idle", "idle", Settings())
    result = runner.run_case(case, 3, say=silent)
    assert (len(result.runs), result.disturbed) == (3, 3)
    assert [run["other_load"] for run in result.runs] == [0.0, 0.0, 0.9]


def test_names_are_unique_and_targets_have_cases() -> None:
    """
    A renamed case must not lose its target.
    """
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(TARGETS) | set(BROADWAY) <= set(names)


def test_comparison_follows_an_override_that_it_shares() -> None:
    """
    And keeps what makes the difference; the name tells the change, the amount of work is no part of it.
    """
    cases: List[Case] = [case for case in CASES if case.scenario == "telemetry"]
    changed = cases[0].override(batch_size=7, telemetry=1, messages=10)
    assert changed.baseline is not None
    assert changed.baseline[1] == attrs.evolve(cases[0].settings, batch_size=7, telemetry=0, messages=10)
    assert changed.name == "telemetry max_demand=10 batch_size=7"


def test_quick_changes_no_name_of_a_target() -> None:
    """
    Except for the soak, which is about the number of messages.
    """
    lost = {case.name for case in map(quick, CASES)} ^ {case.name for case in CASES}
    assert {name.split()[0] for name in lost} == {"soak"}
    assert len(scenarios()) == len({case.scenario for case in CASES})
