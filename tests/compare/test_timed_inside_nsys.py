"""Runs whose timed passes a profiler slowed are no measure of a prediction."""

from pathlib import Path

import pytest
from measured_run import a_run, edited

from perfkit.compare.accuracy import predicted_runs
from perfkit.compare.bottleneck import bottlenecks


@pytest.mark.parametrize("collector", ["nsys", "nsys-metrics"])
def test_a_run_under_nsys_is_left_out_with_the_reason(tmp_path: Path, collector: str) -> None:
    a_run(tmp_path / "run")
    state = {collector: {"state": "ran", "ranks": [0]}}
    run = edited(tmp_path / "run", task="inference", collectors=state)
    reason = ["run: timed inside nsys, which costs time"]
    assert predicted_runs([run])[1] == reason
    assert bottlenecks([run])[1] == reason
