"""
A statsd server that is down, unknown, slow to be found or late: the pipeline never notices.
"""

from __future__ import annotations

import logging
import socket
import sys
from typing import Any, Callable, Iterator
from unittest import mock

import pytest

from broadway_sync import ConfigurationError, telemetry
from broadway_sync.telemetry import statsd as module
from broadway_sync.telemetry.reporting import push
from broadway_sync.telemetry.statsd import StatsdReporter
from tests.brokers.ports import HOST, Port
from tests.brokers.spawn import Spawned
from tests.brokers.statsd import Statsd
from tests.helpers import BOUND, Call, Gate, eventually, unique_name
from tests.telemetry.support import COUNT, oranges, run, until

REAL_LOOK_UP = socket.getaddrinfo


class Names:
    """
    In place of ``socket.getaddrinfo``: waits for a gate, then answers for ``statsd.example`` as it is told.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.address: str | None = None
        self.asked = 0

    def look_up(self, host: Any, *arguments: Any, **options: Any) -> Any:
        """
        Return the address of *host*.
        """
        if host != "statsd.example":
            return REAL_LOOK_UP(host, *arguments, **options)
        self.asked += 1
        self.gate.wait()
        if self.address is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return REAL_LOOK_UP(self.address, *arguments, **options)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """
    Return names that the test controls.
    """
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    names.gate.open()


@pytest.fixture
def prefix() -> str:
    """
    Return a prefix that no other test uses.
    """
    return unique_name("outage")


def quick(host: str, port: int, prefix: str, **options: Any) -> StatsdReporter:
    """
    Return a reporter that reports often.
    """
    return StatsdReporter(host, port, prefix, **{"interval": 0.05, "flush_interval": 0.05, **options})


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    """
    Return the warnings about reports.
    """
    return [record.getMessage() for record in caplog.records if "metrics" in record.getMessage()]


def test_nobody_listens(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    UDP does not care, and neither does anybody else.
    """
    port = Port()
    with quick(HOST, port.number, prefix) as reporter:
        port.close()
        for _ in range(3):
            run(oranges())
            assert reporter.flush(10)
    assert faults(caplog) == []


