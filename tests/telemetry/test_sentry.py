"""
The example of Sentry in the manual, with its real SDK and a transport that prints.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import python_env

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def test_each_failure_is_reported_in_its_own_scope() -> None:
    """
    Tags of one message do not reach the next; each failure is one event.

    In a process of its own: its import of eventlet, where that is installed, warns.
    """
    pytest.importorskip("sentry_sdk")
    done = subprocess.run(
        [sys.executable, str(DOCS / "examples" / "tracing_sentry.py")],
        env=python_env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert ("'article': 'tea'" in first, "'article': 'sugar'" in second) == (True, True)
    manual = (DOCS / "howto" / "tracing.rst").read_text(encoding="utf-8")
    assert "../examples/tracing_sentry.py" in manual
    assert f"   {first}\n   {second}\n" in manual
