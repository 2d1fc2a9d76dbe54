"""
The pipelines of one process: started, waited for, stopped together.
"""

from __future__ import annotations

from typing import Any, Callable

import pytest

from broadway_sync import DrainTimeoutError, DummyProducer, Pipeline
from broadway_sync.runner.exit_codes import ExitCode
from broadway_sync.runner.group import Group
from tests.helpers import make_handler, unique_name

Make = Callable[..., Any]


class Interrupted(Pipeline):
    """
    A pipeline in whose start a signal handler raises, after it was started and before anybody knows.
    """

    def start(self) -> Any:
        """
        Start, and raise.
        """
        super().start()
        raise KeyboardInterrupt


def test_start_that_is_interrupted_at_its_end() -> None:
    """
    The pipeline runs, whatever start() raised: it is drained.
    """
    options = {"producer": {"module": DummyProducer}, "processors": {"default": {}}}
    pipeline = Interrupted(make_handler(), name=unique_name(), **options)
    group = Group([pipeline], 5.0)
    with pytest.raises(KeyboardInterrupt):
        group.run()
    assert pipeline.state == "stopped"
    assert [ending.name for ending in group.endings] == [pipeline.name]
    assert group.code == ExitCode.DRAINED


def test_stop_before_the_start(make_pipeline: Make) -> None:
    """
    Nothing is started.
    """
    pipeline = make_pipeline()
    group = Group([pipeline], 5.0)
    group.request_stop()
    group.run()
    assert pipeline.state == "new"
    assert group.code == ExitCode.DRAINED


def test_look_is_called_while_it_waits(make_pipeline: Make) -> None:
    """
    On the thread that waits, and may ask for the stop.
    """
    pipeline = make_pipeline()
    group = Group([pipeline], 5.0)
    group.run(group.request_stop)
    assert pipeline.state == "stopped"


def test_one_that_is_stopped_elsewhere(make_pipeline: Make) -> None:
    """
    Counts as drained; the others go on.
    """
    first, second = make_pipeline(), make_pipeline()
    group = Group([first, second], 5.0)
    states = []

    def look() -> None:
        first.stop()
        if group.endings:
            states.append(second.state)
            group.request_stop()

    group.run(look)
    assert states[0] == "running"
    assert [ending.name for ending in group.endings] == [first.name, second.name]


def test_messages_that_somebody_else_left_behind(make_pipeline: Make, gate: Any) -> None:
    """
    Count, although a thread that stopped the pipeline was told of them first.
    """

    def handle_message(processor: Any, message: Any, context: Any) -> Any:
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.test_message(1)
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(0)
    group = Group([pipeline], 5.0)
    group._collect(pipeline, 0)
    assert group.code == ExitCode.LEFT_BEHIND
    gate.open()
