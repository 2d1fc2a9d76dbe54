"""
When failures are too many: counted against what a run says that it is through with.
"""

from __future__ import annotations

from typing import Any, Optional

import pytest

from broadway_sync.dead_letter.limits import Failures, Limits
from broadway_sync.statistics import StageStatistics, Statistics

PROCESSORS = ("p.Processor_default_0", "p.Processor_default_1")
BATCHES = "p.BatchProcessor_default_0"


def statistics(
    processed: int = 0,
    other: int = 0,
    batched: int = 0,
    through: Optional[int] = None,
    in_flight: int = 0,
) -> Statistics:
    """
    Return the figures of a run with two processors and a batch processor.
    """
    stages = (
        StageStatistics(name=PROCESSORS[0], kind="processor", key="default", index=0, handled=processed),
        StageStatistics(name=PROCESSORS[1], kind="processor", key="default", index=1, handled=other),
        StageStatistics(name=BATCHES, kind="batch_processor", key="default", index=0, handled=batched),
    )
    handled = processed + other if through is None else through
    return Statistics(name="p", state="running", handled=handled, in_flight=in_flight, stages=stages)


def limited(**limits: Any) -> Failures:
    """
    Return the failures of a run.
    """
    return Failures(Limits(**{"max_ratio": None, "window": 10, "max_run": None, **limits}))


def test_a_row_of_failures_is_too_long() -> None:
    """
    One more than is allowed.
    """
    failures = limited(max_run=3)
    assert failures.add(statistics(0), PROCESSORS[0], 2, 1) is None
    assert failures.add(statistics(2), PROCESSORS[0], 1, 1) is None
    text = failures.add(statistics(3), PROCESSORS[0], 1, 1)
    assert text == "4 messages failed in a row, more than max_run=3 allows"


def test_a_success_ends_a_row() -> None:
    """
    Of any stage of the same kind.
    """
    failures = limited(max_run=3)
    assert failures.add(statistics(0), PROCESSORS[0], 3, 1) is None
    assert failures.add(statistics(3, other=1), PROCESSORS[0], 3, 1) is None
    assert failures.add(statistics(6, other=2), PROCESSORS[1], 3, 1) is None
    assert failures.add(statistics(6, other=5), PROCESSORS[1], 1, 1) is not None


def test_a_success_of_the_same_step_ends_a_row_when_the_step_is_over() -> None:
    """
    Nine of ten fail: no row is longer than nine.
    """
    failures = limited(max_run=9)
    texts = [failures.add(statistics(10 * step), PROCESSORS[0], 9, 1) for step in range(20)]
    assert texts == [None] * 20


def test_kinds_of_stages_have_rows_of_their_own() -> None:
    """
    All batches fail while all messages succeed in the processors: that is a row.
    """
    failures = limited(max_run=10)
    assert failures.add(statistics(100), BATCHES, 5, 1) is None
    assert failures.add(statistics(200, batched=5), BATCHES, 5, 1) is None
    assert failures.add(statistics(300, batched=10), BATCHES, 5, 1) is not None


def test_a_restart_does_not_make_a_row() -> None:
    """
    The stages after it begin to count at nothing.
    """
    failures = limited(max_run=5)
    assert failures.add(statistics(1000), PROCESSORS[0], 4, 1) is None
    for step in range(20):  # every other one succeeds
        assert failures.add(statistics(2 * step), PROCESSORS[0], 1, 2) is None


def test_a_restart_is_noticed_however_much_succeeds_after_it() -> None:
    """
    The first failure after it may come when the new stages are through with more than the old ones were.
    """
    failures = limited(max_run=5)
    assert failures.add(statistics(0), PROCESSORS[0], 5, 1) is None
    assert failures.add(statistics(5), PROCESSORS[0], 3, 2) is None


def test_figures_that_another_thread_has_overtaken_do_not_end_a_row() -> None:
    """
    They are taken before it is this thread's turn to count.
    """
    failures = limited(max_run=5)
    for handled in (20, 21, 22):
        assert failures.add(statistics(handled), PROCESSORS[0], 1, 1) is None
    assert failures.add(statistics(10), PROCESSORS[1], 1, 1) is None
    assert failures.add(statistics(23), PROCESSORS[0], 1, 1) is None
    assert failures.add(statistics(24), PROCESSORS[0], 1, 1) is not None


def test_a_stage_that_is_not_there_is_a_kind_of_its_own() -> None:
    """
    A thread of the user's, say.
    """
    failures = limited(max_run=1)
    assert failures.add(statistics(), "main", 1, 1) is None
    assert failures.add(statistics(5), "main", 1, 1) is not None


def test_the_ratio_is_of_the_last_messages() -> None:
    """
    More than half of ten.
    """
    failures = limited(max_ratio=0.5)
    assert failures.add(statistics(0), PROCESSORS[0], 5, 1) is None
    text = failures.add(statistics(5), PROCESSORS[0], 1, 1)
    assert text == "6 of the last 10 messages failed, more than max_ratio=0.5 allows"


@pytest.mark.parametrize(("max_ratio", "failed"), [(0.29, 29), (0.57, 57), (0.07, 7), (0.5, 50)])
def test_the_ratio_itself_is_allowed(max_ratio: float, failed: int) -> None:
    """
    Whatever its product is: 0.29 * 100 is less than 29.
    """
    failures = limited(max_ratio=max_ratio, window=100)
    assert failures.add(statistics(0), PROCESSORS[0], failed, 1) is None
    assert failures.add(statistics(failed), PROCESSORS[0], 1, 1) is not None


def test_no_more_than_all_failed() -> None:
    """
    Also when a batch has more messages than the window.
    """
    text = limited(max_ratio=0.5).add(statistics(0), BATCHES, 50, 1)
    assert text == "10 of the last 10 messages failed, more than max_ratio=0.5 allows"


def test_what_is_long_ago_does_not_count() -> None:
    """
    One of five fails for ever.
    """
    failures = limited(max_ratio=0.5)
    assert [failures.add(statistics(5 * step), PROCESSORS[0], 1, 1) for step in range(100)] == [None] * 100
    assert failures.add(statistics(1000), PROCESSORS[0], 5, 1) is None
    assert failures.add(statistics(1011), PROCESSORS[0], 5, 1) is None
    assert failures.add(statistics(1013), PROCESSORS[0], 1, 1) is not None


def test_successes_that_wait_in_a_batch_count() -> None:
    """
    Three of ten fail at once, the others are through in a minute.
    """
    failures = limited(max_ratio=0.5)
    for step in range(100):
        assert failures.add(statistics(through=3 * step, in_flight=7 * step + 10), PROCESSORS[0], 3, 1) is None


def test_the_ratio_goes_on_over_restarts() -> None:
    """
    It is counted in what the whole run is through with.
    """
    failures = limited(max_ratio=0.5)
    assert failures.add(statistics(3, through=1000), PROCESSORS[0], 3, 1) is None
    assert failures.add(statistics(0, through=1003), PROCESSORS[0], 3, 1) is not None


def test_no_limit_is_no_limit() -> None:
    """
    Unless it is asked for.
    """
    assert limited().add(statistics(), PROCESSORS[0], 1_000_000, 1) is None
    assert not Limits(None, 10, None).is_set
