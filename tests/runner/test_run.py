"""
``broadway-sync run`` in one process: real processes, real signals, exit codes.
"""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Any, Callable

import pytest

from tests.helpers import SCALE, eventually
from tests.runner.support import PATIENCE, Runner, wait_for_echo

Start = Callable[..., Runner]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def numbers(entries: list[list[str]]) -> list[int]:
    """
    Return what entries such as ``ok 3`` are about.
    """
    return [int(entry[2]) for entry in entries]


def test_ends_when_the_source_is_exhausted(runner: Start) -> None:
    """
    Everything is acknowledged; exit code 0.
    """
    started = runner("short")
    assert started.end() == 0, started
    assert numbers(started.said("ok")) == list(range(10))
    assert "running short" in started.output


def test_target_that_is_a_pipeline(runner: Start) -> None:
    """
    Not only a function that returns one.
    """
    started = runner("pipeline")
    assert started.end() == 0, started
    assert len(started.said("ok")) == 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_drains_while_handlers_are_busy(runner: Start, number: signal.Signals) -> None:
    """
    What is in hand is finished and acknowledged, nothing else is begun; exit code 0.
    """
    started = runner("gated")
    started.wait_for("in", 0)
    started.signal(number)
    started.wait_for_output(f"{number.name}: draining")
    started.open_gate()
    assert started.end() == 0, started
    assert numbers(started.said("ok")) == numbers(started.said("in"))
    assert len(started.said("in")) <= 2
    assert "Traceback" not in started.output


def test_several_pipelines_drain_together(runner: Start) -> None:
    """
    One process, one signal.
    """
    started = runner("endless", "gated")
    started.wait_for("in", 0)
    started.wait_for("ok", count=5)
    started.signal()
    started.open_gate()
    assert started.end() == 0, started
    assert "running endless, gated" in started.output


def test_one_ends_and_the_others_go_on(runner: Start) -> None:
    """
    Until the last one has ended.
    """
    started = runner("short", "endless")
    started.wait_for("ok", 15)
    assert started.process.is_alive
    assert started.stop() == 0, started


def test_hanging_handler(runner: Start) -> None:
    """
    Exit code 1 when the time is over; how many messages were left behind, and where the handler hangs, is said.
    """
    started = runner("hanging", "--shutdown", "0.5")
    started.wait_for("in", 0)
    before = time.monotonic()
    assert started.stop() == 1, started
    assert 0.4 <= time.monotonic() - before < 10 * SCALE
    found = re.search(r"messages were left behind, neither acknowledged nor failed: (\d+) in hanging", started.output)
    assert found and int(found[1]) >= 1
    assert "hanging.Broadway.Processor_default_0 had not ended" in started.output
    assert "in never_returns" in started.output
    assert started.said("ok") == []


def test_second_signal_stops_at_once(runner: Start) -> None:
    """
    However long the drain may take.
    """
    started = runner("hanging", "--shutdown", "600")
    started.wait_for("in", 0)
    started.signal()
    started.wait_for_output("SIGTERM: draining")
    wait_for_echo()
    started.signal(signal.SIGINT)
    assert started.end() == 1, started
    assert "messages were left behind" in started.output


def test_two_signals_at_once_are_one(runner: Start) -> None:
    """
    A process manager signals the process, and then the group that it is in.
    """
    started = runner("gated", echo=PATIENCE)  # however late the second one is handled
    started.wait_for("in", 0)
    started.signal(signal.SIGSTOP)  # so that both are there when it goes on
    started.signal(signal.SIGTERM)
    started.process.signal_group(signal.SIGINT)
    started.signal(signal.SIGCONT)
    started.wait_for_output(": draining")
    started.open_gate()
    assert started.end() == 0, started
    assert len(started.said("ok")) == len(started.said("in"))


def test_pipeline_that_gives_up(runner: Start) -> None:
    """
    Exit code 3, with the cause; the other pipelines drain.
    """
    started = runner("endless", "failing")
    assert started.end() == 3, started
    assert "failing gave up" in started.output
    assert "OSError: the broker is on fire" in started.output
    acknowledged = numbers(started.said("ok"))
    assert acknowledged == list(range(len(acknowledged)))


def test_giving_up_is_worse_than_leaving_behind(runner: Start) -> None:
    """
    The code is that of the worst; both are said.
    """
    started = runner("hanging", "failing", "--shutdown", "0.5")
    assert started.end() == 3, started
    assert "failing gave up; messages were left behind" in started.output


def test_signal_while_a_pipeline_starts(runner: Start) -> None:
    """
    It is stopped as soon as it has started; those after it are not started.
    """
    started = runner("slow_to_start", "endless")
    started.wait_for("starting")
    started.signal()
    started.open_gate()
    assert started.end() == 0, started
    assert started.said("ok") == []


