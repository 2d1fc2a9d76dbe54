"""
Sphinx configuration; built with warnings as errors (``make docs``).
"""

from __future__ import annotations

import configparser
import importlib
import os
import sys
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.docutils import SphinxDirective

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

# setup.cfg is the one place that holds the version.
_setup = configparser.ConfigParser()
_setup.read(os.path.join(ROOT, "setup.cfg"), encoding="utf-8")

project = "broadway_sync"
author = "the broadway_sync contributors"
copyright = author  # noqa: A001 - the name that Sphinx wants
version = release = _setup["metadata"]["version"]

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"broadway_sync {version}"
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"


class EventTable(SphinxDirective):
    """
    ``.. event-table:: module`` lists every telemetry event of a module's ``METADATA``.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        metadata = importlib.import_module(self.arguments[0]).METADATA
        rows = [(f"``{event!r}``", text) for event, text in metadata.items()]
        return _table(self, [("event", 45), ("metadata", 55)], rows)


class OptionsTable(SphinxDirective):
    """
    ``.. options-table:: module Class`` lists the options that a class of them has, with default and meaning.
    """

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        from broadway_sync.rules import describe

        cls = getattr(importlib.import_module(self.arguments[0]), self.arguments[1])
        rows = [(f"``{name}``", f"``{default}``", meaning) for name, default, meaning in describe(cls)]
        return _table(self, [("option", 25), ("default", 20), ("meaning", 55)], rows)


class MetricsTable(SphinxDirective):
    """
    ``.. metrics-table:: counter`` lists every metric of the reporters of that kind.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from broadway_sync.telemetry.metrics import METRICS

        rows = [
            (f"``{metric.name}``", metric.unit, ", ".join(metric.labels), metric.text, metric.source)
            for metric in METRICS
            if metric.kind == self.arguments[0]
        ]
        columns = [("metric", 22), ("unit", 10), ("labels", 18), ("meaning", 30), ("from", 20)]
        return _table(self, columns, rows)


def _table(directive: SphinxDirective, columns: list[tuple[str, int]], rows: list[tuple[str, ...]]) -> list[nodes.Node]:
    """
    Return a table with *columns* (title, width in percent).
    """
    widths = " ".join(str(width) for _, width in columns)
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [tuple(title for title, _ in columns), *rows]:
        lines += [f"   {'*' if first else ' '} - {cell}" for first, cell in zip([True] + [False] * len(row), row)]
    node = nodes.Element()
    directive.state.nested_parse(StringList(lines, source=directive.arguments[0]), 0, node)
    return node.children


def read_google_sections(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """
    Turn Google sections into fields.

    In place of the extension ``sphinx.ext.napoleon``, which takes an attribute's text up to a colon for its type.
    """
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(list(lines), Config(), app, what, name, obj, options).lines()


def setup(app: Any) -> None:
    """
    Called by Sphinx.
    """
    app.add_directive("event-table", EventTable)
    app.add_directive("options-table", OptionsTable)
    app.add_directive("metrics-table", MetricsTable)
    app.connect("autodoc-process-docstring", read_google_sections)
