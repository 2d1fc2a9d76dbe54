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

    Raises:
        ConfigurationError: It cannot be imported; the text says why, and what to install.
    """
    import_codec_of_host_names()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{wanted_by} needs {module}, which cannot be imported ({error}): pip install 'broadway_sync[{extra}]'"
        ) from error


def import_codec_of_host_names() -> None:
    """
    Import what Python would import when a host is first looked up, on some thread, as most of these libraries do.

    The child of a process that forks at that very moment would wait for the import lock for ever. Called where a client
    is loaded, which is before a pipeline has any thread.
    """
    import encodings.idna  # noqa: F401
