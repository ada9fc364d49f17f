"""GPU activities: devices, launches, collectives and sizes."""

from pathlib import Path
from typing import Any

import polars as pl
from trace_builder import BASE_NS, a_trace, kernel, operation, phase

from perfkit.ingest.frames import ACTIVITIES
from perfkit.ingest.kineto import read_kineto

HANDMADE = Path(__file__).parent.parent / "data" / "kineto" / "handmade-gpu.json"


def test_with_gpu_activities_the_gpus_are_the_devices(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        phase("request", 0, 50),
        operation("aten::mm", 0, 10),
        kernel("gemm_a", 20, 30, device=0),
        kernel("gemm_b", 20, 30, device=1, stream=9),
    )
    found = read_kineto(path).activities
    assert found.select("device", "stream").rows() == [("cuda:0", 7), ("cuda:1", 9)]


def test_a_kernel_is_tied_to_the_call_that_launched_it(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        kernel("gemm", 20, 30, launch_us=5, correlation=3),
        kernel("gemm", 40, 50, correlation=4),
    )
    trace = read_kineto(path)
    assert trace.activities["launch_ns"].to_list() == [BASE_NS + 5000, None]
    assert [(row["code"], row["count"]) for row in trace.findings] == [("no-launch", 1)]


def test_kernels_of_a_replayed_graph_share_their_launch(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        kernel("gemm_a", 20, 30, launch_us=5, correlation=3),
        kernel("gemm_b", 30, 40, correlation=3),
    )
    assert read_kineto(path).activities["launch_ns"].to_list() == [BASE_NS + 5000] * 2


def test_a_collective_that_only_the_profiler_names_is_communication(tmp_path: Path) -> None:
    args: dict[str, Any] = {
        "Collective name": "_allgather_base",
        "In msg nelems": 4,
        "Out msg nelems": 8,
    }
    path = a_trace(tmp_path / "t.json", kernel("xyz", 0, 9, dtype="BFloat16", **args))
    row = read_kineto(path).activities.row(0, named=True)
    assert (row["class"], row["op"], row["bytes"]) == ("comm", "all_gather", 16)


def test_unreadable_arguments_do_not_lose_the_kernel(tmp_path: Path) -> None:
    broken = kernel("gemm", 0, 9)[0] | {"args": {"device": "N/A", "stream": [1]}}
    found = read_kineto(a_trace(tmp_path / "t.json", broken)).activities
    assert found.select("device", "name").rows() == [("cuda:0", "gemm")]


def test_the_handmade_trace_has_every_activity_once() -> None:
    trace = read_kineto(HANDMADE)
    assert dict(trace.activities.schema) == dict(ACTIVITIES)
    found = trace.activities.select("kind", "class", "family", "op", "bytes", "num_ranks")
    assert found.rows() == [
        ("kernel", "compute", "gemm", None, None, None),
        ("kernel", "comm", "nccl", "all_reduce", 32768, 2),
        ("memcpy", "copy", "copy", None, 16, None),
        ("kernel", "compute", "elementwise", None, None, None),
        ("kernel", "unknown", "unknown", None, None, None),
        ("kernel", "comm", "nccl", "all_reduce", 1024, 2),
        ("kernel", "compute", "gemm", None, None, None),
        ("memset", "copy", "copy", None, 2048, None),
        ("kernel", "compute", "gemm", None, None, None),
    ]
    length = trace.activities.select(pl.col("end_ns") - pl.col("start_ns")).to_series()
    assert length.to_list() == [100000, 150000, 10000, 20000, 10000, 40000, 30000, 2000, 10000]


def test_gpus_that_were_used_are_named() -> None:
    assert read_kineto(HANDMADE).devices.rows() == [
        (0, "cuda:0", "NVIDIA H100 80GB HBM3", 84942979072, None)
    ]


def test_odd_descriptions_of_gpus_do_no_harm(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", kernel("gemm", 0, 9))
    path.write_text(path.read_text().replace('"deviceProperties": []', '"deviceProperties": ["?"]'))
    assert read_kineto(path).devices.is_empty()
