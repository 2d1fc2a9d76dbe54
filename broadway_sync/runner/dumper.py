"""
The thread that answers who wants to know what this process is doing.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
from types import FrameType
from typing import Any, Optional, Sequence

from ..pipeline import Pipeline
from .child import unblock_signals
from .dump import dump_text
from .endpoint import Endpoint
from .logs import logger, say

THREAD = "broadway_sync.dumper"

SIGNAL: Optional[signal.Signals] = getattr(signal, "SIGUSR1", None)
"""Makes a runner write its dump to stderr; None where the system has no such signal."""


class Dumper:
    """
    For the time of a ``with`` on the main thread: SIGUSR1 writes a dump to stderr, ``broadway-sync dump`` gets one.

    All on a thread of its own: the main thread may be the one that hangs, and whoever reads stderr may be slow. A
    process that cannot have the socket, for example because its file system is read-only, goes without.
    """

    def __init__(self) -> None:
        self.pipelines: Sequence[Pipeline] = ()
        """What the dump is of, beside all threads."""
        self._endpoint: Optional[Endpoint] = None
        self._previous: Any = None
        self._thread = threading.Thread(target=self._serve, name=THREAD, daemon=True)

    def __enter__(self) -> Dumper:
        if SIGNAL is None:  # nor are there sockets of this kind
            return self
        self._endpoint = open_endpoint()
        # Whoever wants something of the thread writes a byte: signal handlers may.
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._thread.start()
        self._previous = signal.signal(SIGNAL, self._handle)
        unblock_signals([SIGNAL])
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if SIGNAL is None:
            return
        # The default action would end the process: a request that comes late should not.
        signal.signal(SIGNAL, signal.SIG_IGN if self._previous in (None, signal.SIG_DFL) else self._previous)
        os.write(self._wake, b"q")
        self._thread.join(5)
        if self._endpoint is not None:
            self._endpoint.close()
        if not self._thread.is_alive():  # else it is stuck in writing to stderr
            os.close(self._woken)
            os.close(self._wake)

    def _handle(self, number: int, frame: Optional[FrameType]) -> None:
        try:
            os.write(self._wake, b"d")
        except OSError:  # as many requests wait as the pipe holds
            pass

    # On the thread.

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ, self._write)
            if self._endpoint is not None:
                selector.register(self._endpoint.socket, selectors.EVENT_READ, self._answer)
            while all(key.data() for key, _ in selector.select()):
                pass

    def _write(self) -> bool:
        """
        Do what a byte asks for; return whether to go on.
        """
        if b"q" in os.read(self._woken, 1024):
            return False
        say(dump_text(self.pipelines))
        return True

    def _answer(self) -> bool:
        assert self._endpoint is not None
        self._endpoint.answer(lambda: dump_text(self.pipelines))
        return True


def open_endpoint() -> Optional[Endpoint]:
    """
    Return the socket of this process, None, and a line in the log, if there can be none.
    """
    try:
        return Endpoint()
    except OSError as error:
        logger.info("`broadway-sync dump` will not reach this process, SIGUSR1 does: %s", error)
        return None