def test_a_host_that_does_not_exist(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    It is said once, what could not be sent is counted, nothing is raised.
    """
    with quick("nosuch.invalid", 8125, prefix) as reporter:
        for _ in range(3):
            run(oranges())
            assert reporter.flush(20)
        assert reporter.dropped > 0
    (text,) = faults(caplog)
    assert text.startswith("[statsd] metrics cannot be reported, it is tried again: OSError: ")
    assert "'nosuch.invalid' cannot be resolved" in text


def test_a_host_that_is_no_name(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    The same.
    """
    with quick("no..name" + "x" * 70, 8125, prefix) as reporter:
        run(oranges())
        assert reporter.flush(20)
        assert reporter.dropped > 0
    assert len(faults(caplog)) == 1


def test_while_a_name_is_looked_up_the_pipeline_goes_on(statsd: Statsd, prefix: str, names: Names) -> None:
    """
    And what happened meanwhile is reported when the answer is there.
    """
    names.address = HOST
    with quick("statsd.example", statsd.port, prefix) as reporter:
        run(oranges("fruit"))  # ends although the look-up hangs
        names.gate.arrived()
        run(oranges("fruit"))
        names.gate.open()
        assert reporter.flush(10)
    until(lambda: statsd.counters(f"{prefix}.fruit."), {"processor_default.messages_ingested": 2 * COUNT})


def test_a_look_up_that_hangs_does_not_hold_up_the_end(
    prefix: str, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    ``detach`` waits for a moment, and leaves the thread to itself.
    """
    monkeypatch.setattr(push, "END_BOUND", 0.05)
    with quick("statsd.example", 8125, prefix) as reporter:
        run(oranges())
        names.gate.arrived()
        thread = reporter._thread
    assert thread is not None
    assert thread.is_alive()
    names.gate.open()
    thread.join(10)
    assert not thread.is_alive()


def test_a_name_that_is_known_later(
    statsd: Statsd, prefix: str, names: Names, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Reports begin then, and the log says so.
    """
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.01)
    names.gate.open()
    with quick("statsd.example", statsd.port, prefix) as reporter:
        run(oranges("lost"))
        eventually(lambda: reporter.dropped and faults(caplog), "a failed report")
        names.address = HOST
        eventually(lambda: len(faults(caplog)) == 2, "a report that succeeds")
        run(oranges("fruit"))
    until(lambda: statsd.counters(f"{prefix}.fruit."), {"processor_default.messages_ingested": COUNT})
    assert faults(caplog)[1] == "[statsd] metrics are reported again"


def test_a_name_that_has_no_other_address_than_one_of_ipv6(prefix: str, names: Names) -> None:
    """
    Is as good as any other.
    """
    names.gate.open()
    names.address = "::1"
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        server.settimeout(BOUND)
        with quick("statsd.example", server.getsockname()[1], prefix):
            run(oranges("fruit"))
            assert server.recv(2000).startswith(prefix.encode("ascii"))


def test_unknown_names_are_not_asked_for_all_the_time(prefix: str, names: Names) -> None:
    """
    Once in a while, and what is taken meanwhile is dropped.
    """
    names.gate.open()
    with quick("statsd.example", 8125, prefix) as reporter:
        run(oranges())
        assert reporter.flush(10)
        dropped = reporter.dropped
        run(oranges())
        assert reporter.flush(10)
        assert reporter.dropped > dropped
        assert names.asked == 1


def test_a_server_that_moves_is_followed(
    statsd: Statsd, prefix: str, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The name is looked up again now and then; while that fails the old address serves.
    """
    monkeypatch.setattr(module, "RESOLVE_INTERVAL", 0.0)
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.0)
    names.gate.open()
    names.address = "127.0.0.2"
    with quick("statsd.example", statsd.port, prefix, flush_interval=60) as reporter:
        run(oranges("lost"))
        assert reporter.flush(10)
        names.address = HOST
        run(oranges("fruit"))
        assert reporter.flush(10)
        names.address = None
        run(oranges("kept"))
        assert reporter.flush(10)
        assert reporter.dropped == 0
    until(lambda: statsd.counters(f"{prefix}.fruit."), {"processor_default.messages_ingested": COUNT})
    until(lambda: statsd.counters(f"{prefix}.kept."), {"processor_default.messages_ingested": COUNT})
    assert statsd.counters(f"{prefix}.lost.") == {}


def test_a_server_that_comes_later(statsd: Statsd, prefix: str) -> None:
    """
    Gets what is reported from then on.
    """
    statsd.stop()
    with quick(statsd.host, statsd.port, prefix) as reporter:
        run(oranges("lost"))
        assert reporter.flush(10)
        statsd.start()
        run(oranges("fruit"))
    until(lambda: statsd.counters(f"{prefix}.fruit."), {"processor_default.messages_ingested": COUNT})


class UnluckyError(Exception):
    """
    An error of a client that has no text.
    """

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), UnluckyError()], ids=["error", "without text"])
def test_a_client_that_raises_is_tried_again(
    statsd: Statsd, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """
    Whatever it raises stays on the reporter's thread.
    """
    with quick(statsd.host, statsd.port, prefix) as reporter:
        run(oranges())
        assert reporter.flush(10)
        with monkeypatch.context() as patch:
            patch.setattr(reporter, "_packets", mock.Mock(side_effect=error))
            run(oranges())
            assert reporter.flush(10)
        run(oranges("fruit"))
    assert type(error).__name__ in faults(caplog)[0]
    until(lambda: statsd.counters(f"{prefix}.fruit."), {"processor_default.messages_ingested": COUNT})


def test_attach_while_another_thread_detaches(
    statsd: Statsd, prefix: str, make_pipeline: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """
    Whichever is first: a reporter that is attached reports.
    """
    make_pipeline().start()
    with quick(statsd.host, statsd.port, prefix) as reporter:
        with monkeypatch.context() as patched:
            patched.setattr(push.atexit, "unregister", lambda function: gate.wait())
            detaching = Call(reporter.detach)
            gate.arrived()
            attaching = Call(reporter.attach)
            attaching.thread.join(0.1)
            gate.open()
            detaching.result()
            attaching.result()
        assert reporter.is_attached
        assert reporter.flush(10)


def test_detach_while_events_are_in_flight(statsd: Statsd, prefix: str) -> None:
    """
    Nothing is raised, and it can be attached again.
    """
    reporter = quick(statsd.host, statsd.port, prefix)
    for _ in range(5):
        with oranges() as pipeline:
            reporter.attach().attach()
            reporter.detach()
            reporter.detach()
            assert pipeline.join(30)
    with reporter:
        run(oranges("fruit"))
    until(lambda: statsd.counters(f"{prefix}.fruit."), {"processor_default.messages_ingested": COUNT})
    assert telemetry.list_handlers() == []


CHILD = """
import os, sys
from broadway_sync.telemetry.statsd import StatsdReporter
from tests.telemetry.support import oranges, run

reporter = StatsdReporter(sys.argv[1], int(sys.argv[2]), sys.argv[3], flush_interval=60).attach()
when = sys.argv[4]
if when == "running":
    run(oranges("parent"))  # the reporter's thread runs, and has something that it did not report yet
child = os.fork()
run(oranges("child" if child == 0 else "parent"))
if child == 0:
    reporter.detach()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("when", ["before", "running"])
def test_a_forked_child_reports_for_itself(
    statsd: Statsd, prefix: str, spawn: Callable[..., Spawned], when: str
) -> None:
    """
    What the parent has counted is the parent's; the parent reports the rest when its interpreter ends.
    """
    process = spawn(CHILD, statsd.host, statsd.port, prefix, when)
    assert process.wait() == 0, process.errors
    until(lambda: statsd.counters(f"{prefix}.child."), {"processor_default.messages_ingested": COUNT})
    expected = COUNT if when == "before" else 2 * COUNT
    until(lambda: statsd.counters(f"{prefix}.parent."), {"processor_default.messages_ingested": expected})


EXIT = """
import sys
from broadway_sync.telemetry.statsd import StatsdReporter
from tests.telemetry.support import oranges

StatsdReporter(sys.argv[1], int(sys.argv[2]), sys.argv[3], flush_interval=60).attach()
oranges("fruit").start()
"""


def test_the_end_of_the_interpreter_reports_what_is_left(
    statsd: Statsd, prefix: str, spawn: Callable[..., Spawned]
) -> None:
    """
    After the pipelines have drained, although nobody detaches.
    """
    process = spawn(EXIT, statsd.host, statsd.port, prefix)
    assert process.wait() == 0, process.errors
    assert process.errors.count("Traceback") == process.errors.count("KeyError: ")  # those of the handler, logged
    counters = until(lambda: statsd.counters(f"{prefix}.fruit."), {"batch_processor_default.batches.flush": 1})
    assert counters["processor_default.messages_ingested"] == sum(
        value for name, value in counters.items() if "messages_acknowledged" in name
    )


def test_without_the_client_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error says what to install.
    """
    monkeypatch.setitem(sys.modules, "statsd.client.udp", None)
    expected = r"StatsdReporter needs statsd.*, which cannot be imported .*: pip install 'broadway_sync\[statsd\]'"
    with pytest.raises(ConfigurationError, match=expected):
        StatsdReporter()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"host": ""}, "host: expected a non-empty str, got: ''"),
        ({"port": "8125"}, "port: expected an int from 1 to 65535, got: '8125'"),
        ({"tags": "statsd"}, "tags: expected None, or one of 'datadog', 'influx', 'graphite', got: 'statsd'"),
        ({"tags": ["datadog"]}, "tags: expected None, or one of 'datadog', 'influx', 'graphite', got: ['datadog']"),
        ({"prefix": None}, "prefix: expected a str, got: None"),
        ({"interval": 0}, "interval: expected a number of seconds > 0 and <= 86400, got: 0"),
        ({"flush_interval": 1e12}, f"flush_interval: expected a number of seconds > 0 and <= 86400, got: {1e12}"),
        ({"max_packet": 100_000}, "max_packet: expected an int from 64 to 65507, got: 100000"),
        ({"constant_tags": ["a"], "tags": "influx"}, "constant_tags: expected None or a mapping, got: ['a']"),
        ({"constant_tags": {"a": "b"}}, "constant_tags: expected None, as there is no style of tags, got: {'a': 'b'}"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], text: str) -> None:
    """
    Are named, with the rule.
    """
    with pytest.raises(ConfigurationError) as caught:
        StatsdReporter(**options)
    assert str(caught.value) == text
