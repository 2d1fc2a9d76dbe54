"""
Iterables that break off: an end that is none must not be taken for one.
"""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any, Iterator

import pytest

from broadway_sync import IterableProducer, Message, NoopAcknowledger, PipelineFailedError
from tests.helpers import BOUND


def producer(items: Any, **options: Any) -> dict[str, Any]:
    """
    Return the options of a pipeline that goes through *items*.
    """
    return {"producer": {"module": (IterableProducer, {"iterable": items}), **options}, "resubscribe_interval": 0.0}


def test_generator_that_raises(make_pipeline: Any, acks: Any) -> None:
    """
    A generator that raised is finished, but not exhausted: the pipeline gives up, with what it raised as the cause.
    """

    def items() -> Iterator[Message]:
        yield from acks.messages(range(7))
        raise OSError("the disk is gone")

    pipeline = make_pipeline(**producer(items())).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, OSError)
    assert pipeline.state == "failed"
    assert sorted(acks.all_data()) == list(range(7))


def test_generator_that_raises_at_once(make_pipeline: Any) -> None:
    """
    The same for one that gives nothing at all, such as the lines of a file that is not there.
    """

    def lines() -> Iterator[str]:
        with open("/nonexistent/file", encoding="utf-8") as file:
            yield from file

    pipeline = make_pipeline(**producer(lines())).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_file_that_breaks_off(make_pipeline: Any, tmp_path: Path) -> None:
    """
    Half of a gzip file is no file: what could be read is handled, and the pipeline says that this was not all.
    """
    path = tmp_path / "lines.gz"
    numbers = random.Random(7)
    path.write_bytes(gzip.compress("".join(f"{numbers.random()}\n" for _ in range(20_000)).encode()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    handled: list[Any] = []

    def lines() -> Iterator[str]:
        with gzip.open(str(path), "rt", encoding="ascii") as file:
            yield from file

    pipeline = make_pipeline(
        **producer(lines(), transformer=lambda line: handled.append(line) or Message(line, NoopAcknowledger.init())),
    )
    with pytest.raises(PipelineFailedError) as caught, pipeline:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, EOFError)
    assert handled


def test_generator_that_ends_well(make_pipeline: Any, acks: Any) -> None:
    """
    One that comes to its end does so, as before; also when a transformer raised meanwhile.
    """
    crashes = [3]

    def transformer(item: int) -> Message:
        if item in crashes:
            crashes.remove(item)
            raise ValueError("just once")
        return acks.message(item)

    pipeline = make_pipeline(
        **producer(iter(range(10)), transformer=transformer),
        processors={"default": {"concurrency": 1, "max_demand": 2}},
    ).start()
    assert pipeline.join(BOUND)
    assert pipeline.state == "stopped"


def test_iterator_that_ends_after_an_error(make_pipeline: Any, acks: Any) -> None:
    """
    An iterator that goes on after an error, with items, may end.
    """

    class Flaky:
        def __init__(self) -> None:
            self.items: Any = iter([1, OSError("a bad sector"), 2])

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Message:
            item = next(self.items)
            if isinstance(item, OSError):
                raise item
            message: Message = acks.message(item)
            return message

    pipeline = make_pipeline(**producer(Flaky())).start()
    assert pipeline.join(BOUND)
    assert sorted(acks.all_data()) == [1, 2]
