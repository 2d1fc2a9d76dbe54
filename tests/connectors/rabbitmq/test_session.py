"""
A session: what is finished around its end.
"""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any, List

import pytest

from broadway_sync.connectors.rabbitmq.options import RabbitMQOptions
from broadway_sync.connectors.rabbitmq.session import Session


@pytest.fixture
def stale() -> List[int]:
    """
    Return the numbers of messages that were finished too late.
    """
    return []


@pytest.fixture
def session(stale: List[int]) -> Session:
    """
    Return a session whose link only counts how often it is woken.
    """
    made = Session(RabbitMQOptions(queue="q", on_failure="ack"), lambda session, number: stale.append(number))
    link: Any = SimpleNamespace(wakes=0)
    link.wake = lambda: setattr(link, "wakes", link.wakes + 1)
    made.link = link
    return made


def test_what_is_finished_is_fetched(session: Any, stale: List[int]) -> None:
    """
    The link is woken once for all that is finished until then.
    """
    session.finish([("ack", [1, 2])])
    session.finish([("ack", [3]), ("reject", [4])])
    assert session.link.wakes == 1
    assert session.fetch() == [("ack", [1, 2]), ("ack", [3]), ("reject", [4])]
    session.finish([("ack", [5])])
    assert (session.link.wakes, session.fetch(), stale) == (2, [("ack", [5])], [])


def test_what_was_not_fetched_at_the_end_is_stale(session: Any, stale: List[int]) -> None:
    """
    So is what was held, and whatever is finished later; each message counts once.
    """
    session.tags.held = [1, 2]
    session.finish([("ack", [3]), ("reject", [4, 5])])
    session.end()
    session.finish([("ack", [6])])
    session.end()
    assert stale == [5, 1]


def test_what_is_finished_in_the_moment_of_the_end_is_stale(session: Any, stale: List[int]) -> None:
    """
    However the two threads meet.
    """

    class Meeting(deque):  # type: ignore[type-arg]
        """
        The session ends just before something is put here.
        """

        def extend(self, lots: Any) -> None:
            session.end()
            super().extend(lots)

    session._finished = Meeting()
    session.finish([("ack", [1, 2])])
    assert stale == [2]
