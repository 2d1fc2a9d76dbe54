"""
What connectors, letters and metrics tell of an error.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from broadway_sync.connectors.common import reporter
from broadway_sync.connectors.common.reporter import Reporter, describe


class UnluckyError(Exception):
    """
    An error without a text.
    """

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_is_one_line_without_credentials() -> None:
    """
    Whatever it is.
    """
    assert describe(OSError("cannot reach\n amqp://me:secret@host")) == "OSError: cannot reach amqp://me:******@host"
    assert describe(OSError()) == "OSError"
    assert describe(UnluckyError()) == "UnluckyError"


def test_of_a_very_long_text_the_end_is_not_looked_at(monkeypatch: Any) -> None:
    """
    A stage waits for it, and to look for credentials in some megabytes may take minutes.
    """
    looked_at: list[int] = []
    mask = reporter.mask

    def counting_mask(text: str) -> Any:
        looked_at.append(len(text))
        return mask(text)

    monkeypatch.setattr(reporter, "mask", counting_mask)
    found = describe(OSError("'a: password=secret " * 100_000))
    assert len(found) == len("OSError: ") + 1000
    assert "secret" not in found
    assert looked_at == [10_000]


def test_each_kind_of_error_is_told_once_until_it_is_up(caplog: Any) -> None:
    """
    Attempts that fail now in one way and now in another do not fill the log.
    """
    caplog.set_level(logging.INFO, "broadway_sync")
    voice = Reporter("kafka", SimpleNamespace(pipeline_name="p", name="p.Producer_0", index=0))  # type: ignore[arg-type]
    for error in (TimeoutError("late"), PermissionError("no"), TimeoutError("late"), PermissionError("no")):
        voice.down(error)
    voice.up()
    voice.down(TimeoutError("late"))
    told = [record.getMessage().partition("] ")[2] for record in caplog.records]
    assert told == [
        "no connection: TimeoutError: late",
        "no connection: PermissionError: no",
        "connected again",
        "no connection: TimeoutError: late",
    ]