def test_second_signal_while_a_start_hangs(runner: Start) -> None:
    """
    Interrupts it; what ran is stopped.
    """
    started = runner("endless", "slow_to_start")
    started.wait_for("starting")
    started.signal()
    wait_for_echo()
    started.signal(signal.SIGINT)
    assert started.end() == 1, started
    assert "a start was interrupted by a second signal" in started.output
    assert "Traceback" not in started.output


def test_signal_while_a_target_is_made(runner: Start) -> None:
    """
    Nothing was taken yet: it ends at once, with 0.
    """
    started = runner("slow_to_make")
    started.wait_for("making")
    assert started.stop() == 0, started
    assert started.output == ""


def test_signal_that_the_code_swallows(runner: Start) -> None:
    """
    While a target is made: nothing is started all the same.
    """
    started = runner("deaf_to_make")
    started.wait_for("making")
    assert started.stop() == 0, started
    assert started.said("swallowed") and not started.said("ok")


def test_process_that_a_handler_forks(runner: Start) -> None:
    """
    Can be terminated: it has our handlers of signals, but they know that it is not ours.
    """
    started = runner("forking")
    assert started.end() == 0, started
    assert started.said("ended", "by", int(signal.SIGTERM)), started


def test_child_that_does_not_stop(runner: Start) -> None:
    """
    Whatever a pipeline was started with has no more time than the drain, and a moment.
    """
    started = runner("stubborn", "--shutdown", "0.5")
    started.wait_for("ok", 3)
    before = time.monotonic()
    assert started.stop() == 1, started
    assert time.monotonic() - before < 10 * SCALE
    assert "what it was started with did not stop in time" in started.output


def test_child_that_does_not_stop_after_messages_were_left_behind(runner: Start) -> None:
    """
    It is said how many, and where the handler hangs, whatever else hangs.
    """
    started = runner("stubborn_and_hanging", "--shutdown", "0.5")
    started.wait_for("in", 0)
    assert started.stop() == 1, started
    found = re.search(r"messages were left behind, neither acknowledged nor failed: (\d+) in stubborn", started.output)
    assert found and int(found[1]) >= 1, started
    assert "in never_returns" in started.output
    assert "what it was started with did not stop in time" in started.output


def test_thread_that_would_keep_the_interpreter(runner: Start) -> None:
    """
    Does not, when something was left behind.
    """
    started = runner("with_thread", "--shutdown", "0.5")
    started.wait_for("in", 0)
    assert started.stop() == 1, started
    assert "leaving although threads have not ended: no daemon" in started.output


def test_max_messages(runner: Start) -> None:
    """
    Drains and leaves after that many; exit code 0.
    """
    started = runner("endless", "--max-messages", "20")
    assert started.end() == 0, started
    assert len(started.said("ok")) >= 20
    assert "messages were handled, max_messages is 20: draining" in started.output


def test_max_memory(runner: Start) -> None:
    """
    Drains and leaves when it has grown past the limit; exit code 0.
    """
    started = runner("growing", "--max-memory", "150M")
    assert started.end() == 0, started
    assert "are resident, max_memory is 150.0M: draining" in started.output
    assert numbers(started.said("ok")) == list(range(len(started.said("ok"))))


def test_max_memory_that_a_start_exceeds(runner: Start) -> None:
    """
    Would make a process that comes and goes without end: it is refused.
    """
    started = runner("endless", "--max-memory", "1M")
    assert started.end() == 2, started
    assert re.search(
        r"^broadway-sync: max_memory: expected more than the \d+\.\dM of a start, got: 1.0M$", started.output
    )


def test_log_level(runner: Start) -> None:
    """
    Says what is logged.
    """
    started = runner("short", "--log-level", "warning")
    assert started.end() == 0, started
    assert started.output == ""


def test_health_file_is_there_while_it_runs(runner: Start) -> None:
    """
    And goes with the process.
    """
    started = runner("endless", "--health-file", "health.json")
    file = started.folder / "health.json"
    eventually(file.exists, "the health file is written")
    assert started.stop() == 0, started
    assert not file.exists()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_health_file_of_code_that_goes_elsewhere(runner: Start, processes: str) -> None:
    """
    Is where the command was called.
    """
    started = runner("wandering", "--health-file", "health.json", "--processes", processes)
    started.wait_for("ok")
    eventually((started.folder / "health.json").exists, "the health file is written")
    assert started.stop() == 0, started


def test_port_that_is_taken(runner: Start, free_port: Any) -> None:
    """
    Is a mistake that is found before anything is started.
    """
    started = runner("endless", "--health-port", str(free_port))
    assert started.end() == 2, started
    assert re.search(rf"^broadway-sync: health_port: cannot listen on 127.0.0.1 port {free_port}: ", started.output)
    assert started.said("ok") == []


@pytest.fixture
def free_port() -> Any:
    """
    Return a port that somebody listens on.
    """
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]
