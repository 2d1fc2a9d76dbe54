"""
The example of the how-to does what it says.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable

from tests.brokers.sqs import CREDENTIALS, REGION
from tests.connectors.recorder import LONG
from tests.helpers import eventually

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "sqs_pipeline.py"


def test_example_writes_invoices(elasticmq: Any, spawn: Callable[..., Any]) -> None:
    """
    What is no invoice stays in the queue; SIGTERM ends it in good order.
    """
    queue = elasticmq.queue()
    bodies = [json.dumps({"amount": amount}) for amount in range(1, 31)] + ["no invoice"]
    elasticmq.send(queue, bodies)
    environment = {
        "QUEUE_URL": queue, "SQS_ENDPOINT_URL": elasticmq.url, "AWS_DEFAULT_REGION": REGION,
        **{name.upper(): value for name, value in CREDENTIALS.items()},
    }  # fmt: skip
    example = spawn(str(EXAMPLE), env=environment)
    eventually(lambda: elasticmq.counts(queue) == (0, 1, 0), "all but one are deleted", LONG)
    example.terminate()
    elasticmq.send(queue, ["late"])  # ends the long poll
    assert example.wait() == 0, example.errors
    printed = [re.fullmatch(r"(\d+) invoices, (\d+) in all", line) for line in example.lines]
    assert all(printed), example.lines
    assert sum(int(match.group(1)) for match in printed if match) == 30
    assert sum(int(match.group(2)) for match in printed if match) == sum(range(1, 31))
    assert "JSONDecodeError" in example.errors


def test_tables_of_the_manual() -> None:
    """
    The how-to shows every class of options there is, and every name of an attribute.
    """
    from broadway_sync.connectors.sqs import options
    from broadway_sync.connectors.sqs.deliveries import ATTRIBUTES

    page = (EXAMPLE.parents[1] / "howto" / "sqs.rst").read_text(encoding="utf-8")
    shown = re.findall(r"^\.\. options-table:: broadway_sync\.connectors\.sqs\.options (\w+)", page, re.MULTILINE)
    own = [cls for cls in vars(options).values() if isinstance(cls, type) and cls.__module__ == options.__name__]
    assert sorted(shown) == sorted(cls.__name__ for cls in own)
    for name in ATTRIBUTES:
        assert f'``"{name}"``' in page
