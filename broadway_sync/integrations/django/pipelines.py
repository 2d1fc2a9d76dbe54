"""
The setting ``BROADWAY_PIPELINES``: which pipelines a project has, by name.
"""

from __future__ import annotations

import difflib
from typing import Any, Dict, Mapping

from django.conf import settings

from ...errors import ConfigurationError
from ...log import safe_repr
from ...pipeline import Pipeline
from ...runner.targets import Target, load

SETTING = "BROADWAY_PIPELINES"


def pipeline_targets() -> Dict[str, Target]:
    """
    Return the targets of ``BROADWAY_PIPELINES`` by name, in the setting's order; nothing is imported.

    A dotted path, ``"shop.pipelines.orders"``, comes as ``"shop.pipelines:orders"``, as the runner wants it.

    Raises:
        ConfigurationError: The setting, or something in it, is none of what it may be.
    """
    given = getattr(settings, SETTING, {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{SETTING}: expected a mapping of names to dotted paths, got: {safe_repr(given)}")
    return {_check_name(name): _to_target(name, value) for name, value in given.items()}


def load_pipeline(name: str) -> Pipeline:
    """
    Return the pipeline *name* of ``BROADWAY_PIPELINES``, not started: a new one if the setting has a function.

    Raises:
        ConfigurationError: There is none of that name, or its path leads to no pipeline; what the project's code
            raised is in the text, and ``__cause__``.
    """
    return load(find_target(name))


def find_target(name: str) -> Target:
    """
    Return the target of *name*.

    Raises:
        ConfigurationError: There is none.
    """
    targets = pipeline_targets()
    if not isinstance(name, str) or name not in targets:
        close = difflib.get_close_matches(str(name), targets, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(targets) or "none"
        raise ConfigurationError(f"{SETTING} has no pipeline {name!r}, there are: {known}{hint}")
    return targets[name]


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not name or name.startswith("-"):
        raise ConfigurationError(f"{SETTING}: expected names that a command line can give, got: {safe_repr(name)}")
    return name


def _to_target(name: str, value: Any) -> Target:
    path = f"{SETTING}[{name!r}]"
    if isinstance(value, Pipeline) or (callable(value) and not isinstance(value, type)):
        return value
    if isinstance(value, str) and ("." in value or ":" in value):
        module, _, attribute = value.rpartition(".")
        return value if ":" in value else f"{module}:{attribute}"
    raise ConfigurationError(
        f"{path}: expected the path of a Pipeline, or of a function that returns one, such as "
        f"'shop.pipelines.orders', got: {safe_repr(value)}"
    )
