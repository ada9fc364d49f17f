"""Hardware counters that nsys sampled: a real capture, and small ones that add up by hand."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nsys_builder import PID, Row, an_export, kernel
from test_nsys_recorded import as_folder

from perfkit.ingest.nsys import read_nsys
from perfkit.ingest.trace import Trace

H100 = Path(__file__).parent.parent / "data" / "nsys" / "h100-gpu-metrics-2025.3.sqlite"
STATED = ("samples", "mean", "p50", "max")
GPU_0, GPU_1 = (1 << 48) + (1 << 32), (1 << 48) + (1 << 32) + 1
SMS, CLOCK, WARPS = 3, 0, 12


def names(gpu: int = GPU_0) -> list[Row]:
    found = {
        SMS: "SMs Active [Throughput %]",
        CLOCK: "GPC Clock Frequency [MHz]",
        WARPS: "Compute Warps in Flight [Avg]",
    }
    return [
        Row("TARGET_INFO_GPU_METRICS", {"typeId": gpu, "metricId": number, "metricName": text})
        for number, text in found.items()
    ]


def sample(time: int, value: int, metric: int = SMS, gpu: int = GPU_0) -> Row:
    values = {"timestamp": time, "typeId": gpu, "metricId": metric, "value": value}
    return Row("GPU_METRICS", values)


def device(cuda: int, gpu: int) -> Row:
    return Row("TARGET_INFO_CUDA_DEVICE", {"gpuId": gpu, "cudaId": cuda, "pid": PID})


def read(path: Path, *rows: Row | Iterable[Row]) -> Trace:
    (trace,) = read_nsys(an_export(path / "a.sqlite", *rows))
    return trace


def told(trace: Trace, metric: str = "SMs Active") -> dict[str, Any]:
    """(samples, mean, p50, max) by what ran during them."""
    rows = trace.gpu_metrics.filter(pl.col("metric") == metric)
    return {row["during"]: tuple(row[name] for name in STATED) for row in rows.to_dicts()}


def codes(trace: Trace) -> set[str]:
    return {row["code"] for row in trace.findings}


def test_busy_and_idle_time_of_a_recorded_h100_differ_as_they_must() -> None:
    """12 bursts of matrix products and the pauses between them; the figures by a loop over SQL."""
    (trace,) = read_nsys(H100)
    assert told(trace) == {
        "capture": (197, pytest.approx(35.4263959), 0, 97),
        "kernels": (62, 96.5, 97, 97),
        "no kernels": (109, 0, 0, 0),
    }
    assert told(trace, "Tensor Active")["kernels"] == (62, pytest.approx(83.8709677), 85, 86)
    assert told(trace, "DRAM Read Bandwidth")["kernels"] == (62, 28, 28, 29)
    assert told(trace, "DRAM Read Bandwidth")["no kernels"] == (
        109,
        pytest.approx(0.88990826),
        1,
        1,
    )


def test_a_clock_that_nsys_calls_mhz_and_gives_in_hz_is_in_mhz() -> None:
    (trace,) = read_nsys(H100)
    assert told(trace, "GPC Clock Frequency") == {
        "capture": (197, pytest.approx(1777.56853), 1785, 1991),
        "kernels": (62, pytest.approx(1624.64516), 1623.5, 1650),
        "no kernels": (109, pytest.approx(1862.48624), 1874, 1991),
    }


def test_of_22_metrics_those_that_matter_are_kept_and_absent_ones_are_no_rows() -> None:
    """This GPU is in a virtual machine, where nsys skips NVLink's counters."""
    (trace,) = read_nsys(H100)
    assert trace.gpu_metrics.select("rank", "device").unique().rows() == [(0, "cuda:0")]
    assert trace.gpu_metrics["metric"].unique(maintain_order=True).to_list() == [
        "DRAM Read Bandwidth",
        "DRAM Write Bandwidth",
        "GPC Clock Frequency",
        "PCIe RX Throughput",
        "PCIe TX Throughput",
        "SM Issue",
        "SMs Active",
        "Tensor Active",
    ]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "arrow-stream"])
def test_folders_of_tables_say_the_same(tmp_path: Path, suffix: str) -> None:
    (expected,) = read_nsys(H100)
    (found,) = read_nsys(as_folder(H100, tmp_path / "report_dir", suffix))
    assert found.gpu_metrics.equals(expected.gpu_metrics)
    assert found.gpu_metrics.height == 24


