"""
What users install: the metadata, what the wheel holds, and that it works where nothing else is installed.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONNECTOR_EXTRAS = {"rabbitmq", "kafka", "sqs", "pubsub", "statsd"}

# The library from a wheel, on nothing but attrs: imports, runs a pipeline to its end, says where it came from.
SMOKE = """
import sys
import broadway_sync

class Handler:
    def handle_message(self, processor, message, context):
        context.append(message.data)
        return message

messages = [broadway_sync.Message(n, broadway_sync.NoopAcknowledger.init()) for n in range(10)]
seen = []
with broadway_sync.Pipeline(
    Handler(),
    name="smoke",
    context=seen,
    producer={"module": (broadway_sync.IterableProducer, {"iterable": messages})},
    processors={"default": {}},
) as pipeline:
    assert pipeline.join(timeout=30)
assert sorted(seen) == list(range(10)), seen
print(broadway_sync.__file__)
"""


def run(*command: Any, cwd: Path = ROOT) -> str:
    """
    Run a command that must succeed and return what it printed.
    """
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(part) for part in command], cwd=str(cwd), env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    """
    Return setup.cfg, parsed.
    """
    parser = configparser.ConfigParser()
    parser.read(str(ROOT / "setup.cfg"), encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Return the wheel, built in isolation from a copy of what it is made from: a build leaves nothing in the tree.
    """
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.rst", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in [*ROOT.glob("broadway_sync/**/*.py"), ROOT / "broadway_sync" / "py.typed"]:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, source)
    (built,) = target.glob("*.whl")
    return built


def metadata_of(wheel: Path) -> str:
    """
    Return the METADATA file of *wheel*.
    """
    with zipfile.ZipFile(str(wheel)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode("utf-8")


def test_core_depends_on_attrs_alone(setup_cfg: configparser.ConfigParser) -> None:
    """
    The core depends on attrs and nothing else, from Python 3.8 on, without an upper bound.
    """
    requires = setup_cfg["options"]["install_requires"].split()
    assert [re.split(r"[<>=~!]", line)[0] for line in requires] == ["attrs"]
    assert setup_cfg["options"]["python_requires"] == ">=3.8"


def test_every_connector_has_an_extra_and_all_has_them_all(setup_cfg: configparser.ConfigParser) -> None:
    """
    Each client of a connector or reporter comes with an extra of its own, and all of them with ``all``.
    """
    extras = setup_cfg["options.extras_require"]
    assert set(extras) >= CONNECTOR_EXTRAS
    (everything,) = extras["all"].split()
    others = {"broadway_sync", "prometheus", "opentelemetry", "retry"}
    assert set(re.findall(r"\w+", everything)) == CONNECTOR_EXTRAS | others


def test_version_stands_in_one_place(setup_cfg: configparser.ConfigParser) -> None:
    """
    setup.cfg holds the version, and the changelog begins with it.
    """
    version = setup_cfg["metadata"]["version"]
    changelog = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    headings = re.findall(r"^(\d+\.\d+\.\d+)\b.*\n-+$", changelog, re.MULTILINE)
    assert headings[0] == version


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """
    The wheel has every module, ``py.typed`` and the licence; no tests, no examples.
    """
    with zipfile.ZipFile(str(wheel)) as archive:
        names = set(archive.namelist())
    expected = {str(path.relative_to(ROOT)) for path in ROOT.glob("broadway_sync/**/*.py")}
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == {name.replace(os.sep, "/") for name in expected} | {"broadway_sync/py.typed"}
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_wheel_metadata(wheel: Path, setup_cfg: configparser.ConfigParser) -> None:
    """
    Name, version, licence, Python and extras of the wheel are those of setup.cfg.
    """
    lines = metadata_of(wheel).split("\n\n")[0].splitlines()
    assert f"Version: {setup_cfg['metadata']['version']}" in lines
    assert "Requires-Python: >=3.8" in lines
    assert any(re.fullmatch(r"License(-Expression)?: Apache-2\.0", line) for line in lines)
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == set(setup_cfg["options.extras_require"])


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """
    Installed into an environment that has nothing else, the library runs a pipeline, with warnings as errors.
    """
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    imported_from = run(python, "-W", "error", "-c", SMOKE, cwd=tmp_path).strip()
    assert environment.resolve() in Path(imported_from).resolve().parents
