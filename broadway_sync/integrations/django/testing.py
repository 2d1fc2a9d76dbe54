"""
Pipelines in Django's tests: on the connections that the test may use, and stopped before its database is torn down.

A pipeline has threads, and a thread has connections of its own. Under ``TestCase`` these would not see the test's
transaction, so the pipeline is given the test's connections. Under ``TransactionTestCase`` there is no transaction, and
it uses its own, as in production; but for SQLite in memory, which is shared as ``LiveServerTestCase`` does.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, TypeVar

from django.db import connections
from django.utils.asyncio import async_unsafe

from ...around import Around, Call, add_ours, remove_around
from ...message import Message
from ...pipeline import Pipeline

P = TypeVar("P", bound=Pipeline)

PATIENCE = 10.0
"""Seconds that a callback waits for the connections that another one has."""

# There it would have no connection of the test, and store for good what the test wants rolled back.
_refuse_event_loop = async_unsafe(
    "A pipeline of a test cannot be started in an event loop: the test's connections belong to another thread. Start "
    "it in setUp(), or by `await sync_to_async(self.run_pipeline)(pipeline)`."
)(lambda: None)


@contextmanager
def running(pipeline: P, *, timeout: Optional[float] = None) -> Iterator[P]:
    """
    Run *pipeline* for the time of a ``with``, in a test: started on the test's connections, stopped at the end.

    Works in ``TestCase``, ``TransactionTestCase``, and under pytest-django's ``db`` and ``transactional_db``: what
    counts is the state of the connections of the thread that calls it.

    Callbacks that use connections of the test run one at a time: the transaction is one. The test itself should wait
    for its messages, ``pipeline.test_message(...).receive()``, before it uses the database.

    Args:
        pipeline: Not started yet.
        timeout: Seconds for the stop; default the option ``shutdown``.

    Raises:
        DrainTimeoutError: The stop left messages or threads behind.
        PipelineFailedError: The pipeline gave up.
    """
    with shared_connections():
        pipeline.start()
        try:
            yield pipeline
        finally:
            pipeline.stop(timeout)
        pipeline.join()


class PipelineTestMixin:
    """
    For ``TestCase`` and ``TransactionTestCase``: ``class TestOrders(PipelineTestMixin, TestCase)``.
    """

    addCleanup: Callable[..., Any]  # noqa: N815 - unittest's

    def run_pipeline(self, pipeline: P, *, timeout: Optional[float] = None) -> P:
        """
        Start *pipeline* and return it; it is stopped when the test is over, before the database is rolled back or
        flushed. See :func:`running`.
        """
        context = running(pipeline, timeout=timeout)
        context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return pipeline


@contextmanager
def shared_connections() -> Iterator[None]:
    """
    Give pipelines that are started inside of a ``with``, in whatever way, the test's connections; see :func:`running`.

    They must be stopped inside of it too.

    Raises:
        SynchronousOnlyOperation: Called in an event loop, so on another thread than the test's.
    """
    _refuse_event_loop()
    hook = _SharedConnections({c.alias: c for c in connections.all() if _is_to_be_shared(c)})
    with ExitStack() as stack:
        for connection in hook.shared.values():
            connection.inc_thread_sharing()
            stack.callback(connection.dec_thread_sharing)
            stack.enter_context(connection.execute_wrapper(hook.before_query))
        add_ours(hook)
        stack.callback(remove_around, hook)
        yield


def _is_to_be_shared(connection: Any) -> bool:
    """
    Whether threads of a pipeline must use this connection of the test in place of their own.

    What the test has done is in it alone, be it a transaction or a database in memory; or it is one that the test must
    not use, which holds for its pipelines too: Django has put methods that raise into the object.
    """
    is_in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
    return connection.in_atomic_block or is_in_memory or hasattr(connection.connect, "wrapped")


class _SharedConnections(Around):
    """
    Puts connections of the test into the place of a thread's own, for the time of a callback.
    """

    def __init__(self, shared: Dict[str, Any]) -> None:
        self.shared = shared
        """By alias."""
        # Held by the callback that has the connections, while user code runs. Outermost.
        self._lock = threading.Lock()
        # call: the producer's callback that this thread is in, until its first query.
        self._waiting = threading.local()

    def __call__(self, call: Call, messages: List[Message]) -> Any:
        """
        A callback of the handler has the connections from its beginning to its end.
        """
        if not self.shared:
            return call()
        own = self._replace()
        try:
            self._acquire(call)
            try:
                return call()
            finally:
                self._lock.release()
        finally:
            self._put_back(own)

    def around_producer(self, call: Call) -> Any:
        """
        One of a producer has them from its first query to its end: before, it may wait for something else, and long.
        """
        if not self.shared:
            return call()
        own = self._replace()
        self._waiting.call = call
        try:
            return call()
        finally:
            if self._waiting.call is None:
                self._lock.release()
            self._waiting.call = None
            self._put_back(own)

    def before_query(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        """
        Django calls this for each query on one of the connections, whatever thread makes it.
        """
        call = getattr(self._waiting, "call", None)
        if call is not None:
            self._acquire(call)
            self._waiting.call = None
        return execute(*arguments)

    def _acquire(self, call: Call) -> None:
        if not self._lock.acquire(timeout=PATIENCE):
            raise RuntimeError(
                f"{call.callback} waited {PATIENCE:g} s for the test's connections. Callbacks that use them run one at "
                "a time, and one has not ended; where they have to run side by side, use TransactionTestCase and a "
                "database that is not in memory"
            )

    # Two methods, and no context manager made of a generator: that would change the traceback of what callbacks raise,
    # which a frozen dataclass refuses.

    def _replace(self) -> Dict[str, Any]:
        """
        Return the thread's own connections, by alias.
        """
        own = {connection.alias: connection for connection in connections.all()}
        for alias, connection in self.shared.items():
            connections[alias] = connection
        return own

    def _put_back(self, own: Dict[str, Any]) -> None:
        for alias in self.shared:
            connections[alias] = own[alias]
