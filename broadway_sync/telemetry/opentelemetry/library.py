"""
The import of the API, late.
"""

from __future__ import annotations

import importlib
from typing import Any

from ...errors import ConfigurationError


def import_api(module: str, wanted_by: str) -> Any:
    """
    Return a module of the API.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return importlib.import_module(f"opentelemetry.{module}")
    except ImportError as error:
        raise ConfigurationError(
            f"{wanted_by} needs the package opentelemetry-api, which is not installed: "
            "pip install 'broadway_sync[opentelemetry]'"
        ) from error
