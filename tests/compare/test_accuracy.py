"""The scoreboard of predictions over the recorded runs."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from perfkit.cli.main import app
from perfkit.compare.accuracy import predicted_runs, scores

TRACES = Path(__file__).parents[2] / "traces"


@pytest.fixture(scope="module")
def recorded() -> pl.DataFrame:
    predicted, _left_out = predicted_runs(sorted(path.parent for path in TRACES.glob("*/run.json")))
    return predicted


def score(recorded: pl.DataFrame, measure: str, group: str) -> dict[str, float]:
    return scores(recorded).filter(measure=measure, group=group).row(0, named=True)


def test_captured_steps_are_predicted_as_well_as_readme_says(recorded: pl.DataFrame) -> None:
    found = score(recorded, "tpot_s", "graph")
    assert found["runs"] >= 19
    assert found["mean_error"] <= 0.045
    assert score(recorded, "tokens_per_s", "PP > 1, graph")["mean_error"] <= 0.07
    assert score(recorded, "allocated_bytes", "graph")["mean_error"] <= 0.02


def test_the_first_token_is_predicted_as_well_as_readme_says(recorded: pl.DataFrame) -> None:
    found = score(recorded, "ttft_s", "all")
    assert found["mean_error"] <= 0.06
    assert 0.85 <= found["coverage"] <= 0.95


def test_runs_that_the_calibration_comes_from_are_not_scored(recorded: pl.DataFrame) -> None:
    held_in = recorded.filter("held_in")["run"].unique()
    assert "h200-8b-tp1-graph" in held_in
    scored = scores(recorded).filter(measure="tpot_s", group="all")["runs"][0]
    assert scored == recorded["run"].n_unique() - held_in.len()


def test_what_cannot_be_predicted_is_named(tmp_path: Path) -> None:
    shutil.copytree(TRACES / "h200-8b-tp1-b8-graph", tmp_path / "good")
    shutil.copytree(TRACES / "h200-8b-tp1-b8-graph", tmp_path / "failed")
    path = tmp_path / "failed" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "failed"}))
    answer = CliRunner().invoke(app, ["accuracy", str(tmp_path), "--each", "--format", "json"])
    assert answer.exit_code == 0
    assert "left out: failed: no finished run of the engine" in answer.stderr
    rows = json.loads(answer.stdout)["rows"]
    assert {row["run"] for row in rows} == {"good"}
    by_measure = {row["measure"]: row for row in rows}
    assert by_measure["tpot_s"]["measured"] == pytest.approx(5.32e-3, rel=0.01)
    assert by_measure["allocated_bytes"]["measured"] == 20_292_681_728


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["accuracy", str(tmp_path)])
    assert "none has a run.json" in str(answer.exception)
