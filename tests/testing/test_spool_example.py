"""
The connector of the how-to: installed as a package, found by its entry point, and put through the contract.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "off_broadway_spool"
MANUAL = ROOT / "docs" / "howto" / "write_a_connector.rst"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Install the example, as pip does it, and return the folder; nothing is built in the tree.
    """
    source, target = tmp_path_factory.mktemp("spool") / "source", tmp_path_factory.mktemp("site")
    shutil.copytree(str(EXAMPLE), str(source), ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=150)
    assert done.returncode == 0, done.stdout.decode()
    return target


def run(installed: Path, *arguments: Any) -> str:
    """
    Run Python where the example is installed, outside of the tree; it must succeed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)], cwd=str(installed), env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_example_finds_the_connector_by_its_name(installed: Path) -> None:
    """
    The pipeline of the how-to runs, and prints what stands there.
    """
    assert run(installed, EXAMPLE / "example.py") == (EXAMPLE / "example.out").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_example_passes_the_contract(installed: Path) -> None:
    """
    All of it, but for what a folder does not have: connections to cut, credentials.
    """
    output = run(
        installed, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", installed, EXAMPLE / "tests"
    )
    passed = re.search(r"^\d+ passed, 4 skipped\b", output, re.MULTILINE)
    assert passed, output
    assert passed.group() in MANUAL.read_text(encoding="utf-8")
    reasons = re.findall(r"^SKIPPED .*: (.*)$", output, re.MULTILINE)
    assert sorted(reasons) == [
        "the harness does not define cut()",
        "the harness does not define stall()",
        "the harness does not define wrong_credentials()",
        "the harness has no secrets",
    ]
