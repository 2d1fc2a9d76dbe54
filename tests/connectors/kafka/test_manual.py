"""
The example of the how-to does what it says.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Callable

from tests.connectors.kafka.support import wait_until_committed

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "kafka_pipeline.py"


def test_example_writes_invoices(kafka: Any, spawn: Callable[..., Any]) -> None:
    """
    Invoices are written; what is no invoice goes to its own topic, and is committed; SIGTERM ends it in good order.
    """
    from tests.brokers.kafka import _create_topic

    with kafka.admin() as admin:
        for name in ("invoices", "invoices.failed"):
            _create_topic(admin, name, 2, {})
    kafka.produce("invoices", [json.dumps({"amount": amount}).encode() for amount in range(1, 31)] + [b"no invoice"])
    example = spawn(str(EXAMPLE), env={"KAFKA_HOSTS": kafka.bootstrap})
    wait_until_committed(kafka, "invoices", "invoices")
    since = time.monotonic()
    example.terminate()
    assert example.wait() == 0, example.errors
    assert time.monotonic() - since < 20
    printed = [re.fullmatch(r"(\d+) invoices, (\d+) in all", line) for line in example.lines]
    assert all(printed), example.lines
    assert sum(int(match.group(1)) for match in printed if match) == 30
    assert sum(int(match.group(2)) for match in printed if match) == sum(range(1, 31))
    assert "JSONDecodeError" in example.errors
    assert kafka.values("invoices.failed") == [b"no invoice"]
