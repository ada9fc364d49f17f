"""The difference of two traces as text, JSON or CSV."""

from typing import Any

import polars as pl

from perfkit.compare.diff import Difference, traced_ranks
from perfkit.report.tables import Column, as_json, render
from perfkit.timeline.analysis import Analysis

MS = 1e-6
NAME_WIDTH = 56

PARTS = (
    Column(name="name", title="step, mean of ranks", kind="text"),
    Column(name="a_ns", title="A ms", scale=MS),
    Column(name="b_ns", title="B ms", scale=MS),
    Column(name="difference_ns", title="B - A ms", scale=MS),
    Column(name="ratio", title="B / A"),
)
OPERATIONS = (
    Column(name="name", title="operation", kind="text"),
    Column(name="calls_a", title="calls A"),
    Column(name="calls_b", title="calls B"),
    *PARTS[1:],
)


def printed(found: Difference, fmt: str, top: int) -> str:
    """One of the formats that every reading command has; `top` operations."""
    if fmt == "json":
        return as_json(document(found))
    if fmt == "csv":
        parts = [("split", found.split), ("class", found.families), ("operation", found.operations)]
        return pl.concat(
            [frame.select(pl.lit(of).alias("of"), pl.all()) for of, frame in parts]
        ).write_csv()
    longest = found.operations.head(top).with_columns(pl.col("name").str.head(NAME_WIDTH))
    classes = (Column(name="name", title="class", kind="text"), *OPERATIONS[1:])
    return "\n".join(
        [
            f"A: {side(found.a)}",
            f"B: {side(found.b)}",
            "",
            render(found.split, PARTS, fmt),
            render(found.families, classes, fmt),
            render(longest, OPERATIONS, fmt),
        ]
    )


def side(analysis: Analysis) -> str:
    """What one side is: source, ranks, and what is missing of it."""
    ranks = traced_ranks(analysis)
    missing = len(analysis.missing_traces)
    lost = f", {missing} without a trace" if missing else ""
    return f"{analysis.source}, {ranks} rank(s){lost}"


def document(found: Difference) -> dict[str, Any]:
    """The JSON document; as_json adds schema_version."""
    return {
        "a": {"source": str(found.a.source), "ranks": traced_ranks(found.a)},
        "b": {"source": str(found.b.source), "ranks": traced_ranks(found.b)},
        "split": found.split.to_dicts(),
        "classes": found.families.to_dicts(),
        "operations": found.operations.to_dicts(),
        "warnings": [*found.a.warnings, *found.b.warnings],
    }
