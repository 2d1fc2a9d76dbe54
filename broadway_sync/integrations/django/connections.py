"""
Database and cache connections of stage threads, kept as Django keeps those of the threads that serve requests.

Django's connections belong to threads. Around each request it drops those that are broken or too old; nobody does that
on the threads of a pipeline, and nobody closes what a thread leaves behind when it ends. Here it is done around each
callback instead, and at the end of each thread.

All of it is for connections of the thread itself: one that is shared with other threads (by tests, see ``testing.py``)
is its owner's to close.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Sequence

from django.db import connections

from ...around import Around, Call
from ...log import log_error, log_warning
from ...message import Message
from .caches import ThreadCaches


class ConnectionCare(Around):
    """
    The hook that :class:`~.apps.BroadwayConfig` puts around every pipeline. Thread-safe: all it has is per thread.
    """

    def __init__(self) -> None:
        self._caches = ThreadCaches()
        # depth: how many calls this thread is in.
        self._inside = threading.local()

    @property
    def is_at_work(self) -> bool:
        """
        Whether this thread is in a callback.
        """
        return getattr(self._inside, "depth", 0) > 0

    def __call__(self, call: Call, messages: List[Message]) -> Any:
        """
        Drop what is broken or too old, before the callback and after it.
        """
        return self._around(call, _drop_old, _drop_old)

    def around_producer(self, call: Call) -> Any:
        """
        The same, but connections are dropped for their age at the end only: a producer goes on in its next call with
        what it began in this one, such as ``Model.objects.iterator()``, whose cursor would be lost.
        """
        return self._around(call, _drop_broken, close_own if call.callback == "terminate" else _drop_broken)

    def _around(self, call: Call, before: Callable[[], None], after: Callable[[], None]) -> Any:
        _quietly(call, before)
        _quietly(call, self._caches.provide)
        self._inside.depth = getattr(self._inside, "depth", 0) + 1
        try:
            return call()
        finally:
            self._inside.depth -= 1
            _quietly(call, after)

    def thread_ended(self) -> None:
        """
        Close all connections of this thread.
        """
        try:
            close_own()
        finally:
            self._caches.close()


care = ConnectionCare()
"""The one instance: adding it again changes nothing."""


@contextmanager
def connection_care() -> Iterator[None]:
    """
    Do around a block what is done around callbacks: for code of a pipeline that uses the ORM outside of one, such as an
    acknowledger.

    Where such code is called from a callback after all, as an acknowledger is by ``ack_immediately()``, the connections
    are left to that, with what it has begun on them; a transaction that is open before the block is left open.
    """
    begun = _own() if care.is_at_work else [connection for connection in _own() if connection.in_atomic_block]
    _drop_old(begun)
    try:
        yield
    finally:
        _drop_old(begun)


def _quietly(call: Call, function: Callable[[], None]) -> None:
    """
    Call *function*; what it raises is logged. A callback that has done its work must not fail for what a connection,
    which is given up in any case, has to say; before it, it will meet the fault itself if it matters to it.
    """
    try:
        function()
    except Exception as error:
        log_error(f"the connections around {call.callback} could not be seen to", error, call.pipeline, call.stage)


def _own() -> List[Any]:
    """
    Return the connections of this thread that no other thread may use, opened or not.
    """
    try:
        opened = connections.all(initialized_only=True)
    except TypeError:  # Django before 4.1
        opened = connections.all()
    return [connection for connection in opened if not connection.allow_thread_sharing]


def _each(function: Callable[[Any], None], spared: Sequence[Any] = ()) -> None:
    """
    Call *function* for the connections of this thread; a fault of one does not keep it from the others.
    """
    errors = []
    for connection in _own():
        try:
            if connection not in spared:
                function(connection)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _drop_old(spared: Sequence[Any] = ()) -> None:
    _each(_drop_if_old, spared)


def _drop_if_old(connection: Any) -> None:
    connection.queries_log.clear()  # with DEBUG Django keeps every query, until the next request
    if connection.in_atomic_block:
        _drop_open_transaction(connection)
    else:
        connection.close_if_unusable_or_obsolete()


def _drop_open_transaction(connection: Any) -> None:
    """
    Roll back what a callback has begun with ``atomic`` and not ended.
    """
    stage = threading.current_thread().name
    text = f"a callback left a transaction of database {connection.alias!r} open: it is rolled back"
    log_warning(text, stage.partition(".Broadway.")[0], stage)
    _close(connection)


def _drop_broken() -> None:
    _each(_drop_if_broken)


def _drop_if_broken(connection: Any) -> None:
    connection.queries_log.clear()
    if not connection.in_atomic_block:
        connection.health_check_done = False  # CONN_HEALTH_CHECKS counts for each call
    if connection.connection is not None and connection.errors_occurred:
        if connection.is_usable():
            connection.errors_occurred = False
        else:
            _close(connection)


def _close(connection: Any) -> None:
    """
    Close a connection. Closed inside of ``atomic`` the object is of no use any more: the thread gets another.
    """
    if connection.in_atomic_block:
        del connections[connection.alias]
    connection.close()


def close_own() -> None:
    """
    Close the connections of this thread; one that cannot be closed does not keep the others open.
    """
    _each(_close)
