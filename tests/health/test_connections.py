"""
What connectors say of their connection: heard, forgotten at the next start, and free of credentials.
"""

from __future__ import annotations

import types
from typing import Any, Iterator

import pytest

from broadway_sync import telemetry
from broadway_sync.connectors.common.events import CONNECT
from broadway_sync.connectors.common.reporter import Reporter
from broadway_sync.runner.connections import Connections
from tests.helpers import Call

FIRST_TIME = "it connects for the first time"


@pytest.fixture
def connections() -> Iterator[Connections]:
    """
    Return one that listens.
    """
    listening = Connections()
    listening.attach()
    yield listening
    listening.detach()


def make_reporter(pipeline: str = "p", index: int = 0) -> Reporter:
    """
    Return the voice of a producer of a connector.
    """
    name = f"{pipeline}.Broadway.Producer_{index}"
    return Reporter("rabbitmq", types.SimpleNamespace(pipeline_name=pipeline, name=name, index=index))  # type: ignore[arg-type]


def test_a_producer_that_says_nothing_counts_as_connected(connections: Connections) -> None:
    """
    Most producers have no connection.
    """
    make_reporter()
    assert connections.down() == {}


def test_down_and_up(connections: Connections) -> None:
    """
    With the reason, for as long as it lasts.
    """
    reporter = make_reporter()
    reporter.up()
    assert connections.down() == {}
    reporter.down(ConnectionRefusedError("nobody listens"))
    assert connections.down() == {"p": {"p.Broadway.Producer_0": "ConnectionRefusedError: nobody listens"}}
    reporter.up()
    assert connections.down() == {}


def test_credentials_are_masked(connections: Connections) -> None:
    """
    The answer of a probe is for many eyes.
    """
    make_reporter().down(OSError("cannot connect to amqp://guest:secret@broker:5672/"))
    assert "secret" not in str(connections.down())
    assert "broker" in str(connections.down())


def test_producers_and_pipelines_are_told_apart(connections: Connections) -> None:
    """
    Each has its own reason.
    """
    first, second, other = make_reporter(), make_reporter(index=1), make_reporter("q")
    for number, reporter in enumerate((first, second, other)):
        reporter.down(OSError(str(number)))
    first.up()
    assert connections.down() == {
        "p": {"p.Broadway.Producer_1": "OSError: 1"},
        "q": {"q.Broadway.Producer_0": "OSError: 2"},
    }


def test_until_the_first_connection_is_made_there_is_none(connections: Connections) -> None:
    """
    From the first attempt on; the end of a successful one is enough, also for a connector that never says up.
    """
    with make_reporter().span(CONNECT):
        assert connections.down() == {"p": {"p.Broadway.Producer_0": FIRST_TIME}}
    assert connections.down() == {}


def test_a_further_attempt_keeps_the_reason_and_up_ends_it(connections: Connections) -> None:
    """
    A connection is back when its connector says so: some check more than that it could be made.
    """
    reporter = make_reporter()
    reporter.down(OSError("gone"))
    with reporter.span(CONNECT):
        assert connections.down() == {"p": {"p.Broadway.Producer_0": "OSError: gone"}}
    assert connections.down() == {"p": {"p.Broadway.Producer_0": "OSError: gone"}}
    reporter.up()
    assert connections.down() == {}


def test_an_attempt_that_fails(connections: Connections) -> None:
    """
    Leaves it as it was, until the connector says why.
    """
    reporter = make_reporter()
    with pytest.raises(OSError, match="refused"), reporter.span(CONNECT):
        raise OSError("refused")
    assert connections.down() == {"p": {"p.Broadway.Producer_0": FIRST_TIME}}
    reporter.down(OSError("refused"))
    assert connections.down() == {"p": {"p.Broadway.Producer_0": "OSError: refused"}}


def test_a_new_start_forgets_what_the_last_run_said(connections: Connections, make_pipeline: Any) -> None:
    """
    Its producers are others.
    """
    pipeline = make_pipeline()
    make_reporter(pipeline.name).down(OSError("gone"))
    make_reporter("another").down(OSError("gone, too"))
    pipeline.start()
    assert list(connections.down()) == ["another"]


def test_detached_it_knows_nothing(connections: Connections) -> None:
    """
    And nobody calls it any more.
    """
    make_reporter().down(OSError("gone"))
    connections.detach()
    connections.detach()
    make_reporter().down(OSError("gone"))
    assert connections.down() == {}
    assert telemetry.list_handlers() == []


def test_two_may_listen(connections: Connections) -> None:
    """
    A monitor of all pipelines beside one of some.
    """
    second = Connections()
    second.attach()
    make_reporter().down(OSError("gone"))
    assert second.down() == connections.down() != {}
    second.detach()
    assert connections.down() != {}


def test_producers_speak_on_their_own_threads(connections: Connections) -> None:
    """
    Many at a time, while somebody reads.
    """

    def flap(index: int) -> None:
        reporter = make_reporter(index=index)
        for _ in range(200):
            reporter.down(OSError("gone"))
            reporter.up()

    calls = [Call(flap, index) for index in range(8)]
    while not all(call.is_done() for call in calls):
        assert set(connections.down()) <= {"p"}
    for call in calls:
        call.result()
    assert connections.down() == {}
