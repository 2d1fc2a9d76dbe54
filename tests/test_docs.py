"""
The manual keeps its word: examples run and print what it shows, tables are those of the code, links lead somewhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

import broadway_sync
from broadway_sync import options

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
SCRIPTS = [ROOT / "examples" / "quickstart.py", *sorted(EXAMPLES.glob("*.py"))]
# Examples that are run in another way: below, in tests/telemetry, or with a broker, by the tests of its connector.
BROKER_EXAMPLES = {path.name for path in EXAMPLES.glob("*_pipeline.py")}
OTHERWISE = {"script.py", "test_orders.py", "tracing_sentry.py"} | BROKER_EXAMPLES


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """
    Run Python on *arguments*, in the root, with warnings as errors.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)], cwd=str(ROOT), env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=50,
    )  # fmt: skip


@pytest.fixture(scope="module")
def readme() -> Any:
    """
    Return docs/readme.py as a module.
    """
    spec = importlib.util.spec_from_file_location("docs_readme", str(ROOT / "docs" / "readme.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name not in OTHERWISE], ids=lambda path: path.stem)
def test_example_prints_what_the_manual_shows(script: Path) -> None:
    """
    Every example of the manual runs, and prints the text that stands beside it.
    """
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == script.with_suffix(".out").read_text(encoding="utf-8")


def test_expected_output_belongs_to_an_example() -> None:
    """
    No output is left of an example that is gone.
    """
    expected = {path.with_suffix(".py").name for path in EXAMPLES.glob("*.out")}
    assert expected == {path.name for path in EXAMPLES.glob("*.py")} - OTHERWISE


def test_examples_that_need_a_broker_are_run_by_the_tests_of_their_connector() -> None:
    """
    Each by its own.
    """
    assert BROKER_EXAMPLES == {f"{name}_pipeline.py" for name in ("kafka", "pubsub", "rabbitmq", "sqs")}
    for name in BROKER_EXAMPLES:
        tests = (ROOT / "tests" / "connectors" / name[: -len("_pipeline.py")]).glob("test_*.py")
        assert any(name in path.read_text(encoding="utf-8") for path in tests), name


def test_script_counts_words(tmp_path: Path) -> None:
    """
    The script of the how-to counts the words of its files and exits 0.
    """
    text = tmp_path / "text.txt"
    text.write_text("the cat and the dog\nand the bird\n" * 500, encoding="utf-8")
    done = run(EXAMPLES / "script.py", text)
    assert (done.returncode, done.stdout) == (0, "1500 the\n1000 and\n500 cat\n"), done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs os.mkfifo and POSIX signals")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_script_drains_on_a_signal(tmp_path: Path, signal_number: signal.Signals) -> None:
    """
    Interrupted while it waits for input, the script counts what it has read and exits 0.
    """
    fifo = tmp_path / "endless"
    os.mkfifo(str(fifo))
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "script.py"), str(fifo)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, universal_newlines=True,
    )  # fmt: skip
    try:
        # Opening returns when the script has opened its end: by then its signal handlers stand. It may close it at
        # any time after the signal.
        with contextlib.suppress(BrokenPipeError), open(str(fifo), "w", encoding="utf-8") as writer:
            writer.write("one two two\n" * 1000)
            writer.flush()
            process.send_signal(signal_number)
            writer.write("one more line, so that a blocked read returns\n" * 1000)
        printed, errors = process.communicate(timeout=50)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert errors == ""
    assert len(printed.splitlines()) <= 3


def test_test_of_the_manual_passes() -> None:
    """
    The how-to on tests shows tests that pass.
    """
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_orders.py")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_readme_is_up_to_date(readme: Any) -> None:
    """
    The README holds examples/quickstart.py, what it prints, and every option with its default.
    """
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    assert readme.render(text) == text, "run `python docs/readme.py`"


def test_quickstart_is_short() -> None:
    """
    The first example has no more than 34 lines, 30 of them with something on them.
    """
    lines = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 34
    assert len([line for line in lines if line.strip()]) <= 30


def test_computed_defaults_are_as_written(readme: Any) -> None:
    """
    Defaults that are computed are what the table says of them.
    """
    written = {(cls.__name__, name): text for (cls, name), text in readme.COMPUTED.items()}
    assert written.pop(("ProcessorOptions", "concurrency")) == "2 x CPU count"
    assert options.ProcessorOptions().concurrency == 2 * (os.cpu_count() or 1)
    assert written.pop(("ProcessorOptions", "min_demand")) == "max_demand // 2"
    assert [options.ProcessorOptions(max_demand=n).min_demand for n in (1, 2, 7, 10)] == [0, 1, 3, 5]
    assert written.pop(("BatcherOptions", "max_demand")) == "batch_size"
    assert [options.BatcherOptions(batch_size=n).max_demand for n in (1, 100)] == [1, 100]
    assert written.pop(("PipelineOptions", "batchers")) == "none"
    assert written == {}


def test_every_public_name_is_in_the_reference() -> None:
    """
    The reference has an entry for every name that ``broadway_sync`` exports.
    """
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.rst"))
    entries = set(
        re.findall(r"^\.\. auto(?:class|exception|function|module):: (?:broadway_sync\.)?(\w+)", pages, re.MULTILINE)
    )
    assert set(broadway_sync.__all__) - entries == set()


def links_of(path: Path) -> List[str]:
    """
    Return the targets in the repository that a page links to.
    """
    text = path.read_text(encoding="utf-8")
    return [target for target in re.findall(r"`[^`]+<([^>`]+)>`_", text) if "://" not in target]


@pytest.mark.parametrize("name", ["README.rst", "CONTRIBUTING.rst", "CHANGELOG.rst"])
def test_links_lead_somewhere(name: str) -> None:
    """
    Files that the pages of the root link to are there.
    """
    assert [target for target in links_of(ROOT / name) if not (ROOT / target).exists()] == []
