"""
Every test here runs with threads that are switched as often as the interpreter can.
"""

from __future__ import annotations

import sys
from typing import Iterator

import pytest


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """
    Bring out races.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
