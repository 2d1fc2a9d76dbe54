"""
``broadway-sync check``: the topology as text, and what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broadway_sync import DummyProducer
from broadway_sync.runner import check
from broadway_sync.runner.drawing import capacity, count_threads, draw
from tests.helpers import make_handler, stage_threads
from tests.runner.support import Runner

EVERYTHING = """\
pipeline 'everything': 13 threads, holds at most 1396 messages of one batch key
  producers DummyProducer: concurrency 2
    | at most 100 messages in 0.5 s
    v
  processors default: concurrency 3, max_demand 10, min_demand 4, partitioned
    |
    +-> batcher archive: batch_size 50, batch_timeout 1 s, max_demand 50
    |     v
    |   batch processors archive: concurrency 1
    |
    +-> batcher table: batch_size 20, batch_timeout 2.5 s, max_demand 100
          v
        batch processors table: concurrency 3, partitioned
"""


def everything(make_pipeline: Any) -> Any:
    """
    Return a pipeline with all that can be drawn.
    """
    return make_pipeline(
        make_handler(),
        name="everything",
        producer={
            "module": (DummyProducer, {}),
            "concurrency": 2,
            "rate_limiting": {"allowed_messages": 100, "interval": 0.5},
        },
        processors={"default": {"concurrency": 3, "min_demand": 4, "partition_by": id}},
        batchers={
            "archive": {"batch_size": 50},
            "table": {"batch_size": 20, "batch_timeout": 2.5, "max_demand": 100, "concurrency": 3, "partition_by": id},
        },
    )


def test_drawing(make_pipeline: Any) -> None:
    """
    Shows the stages in the order in which messages pass them, and every setting that tunes them.
    """
    assert draw(everything(make_pipeline).options) == EVERYTHING


def test_drawing_without_batchers(make_pipeline: Any) -> None:
    """
    Ends with the processors.
    """
    options = make_pipeline(name="small", processors={"default": {"concurrency": 2}}).options
    assert draw(options) == (
        "pipeline 'small': 4 threads, holds at most 20 messages\n"
        "  producers DummyProducer: concurrency 1\n"
        "    v\n"
        "  processors default: concurrency 2, max_demand 10, min_demand 5\n"
    )


def test_batch_size_that_a_function_decides(make_pipeline: Any) -> None:
    """
    Only it knows how many messages are held.
    """
    batcher = {"batch_size": (0, lambda message, size: ("cont", size)), "max_demand": 10}
    options = make_pipeline(make_handler(), batchers={"sized": batcher}).options
    assert capacity(options) is None
    text = draw(options)
    assert "its batch_size function decides how many messages it holds" in text
    assert "batcher sized: batch_size by a function, batch_timeout 1 s" in text


def test_producer_that_is_a_function(make_pipeline: Any) -> None:
    """
    Is shown by its name.
    """

    def open_source() -> Any:
        return DummyProducer()

    text = draw(make_pipeline(producer={"module": open_source}).options)
    assert "producers test_producer_that_is_a_function.<locals>.open_source: concurrency 1" in text


def test_number_of_threads_is_that_of_a_running_pipeline(make_pipeline: Any) -> None:
    """
    Counted, not typed in.
    """
    pipeline = everything(make_pipeline).start()
    assert count_threads(pipeline.options) == len(stage_threads("everything"))


def test_command(folder: Path) -> None:
    """
    Draws all, starts nothing; exit code 0.
    """
    started = Runner(folder, "check", "tests.runner.apps:endless", "tests.runner.apps:pipeline")
    assert started.end() == 0, started
    assert "pipeline 'endless': 3 threads" in started.output
    assert "\n\npipeline 'short': 3 threads" in started.output
    assert started.diary == []
    started.close()


def test_all_mistakes_at_once(make_pipeline: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """
    And what is right is drawn.
    """
    assert check(["nonsense", make_pipeline(name="right"), "tests.no_such:x"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("pipeline 'right': ")
    assert [line.split(":")[1] for line in err.splitlines()] == [" nonsense", " tests.no_such"]


def test_two_of_a_name(make_pipeline: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Cannot run together.
    """
    assert check([make_pipeline(name="twin"), make_pipeline(name="twin")]) == 2
    assert capsys.readouterr().err.startswith("broadway-sync: two pipelines are named 'twin'")
    assert check(["nonsense", make_pipeline(name="twin"), make_pipeline(name="twin")]) == 2
    assert [line.split(":")[1] for line in capsys.readouterr().err.splitlines()] == [
        " nonsense",
        " two pipelines are named 'twin', names must be unique in a process",
    ]
