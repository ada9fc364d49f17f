"""One column description, every rendering."""

import json

import polars as pl
import pytest

from perfkit.report.tables import Column, cell, render, significant

COLUMNS = (
    Column(name="name", title="kernel", kind="text"),
    Column(name="time_ns", title="time [ms]", scale=1e-6),
    Column(name="share", title="share", kind="percent"),
)
FRAME = pl.DataFrame(
    {"name": ["gemm", "a|b"], "time_ns": [1_234_567, None], "share": [0.5, None]},
    schema={"name": pl.String, "time_ns": pl.Int64, "share": pl.Float64},
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.23456, "1.23"),
        (12_345.6, "12,346"),
        (0.00123, "0.00123"),
        (1e-7, "1.00e-07"),
        (100, "100"),
        (-2.5, "-2.50"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_not_measured_is_a_dash_and_zero_is_zero() -> None:
    column = Column(name="x", title="x")
    assert cell(None, column) == "-"
    assert cell(0, column) == "0"


def test_a_terminal_table_is_plain_and_aligned() -> None:
    lines = render(FRAME, COLUMNS, "table").splitlines()
    assert lines[0].split() == ["kernel", "time", "[ms]", "share"]
    assert lines[2].split() == ["gemm", "1.23", "50.0", "%"]
    assert lines[3].split() == ["a|b", "-", "-"]
    assert lines[2].index("1.23") + 4 == lines[3].index("-") + 1


def test_markdown_escapes_what_would_break_a_cell() -> None:
    assert "| a\\|b | - | - |" in render(FRAME, COLUMNS, "md")


def test_json_and_csv_keep_exact_values() -> None:
    document = json.loads(render(FRAME, COLUMNS, "json"))
    assert document["schema_version"] == 1
    assert document["rows"][0] == {"name": "gemm", "time_ns": 1_234_567, "share": 0.5}
    assert render(FRAME, COLUMNS, "csv").splitlines()[1] == "gemm,1234567,0.5"
