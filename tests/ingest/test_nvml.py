"""nvidia-smi's samples: units, what it cannot read, and energy over a window."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfkit.errors import ConfigError
from perfkit.ingest.nvml import COLUMNS, GPU_SUMMARY, SAMPLES, read_nvml, summarise_gpus
from perfkit.paths import find

DATA = Path(__file__).parents[1] / "data" / "nvml"
TWO_GPUS = DATA / "handmade-2gpu.csv"
START_NS = 1_795_375_542_000_000_000  # 2026-11-22 19:25:42 UTC
S = 1_000_000_000


def codes(findings: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(row["code"], row["count"]) for row in findings]


def test_samples_have_plain_units() -> None:
    frame, _findings = read_nvml(TWO_GPUS, "node0", utc_offset_s=0)
    assert dict(frame.schema) == dict(SAMPLES)
    assert frame.row(2, named=True) | {"time_local": None} == {
        "host": "node0",
        "gpu": 0,
        "uuid": "GPU-00000000-0000-0000-0000-000000000000",
        "time_local": None,
        "unix_ns": START_NS + S // 2,
        "utilisation": 1.0,
        "memory_busy": pytest.approx(0.55),
        "memory_used_bytes": 81559 * 2**20,
        "power_w": 300.0,
        "sm_clock_hz": 1.935e9,
        "memory_clock_hz": 2.619e9,
        "temperature_c": 45.0,
    }


def test_what_the_gpu_does_not_tell_is_null() -> None:
    frame, findings = read_nvml(TWO_GPUS, "node0", utc_offset_s=0)
    row = frame.row(3, named=True)
    assert [row[name] for name in ("utilisation", "memory_busy", "power_w")] == [None] * 3
    assert ("nvml-gaps", 3) in codes(findings)


def test_messages_and_a_line_cut_off_are_left_out_and_counted() -> None:
    frame, findings = read_nvml(TWO_GPUS, "node0", utc_offset_s=0)
    assert frame.height == 6
    assert ("nvml-broken-lines", 2) in codes(findings)


def test_a_last_line_without_its_end_may_have_lost_digits(tmp_path: Path) -> None:
    path = tmp_path / "nvml.csv"
    path.write_text(TWO_GPUS.read_text().splitlines()[0])
    frame, findings = read_nvml(path, "node0", utc_offset_s=0)
    assert frame.is_empty()
    assert codes(findings) == [("nvml-empty", 1), ("nvml-broken-lines", 1)]


def test_local_times_need_the_offset_from_utc() -> None:
    frame, findings = read_nvml(TWO_GPUS, "node0")
    assert frame["unix_ns"].null_count() == 6
    assert ("nvml-local-times", 6) in codes(findings)
    berlin, _findings = read_nvml(TWO_GPUS, "node0", utc_offset_s=3600)
    assert berlin["unix_ns"][0] == START_NS - 3600 * S


def test_a_gpu_without_power_readings_has_no_energy(tmp_path: Path) -> None:
    path = tmp_path / "nvml.csv"
    line = "2026/11/22 19:25:4{}.000, 0, GPU-0, 5, 1, 100, [N/A], 900, 900, 30\n"
    path.write_text(line.format(2) + line.format(3))
    frame, findings = read_nvml(path, "node0", utc_offset_s=0)
    assert codes(findings) == [("nvml-not-supported", 1)]
    row = summarise_gpus(frame).row(0, named=True)
    assert (row["samples"], row["mean_utilisation"]) == (2, 0.05)
    assert [row[n] for n in ("energy_j", "mean_power_w", "covered_s", "longest_gap_s")] == [
        None
    ] * 4


def test_energy_is_the_trapezoid_between_samples() -> None:
    frame, _findings = read_nvml(TWO_GPUS, "node0", utc_offset_s=0)
    found = summarise_gpus(frame)
    assert dict(found.schema) == dict(GPU_SUMMARY)
    assert found.row(0, named=True) == {
        "host": "node0",
        "gpu": 0,
        "samples": 3,
        "covered_s": 1.0,
        "longest_gap_s": 0.5,
        "mean_utilisation": 0.5,
        "max_utilisation": 1.0,
        "max_memory_used_bytes": 81559 * 2**20,
        "mean_power_w": 225.0,
        "max_power_w": 300.0,
        "energy_j": 225.0,  # (100 + 300) / 2 * 0.5 + (300 + 200) / 2 * 0.5
    }
    assert found["longest_gap_s"].to_list() == [0.5, 1.0]  # GPU 1 lost a power sample


def test_a_window_takes_the_samples_inside_it() -> None:
    frame, _findings = read_nvml(TWO_GPUS, "node0", utc_offset_s=0)
    found = summarise_gpus(frame, START_NS + S // 4, START_NS + 2 * S)
    assert found["samples"].to_list() == [2, 2]
    assert found["energy_j"].to_list() == [125.0, None]


def test_a_gpu_without_samples_in_the_window_is_a_row_of_nulls() -> None:
    frame, _findings = read_nvml(TWO_GPUS, "node0", utc_offset_s=0)
    found = summarise_gpus(frame, 0, 1)
    assert found.select("gpu", "samples", "energy_j").rows() == [(0, 0, None), (1, 0, None)]


@given(st.lists(st.integers(1, 700), min_size=2, max_size=20), st.integers(1, 5000))
def test_steady_steps_of_power_add_up(watts: list[int], step_ms: int) -> None:
    time = [START_NS + at * step_ms * 1_000_000 for at in range(len(watts))]
    columns = {"host": "node0", "gpu": 0, "unix_ns": time, "power_w": watts}
    frame = pl.DataFrame(columns, schema_overrides={"gpu": pl.Int32, "power_w": pl.Float64})
    missing = {name: pl.lit(None, dtype) for name, dtype in SAMPLES.items() if name not in columns}
    frame = frame.with_columns(**missing).with_columns(
        time_local=pl.col("unix_ns").cast(pl.Datetime("ns"))
    )
    row = summarise_gpus(frame).row(0, named=True)
    assert row["covered_s"] == pytest.approx((len(watts) - 1) * step_ms / 1000)
    assert row["energy_j"] == pytest.approx(row["mean_power_w"] * row["covered_s"])
    assert min(watts) <= row["mean_power_w"] * (1 + 1e-9)
    assert row["mean_power_w"] <= max(watts) * (1 + 1e-9)


@pytest.mark.parametrize("content", ["timestamp, index\n", "No devices were found\n"])
def test_what_nvidia_smi_did_not_sample_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "nvml.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"nvml.csv is no list of GPU samples.*--query-gpu"):
        read_nvml(path, "node0")


def test_the_collector_asks_for_these_columns() -> None:
    path = find("collectors", "nvml.toml")
    assert path is not None
    assert f"--query-gpu={','.join(COLUMNS)}" in path.read_text()
