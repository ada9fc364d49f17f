"""Real exports, and the same tables as parquet and Arrow folders; literal figures by SQL."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from nsys_builder import an_export, kernel

from perfkit.errors import ConfigError
from perfkit.ingest.nsys import read_nsys
from perfkit.timeline.analysis import TABLES, analyze_traces

DATA = Path(__file__).parent.parent / "data" / "nsys"
H200 = DATA / "h200x2-allreduce-2025.3.sqlite"
GRAPH_NODES = [DATA / f"h200x2-graph-nodes-2025.3-rank{rank}.sqlite" for rank in (0, 1)]
GRAPH_FOLDER = DATA / "h200-graph-nodes-2025.3_pqtdir"
GRAPH_WHOLE = DATA / "h200-graph-whole-2025.3.sqlite"
CPU = DATA / "cpu-rank-2022.4.sqlite"
NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)"


def as_folder(source: Path, folder: Path, suffix: str) -> Path:
    """The export as `nsys export --type parquetdir` or arrowdir lays it out."""
    write: dict[str, Callable[[pl.DataFrame, Path], object]] = {
        "parquet": lambda frame, path: frame.write_parquet(path),
        "arrow": lambda frame, path: frame.write_ipc(path),
        "arrow-stream": lambda frame, path: frame.write_ipc_stream(path),
    }
    folder.mkdir()
    with closing(sqlite3.connect(source)) as file:
        names = [row[0] for row in file.execute("select name from sqlite_master")]
        for name in names:
            columns = [row[1] for row in file.execute(f"pragma table_info({name})")]
            rows = file.execute(f"select * from {name}").fetchall()
            frame = pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)
            # An all-null column has no type of its own in SQLite.
            frame = frame.with_columns(pl.col(pl.Null).cast(pl.Int64))
            write[suffix](frame, folder / f"{name}.{suffix.split('-')[0]}")
    return folder


def test_two_ranks_of_one_file_split_exactly_as_sql_adds_them_up() -> None:
    found = analyze_traces([H200])
    columns = ("compute_ns", "comm_ns", "overlap_ns", "copy_ns", "window_ns", "kernels")
    whole = found.split.filter(pl.col("phase") == "whole")
    assert whole.select("rank", "device", *columns).rows() == [
        (0, "cuda:0", 5_100_264, 3_275_920, 0, 242_590, 375_173_430, 325),
        (1, "cuda:1", 5_130_730, 2_702_101, 0, 239_680, 375_184_868, 325),
    ]
    assert found.recognised == ("Nsight Systems SQLite export, ranks 0, 1",)


def test_numbered_ranges_are_instances_of_one_phase() -> None:
    found = analyze_traces([H200])
    steps = found.split.filter(pl.col("phase") == "step")
    assert steps.select("rank", "instances", "comm_ns").rows() == [
        (0, 20, 3_275_920),
        (1, 20, 2_702_101),
    ]


def test_gpus_have_names_and_every_kernel_its_launch() -> None:
    first, second = read_nsys(H200)
    assert first.devices.rows() == [(0, "cuda:0", "NVIDIA H200", 150109880320, 0)]
    assert second.devices.rows() == [(1, "cuda:1", "NVIDIA H200", 150109880320, 1)]
    for trace in (first, second):
        assert trace.activities["launch_ns"].null_count() == 0
        late = trace.activities.select((pl.col("start_ns") - pl.col("launch_ns")).min()).item()
        assert late > 0
        assert trace.syncs.group_by("name").len().sort("name").rows() == [
            ("cudaDeviceSynchronize_v3020", 1),
            ("cudaMemcpyAsync_v3020", 146),
            ("cudaStreamSynchronize_v3020", 35),
        ]


def test_communicators_without_payloads_are_seen_from_when_their_kernels_end() -> None:
    """The file was exported without blobs; its 20 all-reduces overlap on both ranks."""
    found = analyze_traces([H200])
    row = found.collectives.filter(pl.col("rank") == 0).row(0, named=True)
    assert [row[n] for n in ("op", "group", "num_ranks", "calls", "bytes")] == [
        "all_reduce",
        "by ends 0",
        2,
        20,
        None,
    ]
    whole = found.split.filter(pl.col("phase") == "whole")
    parts = whole.select("wait_ns", "transfer_ns", "unmatched_ns", "comm_ns")
    assert [sum(row[:3]) == row[3] for row in parts.iter_rows()] == [True, True]
    assert parts["unmatched_ns"].to_list() == [0, 0]
    # Rank 1 is always last, rank 0 waits: the sum of (start of 1 - start of 0) by SQL.
    assert whole["wait_ns"].to_list() == [771_254, 0]


def test_sizes_and_communicators_come_from_what_nccl_tells_nvtx() -> None:
    """Exported with --include-blobs=true: the calls of the prefill have their payload."""
    found = analyze_traces(GRAPH_NODES)
    told = found.collectives.filter(pl.col("bytes").is_not_null()).sort("rank", "op", "bytes")
    assert told.select("rank", "op", "group", "num_ranks", "calls", "bytes").rows() == [
        (rank, op, "2fef504ddba9f2b3", 2, calls, size)
        for rank in (0, 1)
        for op, calls, size in (
            ("all_reduce", 60, 36_864),
            ("all_reduce", 1, 98_304),
            ("broadcast", 1, 8),
        )
    ]


def test_collectives_inside_a_replayed_graph_are_matched_without_a_payload() -> None:
    found = analyze_traces(GRAPH_NODES)
    decode = found.split.filter(pl.col("phase") == "decode")
    # By SQL: durations of NCCL's kernels with a graphNodeId, and for each pair of them the later
    # start less the own.
    columns = ("rank", "wait_ns", "transfer_ns", "unmatched_ns", "comm_ns")
    assert decode.select(columns).rows() == [
        (0, 682_390, 1_304_202, 0, 1_986_592),
        (1, 79_123, 1_306_063, 0, 1_385_186),
    ]


def test_a_graph_recorded_as_a_whole_is_busy_and_its_inside_unknown() -> None:
    found = analyze_traces([GRAPH_WHOLE])
    graphs = found.activities.filter(pl.col("kind") == "graph")
    assert graphs.height == 4
    assert "graphs-only" in found.quality["code"].to_list()


def test_a_parquetdir_whose_payloads_are_declared_as_text_is_read_without_them() -> None:
    found = analyze_traces([GRAPH_FOLDER])
    same = analyze_traces(GRAPH_NODES[:1])
    columns = ("phase", "compute_ns", "comm_ns", "copy_ns", "idle_ns", "kernels")
    assert found.split.select(columns).rows() == same.split.select(columns).rows()


def test_a_cpu_rank_has_its_phases_and_nothing_else() -> None:
    (trace,) = read_nsys(CPU, rank=1)
    assert trace.recognised == "Nsight Systems 2022.4.2.1 SQLite export"
    assert trace.activities.is_empty()
    assert dict(trace.ranges.group_by("phase").len().iter_rows()) == {
        "request": 3,
        "prefill": 3,
        "decode": 6,
        "sample": 9,
    }
    assert trace.ranges["rank"].unique().to_list() == [1]
    assert [row["code"] for row in trace.findings] == ["no-gpu-activity"]


def test_a_file_of_phases_alone_is_analysed_without_a_split() -> None:
    found = analyze_traces([CPU])
    assert found.split.is_empty()
    assert found.ranges.height == 21
    assert found.warnings == [
        "cpu-rank-2022.4.sqlite has no GPU activity: no CUDA was traced while nsys recorded. The "
        "split is not measured; on a GPU, capture with --trace=cuda"
    ]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "arrow-stream"])
def test_folders_of_tables_hold_the_same(tmp_path: Path, suffix: str) -> None:
    folder = as_folder(H200, tmp_path / "report_dir", suffix)
    expected, found = analyze_traces([H200]), analyze_traces([folder])
    assert found.recognised == (f"Nsight Systems {suffix.split('-')[0]} folder, ranks 0, 1",)
    # Only these name the file.
    for name in set(TABLES) - {"quality", "clocks"}:
        assert getattr(found, name).equals(getattr(expected, name)), name


def test_a_folder_with_a_broken_table_is_named(tmp_path: Path) -> None:
    folder = as_folder(CPU, tmp_path / "a_pqtdir", "parquet")
    (folder / "NVTX_EVENTS.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"NVTX_EVENTS\.parquet cannot be read"):
        read_nsys(folder)


def test_a_folder_of_other_tables_is_not_taken_for_an_export(tmp_path: Path) -> None:
    (tmp_path / "a_pqtdir").mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "a_pqtdir" / "sales.parquet")
    with pytest.raises(ConfigError, match="is no Nsight Systems export"):
        read_nsys(tmp_path / "a_pqtdir")


def test_recorded_files_are_never_changed(tmp_path: Path) -> None:
    path = Path(shutil.copy(H200, tmp_path))
    analyze_traces([path])
    assert path.read_bytes() == H200.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_two_files_of_one_rank_each_are_numbered_in_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        an_export(tmp_path / f"{name}.sqlite", kernel(NCCL, 20, 30))
    found = analyze_traces([tmp_path])
    assert found.ranks == (0, 1)
    assert (
        f"nothing in {tmp_path}/b.sqlite names its rank: it is taken as rank 1, by the order"
        in (found.warnings)
    )
