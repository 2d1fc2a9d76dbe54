"""
Sphinx configuration; built with warnings as errors (``make docs``).
"""

from __future__ import annotations

import configparser
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
    ``.. event-table::`` lists every telemetry event with its metadata, from ``broadway_sync.telemetry.events``.
    """

    def run(self) -> list[nodes.Node]:
        from broadway_sync.telemetry.events import METADATA

        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 45 55", "", "   * - event", "     - metadata"]
        for event, metadata in METADATA.items():
            lines += [f"   * - ``{event!r}``", f"     - {metadata}"]
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, source="broadway_sync.telemetry.events"), 0, node)
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
    app.connect("autodoc-process-docstring", read_google_sections)
