"""
Database connections of an application in forked workers.
"""

from __future__ import annotations

from typing import Any, List

from flask import Flask


def forget_connections(app: Flask) -> None:
    """
    In a forked worker: let Flask-SQLAlchemy open its own connections, if the application has it.

    Those that are in its pools were opened by the parent, which has loaded the application, and every worker has a
    copy: two of them on one connection would read each other's answers.
    """
    with app.app_context():
        for engine in _engines(app):
            try:
                engine.dispose(close=False)  # they are not ours to close
            except TypeError:  # SQLAlchemy before 1.4.33
                engine.dispose()


def _engines(app: Flask) -> List[Any]:
    extension: Any = app.extensions.get("sqlalchemy")
    if hasattr(extension, "engines"):
        return list(extension.engines.values())
    db = getattr(extension, "db", None)  # Flask-SQLAlchemy before 3.0
    return [] if db is None else [db.get_engine(app, bind) for bind in (None, *(app.config["SQLALCHEMY_BINDS"] or ()))]
