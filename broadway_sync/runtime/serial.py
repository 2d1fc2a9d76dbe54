"""
Steps that must run one at a time, on whichever thread is there.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Callable, Deque, Tuple

Step = Tuple[Callable[[Any, Any], None], Any, Any]


class Serial:
    """
    A queue of steps and the right to run them.

    Who posts a step runs it, and with it whatever others posted meanwhile; if another thread is at it already,
    that one runs it too and the poster goes on. So nobody ever waits for the lock, there is no convoy, and
    a step costs no thread switch. Steps of one thread run in the order in which it posted them.

    Why no step is left behind: a poster appends first and then tries the lock; the runner releases the lock and
    then looks at the queue. If the try failed, the runner has yet to look.
    """

    def __init__(self) -> None:
        self.pending: Deque[Step] = deque()
        # Guards whatever the steps touch. Never waited for, except by inspect().
        self._lock = threading.Lock()

    def post(self, function: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """
        Run ``function(first, second)`` here, now, or leave it to the thread that is running steps.
        """
        pending, lock = self.pending, self._lock
        if not pending and lock.acquire(False):  # mostly nobody else is there: no need to queue
            try:
                function(first, second)
            finally:
                lock.release()
        else:
            pending.append((function, first, second))
        while pending and lock.acquire(False):
            try:
                while pending:
                    step, one, two = pending.popleft()
                    step(one, two)
            finally:
                lock.release()

    def inspect(self, look: Callable[[], Any], timeout: float) -> Any:
        """
        Return ``look()``, called while no step runs, or anyhow once *timeout* seconds have passed.
        """
        is_ours = self._lock.acquire(timeout=timeout)
        try:
            return look()
        finally:
            if is_ours:
                self._lock.release()
