"""
Fixtures of the tests with a real Kafka.
"""

from __future__ import annotations

import gc
import warnings
from typing import Iterator

import pytest


@pytest.fixture
def leaks_of_the_client() -> Iterator[None]:
    """
    Forgive kafka-python its sockets.

    3.0 does not close those of connections that are refused, or that end while they are made, which shows when they
    are collected: here, and not in a later test that has nothing to do with it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
        yield
        gc.collect()
