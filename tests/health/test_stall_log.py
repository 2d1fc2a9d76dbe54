"""
Stalls are logged once, with the stacks, and once more when they are over.
"""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Tuple

import pytest

from broadway_sync.health import Health, assess
from broadway_sync.runner.stall_log import StallLog, format_stacks
from broadway_sync.statistics import StageStatistics, Statistics

FIRST, SECOND = "p.Broadway.Processor_default_0", "p.Broadway.Processor_default_1"
WHERE = {FIRST: "  in the handler\n", SECOND: "  at the door\n", "p.Broadway.Producer_0": "  at the door\n"}


class Stacks:
    """
    In place of the pipeline: has stacks, and counts who asks for them.
    """

    def __init__(self) -> None:
        self.asked = 0

    def stacks(self) -> Dict[str, str]:
        """
        Return the same as ever.
        """
        self.asked += 1
        return WHERE


def health(first: Any = None, second: Any = None, idle_for: float = 0.0, **options: Any) -> Health:
    """
    Return the health of a pipeline whose two processors have been busy for so long, with a limit of 60 seconds.
    """
    stages = tuple(
        StageStatistics(name=name, kind="processor", in_hand=0 if seconds is None else 1, busy_for=seconds)
        for name, seconds in ((FIRST, first), (SECOND, second))
    )
    in_flight = sum(stage.in_hand for stage in stages)
    fields = {"name": "p", "state": "running", "in_flight": in_flight, "idle_for": idle_for, "stages": stages}
    return assess(Statistics(**{**fields, **options}), 60.0)


STALLED = health(70.0, 1.0, idle_for=65.0)
PARTLY = health(70.0, 1.0, idle_for=1.0)
FINE = health(1.0, 1.0, idle_for=1.0)


@pytest.fixture
def records(caplog: Any) -> Any:
    """
    Return a function that returns what was logged since the last call: level, stage, first line.
    """
    caplog.set_level(logging.INFO, "broadway_sync")

    def take() -> List[Tuple[str, str, str]]:
        found = [(r.levelname, r.stage, r.getMessage().splitlines()[0]) for r in caplog.records]
        caplog.clear()
        return found

    return take


def look(log: StallLog, *healths: Health) -> Stacks:
    """
    Look at each in turn.
    """
    pipeline = Stacks()
    for each in healths:
        log.look_at([(pipeline, each)])
    return pipeline


def test_without_a_stall_there_is_nothing_to_say(records: Any) -> None:
    """
    And nobody looks at stacks.
    """
    assert look(StallLog(), FINE, health(), FINE).asked == 0
    assert records() == []


def test_a_stall_is_logged_once_with_all_stacks(caplog: Any) -> None:
    """
    However long it lasts.
    """
    pipeline = look(StallLog(), FINE, STALLED, health(75.0, 6.0, idle_for=70.0), health(80.0, None, idle_for=75.0))
    assert pipeline.asked == 1
    (record,) = caplog.records
    assert (record.levelname, record.pipeline, record.stage) == ("ERROR", "p", "p")
    assert record.getMessage() == (
        "[p] p: stalled; 2 messages in flight; none came through yet; 0 handled in 0.0 s; "
        f"{FIRST} has been busy with 1 messages for 70.0 s; its threads are at:\n"
        f"{FIRST}:\n  in the handler\n\n{SECOND}, p.Broadway.Producer_0:\n  at the door\n"
    )


def test_another_stage_that_hangs_in_a_stall_is_part_of_it(records: Any) -> None:
    """
    The stacks of all were shown.
    """
    look(StallLog(), STALLED, health(75.0, 61.0, idle_for=70.0))
    assert len(records()) == 1


def test_the_end_of_a_stall_is_logged_once(records: Any) -> None:
    """
    For the pipeline and for the stage.
    """
    log = StallLog()
    look(log, STALLED)
    records()
    look(log, FINE, FINE)
    assert records() == [
        (
            "INFO",
            "p",
            "[p] no longer stalled; p: healthy; 2 messages in flight; none came through yet; 0 handled in 0.0 s",
        ),
        ("INFO", FIRST, f"[{FIRST}] no longer stalled"),
    ]


