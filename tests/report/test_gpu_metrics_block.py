"""Hardware counters as people and programs read them."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from perfkit.cli.main import app
from perfkit.report.collected import blocks
from perfkit.report.tables import render
from perfkit.timeline.analysis import Analysis, analyze_traces, write_tables

H100 = Path(__file__).parents[1] / "data" / "nsys" / "h100-gpu-metrics-2025.3.sqlite"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze_traces([H100])


def test_one_line_a_metric_with_and_without_kernels(analysis: Analysis) -> None:
    (block,) = blocks(analysis.collected)
    assert block.name == "gpu_metrics"
    lines = render(block.frame, block.columns, "table").splitlines()
    cells = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    rows = {row[2].strip(): [cell.strip() for cell in row[3:]] for row in cells if len(row) > 3}
    assert rows["GPU metric"] == [
        *("mean", "p50", "max", "mean, kernels ran", "mean, none ran", "samples")
    ]
    assert rows["SMs Active [%]"] == ["35.4", "0", "97.0", "96.5", "0", "197"]
    assert rows["GPC Clock Frequency [MHz]"] == ["1,778", "1,785", "1,991", "1,625", "1,862", "197"]
    assert len(rows) == 9


def test_what_the_sampling_does_not_allow_is_a_dash(analysis: Analysis) -> None:
    """Never a sample long enough without a kernel: not 0."""
    busy = analysis.collected.gpu_metrics.filter(pl.col("during") != "no kernels")
    (block,) = blocks(replace(analysis.collected, gpu_metrics=busy))
    assert block.frame["no kernels"].null_count() == 8
    assert block.frame["kernels"].null_count() == 0


def test_json_and_parquet_have_every_figure(
    analysis: Analysis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["analyze", str(H100), "--format", "json"], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)["gpu_metrics"]
    assert len(rows) == 24
    assert rows[19] == {
        "rank": 0,
        "device": "cuda:0",
        "metric": "SMs Active",
        "unit": "%",
        "during": "kernels",
        "samples": 62,
        "mean": 96.5,
        "p50": 97.0,
        "max": 97.0,
    }
    written = pl.read_parquet(write_tables(analysis, tmp_path) / "gpu_metrics.parquet")
    assert written.equals(analysis.collected.gpu_metrics)


def test_a_trace_without_them_has_no_such_table() -> None:
    other = H100.with_name("h200x2-allreduce-2025.3.sqlite")
    assert blocks(analyze_traces([other]).collected) == []
