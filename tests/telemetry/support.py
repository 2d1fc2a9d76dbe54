"""
What the tests of the reporters share: a pipeline with a known outcome, and waiting for figures.
"""

from __future__ import annotations

from typing import Any, Callable

from broadway_sync import IterableProducer, Message, Pipeline
from tests.helpers import eventually, unique_name

CONNECTOR = {"connector": "kafka", "name": "p.Broadway.Producer_0", "index": 0}


class Oranges:
    """
    Of the numbers from 0: fails those that 10 divides, raises for others that 7 divides.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        if message.data % 10 == 0:
            return message.fail("a text that must never become a label")
        if message.data % 7 == 0:
            raise KeyError(message.data)
        return message

    def handle_batch(self, batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        return messages


# Of the numbers from 0 to 99: 10 are failed, 13 raise, 77 reach the batcher.
COUNT, FAILED, RAISED, GOOD = 100, 10, 13, 77


def oranges(name: str | None = None, **options: Any) -> Pipeline:
    """
    Return the pipeline; it ends by itself.
    """
    defaults: dict[str, Any] = {
        "producer": {"module": (IterableProducer, {"iterable": range(COUNT)})},
        "processors": {"default": {"concurrency": 2}},
        "batchers": {"default": {"batch_size": 10, "batch_timeout": 60}},
        "shutdown": 5.0,
    }
    return Pipeline(Oranges(), name=name or unique_name(), **{**defaults, **options})


def run(pipeline: Pipeline) -> None:
    """
    Start it and wait for its natural end.
    """
    with pipeline:
        assert pipeline.join(30)


def until(look: Callable[[], dict[str, Any]], expected: dict[str, Any]) -> dict[str, Any]:
    """
    Wait until *look* returns at least *expected*; return all of it.
    """
    seen: list[dict[str, Any]] = [{}]

    def has_come() -> bool:
        seen[0] = look()
        return {name: seen[0].get(name) for name in expected} == expected

    try:
        eventually(has_come, f"{expected}")
    except AssertionError:
        raise AssertionError(f"expected {expected}, got: {seen[0]}") from None
    return seen[0]
