"""
What is common to all reporters: attach, detach, the fork.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Callable, Optional, Tuple, Type, TypeVar

from ... import registry
from ...errors import NotRunningError
from .. import events
from ..registry import attach_many, detach
from .aggregates import Aggregates, Histogram
from .gauges import Gauges
from .listener import Listener

Self = TypeVar("Self", bound="Reporter")


class Reporter:
    """
    Listens to events while it is attached. Thread-safe.

    Made anywhere, attached anywhere: before or after pipelines start, before or after a fork. In a forked child it goes
    on with the first pipeline that starts there, and begins at zero.

    Args:
        make_histogram: What values become, see :class:`Aggregates`.
        per_message: Whether to listen to the events of each message, for the time of each ``handle_message``.
        per_thread: Whether the label ``stage`` has the number of the thread.
    """

    name = "reporter"

    def __init__(
        self, make_histogram: Callable[[Tuple[float, ...]], Histogram], *, per_message: bool, per_thread: bool
    ) -> None:
        self._aggregates = Aggregates(make_histogram)
        self._listener = Listener(self._aggregates, per_message=per_message, per_thread=per_thread)
        self._gauges = Gauges(self._aggregates, self._listener)
        self._id = (f"broadway_sync.telemetry.{self.name}", id(self))
        # Serializes attach, detach, and the first start of a pipeline after them.
        self._lock = threading.RLock()
        self._is_attached = False
        registry.fork_aware.add(self)

    @property
    def is_attached(self) -> bool:
        """
        Whether it listens.
        """
        return self._is_attached

    def attach(self: Self) -> Self:
        """
        Listen from now on; nothing happens if it does already. Opens nothing before a pipeline runs.
        """
        with self._lock:
            if self._is_attached:
                return self
            self._attached()  # may raise
            attach_many(self._id, self._listener.events, self._heard)
            self._is_attached = True
            for name in registry.all_running():
                self._meet(name)
        return self

    def detach(self) -> None:
        """
        Listen no more; nothing happens if it does not. What was heard is reported first, as far as that can be done
        quickly.
        """
        with self._lock:
            if not self._is_attached:
                return
            self._is_attached = False
            try:
                detach(self._id)
            except LookupError:  # telemetry did, because an event made it raise
                pass
            self._detached()

    def __enter__(self: Self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.detach()

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: make one in each process")

    def after_fork_in_child(self) -> None:
        """
        Forget what the parent has heard, and locks that its threads may have held.
        """
        self._lock = threading.RLock()
        self._aggregates.forget()
        self._listener.forget()
        self._gauges.forget()

    def _heard(self, event: Tuple[str, ...], measurements: Any, metadata: Any, config: Any) -> None:
        self._listener(event, measurements, metadata, config)
        if event == events.TOPOLOGY_INIT:
            self._pipeline_runs()

    def _meet(self, name: str) -> None:
        """
        Learn about a pipeline that started before this was attached.
        """
        try:
            options = registry.get_pipeline(name).options
        except NotRunningError:  # it has just ended
            return
        self._listener.knows(name, options)
        self._pipeline_runs()

    # What a reporter adds. Called on the threads that attach, detach and start pipelines; the first two with the lock,
    # so that whoever attaches while another one detaches finds all of it undone, or nothing.

    def _attached(self) -> None:
        pass

    def _detached(self) -> None:
        pass

    def _pipeline_runs(self) -> None:
        pass
