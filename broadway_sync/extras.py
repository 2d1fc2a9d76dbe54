"""
Libraries that are there only if somebody asked for them.
"""

from __future__ import annotations

import importlib
from typing import Any

from .errors import ConfigurationError


def load(module: str, extra: str, wanted_by: str) -> Any:
    """
    Return *module* of a library that the extra *extra* installs; for constructors, before there are threads.

    With it comes what Python imports when a host is first looked up, as most of these libraries do, on some thread: see
    :mod:`broadway_sync.connectors.common.client_library`.

    Raises:
        ConfigurationError: It cannot be imported; the text says why, and what to install.
    """
    import encodings.idna  # noqa: F401

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{wanted_by} needs {module}, which cannot be imported ({error}): pip install 'broadway_sync[{extra}]'"
        ) from error
