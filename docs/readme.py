"""
Keeps README.rst true: the example is examples/quickstart.py, the table of options comes from broadway_sync.options.

``python docs/readme.py`` writes both into README.rst; tests/test_docs.py checks that there is nothing to write.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Iterable, List, Tuple

import attrs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from broadway_sync import options  # noqa: E402 - the tree beside this file, installed or not

Row = Tuple[str, str, str]

MEANING_WIDTH = 44

# An annotation -> the word for it in a manual. An annotation that is not here is an error, on purpose.
TYPES = {
    "str": "str",
    "int": "int",
    "float": "seconds",
    "Any": "any",
    "ProducerOptions": "mapping",
    "Mapping[str, ProcessorOptions]": "mapping",
    "Mapping[str, BatcherOptions]": "mapping",
    "Optional[RateLimiting]": "mapping",
    "Optional[PartitionBy]": "function",
    "Tuple[Any, ...]": "function or sequence",
    "Optional[Callable[[Any], Any]]": "function",
    "Union[int, Tuple[Any, Splitter]]": "int or tuple",
    "module": "tuple or function",
}

# What a default is computed from; tests/test_docs.py computes them.
COMPUTED = {
    (options.ProcessorOptions, "concurrency"): "2 x CPU count",
    (options.ProcessorOptions, "min_demand"): "max_demand // 2",
    (options.BatcherOptions, "max_demand"): "batch_size",
    (options.PipelineOptions, "batchers"): "none",
}


def option_rows() -> List[Row]:
    """
    Return (path, type and default, meaning) of every option, in the order of the manual.
    """
    rows = [("``handler``", "any, required", "instance, class or module with the callbacks")]
    for field in attrs.fields(options.PipelineOptions):
        rows.append(_row(options.PipelineOptions, "", field))
        if field.name == "producer":
            rows += _rows(options.ProducerOptions, "producer.")
            rows += _rows(options.RateLimiting, "producer.rate_limiting.")
        elif field.name == "processors":
            rows += _rows(options.ProcessorOptions, "processors.<key>.")
        elif field.name == "batchers":
            rows += _rows(options.BatcherOptions, "batchers.<key>.")
    return rows


def _rows(cls: type, prefix: str) -> List[Row]:
    return [_row(cls, prefix, field) for field in attrs.fields(cls)]


def _row(cls: type, prefix: str, field: Any) -> Row:
    kind = TYPES["module" if field.name == "module" else field.type]
    return f"``{prefix}{field.name}``", f"{kind}, {_default(cls, field)}", field.metadata["doc"]


def _default(cls: type, field: Any) -> str:
    if field.default is attrs.NOTHING:
        return "required"
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return COMPUTED[cls, field.name]
    return repr(field.default)


def simple_table(rows: Iterable[Row]) -> str:
    """
    Return a reStructuredText simple table, the last column wrapped.
    """
    rows = [("option", "type, default", "meaning"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)] + [MEANING_WIDTH]
    rule = "  ".join("=" * width for width in widths)
    lines = [rule]
    for number, (name, default, meaning) in enumerate(rows):
        first, *more = textwrap.wrap(_escape(meaning), MEANING_WIDTH, break_on_hyphens=False)
        lines.append(f"{name:{widths[0]}}  {default:{widths[1]}}  {first}")
        lines += [" " * (widths[0] + widths[1] + 4) + line for line in more]
        if number == 0:
            lines.append(rule)
    return "\n".join([*lines, rule])


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("`", "\\`")


def quickstart() -> str:
    """
    Return the code block of the example and that of what it prints.
    """
    code = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    printed = (ROOT / "examples" / "quickstart.out").read_text(encoding="utf-8")
    return ".. code-block:: python\n\n" + _indent(code) + "\n\nIt prints::\n\n" + _indent(printed)


def _indent(text: str) -> str:
    return textwrap.indent(text.rstrip("\n"), "    ")


def render(readme: str) -> str:
    """
    Return *readme* with what stands between its markers made anew.
    """
    for name, content in (("example", quickstart()), ("options", simple_table(option_rows()))):
        block = re.compile(rf"(\.\. {name}-begin\n\n).*?(\.\. {name}-end\n)", re.DOTALL)
        readme, count = block.subn(lambda match, content=content: f"{match[1]}{content}\n\n{match[2]}", readme)
        if count != 1:
            raise ValueError(f"README.rst must have one {name}-begin and {name}-end, has {count}")
    return readme


if __name__ == "__main__":
    path = ROOT / "README.rst"
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
