"""
TLS: by URL, by files and by context, to an end point that speaks TLS before RabbitMQ.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator, List

import pika
import pytest

from broadway_sync import ConnectorError
from broadway_sync.connectors.rabbitmq.address import to_connection
from broadway_sync.connectors.rabbitmq.parameters import to_parameters
from tests.brokers.fixtures import require
from tests.connectors.rabbitmq.support import Seen, producer, texts
from tests.helpers import BOUND, eventually


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: Any) -> Path:
    """
    Return a certificate for "localhost", signed by itself; its key is beside it.
    """
    if shutil.which("openssl") is None:
        require("needs openssl on PATH")
    path = Path(tmp_path_factory.mktemp("tls")) / "cert.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-keyout", str(path.with_name("key.pem")), "-out", str(path),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=BOUND)
    return path


class Terminator:
    """
    Takes TLS connections and passes what comes through them on to a port of this machine.
    """

    def __init__(self, certificate: Path, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(str(certificate), str(certificate.with_name("key.pem")))
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: List[Any] = [self._listener]
        self._threads: List[threading.Thread] = []
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, target: Any, *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                self._sockets.append(plain)
                with contextlib.suppress(OSError):  # a client that does not trust us
                    secure = self._context.wrap_socket(plain, server_side=True)
                    broker = socket.create_connection(("127.0.0.1", self._target))
                    self._sockets += [secure, broker]
                    self._start(self._pump, secure, broker)
                    self._start(self._pump, broker, secure)

    @staticmethod
    def _pump(source: Any, target: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """
        End everything.
        """
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(BOUND)
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def terminator(certificate: Path, rabbitmq: Any) -> Iterator[Terminator]:
    """
    Return an end point that speaks TLS.
    """
    end = Terminator(certificate, rabbitmq.port)
    yield end
    end.close()


def connections(certificate: Path, port: int) -> List[Any]:
    """
    Return every way to name the end point.
    """
    context = ssl.create_default_context(cafile=str(certificate))
    address = {"host": "localhost", "port": port}
    return [
        {**address, "ssl": {"cafile": str(certificate)}},
        {**address, "host": "127.0.0.1", "ssl": {"cafile": str(certificate), "server_hostname": "localhost"}},
        {**address, "host": "127.0.0.1", "ssl": {"cafile": str(certificate), "check_hostname": False}},
        {**address, "ssl": context},
        f"amqps://guest:guest@localhost:{port}/%2F?ssl_options="
        + f"{{'cafile': '{certificate}', 'server_hostname': 'localhost'}}".replace(" ", "%20"),
    ]


def test_every_way_to_say_tls(make_pipeline: Any, rabbitmq: Any, certificate: Path, terminator: Any) -> None:
    """
    Messages come through TLS, however it is configured.
    """
    for connection in connections(certificate, terminator.port):
        queue, seen = rabbitmq.queue(), Seen()
        rabbitmq.publish(queue, ["secret"])
        with make_pipeline(seen, producer=producer(connection, queue)):
            seen.wait([b"secret"])


def test_certificate_that_is_not_trusted(make_pipeline: Any, terminator: Any, caplog: Any) -> None:
    """
    A broker that cannot prove who it is gets no credentials, and the log says why.
    """
    with make_pipeline(producer=producer({"host": "localhost", "port": terminator.port, "ssl": True}, "none")):
        eventually(lambda: any("CERTIFICATE_VERIFY_FAILED" in text for text in texts(caplog)), "it is refused")


def test_certificate_of_somebody_else(make_pipeline: Any, certificate: Path, terminator: Any, caplog: Any) -> None:
    """
    The name in the certificate has to be that of the host.
    """
    connection = {"host": "127.0.0.1", "port": terminator.port, "ssl": {"cafile": str(certificate)}}
    with make_pipeline(producer=producer(connection, "none")):
        eventually(lambda: any("not valid for" in text for text in texts(caplog)), "it is refused")


def test_key_that_is_encrypted(certificate: Path) -> None:
    """
    Its password is in the options: nobody is asked for it at the terminal, where it would be waited for without end.
    """
    key = certificate.with_name("locked.pem")
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:swordfish", "-out", str(key)]
    command += ["-in", str(certificate.with_name("key.pem"))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=BOUND)
    files = {"certfile": str(certificate), "keyfile": str(key)}
    assert parameters({**files, "password": "swordfish"}).ssl_options is not None
    with pytest.raises(ConnectorError, match="the key is encrypted, and there is no password"):
        parameters(files)
    with pytest.raises(ConnectorError, match="cannot use") as caught:
        parameters({**files, "password": "sw0rdfish"})
    assert "sw0rdfish" not in str(caught.value)


def parameters(files: Any) -> Any:
    """
    Return the parameters of pika for TLS by these files.
    """
    return to_parameters(pika, to_connection({"host": "localhost", "ssl": files}), "name")


def test_files_that_are_not_there(make_pipeline: Any, caplog: Any) -> None:
    """
    A missing file is named, and looked for again: it may come.
    """
    connection = {"host": "localhost", "ssl": {"cafile": "/nowhere/ca.pem"}}
    with make_pipeline(producer=producer(connection, "none")) as pipeline:
        eventually(lambda: any("cannot use /nowhere/ca.pem" in text for text in texts(caplog)), "it is named")
        assert pipeline.state == "running"