def test_the_next_stall_is_another_one(records: Any) -> None:
    """
    Logged again.
    """
    look(StallLog(), STALLED, FINE, STALLED)
    assert [level for level, _, _ in records()] == ["ERROR", "INFO", "INFO", "ERROR"]


def test_a_stage_that_hangs_while_others_go_on_is_a_warning(caplog: Any, records: Any) -> None:
    """
    With its own stack; if the pipeline stalls later, that is news.
    """
    log = StallLog()
    look(log, PARTLY, PARTLY)
    (record,) = caplog.records
    assert (record.levelname, record.pipeline, record.stage) == ("WARNING", "p", FIRST)
    assert record.getMessage() == (
        f"[{FIRST}] stalled: busy with 1 messages for 70.0 s, while others go on; it is at:\n"
        f"{FIRST}:\n  in the handler\n"
    )
    records()
    look(log, STALLED)
    assert [(level, stage) for level, stage, _ in records()] == [("ERROR", "p")]
    look(log, PARTLY)
    assert [(level, stage) for level, stage, _ in records()] == [("INFO", "p")]
    look(log, FINE)
    assert [(level, stage) for level, stage, _ in records()] == [("INFO", FIRST)]


def test_one_more_stage_that_hangs_is_logged_by_itself(records: Any) -> None:
    """
    What was said of the other is not said again.
    """
    look(StallLog(), PARTLY, health(90.0, 61.0, idle_for=1.0))
    assert [(level, stage) for level, stage, _ in records()] == [("WARNING", FIRST), ("WARNING", SECOND)]


def test_a_stage_that_is_the_first_sign_of_a_stall_is_not_talked_about_before(records: Any) -> None:
    """
    What came through last was just before: whether others go on is not known yet.
    """
    look(StallLog(), health(60.5, None, idle_for=59.5), health(65.5, None, idle_for=64.5))
    assert [level for level, _, _ in records()] == ["ERROR"]


def test_a_stage_that_goes_on_hanging_in_a_quiet_time_is_not_forgotten(records: Any) -> None:
    """
    Its end is logged when it comes.
    """
    look(StallLog(), PARTLY, health(100.0, 1.0, idle_for=40.0), FINE)
    assert [(level, stage) for level, stage, _ in records()] == [("WARNING", FIRST), ("INFO", FIRST)]


def test_a_stall_that_ends_with_the_pipeline_is_over(records: Any) -> None:
    """
    When it is started again nothing is left of it.
    """
    log = StallLog()
    look(log, STALLED, assess(Statistics(name="p", state="stopped"), 60.0))
    assert [message for _, stage, message in records() if stage == "p"][-1] == "[p] no longer stalled; p: stopped"
    look(log, STALLED)
    assert [level for level, _, _ in records()] == ["ERROR"]


def test_pipelines_are_told_apart(records: Any) -> None:
    """
    By name.
    """
    log, other = StallLog(), health(70.0, None, idle_for=65.0, name="q")
    log.look_at([(Stacks(), STALLED), (Stacks(), other)])
    log.look_at([(Stacks(), FINE), (Stacks(), other)])
    assert [(level, stage) for level, stage, _ in records()] == [
        ("ERROR", "p"),
        ("ERROR", "q"),
        ("INFO", "p"),
        ("INFO", FIRST),
    ]


def test_one_that_is_not_watched_any_more_is_not_stalled_any_more(records: Any) -> None:
    """
    Nor is the next one of its name, before it is.
    """
    log = StallLog()
    look(log, STALLED)
    log.look_at([])
    log.look_at([])
    look(log, STALLED)
    assert [(level, message[:60]) for level, _, message in records() if level == "INFO"] == [
        ("INFO", "[p] no longer stalled: it is not running any more")
    ]
    log.look_at([])
    records()
    look(log, STALLED)
    assert [level for level, _, _ in records()] == ["ERROR"]


def test_a_thread_that_ended_between_two_glances_has_no_stack(caplog: Any) -> None:
    """
    Which is said in place of it.
    """
    pipeline = Stacks()
    pipeline.stacks = dict  # type: ignore[method-assign]
    StallLog().look_at([(pipeline, PARTLY)])
    assert caplog.records[0].getMessage().endswith(f"{FIRST}:\n  (ended)\n")


def test_no_stacks_are_no_text() -> None:
    """
    Nothing to group.
    """
    assert format_stacks({}) == ""
