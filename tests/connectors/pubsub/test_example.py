"""
The example of the manual, docs/examples/pubsub_pipeline.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import broadway_sync
from tests.brokers.pubsub import PubSub
from tests.connectors.pubsub.support import is_empty
from tests.connectors.recorder import LONG
from tests.helpers import eventually

EXAMPLE = Path(broadway_sync.__file__).resolve().parent.parent / "docs" / "examples" / "pubsub_pipeline.py"


def test_the_example_runs(emulator: PubSub, topic: str, subscription: str, spawn: Callable[..., Any]) -> None:
    """
    It handles what is published in batches, hands back what is no invoice, and ends well on SIGTERM.
    """
    emulator.publish(topic, [json.dumps({"amount": amount}) for amount in range(300)] + ["no invoice"])
    example = spawn(str(EXAMPLE), env={"SUBSCRIPTION": subscription})

    def batches() -> list[list[int]]:
        lines = [line for line in list(example.lines) if " invoices, " in line]
        return [[int(word) for word in line.split() if word.isdigit()] for line in lines]

    eventually(lambda: sum(batch[0] for batch in batches()) == 300, "all invoices are written", LONG)
    assert sum(batch[1] for batch in batches()) == sum(range(300))
    eventually(lambda: "JSONDecodeError" in example.errors, "the failure is logged", LONG)
    example.terminate()
    assert example.wait() == 0, example.errors
    assert is_empty(emulator, subscription), "the failed message waits for ten seconds"
