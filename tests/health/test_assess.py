"""
Whether a pipeline makes progress, decided from its statistics: no threads, no clock.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from broadway_sync import ConfigurationError
from broadway_sync.health import Health, assess
from broadway_sync.statistics import StageStatistics, Statistics

LIMIT = 60.0


def stage(kind: str = "processor", **figures: Any) -> StageStatistics:
    """
    Return a stage that does nothing, but for *figures*.
    """
    return StageStatistics(name=f"p.Broadway.{kind}", kind=kind, **figures)


def busy(seconds: float, kind: str = "processor", in_hand: int = 1) -> StageStatistics:
    """
    Return a stage that took *in_hand* messages so many seconds ago.
    """
    return stage(kind, in_hand=in_hand, busy_for=seconds, age=seconds)


def health(*stages: StageStatistics, **figures: Any) -> Health:
    """
    Assess a running pipeline; what its stages hold is in flight unless *figures* say otherwise.
    """
    in_flight = sum(each.waiting + each.in_hand for each in stages)
    defaults = {"name": "p", "state": "running", "in_flight": in_flight, "stages": stages or (stage(),)}
    return assess(Statistics(**{**defaults, **figures}), LIMIT)


def test_without_messages_it_is_idle_for_however_long() -> None:
    """
    A quiet night is no stall.
    """
    found = health(idle_for=1e6)
    assert (found.status, found.is_live, found.is_ready, found.oldest) == ("idle", True, True, 0.0)


def test_with_messages_it_is_healthy() -> None:
    """
    Something is in hand, and something came through just now.
    """
    found = health(busy(5), idle_for=1)
    assert (found.status, found.is_live, found.is_ready) == ("healthy", True, True)


@pytest.mark.parametrize("kind", ["processor", "batcher", "batch_processor"])
def test_messages_in_hand_and_none_through_are_a_stall(kind: str) -> None:
    """
    Exactly from ``stall_after`` on, in any stage that works on messages.
    """
    assert health(busy(LIMIT - 0.001, kind), idle_for=LIMIT - 0.001).status == "healthy"
    found = health(busy(LIMIT, kind), idle_for=LIMIT)
    assert (found.status, found.is_live, found.is_ready) == ("stalled", False, False)
    assert [each.name for each in found.stalled] == [f"p.Broadway.{kind}"]


def test_the_first_message_after_a_quiet_hour_is_no_stall() -> None:
    """
    Nothing came through for long, because nothing was there.
    """
    assert health(busy(0.1), idle_for=3600).status == "healthy"


def test_one_that_hangs_among_others_that_go_on_is_seen_at_its_stage() -> None:
    """
    The pipeline as a whole makes progress.
    """
    found = health(busy(3600), busy(1), idle_for=1)
    assert found.status == "healthy"
    assert found.is_live
    assert [each.status for each in found.stages] == ["stalled", "busy"]


def test_when_the_others_have_nothing_left_it_is_the_pipeline_that_is_stalled() -> None:
    """
    Nothing comes through any more, and one hangs.
    """
    assert health(busy(3600), stage(), idle_for=LIMIT).status == "stalled"


def test_messages_in_an_open_batch_wait_for_its_timeout() -> None:
    """
    However long that is.
    """
    found = health(stage(), stage("batcher", waiting=3, age=3600), idle_for=3600)
    assert (found.status, found.oldest) == ("healthy", 3600)
    assert [each.status for each in found.stages] == ["idle", "waiting"]


def test_a_new_message_beside_an_old_open_batch_is_no_stall() -> None:
    """
    The age of what waits says nothing about what is in hand.
    """
    found = health(busy(0.1), stage("batcher", waiting=3, age=3600), idle_for=3600)
    assert found.status == "healthy"


def test_messages_that_the_rate_limit_holds_back_wait() -> None:
    """
    An interval may be an hour.
    """
    found = health(stage("producer", waiting=100), stage(), idle_for=3600)
    assert (found.status, found.stages[0].status) == ("healthy", "waiting")


def test_messages_that_wait_behind_a_batch_processor_that_hangs_are_a_stall() -> None:
    """
    The whole pipeline is full, and the last stage of it is why.
    """
    stages = (stage("producer", waiting=10), stage(), stage("batcher", waiting=20, age=70), busy(70, "batch_processor"))
    found = health(*stages, idle_for=70)
    assert found.status == "stalled"
    assert [each.status for each in found.stages] == ["waiting", "idle", "waiting", "stalled"]


def test_a_producer_may_ask_its_source_for_ever() -> None:
    """
    A long poll is no stall, also while an open batch waits.
    """
    found = health(stage("producer", busy_for=7200.0), stage("batcher", waiting=1, age=70), idle_for=7200)
    assert (found.status, found.stages[0].status) == ("healthy", "idle")


@pytest.mark.parametrize(
    ("state", "is_live"), [("new", True), ("stopped", True), ("failed", False)], ids=["new", "stopped", "failed"]
)
def test_what_does_not_run_is_as_its_state_says(state: str, is_live: bool) -> None:
    """
    Not ready; a restart of the process is what a failed one needs, the others do not.
    """
    found = assess(Statistics(name="p", state=state), LIMIT)
    assert (found.status, found.is_live, found.is_ready) == (state, is_live, False)
    assert str(found) == f"p: {state}"


def test_a_drain_may_be_healthy_idle_or_stalled_but_never_ready() -> None:
    """
    Its state says that it drains.
    """
    found = health(busy(1), idle_for=1, state="draining", handled=8, uptime=20)
    assert (found.status, found.state, found.is_live, found.is_ready) == ("healthy", "draining", True, False)
    assert str(found) == (
        "p: healthy (draining); 1 messages in flight; the last one came through 1.0 s ago; 8 handled in 20.0 s"
    )
    assert health(state="draining").status == "idle"


def test_what_stalls_while_it_drains_needs_no_restart() -> None:
    """
    Its end is near: a stop has a deadline. Whoever restarted it would undo the stop.
    """
    found = health(busy(LIMIT), idle_for=LIMIT, state="draining")
    assert (found.status, found.is_live, found.is_ready) == ("stalled", True, False)


def test_the_text_says_what_hangs_where() -> None:
    """
    In one line.
    """
    found = health(busy(75, in_hand=5), idle_for=63.04, uptime=63.04, restarts=1)
    assert str(found) == (
        "p: stalled; 5 messages in flight; none came through yet; 0 handled in 63.0 s; "
        "p.Broadway.processor has been busy with 5 messages for 75.0 s"
    )
    assert str(health(idle_for=3, handled=7, uptime=10)) == (
        "p: idle; no message in flight for 3.0 s; 7 handled in 10.0 s"
    )


def test_everything_is_in_the_dictionary() -> None:
    """
    As JSON can have it: every figure of the pipeline and of its stages, to the millisecond.
    """
    found = health(busy(1.23456, in_hand=2), idle_for=0.12345, handled=3, uptime=2.5, restarts=1)
    fields = json.loads(json.dumps(found.as_dict()))
    assert fields == {
        "name": "p",
        "status": "healthy",
        "state": "running",
        "stall_after": LIMIT,
        "in_flight": 2,
        "handled": 3,
        "idle_for": 0.123,
        "uptime": 2.5,
        "restarts": 1,
        "oldest": 1.235,
        "stages": [
            {
                "name": "p.Broadway.processor",
                "kind": "processor",
                "key": None,
                "index": None,
                "status": "busy",
                "waiting": 0,
                "in_hand": 2,
                "handled": 0,
                "busy_for": 1.235,
                "age": 1.235,
                "restarts": 0,
            }
        ],
    }


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "60", None, True])
def test_stall_after_is_a_number_of_seconds(value: Any) -> None:
    """
    Anything else would never, or always, be a stall.
    """
    with pytest.raises(ConfigurationError) as caught:
        assess(Statistics(name="p", state="new"), value)
    assert str(caught.value) == f"stall_after: expected a finite number of seconds > 0, got: {value!r}"
