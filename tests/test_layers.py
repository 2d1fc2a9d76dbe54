"""
Imports point one way: ``core <- runtime <- topology <- pipeline``. The sources are parsed, not run.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set, Tuple

import pytest

import broadway_sync

ROOT = Path(broadway_sync.__file__).resolve().parent
PACKAGE = "broadway_sync"

NO_IO = {"asyncio", "concurrent", "logging", "multiprocessing", "queue", "select", "signal", "socket", "subprocess"}
NO_IO |= {"threading", "_thread", "time", "sched", "selectors", "os", "io"}

# What each layer may import of the library; what stands higher may import what stands lower.
CORE_MAY = {"core", "errors"}
RUNTIME_MAY = CORE_MAY | {"runtime", "log", "telemetry"}
VALUES = {"acknowledger", "around", "batch_info", "errors", "extras", "handler", "log", "masking", "message", "options"}
VALUES |= {"partition", "producer", "retry", "rules", "statistics"}
TOPOLOGY_MAY = RUNTIME_MAY | VALUES | {"topology", "telemetry"}
OUTSIDE = {"connectors", "dead_letter", "integrations", "reporters", "runner", "testing"}
# Of the telemetry package: what everybody uses. The rest of it are reporters, which few use.
TELEMETRY = {"__init__", "events", "metrics", "registry"}
CONNECTORS_MAY = RUNTIME_MAY | VALUES | {"telemetry", "connectors"}
TESTING_MAY = VALUES | {"pipeline", "telemetry", "connectors", "testing"}
# The folders of connectors, and the packages of their clients.
CLIENTS = {
    "rabbitmq": {"pika"},
    "kafka": {"kafka"},
    "sqs": {"boto3", "botocore"},
    "pubsub": {"google", "grpc", "grpc_status"},
}


class Import:
    """
    One import of a module: what, where, and whether for type checkers only.
    """

    def __init__(self, name: str, line: int, is_typing: bool) -> None:
        self.name = name
        self.line = line
        self.is_typing = is_typing

    def __repr__(self) -> str:
        return f"{self.name} (line {self.line})"

    @property
    def own(self) -> Optional[str]:
        """
        The part of this library that is imported, None for others.
        """
        parts = self.name.split(".")
        return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def modules() -> List[Path]:
    """
    Return all modules of the library.
    """
    return sorted(ROOT.rglob("*.py"))


def layer(path: Path) -> str:
    """
    Return the name of the sub-package of a module, or that of the module itself.
    """
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "telemetry" and parts[1] not in TELEMETRY:
        return "reporters"
    return "runner" if parts[0] == "__main__" else parts[0]


def is_typing_only(node: ast.stmt) -> bool:
    """
    Whether a statement is ``if TYPE_CHECKING:``.
    """
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk(body: List[ast.stmt], is_typing: bool = False) -> Iterator[Tuple[ast.stmt, bool]]:
    """
    Yield the import statements in *body*, in functions too, and whether they are for type checkers only.
    """
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, is_typing
        elif is_typing_only(node):
            assert isinstance(node, ast.If)
            yield from walk(node.body, True)
            yield from walk(node.orelse, is_typing)
        else:
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from walk(getattr(node, field, []), is_typing)


def imports(source: str, package: Tuple[str, ...]) -> List[Import]:
    """
    Return everything that a module in *package* imports, by its whole name.
    """
    found: List[Import] = []
    for node, is_typing in walk(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, is_typing) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found += [Import(f"{prefix}.{alias.name}", node.lineno, is_typing) for alias in node.names]
    return found


def imports_of(path: Path) -> List[Import]:
    """
    Return what a module of the library imports.
    """
    package = (PACKAGE, *path.relative_to(ROOT).parts[:-1])
    return imports(path.read_text(encoding="utf-8"), package)


def check(name: str, allowed: Set[str], typing_allowed: Set[str]) -> Dict[str, List[Import]]:
    """
    Return the imports by which the layer *name* reaches for what it must not see, by module.
    """
    wrong: Dict[str, List[Import]] = {}
    paths = [path for path in modules() if layer(path) == name]
    assert paths, f"there is no layer {name}"
    for path in paths:
        bad = [
            found
            for found in imports_of(path)
            if found.own is not None and found.own not in (allowed | typing_allowed if found.is_typing else allowed)
        ]
        if bad:
            wrong[path.name] = bad
    return wrong


def test_the_core_knows_errors_and_itself() -> None:
    """
    And messages by name, for type checkers.
    """
    assert check("core", CORE_MAY, {"message"}) == {}


def test_the_core_makes_no_threads_reads_no_clock_and_logs_nothing() -> None:
    """
    Decisions only: whatever it needs to know is an argument.
    """
    bad = {
        path.name: [found for found in imports_of(path) if found.name.split(".")[0] in NO_IO]
        for path in modules()
        if layer(path) == "core"
    }
    assert bad == {name: [] for name in bad}
    assert len(bad) > 5


def test_the_runtime_knows_the_core() -> None:
    """
    Neither stages nor messages nor options.
    """
    assert check("runtime", RUNTIME_MAY, set()) == {}


def test_the_topology_knows_what_is_below_it() -> None:
    """
    Not the pipeline, which is above.
    """
    assert check("topology", TOPOLOGY_MAY, set()) == {}


@pytest.mark.parametrize("name", ["telemetry", "errors", "log", "message", "batch_info", "acknowledger"])
def test_what_everybody_uses_uses_no_layer(name: str) -> None:
    """
    Values, errors, the log and telemetry stand beside the layers.
    """
    assert check(name, VALUES | {"telemetry"}, VALUES) == {}


def test_nothing_in_the_library_imports_connectors_integrations_or_testing() -> None:
    """
    They see the library, the library does not see them.
    """
    wrong = {
        str(path.relative_to(ROOT)): [found.name for found in imports_of(path) if found.own in OUTSIDE]
        for path in modules()
        if layer(path) not in OUTSIDE
    }
    # The one that is exported from the package itself.
    assert set(wrong.pop("__init__.py")) == {f"{PACKAGE}.runner.signals.run_until_signal"}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("name", ["reporters", "runner"])
def test_who_watches_connectors_knows_their_events(name: str) -> None:
    """
    And how they describe an error without its credentials; no connector.
    """
    seen = {found.name for path in modules() if layer(path) == name for found in imports_of(path)}
    known = {f"{PACKAGE}.connectors.common.events", f"{PACKAGE}.connectors.common.reporter.describe"}
    seen = {name for name in seen if name.startswith(f"{PACKAGE}.connectors")}
    assert {
        name for name in seen if name not in known and not name.startswith(f"{PACKAGE}.connectors.common.events.")
    } <= {f"{PACKAGE}.connectors.common"}


def test_connectors_see_interfaces_and_values() -> None:
    """
    And the core and the runtime, but neither stages nor the pipeline: whatever a connector does, others can do as well.
    """
    assert check("connectors", CONNECTORS_MAY, set()) == {}


@pytest.mark.parametrize("folder", sorted(CLIENTS))
def test_connectors_do_not_see_each_other(folder: str) -> None:
    """
    What several of them need is in ``connectors/common``.
    """
    others = {f"{PACKAGE}.connectors.{name}" for name in CLIENTS if name != folder}
    seen = {found.name for path in connector_modules(folder) for found in imports_of(path)}
    assert [name for name in seen if name.startswith(tuple(others))] == []


def test_what_connectors_share_knows_none_of_them() -> None:
    """
    Nor a client library.
    """
    seen = {found.name for path in connector_modules("common") for found in imports_of(path)}
    folders = tuple(f"{PACKAGE}.connectors.{name}" for name in CLIENTS)
    assert [name for name in seen if name.startswith((*folders, *set().union(*CLIENTS.values())))] == []


@pytest.mark.parametrize("folder", sorted(CLIENTS))
def test_connectors_import_their_own_client_in_one_module(folder: str) -> None:
    """
    ``client.py`` is the seam; other modules name the library's types for type checkers at most.
    """
    importing = {}
    for path in connector_modules(folder):
        foreign = {found.name.split(".")[0] for found in imports_of(path) if not found.is_typing}
        importing[path.name] = {name for name in foreign if not is_standard(name)} - {PACKAGE, "attr", "attrs"}
    assert importing.pop("client.py") <= CLIENTS[folder]
    assert {name: foreign for name, foreign in importing.items() if foreign} == {}


def connector_modules(folder: str) -> List[Path]:
    """
    Return the modules of one connector.
    """
    found = sorted((ROOT / "connectors" / folder).glob("*.py"))
    assert found, f"there is no connector {folder}"
    return found


def test_testing_sees_what_users_see() -> None:
    """
    The pipeline and the values; of connectors the names of their events.
    """
    assert check("testing", TESTING_MAY, set()) == {}
    paths = [path for path in modules() if layer(path) == "testing"]
    seen = {found.name for path in paths for found in imports_of(path) if found.own == "connectors"}
    assert seen == {f"{PACKAGE}.connectors.common.events.METADATA"}
    foreign = {found.name.split(".")[0] for path in paths for found in imports_of(path)}
    assert {name for name in foreign if not is_standard(name)} - {PACKAGE, "attr", "attrs"} == set()


def test_only_the_standard_library_and_attrs_are_imported() -> None:
    """
    Clients come with the connectors.
    """
    names = {found.name.split(".")[0] for path in modules() if layer(path) not in OUTSIDE for found in imports_of(path)}
    foreign = {name for name in names if not is_standard(name)} - {PACKAGE, "attr", "attrs"}
    assert foreign == set()


def is_standard(name: str) -> bool:
    """
    Whether a module comes with Python.
    """
    spec = importlib.util.find_spec(name)
    if spec is None:
        return False
    origin = spec.origin or "built-in"
    return origin in ("built-in", "frozen") or "site-packages" not in Path(origin).parts


SAMPLE = """
from __future__ import annotations
import threading, os.path
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ..message import Message
else:
    from .. import errors
def late():
    try:
        from .demand import Demand
    except ImportError:
        import broadway_sync.pipeline
"""


def test_this_file_sees_every_form_of_import() -> None:
    """
    Absolute, relative, late, guarded, for type checkers.
    """
    found = imports(SAMPLE, (PACKAGE, "core"))
    assert [(each.name, each.is_typing) for each in found] == [
        ("__future__.annotations", False),
        ("threading", False),
        ("os.path", False),
        ("typing.TYPE_CHECKING", False),
        ("broadway_sync.message.Message", True),
        ("broadway_sync.errors", False),
        ("broadway_sync.core.demand.Demand", False),
        ("broadway_sync.pipeline", False),
    ]
    assert [each.own for each in found] == [None] * 4 + ["message", "errors", "core", "pipeline"]
