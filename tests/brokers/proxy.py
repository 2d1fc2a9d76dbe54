"""
A TCP proxy that puts faults into connections: drops, resets, stalls and refuses them when a test says so.
"""

from __future__ import annotations

import collections
import selectors
import socket
import struct
import threading
from typing import Callable

from tests.brokers.ports import HOST, Port
from tests.brokers.process import SCALE

BOUND = 10.0 * SCALE
"""Seconds that a verb may take; it is done when it returns."""

CHUNK = 65536
LINGER_ZERO = struct.pack("ii", 1, 0)


class End:
    """
    One of the two sockets of a proxied connection. Only the proxy's thread touches it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.outgoing = bytearray()  # received at the other end, not sent here yet
        self.other: End = self
        self.is_finished = False  # the other end has sent all it will: close when outgoing is empty

    @property
    def events(self) -> int:
        """
        What this end waits for: it is not read while the other one has not taken what came before.
        """
        wants = selectors.EVENT_WRITE if self.outgoing else 0
        return wants if self.other.outgoing or self.other.is_finished else wants | selectors.EVENT_READ


class Proxy:
    """
    Listens on ``port`` and passes everything on to *host*:*port* and back, on one thread of its own.

    The verbs work from any thread, and what they say is so when they return.

    Args:
        host: Where the broker is.
        port: Its port.
        listen: The port to listen on; a free one if None.
    """

    def __init__(self, host: str, port: int, listen: int | None = None) -> None:
        self._target = (host, port)
        self._reserved = Port() if listen is None else None
        self.host = HOST
        self.port: int = listen if self._reserved is None else self._reserved.number  # type: ignore[assignment]
        self.accepted = 0
        self._ends: set[End] = set()
        self._is_stalled = False
        self._is_closed = False
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._commands: collections.deque[tuple[Callable[[], None], threading.Event]] = collections.deque()
        self._waker, wakened = socket.socketpair()
        self._selector.register(wakened, selectors.EVENT_READ, self._obey)
        self._wakened = wakened
        self._listen()
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}", daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """
        How many connections are open now; ``accepted`` counts all that ever were.
        """
        return len(self._ends) // 2

    # ---- the verbs

    def drop(self) -> None:
        """
        Close all connections.
        """
        self._do(lambda: self._close_all(reset=False))

    def reset(self) -> None:
        """
        Reset all connections (RST): whoever reads or writes gets an error at once.
        """
        self._do(lambda: self._close_all(reset=True))

    def refuse(self) -> None:
        """
        Refuse new connections; those that are open go on.
        """
        self._do(self._stop_listening)

    def accept(self) -> None:
        """
        Accept new connections again.
        """
        self._do(self._listen)

    def stall(self) -> None:
        """
        Pass nothing on, in open connections and in new ones, which are accepted; all stay open.
        """
        self._do(lambda: self._set_stalled(True))

    def resume(self) -> None:
        """
        Pass on what came meanwhile and all that comes.
        """
        self._do(lambda: self._set_stalled(False))

    def close(self) -> None:
        """
        End the proxy with all its connections; twice does nothing.
        """
        if self._thread.is_alive():
            self._do(self._shut)
            self._thread.join(BOUND)
            self._waker.close()
            if self._reserved is not None:
                self._reserved.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _do(self, command: Callable[[], None]) -> None:
        done = threading.Event()
        self._commands.append((command, done))
        self._waker.send(b"!")
        if not done.wait(BOUND):
            raise AssertionError(f"the proxy's thread did not answer in {BOUND} s")

    # ---- on the thread of the proxy

    def _run(self) -> None:
        while not self._is_closed:
            for key, events in self._selector.select():
                # One event may have closed the connection that the next one is about.
                if key.fileobj.fileno() >= 0:  # type: ignore[union-attr]
                    key.data(events)
        self._selector.close()

    def _obey(self, events: int) -> None:
        self._wakened.recv(1)
        command, done = self._commands.popleft()
        command()
        done.set()

    def _shut(self) -> None:
        self._stop_listening()
        self._close_all(reset=False)
        self._wakened.close()
        self._is_closed = True

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=64)
            self._selector.register(self._listener, selectors.EVENT_READ, self._connect)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _connect(self, events: int) -> None:
        assert self._listener is not None
        client = self._listener.accept()[0]
        self.accepted += 1
        try:
            server = socket.create_connection(self._target, BOUND)
        except OSError:
            _reset(client)
            return
        ends = [End(client), End(server)]
        ends[0].other, ends[1].other = ends[1], ends[0]
        for end in ends:
            end.sock.setblocking(False)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends.add(end)
            self._watch(end)

    def _watch(self, end: End) -> None:
        """
        Bring the selector up to what *end* waits for now.
        """
        if end not in self._ends:
            return
        is_watched = end.sock in self._selector.get_map()
        events = 0 if self._is_stalled else end.events
        handler = lambda events: self._pump(end, events)  # noqa: E731
        if events and is_watched:
            self._selector.modify(end.sock, events, handler)
        elif events:
            self._selector.register(end.sock, events, handler)
        elif is_watched:
            self._selector.unregister(end.sock)

    def _pump(self, end: End, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                del end.outgoing[: end.sock.send(end.outgoing)]
            if events & selectors.EVENT_READ:
                self._read(end)
        except OSError:  # one side was reset: so is the other
            self._close(end, reset=True)
            return
        if end.is_finished and not end.outgoing:
            self._close(end, reset=False)
            return
        self._watch(end)
        self._watch(end.other)

    def _read(self, end: End) -> None:
        received = end.sock.recv(CHUNK)
        if received:
            end.other.outgoing += received
        elif end.other.outgoing:
            end.other.is_finished = True
        else:
            self._close(end, reset=False)

    def _close(self, end: End, reset: bool) -> None:
        for one in (end, end.other):
            self._ends.discard(one)
            if one.sock in self._selector.get_map():
                self._selector.unregister(one.sock)
            _reset(one.sock) if reset else _close(one.sock)

    def _close_all(self, reset: bool) -> None:
        while self._ends:
            self._close(next(iter(self._ends)), reset)

    def _set_stalled(self, is_stalled: bool) -> None:
        self._is_stalled = is_stalled
        for end in self._ends:
            self._watch(end)


def _close(sock: socket.socket) -> None:
    """
    Close in an orderly way: without the shutdown, data that nobody read would make it a reset.
    """
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was quicker
    sock.close()


def _reset(sock: socket.socket) -> None:
    """
    Close with RST.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    sock.close()
