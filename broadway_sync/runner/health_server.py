"""
The HTTP server for probes: ``/livez``, ``/readyz`` and ``/healthz``.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Callable, Dict, Tuple

from ..log import log_error, log_info
from ..rules import is_int, mistake
from .health_report import Report

THREAD = "broadway_sync.health.server"

PATIENCE = 5.0
"""Seconds that a client may take to send its request, and to take the answer."""

MOST = 32
"""How many clients are served at a time; more than that are turned away."""


class HealthServer:
    """
    Answers on a thread of its own, and on one for each client. Whatever clients do, nothing is raised or logged.

    ==============  ==========================================================  ===========================
    path            answer                                                      status
    ==============  ==========================================================  ===========================
    ``/livez``      text: ``ok``, or ``not ok`` and the problems                200 if live, else 503
    ``/readyz``     the same                                                    200 if ready, else 503
    ``/healthz``    JSON: the whole report                                      as ``/livez``
    ==============  ==========================================================  ===========================

    Args:
        report: Called for each request, on its thread. If it raises the answer is 500, and it is logged.
        port: 0 picks a free one.
        host: Address to listen on. Loopback by default: the report names pipelines and what is wrong with them.

    Raises:
        ConfigurationError: *port* is none, or nothing can listen on it.
    """

    def __init__(self, report: Callable[[], Report], port: int, host: str = "127.0.0.1") -> None:
        if not is_int(port, 0) or port > 65535:
            raise mistake("health_port", f"expected an int from 0 to 65535, got: {port!r}")
        try:
            self._server = _Server(report, host, port)
        except (OSError, UnicodeError) as error:
            raise mistake("health_port", f"cannot listen on {host} port {port}: {error}") from error
        self._thread = threading.Thread(target=self._server.serve, name=THREAD, daemon=True)
        self._host = host
        self._is_closed = False

    @property
    def port(self) -> int:
        """
        The port that it listens on.
        """
        return int(self._server.server_address[1])

    def start(self) -> None:
        """
        Begin to answer, and log where. Clients that have connected since the constructor are served now.
        """
        self._thread.start()
        log_info(f"answers on {self._host} port {self.port}: {' '.join(_ANSWERS)}", "", THREAD)

    def stop(self) -> None:
        """
        Close the port, and wait for the thread to end. Idempotent. Clients that are being served still get their
        answer, if they are quick.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._server.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._server.server_close()

    def forget(self) -> None:
        """
        In a forked child: close what was inherited; the parent goes on.
        """
        self._is_closed = True
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST  # of connections that wait: a client that finds it full tries again a second later
    allow_reuse_port = False  # two processes on one port would answer for each other
    timeout = 0  # of handle_request(): serve() has waited already

    def __init__(self, report: Callable[[], Report], host: str, port: int) -> None:
        self.report = report
        self._slots = threading.BoundedSemaphore(MOST)
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._wake, self._woken = socket.socketpair()
        try:
            super().__init__((host, port), _Handler)
        except BaseException:
            self._close_wakers()
            raise
        self.socket.setblocking(False)  # a client that goes away between select() and accept() must not hold us

    def server_bind(self) -> None:
        """
        Bind, without the look-up of this machine's name that HTTPServer does: it can take many seconds.
        """
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def serve(self) -> None:
        """
        Serve until :meth:`stop`. Not ``serve_forever``, which looks twice a second whether it should end.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while all(key.fileobj is not self._woken for key, _ in selector.select()):
                self.handle_request()

    def stop(self) -> None:
        """
        End :meth:`serve`, also before it has begun.
        """
        self._wake.send(b"x")

    def get_request(self) -> Tuple[Any, Any]:
        """
        Accept; when that fails for want of file descriptors, not again at once.
        """
        try:
            return super().get_request()
        except BlockingIOError:
            raise
        except OSError:
            self._pause()
            raise

    def _pause(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.select(0.1)

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Serve one client on a thread of its own, unless there are too many.
        """
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """
        On the thread of a client.
        """
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """
        Say nothing: clients that go away in the middle are none of our business.
        """

    def server_close(self) -> None:
        """
        Close the port, and what wakes :meth:`serve`.
        """
        super().server_close()
        self._close_wakers()

    def _close_wakers(self) -> None:
        self._wake.close()
        self._woken.close()


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server: _Server

    def version_string(self) -> str:
        """
        Return what the header ``Server`` says: not which Python this is.
        """
        return "broadway_sync"

    def do_GET(self) -> None:
        """
        Answer a probe.
        """
        answer = _ANSWERS.get(self.path.partition("?")[0])
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "not found; there are: " + " ".join(_ANSWERS) + "\n")
            return
        try:
            status, kind, text = answer(self.server.report())
        except Exception as error:  # a fault of the library; the probe must have an answer all the same
            log_error("the report on health failed", error, "", THREAD)
            status, kind, text = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{type(error).__name__}\n"
        self._send(status, kind, text)

    def do_HEAD(self) -> None:
        """
        Answer a probe that wants no text.
        """
        self.do_GET()

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has in http.server
        """
        Say nothing: probes come every few seconds.
        """


Answer = Tuple[HTTPStatus, str, str]


def _status(is_good: bool) -> HTTPStatus:
    return HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE


def _text(is_good: bool, report: Report) -> Answer:
    return _status(is_good), "text/plain", report.text(is_good)


def _json(report: Report) -> Answer:
    return _status(report.live), "application/json", json.dumps(report.as_dict(), default=str) + "\n"


_ANSWERS: Dict[str, Callable[[Report], Answer]] = {
    "/livez": lambda report: _text(report.live, report),
    "/readyz": lambda report: _text(report.ready, report),
    "/healthz": _json,
}
