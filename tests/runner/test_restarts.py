"""
Decisions without processes: who follows a worker, which code counts, when a process has done enough.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest

from broadway_sync.errors import DrainTimeoutError, PipelineFailedError
from broadway_sync.runner import limits
from broadway_sync.runner.exit_codes import ExitCode, worst
from broadway_sync.runner.group import Ending
from broadway_sync.runner.limits import Limits, resident_memory
from broadway_sync.runner.restarts import AT_LIMIT, MOST, SIGNALLED, STABLE, Next, RestartPlan, counts_as, describe
from broadway_sync.runner.service import describe as describe_endings


def plan(uniform: Any = lambda low, high: high) -> RestartPlan:
    """
    Return a plan whose pauses are the longest possible.
    """
    return RestartPlan(uniform)


def ended(
    restart: RestartPlan, code: int, lived: float = 0.0, *, is_stopping: bool = False, was_ready: bool = True
) -> Next:
    """
    Tell a plan of an end.
    """
    return restart.ended(code, lived, is_stopping=is_stopping, was_ready=was_ready)


def test_exhausted() -> None:
    """
    Has no successor.
    """
    assert ended(plan(), 0) == Next(None, ExitCode.DRAINED)


@pytest.mark.parametrize("code", [AT_LIMIT, SIGNALLED])
def test_successor_at_once(code: int) -> None:
    """
    For one that did what it was told to; it begins anew.
    """
    restart = plan()
    ended(restart, -9)
    assert ended(restart, code) == Next(0.0, ExitCode.DRAINED)
    assert restart.deaths == 0


@pytest.mark.parametrize("code", [AT_LIMIT, SIGNALLED])
def test_one_that_ends_itself_time_and_again(code: int) -> None:
    """
    As soon as it has started: there is a pause from the second on, until one has lived.
    """
    restart = plan()
    pauses = [ended(restart, code, lived).pause or 0.0 for lived in (0.1, 0.1, 0.1, 5.0, 0.1, 0.1)]
    assert [pause > 0.5 for pause in pauses] == [False, True, True, False, False, True]


def test_pauses_grow() -> None:
    """
    From half a second up to half a minute; then the parent gives up.
    """
    restart = plan()
    follows = [ended(restart, -9) for _ in range(MOST)]
    pauses = [each.pause or 0.0 for each in follows]
    assert pauses == sorted(pauses)
    assert 0.5 <= pauses[0] <= 1.5 and pauses[-1] == 30.0
    assert sum(pauses) > 60
    assert not any(each.is_hopeless for each in follows)
    assert ended(restart, -9) == Next(None, ExitCode.GAVE_UP, is_hopeless=True)


def test_pauses_are_never_short() -> None:
    """
    However the dice fall.
    """
    restart = plan(lambda low, high: low)
    assert all((ended(restart, -9).pause or 0.0) >= 0.5 for _ in range(MOST))


def test_one_that_was_stable_begins_anew() -> None:
    """
    Deaths that are far apart never add up.
    """
    restart = plan()
    pauses = {ended(restart, -9, STABLE).pause for _ in range(3 * MOST)}
    assert len(pauses) == 1 and restart.deaths == 1


@pytest.mark.parametrize("code", [ExitCode.LEFT_BEHIND, ExitCode.GAVE_UP, -9, 7])
def test_all_that_is_not_well_is_a_death(code: int) -> None:
    """
    With a pause.
    """
    assert (ended(plan(), code).pause or 0.0) >= 0.5


def test_mistake_at_the_first_start() -> None:
    """
    Is hopeless.
    """
    assert ended(plan(), 2, was_ready=False) == Next(None, ExitCode.CANNOT_START, is_hopeless=True)


def test_mistake_at_a_later_start() -> None:
    """
    May be mended, as it was not there before; not for ever.
    """
    restart = plan()
    assert all((ended(restart, 2).pause or 0.0) >= 0.5 for _ in range(MOST))
    assert ended(restart, 2) == Next(None, ExitCode.CANNOT_START, is_hopeless=True)


@pytest.mark.parametrize("code", [0, 1, 2, 3, AT_LIMIT, SIGNALLED, -9, 7])
def test_nobody_follows_in_a_stop(code: int) -> None:
    """
    How it ended counts.
    """
    assert ended(plan(), code, is_stopping=True) == Next(None, counts_as(code))


def test_what_codes_count_as() -> None:
    """
    One that died left what it had in hand.
    """
    codes = [0, AT_LIMIT, SIGNALLED, 1, -9, 7, 3, 2]
    assert [int(counts_as(code)) for code in codes] == [0, 0, 0, 1, 1, 1, 3, 2]


def test_ends_in_words() -> None:
    """
    For the log.
    """
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(-250) == "was killed by signal 250"
    assert describe(7) == "ended with exit code 7"
    assert describe(3) == "gave up"


def test_worst_code() -> None:
    """
    Cannot start > gave up > left behind > drained.
    """
    order = [0, 1, 3, 2]
    for first, second in itertools.product(order, order):
        assert worst([first, second]) == order[max(order.index(first), order.index(second))]
    assert worst([]) == ExitCode.DRAINED


def test_last_word() -> None:
    """
    Says who gave up, and how much was left where.
    """
    drain = DrainTimeoutError("...", 3, {})
    endings = [Ending("a", None, None), Ending("b", None, drain), Ending("c", PipelineFailedError("..."), drain)]
    assert [ending.code for ending in endings] == [0, 1, 3]
    left = "messages were left behind, neither acknowledged nor failed: 3 in b, 3 in c"
    assert describe_endings(endings) == f"c gave up; {left}"
    hung = Ending("d", None, DrainTimeoutError("...", 0, {}))
    assert describe_endings([hung]) == "no message was left behind, but threads were: d"
    assert describe_endings(endings[:1]) == "drained"


def test_limits() -> None:
    """
    Messages count from the limit on, memory beyond it.
    """
    assert Limits(None, None).exceeded(10**9, 10**12) is None
    assert Limits(100, None).exceeded(99, 10**12) is None
    assert Limits(100, None).exceeded(100, None) == "100 messages were handled, max_messages is 100"
    assert Limits(None, 2**20).exceeded(10**9, 2**20) is None
    assert Limits(None, 2**20).exceeded(0, None) is None
    assert Limits(None, 2**20).exceeded(0, 3 * 2**19) == "1.5M are resident, max_memory is 1.0M"


def test_resident_memory() -> None:
    """
    Grows with what the process holds.
    """
    before = resident_memory()
    if before is None:
        pytest.skip("this system does not tell")
    held = bytearray(os.urandom(2**20) * 64)
    after = resident_memory()
    assert after is not None and before + 32 * 2**20 < after < before + 512 * 2**20
    assert len(held) == 2**26


def test_resident_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Is the most that it ever was.
    """
    pytest.importorskip("resource")
    now = resident_memory()
    monkeypatch.setattr(limits, "open", _no_file, raising=False)
    most = resident_memory()
    assert now is not None and most is not None
    assert now / 2 < most < 100 * now


def _no_file(*arguments: Any) -> Any:
    raise FileNotFoundError
