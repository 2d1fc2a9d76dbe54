"""
What the tests on real servers share.
"""

from __future__ import annotations

import logging
from typing import Any, Mapping

import pytest

from broadway_sync.connectors.sqs import SQSProducer

FAST: dict[str, Any] = {"wait_time_seconds": 0, "receive_interval": 0.05, "backoff_min": 0.05, "backoff_max": 0.2}
"""Options that let faults pass quickly."""


def module(queue_url: str, server: Any, port: int | None = None, **options: Any) -> tuple[type, Mapping[str, Any]]:
    """
    Return ``producer.module`` for a queue of *server*, perhaps through a proxy at *port*.
    """
    config = {**server.client_options(port), **options.pop("config", {})}
    return (SQSProducer, {"queue_url": queue_url, **FAST, "config": config, **options})


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """
    Return the records of the library that contain *text*.
    """
    messages = [record.getMessage() for record in caplog.records if record.name == "broadway_sync"]
    return [message for message in messages if text in message]


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """
    Return everything that the library has logged as a warning or worse.
    """
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "broadway_sync" and record.levelno >= logging.WARNING
    ]
