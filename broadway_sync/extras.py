"""
Libraries that are there only if somebody asked for them.
"""

from __future__ import annotations

import importlib
from typing import Any

from .errors import ConfigurationError


def load(module: str, extra: str, wanted_by: str) -> Any:
    """
    Return *module* of a library that the extra *extra* installs.

    Raises:
        ConfigurationError: It cannot be imported; the text says why, and what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{wanted_by} needs {module}, which cannot be imported ({error}): pip install 'broadway_sync[{extra}]'"
        ) from error
