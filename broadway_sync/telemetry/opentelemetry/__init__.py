"""
OpenTelemetry: spans of callbacks, as an ``around`` hook, and metrics; needs
``pip install 'broadway_sync[opentelemetry]'``. What becomes of them is the business of the SDK that the application
sets up; without one nothing is recorded.
"""

from __future__ import annotations

from .headers import headers_of
from .reporter import OpenTelemetryReporter
from .tracing import Tracing

__all__ = ["OpenTelemetryReporter", "Tracing", "headers_of"]
