"""
The extension: which pipelines an application has.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Callable, Dict, List, Optional, TypeVar

from flask import Flask, current_app, has_app_context

from ...errors import ConfigurationError
from ...log import safe_repr
from ...pipeline import Pipeline
from ...rules import takes
from .command import make_group
from .context import AppContext, itself

Function = TypeVar("Function", bound=Callable[..., Any])

KEY = "broadway_sync"
"""Where an application keeps its extension: ``app.extensions["broadway_sync"]``."""


class Broadway:
    """
    The pipelines of an application, or of several that are made by one factory.

    It starts nothing by itself: pipelines run in ``flask broadway run NAME``, or where a web process starts what
    :meth:`make` returns. Registering is for import time; the rest is thread-safe.

    Args:
        app: The application; None, and :meth:`init_app` later, for application factories.

    Raises:
        ConfigurationError: The application has another extension of this kind.
    """

    def __init__(self, app: Optional[Flask] = None) -> None:
        self._functions: Dict[str, Callable[..., Any]] = {}
        self._app = app
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """
        Give *app* these pipelines, those registered later too, and the command ``flask broadway``.

        Raises:
            ConfigurationError: It has another extension of this kind.
        """
        if app.extensions.setdefault(KEY, self) is not self:
            raise ConfigurationError(f"{app!r} has a Broadway extension already: register all pipelines with that one")
        app.cli.add_command(make_group())

    def pipeline(self, name: str) -> Callable[[Function], Function]:
        """
        Register the decorated function, which returns a new :class:`Pipeline`.

        It takes the application, or nothing; whatever other arguments it has must have defaults. It is called by each
        :meth:`make`, and once in each process of ``flask broadway run``, in an application context.

        Args:
            name: What ``flask broadway run`` calls it; best the name of the pipeline itself.

        Raises:
            ConfigurationError: *name* is taken, or no name; the function needs other arguments.
        """
        if not isinstance(name, str) or not name or name.startswith("-"):
            raise ConfigurationError(f"pipeline: expected a name, as in @broadway.pipeline('orders'), got: {name!r}")

        def register(function: Function) -> Function:
            if not takes(1)(function) and not takes(0)(function):
                rule = "expected a function that takes the application, or nothing"
                raise ConfigurationError(f"pipeline {name!r}: {rule}, got: {safe_repr(function)}")
            if self._functions.setdefault(name, function) is not function:
                raise ConfigurationError(f"pipeline {name!r}: registered already, by {self._functions[name]!r}")
            return function

        return register

    def names(self) -> List[str]:
        """
        Return the registered names, in the order of their registration.
        """
        return list(self._functions)

    def describe(self, name: str) -> str:
        """
        Return the first line of the docstring of the function that makes *name*, or where it is defined.
        """
        function = self._find(name)
        lines = (function.__doc__ or "").strip().splitlines()
        return lines[0] if lines else f"{function.__module__}.{getattr(function, '__qualname__', function)}"

    def make(self, name: str, app: Optional[Flask] = None, **arguments: Any) -> Pipeline:
        """
        Return a new pipeline, not started, whose callbacks run in the context of *app*.

        Args:
            name: What it was registered as.
            app: Default the current application, else the one that this extension was made with.
            arguments: Handed to the function that was registered; for tests, say another producer.

        Raises:
            ConfigurationError: There is none of that name; its function returned no Pipeline, or one that runs already;
                there is no application.
        """
        function, app = self._find(name), itself(app or self._application())
        # Not a second context of the same application: its end would remove the caller's session (Flask-SQLAlchemy 2).
        with nullcontext() if _current() is app else app.app_context():
            pipeline = function(**arguments) if takes(0)(function) else function(app, **arguments)
        if not isinstance(pipeline, Pipeline):
            hint = " (was `return pipeline` forgotten?)" if pipeline is None else ""
            raise ConfigurationError(f"pipeline {name!r}: expected a Pipeline, got: {safe_repr(pipeline)}{hint}")
        if pipeline.state != "new":
            raise ConfigurationError(f"pipeline {name!r}: expected a new one, which was not started; got: {pipeline!r}")
        pipeline.add_around(AppContext(app), outermost=True)
        return pipeline

    def _find(self, name: str) -> Callable[..., Any]:
        try:
            return self._functions[name]
        except KeyError:
            known = ", ".join(self._functions) or "none"
            raise ConfigurationError(f"no pipeline is registered as {name!r}, there are: {known}") from None

    def _application(self) -> Flask:
        app = _current() or self._app
        if app is None:
            raise ConfigurationError("make() needs the application: give it, or call make() in an application context")
        return app


def _current() -> Optional[Flask]:
    """
    Return the application of the current context, None outside of one.
    """
    return itself(current_app) if has_app_context() else None
