"""Predicted kernels beside traced ones, by class."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from measured_run import a_run

from perfkit.compare.classes import measured_classes
from perfkit.compare.run import compare_run

TRACES = Path(__file__).parents[2] / "traces"


def test_kernels_count_in_the_pass_that_they_start_in() -> None:
    """Two passes, 0 to 100 and 200 to 300 ns; what starts between them counts in neither."""
    activities = pl.DataFrame(
        {
            "class": ["compute", "compute", "compute", "comm", "compute", "copy"],
            "family": ["gemm", "gemm", "norm", "nccl", "attention", "copy"],
            "start_ns": [0, 150, 90, 210, 299, 20],
            "end_ns": [40, 190, 110, 290, 309, 30],
        }
    )
    waits = pl.DataFrame({"start_ns": [210], "transfer_ns": [50]})
    windows = np.array([200, 0]), np.array([300, 100])
    assert measured_classes(activities, waits, *windows) == pytest.approx(
        {
            "gemm": 20e-9,
            "attention": 5e-9,
            "other compute": 10e-9,
            "NCCL transfer": 25e-9,
        }
    )


def test_transfers_that_were_not_told_from_waiting_are_not_measured() -> None:
    activities = pl.DataFrame(
        {"class": ["compute"], "family": ["gemm"], "start_ns": [0], "end_ns": [40]}
    )
    waits = pl.DataFrame({"start_ns": [10, 20], "transfer_ns": [5, None]})
    found = measured_classes(activities, waits, np.array([0]), np.array([100]))
    assert found["NCCL transfer"] is None


def test_each_class_of_a_recorded_run_is_near_its_prediction() -> None:
    table = compare_run(TRACES / "h200-8b-tp1-b32-graph").classes
    rows = {(row["phase"], row["class"]): row for row in table.to_dicts()}
    assert set(rows) == {
        (phase, name)
        for phase in ("prefill", "decode")
        for name in ("gemm", "attention", "other compute")
    }
    assert rows["prefill", "gemm"]["measured_s"] == pytest.approx(1.223, rel=0.01)
    for phase, name in (("prefill", "gemm"), ("decode", "gemm"), ("decode", "attention")):
        assert abs(rows[phase, name]["error"]) < 0.06


def test_a_run_without_a_gpu_trace_has_no_classes(tmp_path: Path) -> None:
    assert compare_run(a_run(tmp_path / "run")).classes.is_empty()
