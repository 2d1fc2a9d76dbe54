"""
A connection that is opened when it is needed, and shared.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional

from ..registry import fork_aware

CLOSE_PATIENCE = 2.0
"""Seconds that closing may take at each step: a stop waits for it."""


class Mutex:
    """
    A lock that a forked child has anew: in the parent some thread may have held it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        fork_aware.add(self)

    def after_fork_in_child(self) -> None:
        """
        In a forked child.
        """
        self.lock = threading.Lock()


class Held:
    """
    One client, opened at the first :meth:`get`, until :meth:`close`; the next :meth:`get` opens another one.

    Thread-safe. A process that was forked opens one of its own: two processes that write to one connection would garble
    it.
    """

    def __init__(self, open_client: Callable[[], Any], close_client: Callable[[Any], Any]) -> None:
        self._open = open_client
        self._close = close_client
        # The child of a fork keeps what it has inherited, untouched: closing it would say good-bye on the connection of
        # its parent.
        self._inherited: Any = None
        self._client: Any = None
        # Guards _client. Outermost; held while a connection is made, so that there are not several.
        self._lock = threading.Lock()
        fork_aware.add(self)

    def get(self) -> Any:
        """
        Return the client.
        """
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def close(self, only: Optional[Any] = None) -> None:
        """
        Close the client, if there is one, and if it is still *only*. What that raises is nobody's business any more.

        Does not wait for somebody who is making one: that is a thread that was given up, and sees to it itself.
        """
        if not self._lock.acquire(timeout=CLOSE_PATIENCE):
            return
        try:
            client = self._client
            if client is None or (only is not None and client is not only):
                return
            self._client = None
        finally:
            self._lock.release()
        try:
            self._close(client)
        except Exception:  # a client library: it was closed because it failed, or is not needed any more
            pass

    def after_fork_in_child(self) -> None:
        """
        In a forked child: the client is the parent's, and the lock may have been held.
        """
        self._lock = threading.Lock()
        self._inherited, self._client = (self._inherited, self._client), None
