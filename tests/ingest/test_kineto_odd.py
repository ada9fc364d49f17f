"""Files that are not as torch writes them today; each was met in the wild or found by fuzzing."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from trace_builder import BASE_NS, a_trace, event, gloo, kernel, operation, phase

from perfkit.errors import ConfigError
from perfkit.ingest import kineto_text
from perfkit.ingest.kineto import read_kineto
from perfkit.timeline.analysis import analyze_traces

DATA = Path(__file__).parent.parent / "data" / "kineto"
RECORDED = DATA / "gloo-tp2-pp2" / "ranks" / "0002" / "kineto.json.gz"


def codes(path: Path) -> list[tuple[str, int]]:
    return [(row["code"], row["count"]) for row in read_kineto(path).findings]


def rewritten(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new).encode("utf-8", errors="surrogateescape"))
    return path


def one_kernel(path: Path, **fields: Any) -> Path:
    """A trace of one launched kernel, with other fields than usual."""
    parts = kernel("gemm", 20, 30, launch_us=5, correlation=3)
    return a_trace(path, [parts[0] | fields, parts[1]])


@pytest.mark.parametrize("file", [RECORDED, DATA / "handmade-gpu.json"])
@pytest.mark.parametrize("block_bytes", [50, 301, 4096, 100_000])
def test_it_does_not_matter_where_a_file_is_cut(
    file: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_kineto(file)
    monkeypatch.setattr(kineto_text, "BLOCK_BYTES", block_bytes)
    cut = read_kineto(file)
    assert cut.activities.equals(whole.activities)
    assert cut.ranges.equals(whole.ranges)
    assert (cut.rank, cut.world_size) == (whole.rank, whole.world_size)


def test_objects_inside_an_event_may_look_like_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = [{"ph": "X", "cat": "kernel", "name": "none"}, {"a": 1}, {"b": "}, {"}]
    events = [operation(f"aten::op{i}", 2 * i, 2 * i + 1) for i in range(40)]
    path = a_trace(tmp_path / "t.json", [{**e, "args": {"list": nested}} for e in events])
    monkeypatch.setattr(kineto_text, "BLOCK_BYTES", 64)
    assert read_kineto(path).activities["name"].to_list() == [f"aten::op{i}" for i in range(40)]


def test_a_long_list_of_groups_before_the_events_is_read_over(tmp_path: Path) -> None:
    groups = [{"pg_name": str(i), "ranks": list(range(512))} for i in range(300)]
    head = {"deviceProperties": [{"id": 0}], "distributedInfo": {"rank": 3, "pg_config": groups}}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**head, "traceEvents": kernel("gemm", 0, 9)}))
    assert path.stat().st_size > kineto_text.BLOCK_BYTES
    trace = read_kineto(path)
    assert (trace.rank, trace.activities["name"].to_list()) == (3, ["gemm"])


def test_what_stands_after_the_events_is_read_too(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", operation("aten::mm", 0, 1), rank=None)
    tail = '], "distributedInfo": {"rank": 5, "world_size": 8}}'
    path.write_text(path.read_text()[:-2] + tail)
    trace = read_kineto(path)
    assert (trace.rank, trace.rank_known, trace.world_size) == (5, True, 8)


def test_a_gzip_file_of_several_members_is_one(tmp_path: Path) -> None:
    text = a_trace(tmp_path / "t.json", operation("aten::mm", 0, 1)).read_bytes()
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(text[:99]) + gzip.compress(text[99:]))
    assert read_kineto(path).activities["name"].to_list() == ["aten::mm"]


def test_a_gzip_file_with_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    content = bytearray(RECORDED.read_bytes())
    content[-6] ^= 1
    path = tmp_path / "kineto.json.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"kineto\.json\.gz cannot be read \(CRC check failed"):
        read_kineto(path)


@pytest.mark.parametrize("number", ["nan", "-nan", "inf", "-inf", "NaN", "Infinity", "-nan(ind)"])
def test_a_rate_divided_by_zero_loses_nothing(tmp_path: Path, number: str) -> None:
    path = a_trace(tmp_path / "t.json", kernel("copy", 0, 9, cat="gpu_memcpy", bytes=8, rate=77))
    trace = read_kineto(rewritten(path, '"rate": 77', f'"rate": {number}'))
    assert trace.activities.select("name", "bytes").rows() == [("copy", 8)]
    assert ("repaired", 1) in codes(path)


@pytest.mark.parametrize(
    ("found", "read"),
    [
        (r"C:\Users\x", "C:/Users/x"),
        (r"a\\b\"c", 'a\\b"c'),
        (r"half \ud800 char", "half /ud800 char"),
        (r"whole \ud83d\ude00", "whole \U0001f600"),
        ("\udcff", "�"),
        ("a\tb\x00c", "a b c"),
    ],
)
def test_a_name_that_is_no_json_text_is_repaired(tmp_path: Path, found: str, read: str) -> None:
    path = rewritten(a_trace(tmp_path / "t.json", operation("NAME", 0, 1)), "NAME", found)
    assert read_kineto(path).activities["name"].to_list() == [read]


def test_a_mark_of_the_byte_order_is_no_text(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", operation("aten::mm", 0, 1))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_kineto(path).activities.height == 1


def test_quoted_times_and_threads_are_numbers(tmp_path: Path) -> None:
    quoted = {**operation("aten::mm", 0, 1), "ts": "1001.250", "dur": "2", "tid": "100"}
    path = a_trace(tmp_path / "t.json", quoted)
    start, end = read_kineto(path).activities.select("start_ns", "end_ns").row(0)
    assert (start - BASE_NS, end - BASE_NS) == (1_001_250, 1_003_250)


@pytest.mark.parametrize(
    "fields",
    [
        {"ts": None},
        {"ts": [1, {"a": 2}]},
        {"ts": 1e300},
        {"ts": -(10**40)},
        {"ts": "a\nb"},
        {"dur": 1e16},
        {"dur": "long"},
    ],
)
def test_an_event_without_usable_times_is_counted(tmp_path: Path, fields: dict[str, Any]) -> None:
    good = kernel("gemm", 20, 30, launch_us=5, correlation=3)
    path = a_trace(tmp_path / "t.json", [good[0] | fields, *good])
    assert read_kineto(path).activities.height == 1
    assert codes(path) == [("no-time", 1)]


def test_a_duration_below_zero_is_none(tmp_path: Path) -> None:
    row = read_kineto(one_kernel(tmp_path / "t.json", dur=-5)).activities.row(0, named=True)
    assert row["end_ns"] == row["start_ns"] == BASE_NS + 20_000


@pytest.mark.parametrize(
    ("fields", "device", "stream", "launched"),
    [
        ({"name": 5}, "cuda:0", 7, True),
        ({"args": {"device": "N/A", "stream": 9, "correlation": 3}}, "cuda:0", 9, True),
        ({"args": {"device": -1, "stream": 2**70, "correlation": "3"}}, "cuda:0", -1, True),
        ({"args": {"device": 2, "stream": None, "correlation": []}}, "cuda:2", -1, False),
        ({"args": 5}, "cuda:0", -1, False),
        ({"args": None}, "cuda:0", -1, False),
    ],
)
def test_of_an_odd_event_all_that_is_usable_is_read(
    tmp_path: Path, fields: dict[str, Any], device: str, stream: int, launched: bool
) -> None:
    path = one_kernel(tmp_path / "t.json", **fields)
    row = read_kineto(path).activities.row(0, named=True)
    assert (row["device"], row["stream"], row["launch_ns"] is not None) == (
        device,
        stream,
        launched,
    )
    assert ("odd-events", 1) in codes(path)


def test_sizes_beyond_all_measure_are_not_known(tmp_path: Path) -> None:
    args: dict[str, Any] = {"Collective name": "allreduce", "dtype": "Float"}
    args |= {"In msg nelems": 2**62, "Group size": 2**40}
    path = a_trace(tmp_path / "t.json", kernel("ncclKernel", 0, 9, **args))
    row = read_kineto(path).activities.row(0, named=True)
    assert (row["op"], row["bytes"], row["num_ranks"]) == ("all_reduce", None, None)


@pytest.mark.parametrize("shape", [[[None]], [["x"]], [[2**70]], "no list", [{"a": 1}]])
def test_odd_shapes_of_a_collective_lose_only_its_size(tmp_path: Path, shape: Any) -> None:
    args = {"Input Dims": shape, "Input type": ["float"]}
    path = a_trace(tmp_path / "t.json", gloo("all_reduce", 0, 9, **args))
    assert read_kineto(path).activities.select("op", "bytes").rows() == [("all_reduce", None)]


def test_entries_that_are_no_events_are_counted(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", 5, None, "x", [[]], operation("aten::mm", 0, 1))
    assert read_kineto(path).activities.height == 1
    assert codes(path) == [("no-events", 4)]


def test_brackets_too_deep_to_follow_are_refused(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", gloo("send", 0, 9, deep="DEEP"))
    with pytest.raises(ConfigError, match=r"t\.json is not whole JSON"):
        read_kineto(rewritten(path, '"DEEP"', "[" * 100_000 + "]" * 100_000))


@pytest.mark.parametrize("info", [{"rank": -1, "world_size": 10**12}, {"rank": []}, 7, None])
def test_a_place_that_cannot_be_is_not_known(tmp_path: Path, info: Any) -> None:
    path = a_trace(tmp_path / "t.json", operation("aten::mm", 0, 1), rank=None)
    path.write_text(json.dumps({**json.loads(path.read_text()), "distributedInfo": info}))
    trace = read_kineto(path)
    assert (trace.rank, trace.rank_known, trace.world_size) == (0, False, None)


def test_a_machine_with_gpus_that_did_nothing_is_split_by_its_cpu(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", phase("request", 0, 10), operation("aten::mm", 0, 4))
    rewritten(path, '"deviceProperties": []', '"deviceProperties": [{"id": 0, "name": "H200"}]')
    assert read_kineto(path).activities.select("device", "name").rows() == [("cpu", "aten::mm")]


def test_marks_on_the_streams_of_a_gpu_are_no_work(tmp_path: Path) -> None:
    marks = ("cuda_sync", "gpu_user_annotation", "overhead", "cuda_event", "of tomorrow")
    path = a_trace(
        tmp_path / "t.json",
        kernel("gemm", 0, 9),
        [event(cat, "Stream Wait Event", 9, 50, tid=7, device=0, stream=7) for cat in marks],
    )
    assert read_kineto(path).activities["name"].to_list() == ["gemm"]


@pytest.mark.parametrize("category", ["cuda_runtime", "hip_runtime"])
def test_a_trace_of_rocm_has_its_launches_collectives_and_waits(
    tmp_path: Path, category: str
) -> None:
    rccl = "ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)"
    gemm = "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT128x128x64.kd"
    kinds: dict[str, Any] = {"kind": "Dispatch Kernel", "grid": [64, 1, 1], "block": [256, 1, 1]}
    args: dict[str, Any] = {"Collective name": "allreduce", "dtype": "BFloat16"}
    args |= {"In msg nelems": 4, "Out msg nelems": 4, "Group size": 8, "Process Group Name": "1"}
    copy = kernel("Memcpy HtoD (Host -> Device)", 60, 64, correlation=3, cat="gpu_memcpy", bytes=9)
    path = a_trace(
        tmp_path / "t.json",
        kernel(gemm, 20, 30, correlation=1, **kinds),
        kernel(rccl, 30, 50, correlation=2, **kinds, **args),
        copy,
        [
            event(category, "hipExtModuleLaunchKernel", 1, 3, cid=1, correlation=1, kernel=gemm),
            event(category, "hipLaunchKernel", 4, 6, cid=2, correlation=2, kernel=rccl),
            event(category, "hipMemcpyWithStream", 7, 64, correlation=3, bytes="9", kind="1"),
            event(category, "hipDeviceSynchronize", 65, 70, cid=5, correlation=4),
        ],
    )
    trace = read_kineto(path)
    launch_us = (pl.col("launch_ns") - BASE_NS) // 1000
    found = trace.activities.select("class", "family", "op", "num_ranks", "bytes", launch_us)
    assert found.rows() == [
        ("compute", "gemm", None, None, None, 1),
        ("comm", "nccl", "all_reduce", 8, 8, 4),
        ("copy", "copy", None, None, 9, 7),
    ]
    assert trace.syncs["name"].to_list() == ["hipMemcpyWithStream", "hipDeviceSynchronize"]


def test_what_the_profiler_says_it_lost_is_told(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", operation("aten::mm", 0, 1))
    said = {"WARNING": ["a", "b"], "ERROR": ["records were dropped"], "INFO": ["c"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    found = [(row["severity"], row["count"], row["text"]) for row in read_kineto(path).findings]
    assert found == [
        ("warning", 1, "t.json: the profiler's own ERROR: records were dropped"),
        ("info", 2, "t.json: the profiler's own WARNING: a; b"),
    ]


def test_steps_are_one_phase_and_the_display_unit_changes_no_time(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        phase("ProfilerStep#1", 0, 10),
        phase("ProfilerStep#2", 10, 20),
        kernel("gemm", 5, 9, launch_us=2, correlation=1),
        kernel("gemm", 15, 17, launch_us=12, correlation=2),
    )
    path.write_text(json.dumps({**json.loads(path.read_text()), "displayTimeUnit": "ns"}))
    split = analyze_traces([path]).split.select("phase", "instances", "window_ns", "compute_ns")
    assert split.rows() == [("whole", 1, 12_000, 6000), ("ProfilerStep", 2, 6000, 6000)]


def test_whole_us_of_an_old_trace_without_a_base_are_unix_times(tmp_path: Path) -> None:
    old = [{**event("Kernel", "gemm", 0, 9, tid=7), "ts": 1_600_000_000_123_456}]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": old}))
    assert read_kineto(path).activities["start_ns"].to_list() == [1_600_000_000_123_456_000]
