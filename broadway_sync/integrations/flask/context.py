"""
The application context of callbacks.
"""

from __future__ import annotations

from typing import Any, List, cast

from flask import Flask

from ...around import Around, Call
from ...message import Message


class AppContext(Around):
    """
    Pushes an application context before each callback and pops it after it, on the callback's own thread.

    So ``current_app`` and ``g`` are there, as in a request, and teardown functions run after each call, with what it
    raised: Flask-SQLAlchemy gives each call a session of its own and removes it. What a teardown function raises fails
    the messages (in a producer's callback: crashes the producer), since it may be what commits.

    Pipelines that are made by :class:`Broadway` have it; for others: ``Pipeline(..., around=AppContext(app))``.

    Args:
        app: The application.
    """

    def __init__(self, app: Flask) -> None:
        self._app = itself(app)

    def __call__(self, call: Call, messages: List[Message]) -> Any:
        """
        Run a callback of the handler.
        """
        with self._app.app_context():
            return call()

    def around_producer(self, call: Call) -> Any:
        """
        Run a callback of a producer.
        """
        with self._app.app_context():
            return call()

    def __repr__(self) -> str:
        return f"<AppContext of {self._app!r}>"


def itself(app: Flask) -> Flask:
    """
    Return the application that *app* is, or means: ``current_app`` means none on another thread.
    """
    return cast(Flask, getattr(app, "_get_current_object", lambda: app)())
