"""
What the tests of single stages share: settings without a pipeline.
"""

from __future__ import annotations

from typing import Any, Callable, List

from broadway_sync import DummyProducer, Message
from broadway_sync.options import build_options
from broadway_sync.topology.settings import Settings

from ..helpers import RecordingAcknowledger, make_handler, unique_name


def make_settings(handler: Any = None, **options: Any) -> Settings:
    """
    Return the settings of a pipeline that is not there; one processor unless *options* say otherwise.
    """
    defaults = {
        "name": unique_name("stage"),
        "producer": {"module": (DummyProducer, {})},
        "processors": {"default": {"concurrency": 1}},
    }
    return Settings(build_options(**{**defaults, **options}), handler or make_handler())


def messages(acks: RecordingAcknowledger, count: int, **options: Any) -> List[Message]:
    """
    Return messages that carry 0, 1, 2 ...
    """
    return acks.messages(range(count), **options)


def data(members: Any) -> List[Any]:
    """
    Return what messages carry.
    """
    return [message.data for message in members]


def handles(**callbacks: Callable[..., Any]) -> Any:
    """
    Return a handler with these callbacks and nothing else.
    """
    return make_handler(**callbacks)
