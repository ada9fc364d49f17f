"""One column description, every rendering: terminal, JSON, CSV, Markdown.

A frame keeps exact values in base units (ns, bytes, ratios); a Column says how people read them.
JSON and CSV carry the exact values under the frame's own names; table and md carry rounded ones.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfkit.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "json", "csv", "md")
MISSING = "-"
PRECISION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one frame column is read by people: title with unit, scale to that unit, kind."""

    name: str
    title: str
    scale: float = 1.0
    kind: str = "number"
    """number (3 significant digits), integer, percent (a ratio), signed (with its sign),
    figure (a number formatted already), text"""


def cell(value: Any, column: Column) -> str:
    """One value as text; `-` for what was not measured, never 0."""
    if value is None:
        return MISSING
    if column.kind in ("text", "figure"):
        return str(value)
    if column.kind == "integer":
        return f"{round(value * column.scale):,}"
    if column.kind == "percent":
        return f"{100 * value:.1f} %"
    if column.kind == "signed":
        return f"{100 * value:+.1f} %"
    return significant(value * column.scale)


def significant(value: float) -> str:
    """Three significant digits, no exponent for what fits a table: 0.00123, 1.23, 12,300."""
    if value == 0:
        return "0"
    if abs(value) >= 10**PRECISION:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{PRECISION - 1}e}"
    text = f"{value:#.{PRECISION}g}"
    return text.removesuffix(".")


def render(
    frame: "pl.DataFrame",
    columns: Sequence[Column],
    fmt: str,
    *,
    title: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """The frame as text in one of FORMATS. `extra` joins the JSON document beside `rows`."""
    if fmt == "json":
        return as_json({"rows": frame.to_dicts(), **(extra or {})})
    if fmt == "csv":
        return frame.write_csv()
    cells = [[cell(row[c.name], c) for c in columns] for row in frame.to_dicts()]
    if fmt == "md":
        return markdown(cells, columns)
    return terminal(cells, columns, title)


def as_json(content: Mapping[str, Any]) -> str:
    """A JSON document with its schema_version."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=2, default=str) + "\n"


def markdown(cells: list[list[str]], columns: Sequence[Column]) -> str:
    head = "| " + " | ".join(c.title for c in columns) + " |"
    rule = "| " + " | ".join("---" if c.kind == "text" else "---:" for c in columns) + " |"
    body = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in cells]
    return "\n".join([head, rule, *body]) + "\n"


def terminal(cells: list[list[str]], columns: Sequence[Column], title: str | None = None) -> str:
    """Aligned plain text; no colour and no box, so that it reads the same in a Slurm log."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.title_style = table.header_style = "none"
    for column in columns:
        table.add_column(
            column.title, justify="left" if column.kind == "text" else "right", no_wrap=True
        )
    for row in cells:
        table.add_row(*row)
    buffer = io.StringIO()
    Console(file=buffer, width=240, color_system=None, markup=False).print(table)
    lines = (line.rstrip() for line in buffer.getvalue().splitlines())
    return "\n".join(lines).strip("\n") + "\n"
