"""
Fixtures for the tests of the runner.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.runner.support import Runner


@pytest.fixture
def folder() -> Iterator[Path]:
    """
    Return a new folder whose name is short enough for a socket in it.
    """
    made = Path(tempfile.mkdtemp(prefix="bs-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def runner(folder: Path) -> Iterator[Callable[..., Runner]]:
    """
    Return a function that starts ``broadway-sync run`` with targets of ``tests/runner/apps.py`` and options.
    """
    made: list[Runner] = []

    def start(*arguments: str, **options: Any) -> Runner:
        targets = list(itertools.takewhile(lambda each: not each.startswith("-"), arguments))
        rest = arguments[len(targets) :]
        made.append(Runner(folder, "run", *(f"tests.runner.apps:{each}" for each in targets), *rest, **options))
        return made[-1]

    yield start
    for each in made:
        each.close()
