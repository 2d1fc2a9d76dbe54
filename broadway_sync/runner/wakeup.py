"""
Signals of a process that has one thread and waits for many things: as bytes of a pipe.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Dict, Iterable, List


class Wakeup:
    """
    For the time of a ``with`` on the main thread: signals are noted, and make :attr:`fd` readable.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        self._signals = tuple(signals)
        self._previous: Dict[int, Any] = {}
        self._previous_fd = -1
        self.fd = -1
        self._write_fd = -1

    def __enter__(self) -> Wakeup:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in self._signals:
            # The interpreter writes the number of a signal into the pipe only if there is a handler.
            self._previous[number] = signal.signal(number, lambda number, frame: None)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self.fd)
        os.close(self._write_fd)

    def take(self) -> List[int]:
        """
        Return the numbers of the signals that came since the last time.
        """
        try:
            return [number for number in os.read(self.fd, 4096) if number in self._signals]
        except BlockingIOError:
            return []
