"""A run beside its prediction: same words, same work, nothing guessed."""

import json
from pathlib import Path

import pytest
from measured_run import a_run

from perfkit.cli.main import app
from perfkit.compare.run import compare_run
from perfkit.errors import ConfigError


def test_measured_and_predicted_stand_side_by_side_with_the_error(tmp_path: Path) -> None:
    comparison = compare_run(a_run(tmp_path / "run"))
    rows = {row["measure"]: row for row in comparison.headline.to_dicts()}
    assert rows["ttft_s"]["measured"] == pytest.approx(0.110)
    assert (rows["ttft_s"]["measured_min"], rows["ttft_s"]["measured_max"]) == (0.1, 0.12)
    assert rows["tpot_s"]["measured"] == pytest.approx(0.020)
    tpot = rows["tpot_s"]
    assert tpot["error"] == pytest.approx((tpot["predicted"] - 0.020) / 0.020)
    # 538 MB of weights at 10 GB/s alone take 54 ms: the floor of one decode step.
    assert tpot["predicted"] > 0.0538


def test_parameter_bytes_are_predicted_exactly(tmp_path: Path) -> None:
    memory = compare_run(a_run(tmp_path / "run")).memory.row(0, named=True)
    assert memory["predicted_weights_bytes"] == memory["measured_weights_bytes"] == 538_060_032
    assert memory["measured_total_bytes"] is None


def test_without_rates_it_says_how_to_get_them(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", calibration=False)
    with pytest.raises(ConfigError, match="perfkit calibrate --tp 1 --pp 1 --dtype float32"):
        compare_run(run)


def test_a_data_sheet_can_be_named_instead(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", calibration=False)
    comparison = compare_run(run, gpu="h200-sxm")
    assert comparison.rates_source == "data sheet of h200-sxm"
    assert comparison.rates.provenance["host"] == "assumed"


def test_a_failed_run_is_compared_as_far_as_it_went(tmp_path: Path) -> None:
    comparison = compare_run(a_run(tmp_path / "run", state="failed"))
    assert any("the run is failed" in warning for warning in comparison.warnings)
    assert comparison.headline["measured"].null_count() == 0


def test_random_weights_are_told(tmp_path: Path) -> None:
    comparison = compare_run(a_run(tmp_path / "run", load="dummy"))
    assert any("random" in warning for warning in comparison.warnings)


def test_the_split_is_a_dash_when_nothing_recorded_it(tmp_path: Path) -> None:
    split = compare_run(a_run(tmp_path / "run")).split
    assert split["measured_compute_s"].null_count() == split.height == 2


def test_the_command_prints_and_writes_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path / "run")
    app(["compare", str(run), "--format", "json"], standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert {row["measure"] for row in document["headline"]} >= {"ttft_s", "tpot_s"}
    assert (run / "tables" / "comparison_headline.parquet").is_file()


def test_empty_outputs_leave_the_lengths_that_were_asked_for(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "outputs.jsonl").write_text("")
    assert compare_run(run).headline["measured"].null_count() == 0


def test_weights_in_8_bits_are_not_predicted_as_if_they_were_16() -> None:
    with pytest.raises(ConfigError, match="held its weights as int8"):
        compare_run(Path(__file__).parents[2] / "traces" / "h100-8b-int8")


TRACES = Path(__file__).parents[2] / "traces"


def test_a_comparison_says_whether_the_interval_holds_the_measurement() -> None:
    rows = compare_run(TRACES / "h200-8b-tp2-b8-graph").headline.to_dicts()
    tpot = next(row for row in rows if row["measure"] == "tpot_s")
    assert tpot["predicted_p05"] < tpot["predicted"] < tpot["predicted_p95"]
    assert tpot["covered"] is (tpot["predicted_p05"] <= tpot["measured"] <= tpot["predicted_p95"])
    throughput = next(row for row in rows if row["measure"] == "tokens_per_s")
    assert (throughput["predicted_p05"], throughput["covered"]) == (None, None)


def test_a_run_that_is_faster_than_its_memory_is_doubted() -> None:
    """Captured steps on an H200 beside the rates of an L40S, whose memory is 5.6 times slower."""
    own = compare_run(TRACES / "h200-8b-tp1-b8-graph")
    assert not any("faster than the bound" in warning for warning in own.warnings)
    other = compare_run(TRACES / "h200-8b-tp1-b8-graph", gpu="l40s")
    (doubt,) = (warning for warning in other.warnings if "faster than the bound" in warning)
    assert "a token took 5.32 ms, reading the weights takes" in doubt
