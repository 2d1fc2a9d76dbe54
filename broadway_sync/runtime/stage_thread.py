"""
The thread of a stage: named, a daemon, and never dying unseen.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional


class StageThread(threading.Thread):
    """
    Runs *body* and reports its end, with the exception that escaped from it, if any.

    Daemon: an interpreter that ends must not wait for a handler that hangs; that in-flight work is finished all
    the same is the business of the exit hook (see ``registry.py``).
    """

    def __init__(
        self, name: str, body: Callable[[], None], ended: Callable[[Any, Optional[BaseException]], None], owner: Any
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._body = body
        self._ended = ended
        self.owner = owner
        """The run that the thread belongs to."""
        self.stage = getattr(body, "__self__", None)
        """The stage whose ``run`` it runs."""

    def run(self) -> None:
        """
        Run the body.
        """
        error: Optional[BaseException] = None
        try:
            self._body()
        except BaseException as caught:  # the one place: no thread of the library dies unseen
            error = caught
        self._ended(self, error)


def current_owner() -> Any:
    """
    Return the run whose stage this thread is, None for other threads.
    """
    thread = threading.current_thread()  # of another class it may have an attribute of that name, which is its own
    return thread.owner if isinstance(thread, StageThread) else None
