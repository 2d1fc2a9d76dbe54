"""
The how-to keeps its word: it has every option, its example runs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs

from broadway_sync.connectors.rabbitmq import address, options
from tests.helpers import eventually

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "howto" / "rabbitmq.rst"


def test_page_has_every_option() -> None:
    """
    There is a table for each class of options, and every key of the metadata is named.
    """
    page = PAGE.read_text(encoding="utf-8")
    classes = {
        (module.__name__, name)
        for module in (options, address)
        for name, value in vars(module).items()
        if attrs.has(value) and value.__module__ == module.__name__
    }
    assert set(re.findall(r"options-table:: (\S+) (\w+)", page)) == classes
    assert [key for key in options.METADATA_KEYS if f"``{key}``" not in page] == []


def test_example(rabbitmq: Any, spawn: Any) -> None:
    """
    The example writes batches, moves what it cannot read, and ends on SIGTERM.
    """
    vhost = rabbitmq.vhost()
    url = rabbitmq.url_of(vhost=vhost)
    process = spawn(str(DOCS / "examples" / "rabbitmq_pipeline.py"), env={"AMQP_URL": url})
    eventually(lambda: "invoices\t1" in rabbitmq.ctl("list_queues", "-p", vhost, "name", "consumers"), "it consumes")
    with rabbitmq.channel(url) as channel:
        for number in range(100):
            channel.basic_publish("", "invoices", json.dumps({"amount": number}))
        channel.basic_publish("", "invoices", b"not JSON")
        process.wait_for("100 invoices, 4950 in all")
        eventually(lambda: channel.basic_get("invoices.failed", auto_ack=True)[2] == b"not JSON", "it was moved away")
    process.terminate()
    assert process.wait() == 0, process.errors
