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
from typing import Any, Callable, Iterator, List

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

    def __call__(self, call: Call, messages: List[Message]) -> Any:
        """
        Drop what is broken or too old, before the callback and after it.
        """
        self._before(call, _drop_old)
        try:
            return call()
        finally:
            _quietly(call, _drop_old)

    def around_producer(self, call: Call) -> Any:
        """
        The same, but connections are dropped for their age at the end only: a producer goes on in its next call with
        what it began in this one, such as ``Model.objects.iterator()``, whose cursor would be lost.
        """
        self._before(call, _drop_broken)
        try:
            return call()
        finally:
            _quietly(call, close_own if call.callback == "terminate" else _drop_broken)

    def _before(self, call: Call, drop: Callable[[], None]) -> None:
        _quietly(call, drop)
        _quietly(call, self._caches.provide)

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
    """
    _drop_old()
    try:
        yield
    finally:
        _drop_old()


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


def _drop_old() -> None:
    for connection in _own():
        connection.queries_log.clear()  # with DEBUG Django keeps every query, until the next request
        if connection.in_atomic_block:
            _drop_open_transaction(connection)
        else:
            connection.close_if_unusable_or_obsolete()


def _drop_open_transaction(connection: Any) -> None:
    """
    Give up a connection whose callback has left ``atomic`` open: closed inside of it, the object is of no use any more.
    """
    stage = threading.current_thread().name
    text = f"a callback left a transaction of database {connection.alias!r} open: it is rolled back"
    log_warning(text, stage.partition(".Broadway.")[0], stage)
    del connections[connection.alias]
    connection.close()


def _drop_broken() -> None:
    for connection in _own():
        connection.queries_log.clear()
        if connection.connection is not None and connection.errors_occurred:
            if connection.is_usable():
                connection.errors_occurred = False
            else:
                connection.close()


def close_own() -> None:
    """
    Close the connections of this thread; one that cannot be closed does not keep the others open.
    """
    errors = []
    for connection in _own():
        try:
            connection.close()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
