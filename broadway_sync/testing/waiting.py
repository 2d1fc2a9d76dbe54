"""
Waiting in tests: always for something that happens, always with a bound.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Callable, Optional


def wait_until(predicate: Callable[[], Any], timeout: float, what: str, pause: float = 0.02) -> Any:
    """
    Wait until *predicate* returns something true, and return it.

    For what offers nothing to wait on, such as the number of messages that a broker holds.

    Args:
        what: What is waited for, for the text of the error.
        pause: Seconds between two looks.

    Raises:
        AssertionError: It did not within *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout:g} s: {what}")
        time.sleep(pause)


class Gate:
    """
    A place where threads wait until a test lets them through, for example in a handler. Thread-safe.

    Open it at the end of every test, best with ``with``: a handler that waits keeps its pipeline from stopping.

    Args:
        timeout: Seconds after which whoever waits goes on in any case, and gets an ``AssertionError``.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        self._timeout = timeout
        self._opened = threading.Event()
        self._visitors: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def wait(self, visitor: Any = None) -> None:
        """
        Say that *visitor* is here, and wait until the gate is open.
        """
        self._visitors.put(visitor)
        if not self._opened.wait(self._timeout):
            raise AssertionError(f"nobody opened the gate within {self._timeout:g} s")

    def arrived(self, timeout: float) -> Any:
        """
        Wait for the next visitor and return it.

        Raises:
            AssertionError: Nobody came within *timeout* seconds.
        """
        try:
            return self._visitors.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"nobody came to the gate within {timeout:g} s") from None

    def open(self) -> None:
        """
        Let everybody through, now and later.
        """
        self._opened.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> Optional[bool]:
        self.open()
        return None