def test_a_sample_is_of_the_time_that_follows_it(tmp_path: Path) -> None:
    """A sample every 100 ns; kernels run 0-400 with small gaps, and 800-1000."""
    kernels = [kernel("k", 0, 198), kernel("k", 200, 350), kernel("k", 300, 450)]
    values = {0: 90, 100: 80, 200: 70, 300: 60, 400: 30, 500: 1, 600: 3, 700: 2, 800: 50, 900: 50}
    trace = read(
        tmp_path,
        [*kernels, kernel("k", 800, 1000)],
        names(),
        [sample(time, value) for time, value in values.items()],
    )
    assert told(trace) == {
        "capture": (10, 43.6, 50, 90),
        "kernels": (6, pytest.approx(400 / 6), 65, 90),
        "no kernels": (3, 2, 2, 3),
    }


def test_samples_that_are_partly_outside_the_captured_kernels_are_left_out(tmp_path: Path) -> None:
    samples = [sample(time, time) for time in (0, 100, 200, 300, 400)]
    trace = read(tmp_path, kernel("k", 50, 390), names(), samples)
    assert told(trace)["capture"] == (2, 150, 150, 200)


def test_without_the_table_there_is_nothing_and_nothing_to_say(tmp_path: Path) -> None:
    trace = read(tmp_path, kernel("k", 0, 400), names())
    assert trace.gpu_metrics.is_empty()
    assert not {code for code in codes(trace) if code.startswith("metrics")}


def test_an_empty_table_is_no_zero(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("k", 0, 400), names(), sample(0, 5))
    with closing(sqlite3.connect(path)) as file:
        file.execute("delete from GPU_METRICS")
        file.commit()
    (trace,) = read_nsys(path)
    assert trace.gpu_metrics.is_empty()
    assert "metrics-too-few" in codes(trace)


def test_a_capture_shorter_than_a_sample_is_told(tmp_path: Path) -> None:
    trace = read(tmp_path, kernel("k", 120, 180), names(), [sample(t, 5) for t in (0, 100, 200)])
    assert trace.gpu_metrics.is_empty()
    (row,) = [row for row in trace.findings if row["code"] == "metrics-too-few"]
    assert row["text"] == (
        "a.sqlite: no sample of GPU metrics lies between the first and the last kernel of GPU 0: "
        "capture for longer, or sample more often"
    )


def test_numbers_without_a_name_are_left_out_and_counted(tmp_path: Path) -> None:
    samples = [sample(time, 10, metric) for time in (0, 100, 200) for metric in (SMS, 77, WARPS)]
    trace = read(tmp_path, kernel("k", 0, 400), names(), samples)
    assert trace.gpu_metrics["metric"].unique().to_list() == ["SMs Active"]
    (row,) = [row for row in trace.findings if row["code"] == "metrics-unnamed"]
    assert (row["count"], row["severity"]) == (3, "info")


def test_samples_without_any_names_are_left_out_and_counted(tmp_path: Path) -> None:
    trace = read(tmp_path, kernel("k", 0, 400), [sample(0, 1), sample(100, 1)])
    assert trace.gpu_metrics.is_empty()
    (row,) = [row for row in trace.findings if row["code"] == "metrics-unnamed"]
    assert row["count"] == 2


def test_each_device_has_the_samples_of_its_own_gpu(tmp_path: Path) -> None:
    """Device 0 of the process is GPU 1 of the node; on GPU 0 somebody else was at work."""
    both = [
        sample(t, value, gpu=gpu) for t in (0, 100, 200) for gpu, value in ((GPU_0, 7), (GPU_1, 9))
    ]
    trace = read(tmp_path, kernel("k", 0, 400), device(0, 1), names(GPU_0), names(GPU_1), both)
    assert told(trace)["kernels"] == (3, 9, 9, 9)
    (row,) = [row for row in trace.findings if row["code"] == "metrics-of-others"]
    assert "on GPU 0, where no kernel of this file is known to have run" in row["text"]


@pytest.mark.parametrize("last", [0, "x" * 300])
def test_a_long_table_read_in_parts_is_summed_up_once(tmp_path: Path, last: Any) -> None:
    """20,000 samples of three metrics, more rows than are read at once; every other one is busy.

    A long text in the last row makes reading by pages give up there, and SQLite begin anew.
    """
    length = 100
    kernels = [kernel("k", 2 * n * length, (2 * n + 1) * length) for n in range(10_001)]
    samples = [
        sample(n * length, 10 + n % 4 if metric == SMS else n, metric)
        for n in range(20_000)
        for metric in (CLOCK, SMS, WARPS)
    ]
    samples = [Row(row.table, {"rawTimestamp": 0, **row.values}) for row in samples]
    samples[-1] = Row("GPU_METRICS", {**samples[-1].values, "rawTimestamp": last})
    trace = read(tmp_path, kernels, names(), samples)
    assert told(trace) == {
        "capture": (20_000, 11.5, 11.5, 13),
        "kernels": (10_000, 11, 11, 12),
        "no kernels": (10_000, 12, 12, 13),
    }
