"""
The HTTP server for probes, and clients of every kind.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from contextlib import closing
from typing import Any, Callable, Iterator, List

import pytest

from broadway_sync import ConfigurationError
from broadway_sync.runner import health_server
from broadway_sync.runner.health_report import Report
from broadway_sync.runner.health_server import HealthServer
from tests.health.support import ask
from tests.helpers import BOUND, Gate, eventually

GOOD = Report(live=True, ready=True, pipelines=({"name": "p", "status": "idle"},))
NOT_READY = Report(live=True, ready=False, problems=("p: no connection — gone",))
BAD = Report(live=False, ready=False, problems=("p: stalled", "q: failed"))


@pytest.fixture
def serve() -> Iterator[Callable[..., HealthServer]]:
    """
    Return a function that starts a server, which is stopped at the end.
    """
    made: List[HealthServer] = []

    def start(report: Any = lambda: GOOD, host: str = "127.0.0.1") -> HealthServer:
        made.append(HealthServer(report, 0, host))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        server.stop()


def connect(server: HealthServer) -> socket.socket:
    """
    Return a plain connection.
    """
    return socket.create_connection(("127.0.0.1", server.port), BOUND)


@pytest.mark.parametrize(
    ("report", "live", "ready"),
    [
        (GOOD, (200, "ok\n"), (200, "ok\n")),
        (NOT_READY, (200, "ok\np: no connection — gone\n"), (503, "not ok\np: no connection — gone\n")),
        (BAD, (503, "not ok\np: stalled\nq: failed\n"), (503, "not ok\np: stalled\nq: failed\n")),
    ],
    ids=["good", "not ready", "bad"],
)
def test_probes_are_answered_in_plain_text(serve: Any, report: Report, live: Any, ready: Any) -> None:
    """
    The status is for the machine, the text for whoever reads the events of a pod.
    """
    server = serve(lambda: report)
    answers = [ask(server.port, path) for path in ("/livez", "/readyz")]
    assert [(answer.status, answer.text) for answer in answers] == [live, ready]
    assert answers[0].headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answers[0].headers["Cache-Control"] == "no-store"
    assert answers[0].headers["Server"] == "broadway_sync"


@pytest.mark.parametrize(("report", "status"), [(GOOD, 200), (NOT_READY, 200), (BAD, 503)])
def test_the_whole_report_is_json(serve: Any, report: Report, status: int) -> None:
    """
    With the status of ``/livez``.
    """
    answer = ask(serve(lambda: report).port, "/healthz?verbose")
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json; charset=utf-8")
    assert Report.from_dict(answer.json) == report


def test_head_is_get_without_the_text(serve: Any) -> None:
    """
    The same status and headers.
    """
    server = serve(lambda: BAD)
    for path in ("/livez", "/readyz", "/healthz", "/"):
        get, head = ask(server.port, path), ask(server.port, path, "HEAD")
        assert (head.status, head.text) == (get.status, "")
        assert head.headers["Content-Length"] == str(len(get.text.encode()))


@pytest.mark.parametrize("path", ["/", "/livez/", "/LIVEZ", "/metrics", "/livez%20", "//", "/../livez"])
def test_there_is_nothing_else(serve: Any, path: str) -> None:
    """
    The answer says what there is.
    """
    answer = ask(serve().port, path)
    assert (answer.status, answer.text) == (404, "not found; there are: /livez /readyz /healthz\n")


def test_other_methods_are_refused(serve: Any) -> None:
    """
    Nothing can be changed here.
    """
    server = serve()
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server.port, "/livez", method).status == 501
    assert ask(server.port, "/livez").status == 200


def test_a_report_that_fails_is_an_answer_too(serve: Any, caplog: Any) -> None:
    """
    500, and a record in the log; the next request may succeed.
    """
    reports: List[Any] = [GOOD]

    def report() -> Report:
        if not reports:
            raise KeyError("a fault of ours")
        return reports.pop()

    server = serve(report)
    assert [ask(server.port, "/livez").status, ask(server.port, "/readyz").status] == [200, 500]
    record = caplog.records[0]
    assert (record.getMessage(), record.exc_info[0]) == (
        "[broadway_sync.health.server] the report on health failed",
        KeyError,
    )


def gone_at_once(server: HealthServer) -> None:
    """
    Reset the connection without a word.
    """
    with closing(connect(server)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def gone_after_asking(server: HealthServer) -> None:
    """
    Ask, and reset the connection before the answer.
    """
    with closing(connect(server)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")


def garbage(server: HealthServer) -> None:
    """
    Speak another protocol.
    """
    with closing(connect(server)) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n")
        client.recv(100)


def endless_line(server: HealthServer) -> None:
    """
    Send a request line that is too long.
    """
    with closing(connect(server)) as client:
        try:
            client.sendall(b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n")
            client.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            pass


@pytest.mark.parametrize("misbehave", [gone_at_once, gone_after_asking, garbage, endless_line])
def test_broken_clients_are_not_felt(serve: Any, misbehave: Any, caplog: Any, capfd: Any) -> None:
    """
    Not in the log, not on stderr, not by the next client.
    """
    server = serve()
    for _ in range(5):
        misbehave(server)
        assert ask(server.port, "/livez").status == 200
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_clients_that_say_nothing_are_given_up(serve: Any, monkeypatch: Any) -> None:
    """
    Others are served meanwhile.
    """
    monkeypatch.setattr(health_server._Handler, "timeout", 1.0)  # those that say something have so long for it, too
    server = serve()
    with closing(connect(server)) as silent:
        assert ask(server.port, "/livez").status == 200
        assert silent.recv(100) == b""


def test_only_so_many_clients_at_a_time(serve: Any, monkeypatch: Any) -> None:
    """
    One too many is turned away; when another has left there is room again.
    """
    monkeypatch.setattr(health_server, "MOST", 2)
    gate = Gate()

    def report() -> Report:
        gate.wait()
        return GOOD

    server = serve(report)
    with closing(connect(server)) as first, closing(connect(server)) as second:
        for client in (first, second):
            client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            gate.arrived()
        with closing(connect(server)) as third:
            assert third.recv(100) == b""
        gate.open()
        for client in (first, second):
            assert client.recv(100).startswith(b"HTTP/1.0 200")
    eventually(lambda: is_answered(server), "there is room again")


def is_answered(server: HealthServer) -> bool:
    """
    Whether a probe gets an answer; a slot is free only when the thread of its last client has ended.
    """
    try:
        return ask(server.port, "/livez").status == 200
    except OSError:
        return False


def test_a_client_that_left_before_it_was_accepted_holds_nobody(serve: Any, monkeypatch: Any) -> None:
    """
    There is nothing to accept any more, and the next one is served at once.
    """
    accept, failures = health_server.TCPServer.get_request, [BlockingIOError()]
    monkeypatch.setattr(health_server._Server, "_pause", lambda self: pytest.fail("it waited"))

    def fail(self: Any) -> Any:
        if failures:
            raise failures.pop()
        return accept(self)

    monkeypatch.setattr(health_server.TCPServer, "get_request", fail)
    assert ask(serve().port, "/livez").status == 200
    assert failures == []


def test_without_threads_clients_are_turned_away(serve: Any, monkeypatch: Any) -> None:
    """
    However many that are: when there are threads again it serves.
    """
    begin, failures = health_server.ThreadingHTTPServer.process_request, [None] * (health_server.MOST + 1)

    def fail(self: Any, *arguments: Any) -> Any:
        if failures:
            failures.pop()
            raise RuntimeError("can't start new thread")
        return begin(self, *arguments)

    monkeypatch.setattr(health_server.ThreadingHTTPServer, "process_request", fail)
    server = serve()
    for _ in range(health_server.MOST + 1):
        with closing(connect(server)) as client:
            assert client.recv(100) == b""
    assert ask(server.port, "/livez").status == 200


def test_without_file_descriptors_it_waits(serve: Any, monkeypatch: Any) -> None:
    """
    It does not spin, and serves when there are some again.
    """
    failures: List[None] = []
    accept = health_server.TCPServer.get_request

    def fail(self: Any) -> Any:
        if len(failures) < 3:
            failures.append(None)
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    pauses: List[None] = []
    pause = health_server._Server._pause
    monkeypatch.setattr(health_server.TCPServer, "get_request", fail)
    monkeypatch.setattr(health_server._Server, "_pause", lambda self: (pauses.append(None), pause(self)))
    assert ask(serve().port, "/livez").status == 200
    assert (len(failures), len(pauses)) == (3, 3)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_it_listens_where_it_is_told(serve: Any, host: str, caplog: Any) -> None:
    """
    On all addresses, and with IPv6; it says where, as port 0 is any that is free.
    """
    caplog.set_level("INFO")
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    server = serve(host=host)
    client = "::1" if ":" in host else "127.0.0.1"
    assert ask(server.port, "/livez", host=client).status == 200
    assert f"answers on {host} port {server.port}: /livez /readyz /healthz" in caplog.text


def has_ipv6() -> bool:
    """
    Whether this machine has an IPv6 loopback.
    """
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def test_a_port_in_use_is_an_error_that_says_so() -> None:
    """
    Before anything else is started.
    """
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            HealthServer(lambda: GOOD, port)
    text = str(caught.value)
    assert text.startswith(f"health_port: cannot listen on 127.0.0.1 port {port}: ")
    assert "Address already in use" in text


def test_two_servers_cannot_share_a_port(serve: Any) -> None:
    """
    Each would answer for the other.
    """
    server = serve()
    with pytest.raises(ConfigurationError, match="cannot listen"):
        HealthServer(lambda: GOOD, server.port)


@pytest.mark.parametrize("port", [-1, 65536, "8080", None, True, 80.0])
def test_what_is_no_port(port: Any) -> None:
    """
    Says so.
    """
    with pytest.raises(ConfigurationError) as caught:
        HealthServer(lambda: GOOD, port)
    assert str(caught.value) == f"health_port: expected an int from 0 to 65535, got: {port!r}"


def test_a_host_that_is_not_here() -> None:
    """
    Nor one that is no name at all.
    """
    for host in ("192.0.2.1", "no such host.invalid", "x" * 100):
        with pytest.raises(ConfigurationError, match="health_port: cannot listen on "):
            HealthServer(lambda: GOOD, 0, host)


def test_stop_frees_the_port_at_once(serve: Any) -> None:
    """
    Also while a client is connected; the same port can be opened again.
    """
    server = serve()
    port = server.port
    with closing(connect(server)):
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/livez")
        again = HealthServer(lambda: GOOD, port)
        again.stop()


def test_it_can_be_stopped_before_it_was_started() -> None:
    """
    When what should have been started after it failed.
    """
    server = HealthServer(lambda: GOOD, 0)
    port = server.port
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/livez")


def test_probes_from_many_threads_are_all_answered(serve: Any) -> None:
    """
    At the same time.
    """
    server = serve()
    statuses: List[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(ask(server.port, "/healthz").status)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
