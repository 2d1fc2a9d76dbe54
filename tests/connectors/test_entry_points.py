"""
``broadway_sync.connectors``: what is installed, found by entry points, and loaded on demand.
"""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broadway_sync import ConfigurationError, ConnectorError, Producer, connectors
from tests.helpers import run_python

ROOT = Path(__file__).resolve().parent.parent.parent
OFFICIAL = ["kafka", "pubsub", "rabbitmq", "sqs"]

GOOD = "from broadway_sync import Producer\nclass SpoolProducer(Producer): pass\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    Return a function that installs a package: its module, and what its entry points say.
    """
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = []

    def install(package: str, code: str, entries: str, version: str = "1.0", folder: str = "site") -> None:
        site = tmp_path / folder
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text(code, encoding="utf-8")
        info = site / f"{package}-{version}.dist-info"
        info.mkdir()
        if version:
            text = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n"
            (info / "METADATA").write_text(text, encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[broadway_sync.connectors]\n{entries}\n", encoding="utf-8")
        if str(site) not in sys.path:
            sys.path.insert(0, str(site))
        importlib.invalidate_caches()
        made.append(package)

    yield install
    for package in made:
        sys.modules.pop(package, None)


def test_official_ones_are_there() -> None:
    """
    Also from a source tree that was never installed.
    """
    available = connectors.available()
    assert set(OFFICIAL) <= set(available)
    assert list(available) == sorted(available)
    assert available["kafka"] == "broadway_sync.connectors.kafka:KafkaProducer (broadway_sync)"


def test_official_ones_are_registered_as_the_others_are() -> None:
    """
    The entry points in setup.cfg are those that the code knows.
    """
    parser = configparser.ConfigParser()
    parser.read(str(ROOT / "setup.cfg"), encoding="utf-8")
    lines = parser["options.entry_points"]["broadway_sync.connectors"].split("\n")
    registered = dict(line.replace(" ", "").split("=") for line in lines if line)
    assert registered == connectors._OWN
    assert sorted(registered) == OFFICIAL


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_ones_load(name: str) -> None:
    """
    Each is a producer, whether its client library is installed or not.
    """
    cls = connectors.load(name)
    assert issubclass(cls, Producer)
    assert cls.__module__.startswith(f"broadway_sync.connectors.{name}")


def test_other_packages_are_found(install: Any) -> None:
    """
    With where they come from; the class is imported by ``load`` only.
    """
    install("off_broadway_spool", GOOD, "spool = off_broadway_spool:SpoolProducer", "2.1")
    assert connectors.available()["spool"] == "off_broadway_spool:SpoolProducer (off-broadway-spool 2.1)"
    assert "off_broadway_spool" not in sys.modules
    cls = connectors.load("spool")
    assert cls is sys.modules["off_broadway_spool"].SpoolProducer


def test_unknown_name_lists_the_valid_ones(install: Any) -> None:
    """
    An unknown name is a mistake in the configuration.
    """
    install("off_broadway_spool", GOOD, "spool = off_broadway_spool:SpoolProducer")
    with pytest.raises(ConfigurationError) as caught:
        connectors.load("spoool")
    names = ", ".join(connectors.available())
    assert str(caught.value) == f"unknown connector 'spoool', installed are: {names}"
    assert "spool" in names and "kafka" in names


@pytest.mark.parametrize(
    ("code", "value", "why"),
    [
        ("import no_such_client", "off_broken:X", "ModuleNotFoundError: No module named 'no_such_client'"),
        ("1 / 0", "off_broken:X", "ZeroDivisionError: division by zero"),
        (GOOD, "off_broken:Missing", "AttributeError: module 'off_broken' has no attribute 'Missing'"),
        (GOOD, "off_broken.gone:X", "ModuleNotFoundError: No module named 'off_broken.gone'"),
    ],
    ids=["no client", "raises", "no such class", "no such module"],
)
def test_package_that_cannot_be_imported(install: Any, code: str, value: str, why: str) -> None:
    """
    Says which package, and why; the original error is the cause.
    """
    install("off_broken", code, f"broken = {value}")
    with pytest.raises(ConnectorError) as caught:
        connectors.load("broken")
    assert str(caught.value) == f"connector 'broken' cannot be imported from {value} (off-broken 1.0): {why}"
    assert type(caught.value.__cause__).__name__ == why.split(":")[0]


def test_connector_that_says_itself_what_is_missing(install: Any) -> None:
    """
    Errors of this library pass as they are.
    """
    code = "from broadway_sync import ConfigurationError\nraise ConfigurationError('install off_x[client]')"
    install("off_x", code, "x = off_x:X")
    with pytest.raises(ConfigurationError, match=r"^install off_x\[client\]$"):
        connectors.load("x")


@pytest.mark.parametrize(
    ("code", "shown"), [("X = 1", "1"), ("class X: pass", "<class 'off_wrong.X'>")], ids=["object", "class"]
)
def test_what_is_no_producer(install: Any, code: str, shown: str) -> None:
    """
    The package's mistake.
    """
    install("off_wrong", code, "wrong = off_wrong:X")
    with pytest.raises(ConnectorError) as caught:
        connectors.load("wrong")
    assert str(caught.value) == (
        "connector 'wrong' from off_wrong:X (off-wrong 1.0): "
        f"expected a subclass of broadway_sync.Producer, got: {shown}"
    )


def test_two_packages_with_one_name(install: Any) -> None:
    """
    Neither wins: both are named.
    """
    install("off_a", GOOD, "spool = off_a:SpoolProducer")
    install("off_b", GOOD, "spool = off_b:SpoolProducer", "3.0")
    sources = connectors.available()["spool"].split(" and ")
    assert sorted(sources) == ["off_a:SpoolProducer (off-a 1.0)", "off_b:SpoolProducer (off-b 3.0)"]
    with pytest.raises(ConfigurationError) as caught:
        connectors.load("spool")
    assert str(caught.value).startswith("connector 'spool' is given by several packages, uninstall all but one: off_")


def test_name_of_an_official_one(install: Any) -> None:
    """
    Nobody takes the place of a connector of the library unseen.
    """
    install("off_kafka", GOOD, "kafka = off_kafka:SpoolProducer")
    with pytest.raises(ConfigurationError, match="'kafka' is given by several packages"):
        connectors.load("kafka")


def test_distribution_that_is_found_twice(install: Any) -> None:
    """
    The one that stands first in ``sys.path`` counts, as for the import.
    """
    install("off_spool", GOOD, "spool = off_spool:OldProducer", "1.0", "second")
    install("off_spool", GOOD, "spool = off_spool:SpoolProducer", "2.0", "first")
    assert connectors.available()["spool"] == "off_spool:SpoolProducer (off-spool 2.0)"
    assert connectors.load("spool").__name__ == "SpoolProducer"


def test_nested_attribute_and_extras(install: Any) -> None:
    """
    ``module:Outer.Class [extra]`` is a valid entry point.
    """
    code = "from broadway_sync import Producer\nclass Outer:\n    class Nested(Producer): pass\n"
    install("off_nested", code, "nested = off_nested:Outer.Nested [fast]")
    assert connectors.load("nested").__name__ == "Nested"


def test_distribution_without_metadata(install: Any) -> None:
    """
    One that was removed by halves does not stop the others.
    """
    install("off_half", GOOD, "half = off_half:SpoolProducer", "")
    assert connectors.available()["half"] == "off_half:SpoolProducer (unnamed)"
    assert connectors.load("half").__name__ == "SpoolProducer"


def test_nothing_is_imported_early() -> None:
    """
    Neither a connector nor a client library, nor what finds entry points, by importing the packages.
    """
    source = (
        "import sys, broadway_sync, broadway_sync.connectors as c\n"
        "before = set(sys.modules)\n"
        "assert 'kafka' in c.available()\n"
        "clients = {'pika', 'kafka', 'boto3', 'botocore', 'google', 'grpc'}\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "own = [name for name in sys.modules if name.startswith('broadway_sync.connectors.')]\n"
        "assert not own, own\n"
        "assert not loaded & clients, loaded & clients\n"
        "assert 'importlib.metadata' not in before, 'slow'\n"
    )
    done: subprocess.CompletedProcess[str] = run_python(source, flags=["-W", "error"])
    assert done.returncode == 0, done.stderr


def test_loading_a_connector_imports_no_client() -> None:
    """
    The client library is imported when a pipeline is made, so that its absence is an error that names the extra.
    """
    source = (
        "import sys, broadway_sync.connectors as c\n"
        f"for name in {OFFICIAL}: c.load(name)\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'pika', 'kafka', 'boto3', 'botocore', 'google', 'grpc'}, loaded\n"
    )
    done: subprocess.CompletedProcess[str] = run_python(source, flags=["-W", "error"])
    assert done.returncode == 0, done.stderr
