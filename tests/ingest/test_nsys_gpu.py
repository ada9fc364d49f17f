"""GPU activities of nsys exports: kernels, copies, graphs, launches, processes and devices."""

from pathlib import Path

import polars as pl
import pytest
from nsys_builder import (
    BASE_NS,
    CALLS,
    KERNELS,
    Row,
    an_export,
    call,
    copied,
    graph,
    kernel,
    memset,
    pushed,
)

from perfkit.ingest.frames import ACTIVITIES, DEVICES, RANGES, SYNCS
from perfkit.ingest.nsys import read_nsys
from perfkit.ingest.trace import Trace

NCCL_KERNEL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)"


def one(path: Path) -> Trace:
    traces = read_nsys(path)
    assert len(traces) == 1
    return traces[0]


def codes(trace: Trace) -> list[str]:
    return [row["code"] for row in trace.findings]


def test_every_kind_of_activity_has_its_class_and_size(tmp_path: Path) -> None:
    trace = one(
        an_export(
            tmp_path / "a.sqlite",
            kernel("nvjet_tst_128x8", 10, 20),
            kernel(NCCL_KERNEL, 20, 40, streamId=13),
            kernel("something_of_mine", 40, 41),
            copied(41, 43, 4096, kind=2),
            copied(43, 44, 64, kind=99),
            memset(44, 45, 128),
        )
    )
    for name, schema in (
        ("activities", ACTIVITIES),
        ("ranges", RANGES),
        ("syncs", SYNCS),
        ("devices", DEVICES),
    ):
        assert dict(getattr(trace, name).schema) == dict(schema)
    found = trace.activities.select("kind", "class", "family", "name", "op", "bytes", "stream")
    assert found.rows() == [
        ("kernel", "compute", "gemm", "nvjet_tst_128x8", None, None, 7),
        ("kernel", "comm", "nccl", NCCL_KERNEL, "all_reduce", None, 13),
        ("kernel", "unknown", "unknown", "something_of_mine", None, None, 7),
        ("memcpy", "copy", "copy", "Memcpy DtoH", None, 4096, 7),
        ("memcpy", "copy", "copy", "Memcpy of unknown kind", None, 64, 7),
        ("memset", "copy", "copy", "Memset", None, 128, 7),
    ]
    assert trace.activities["start_ns"].to_list() == [BASE_NS + t for t in (10, 20, 40, 41, 43, 44)]


def test_rows_in_any_order_are_sorted(tmp_path: Path) -> None:
    rows = [kernel("c", 30, 31), kernel("a", 10, 11), copied(20, 21, 8), kernel("b", 10, 12)]
    found = one(an_export(tmp_path / "a.sqlite", *rows)).activities
    assert found["name"].to_list() == ["a", "b", "Memcpy HtoD", "c"]


def test_a_kernel_is_tied_to_the_first_call_with_its_correlation(tmp_path: Path) -> None:
    trace = one(
        an_export(
            tmp_path / "a.sqlite",
            kernel("a", 20, 30, correlationId=5),
            kernel("b", 30, 40, correlationId=6),
            kernel("of_a_graph", 40, 50, correlationId=5, graphNodeId=1),
            call(9, 5, name="cuLaunchKernelEx"),
            call(8, 5),
            call(3, 4),
        )
    )
    base = BASE_NS
    assert trace.activities["launch_ns"].to_list() == [base + 8, None, base + 8]
    assert [(row["code"], row["count"]) for row in trace.findings] == [
        ("no-launch", 1),
        ("no-nvtx", 1),
    ]


def test_processes_with_the_same_ids_are_never_mixed(tmp_path: Path) -> None:
    """Correlations and devices count within a process; every rank may see its GPU as device 0."""
    rows = [
        kernel("a", 20, 30, pid=200, correlationId=5),
        kernel("b", 21, 31, pid=100, correlationId=5),
        call(7, 5, pid=200),
        call(2, 5, pid=100),
    ]
    first, second = read_nsys(an_export(tmp_path / "a.sqlite", *rows))
    columns = ("rank", "device", "name", "launch_ns")
    assert first.activities.select(columns).rows() == [(0, "cuda:0", "b", BASE_NS + 2)]
    assert second.activities.select(columns).rows() == [(1, "cuda:0", "a", BASE_NS + 7)]
    assert (first.rank_known, second.rank_known) == (False, False)
    assert "holds 2 processes (100, 200), and nothing in it names" in first.findings[-1]["text"]


def test_processes_in_the_folder_of_a_rank_are_one_rank(tmp_path: Path) -> None:
    rows = [kernel("a", 20, 30, pid=200), kernel("b", 10, 15), kernel("c", 16, 18, deviceId=1)]
    path = an_export(tmp_path / "a.sqlite", *rows)
    (trace,) = read_nsys(path, rank=3)
    assert (trace.rank, trace.rank_known) == (3, True)
    assert trace.activities.select("device", "name").rows() == [
        ("cuda:0", "b"),
        ("cuda:1", "c"),
        ("cuda:0 of 200", "a"),
    ]


def test_one_process_with_several_gpus_has_several_devices(tmp_path: Path) -> None:
    rows = [kernel("a", 20, 30), kernel("b", 10, 15, deviceId=2), kernel("c", 31, 32)]
    found = one(an_export(tmp_path / "a.sqlite", *rows)).activities
    assert found["device"].to_list() == ["cuda:2", "cuda:0", "cuda:0"]


def test_the_rank_in_the_files_name_is_taken(tmp_path: Path) -> None:
    trace = one(an_export(tmp_path / "llama.rank12.sqlite", kernel("a", 20, 30)))
    assert (trace.rank, trace.rank_known) == (12, True)


def test_mpi_names_the_ranks(tmp_path: Path) -> None:
    ranks = [
        Row("MPI_RANKS", {"globalTid": (1 << 48) + (pid << 24) + 9, "rank": rank})
        for pid, rank in ((100, 1), (200, 0))
    ]
    rows = [kernel("a", 20, 30, pid=200), kernel("b", 10, 15, pid=100)]
    traces = read_nsys(an_export(tmp_path / "a.sqlite", *rows, *ranks))
    assert [(t.rank, t.activities["name"][0]) for t in traces] == [(0, "a"), (1, "b")]
    assert all(trace.rank_known for trace in traces)


def test_a_replayed_graph_is_busy_and_unknown(tmp_path: Path) -> None:
    rows = [kernel("gemm", 10, 20), graph(30, 50, correlationId=4), call(25, 4)]
    trace = one(an_export(tmp_path / "a.sqlite", *rows))
    row = trace.activities.row(1, named=True)
    assert (row["kind"], row["class"], row["family"]) == ("graph", "unknown", "graph")
    assert (row["name"], row["launch_ns"]) == ("CUDA graph 3", BASE_NS + 25)
    (told,) = [row for row in trace.findings if row["code"] == "graphs-only"]
    assert told["count"] == 1
    assert "--cuda-graph-trace=node" in told["text"]


def test_a_file_without_gpu_activity_says_so_plainly(tmp_path: Path) -> None:
    trace = one(an_export(tmp_path / "a.sqlite", pushed("prefill", 5, 9)))
    assert trace.activities.is_empty()
    assert trace.ranges.select("phase", "end_ns").rows() == [("prefill", BASE_NS + 9)]
    assert codes(trace) == ["no-gpu-activity"]
    assert trace.findings[0]["text"] == (
        "a.sqlite has no GPU activity: no CUDA was traced while nsys recorded. The split is not "
        "measured; on a GPU, capture with --trace=cuda"
    )


def test_calls_without_kernels_are_told_from_no_tracing(tmp_path: Path) -> None:
    trace = one(an_export(tmp_path / "a.sqlite", call(5, 1), pushed("prefill", 5, 9)))
    assert "CUDA was called, but nothing ran on a GPU" in trace.findings[0]["text"]


def test_an_export_of_nothing_is_still_an_answer(tmp_path: Path) -> None:
    trace = one(an_export(tmp_path / "a.sqlite", Row("StringIds", {"id": 1, "value": "x"})))
    assert (trace.rank, trace.activities.height, trace.ranges.height) == (0, 0, 0)
    assert codes(trace) == ["no-gpu-activity", "no-nvtx"]


def test_kernels_without_cuda_calls_say_what_is_missing(tmp_path: Path) -> None:
    trace = one(an_export(tmp_path / "a.sqlite", kernel("a", 20, 30), pushed("step", 5, 9)))
    assert codes(trace) == ["no-cuda-calls"]
    assert "Capture with --trace=cuda,nvtx" in trace.findings[0]["text"]


def test_without_phases_nothing_is_missed_and_nothing_is_asked_for(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("a", 20, 30, correlationId=1), call(5, 1))
    (trace,) = read_nsys(path, phases=False)
    assert trace.activities.select("name", "launch_ns").rows() == [("a", None)]
    assert trace.findings == []


@pytest.mark.parametrize("missing", ["globalPid", "correlationId", "demangledName"])
def test_kernels_of_old_files_lack_columns(tmp_path: Path, missing: str) -> None:
    values = {k: v for k, v in kernel("a", 20, 30, correlationId=1).values.items() if k != missing}
    rows = (Row(KERNELS, values), call(5, 1), pushed("step", 4, 9))
    trace = one(an_export(tmp_path / "a.sqlite", *rows))
    launch = None if missing == "correlationId" else BASE_NS + 5
    columns = ("name", "device", "launch_ns")
    assert trace.activities.select(columns).rows() == [("a", "cuda:0", launch)]
    assert trace.ranges["phase"].to_list() == ["step"]


def test_names_that_stringids_does_not_have_are_numbers(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel(77, 20, 30), kernel("b", 31, 32))
    found = one(path).activities
    assert found.select("name", "class").rows() == [
        ("kernel without a name, 77", "unknown"),
        ("b", "unknown"),
    ]


def test_rows_that_end_before_they_start_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [kernel("a", 20, 10), kernel("b", 31, 32), kernel("c", 40, None)]
    trace = one(an_export(tmp_path / "a.sqlite", *rows))
    assert trace.activities["name"].to_list() == ["b"]
    assert ("broken-rows", 2) in [(row["code"], row["count"]) for row in trace.findings]


def test_calls_in_which_the_host_waits_are_kept(tmp_path: Path) -> None:
    rows = [
        kernel("a", 20, 30),
        call(5, 1, name="cudaStreamSynchronize_v3020", end=35),
        call(3, 2, name="cudaStreamWaitEvent_v3020"),
        call(1, 3, name="cudaMemcpyAsync_v3020", end=4, pid=100),
    ]
    found = one(an_export(tmp_path / "a.sqlite", *rows)).syncs.sort("start_ns")
    assert found.select("rank", "name", "start_ns", "end_ns").rows() == [
        (0, "cudaMemcpyAsync_v3020", BASE_NS + 1, BASE_NS + 4),
        (0, "cudaStreamSynchronize_v3020", BASE_NS + 5, BASE_NS + 35),
    ]


def test_without_calls_cuptis_own_records_say_where_the_host_waited(tmp_path: Path) -> None:
    table = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"
    pid = kernel("a", 1, 2).values["globalPid"]
    rows = [
        Row(table, {"start": 5 * kind, "end": 9 * kind, "globalPid": pid, "syncType": kind})
        for kind in (2, 3)
    ]
    found = one(an_export(tmp_path / "a.sqlite", kernel("a", 20, 30), *rows)).syncs
    assert found.select("name", "start_ns").rows() == [("cudaStreamSynchronize", BASE_NS + 15)]


def test_gpus_are_named_where_the_file_tells_which_is_which(tmp_path: Path) -> None:
    gpus = [
        Row("TARGET_INFO_GPU", {"id": number, "name": name, "totalMemory": 80})
        for number, name in ((0, "NVIDIA A100"), (1, "NVIDIA H100"))
    ]
    of = Row("TARGET_INFO_CUDA_DEVICE", {"gpuId": 1, "cudaId": 0, "pid": 100})
    rows = [kernel("a", 20, 30), *gpus]
    told = one(an_export(tmp_path / "new.sqlite", *rows, of)).devices
    assert told.rows() == [(0, "cuda:0", "NVIDIA H100", 80, 1)]
    untold = one(an_export(tmp_path / "old.sqlite", *rows)).devices
    assert untold.rows() == [(0, "cuda:0", None, None, None)]


def test_gpus_that_are_all_the_same_need_no_telling(tmp_path: Path) -> None:
    gpus = [
        Row("TARGET_INFO_GPU", {"id": number, "name": "NVIDIA H100", "totalMemory": 80})
        for number in (0, 1)
    ]
    found = one(an_export(tmp_path / "old.sqlite", kernel("a", 20, 30), *gpus)).devices
    assert found.rows() == [(0, "cuda:0", "NVIDIA H100", 80, None)]


def test_what_nsys_says_it_lost_is_told_without_paths_and_secrets(tmp_path: Path) -> None:
    texts = [
        "Not all CUDA events might have been collected.",
        "12 events were lost, see /home/ann/nsys.log, key hf_abcdefghijklmnop",
        "Process was launched by the profiler, see /tmp/nvidia/streams/pid_1.log",
    ]
    rows = [Row("DIAGNOSTIC_EVENT", {"severity": 2, "text": text}) for text in texts]
    trace = one(an_export(tmp_path / "a.sqlite", kernel("a", 20, 30), call(5, 1), *rows))
    assert [row["text"] for row in trace.findings if row["code"] == "events-lost"] == [
        "nsys says: Not all CUDA events might have been collected.",
        "nsys says: 12 events were lost, see ... key [hidden]",
    ]


def test_times_of_a_file_without_a_start_count_from_its_own(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("a", 20, 30), start_utc_ns=None)
    trace = one(path)
    assert trace.activities["start_ns"].to_list() == [20]
    assert "no-start-time" in codes(trace)


def test_times_that_are_utc_already_are_not_shifted_again(tmp_path: Path) -> None:
    """As `nsys export --ts-normalize=true` writes them."""
    trace = one(an_export(tmp_path / "a.sqlite", kernel("a", BASE_NS + 20, BASE_NS + 30)))
    assert trace.activities["start_ns"].to_list() == [BASE_NS + 20]


@pytest.mark.parametrize("table", ["EXPORT_META_DATA", "META_DATA_EXPORT"])
def test_the_version_is_told(tmp_path: Path, table: str) -> None:
    version = Row(table, {"name": "EXPORT_PRODUCT_VERSION", "value": "2023.4.1.97"})
    trace = one(an_export(tmp_path / "a.sqlite", kernel("a", 20, 30), version))
    assert trace.recognised == "Nsight Systems 2023.4.1.97 SQLite export"


def test_a_long_table_is_read_by_its_pages(tmp_path: Path) -> None:
    rows = [
        kernel("a", start, start + 3, pid=100 + start % 2, correlationId=start)
        for start in range(60_000, 0, -1)
    ]
    calls = [call(start - 1, start, pid=100 + start % 2) for start in range(1, 60_001)]
    traces = read_nsys(an_export(tmp_path / "a.sqlite", *rows, *calls))
    for trace, first in zip(traces, (2, 1), strict=True):
        found = trace.activities
        assert found.height == 30_000
        assert found["start_ns"].to_list()[:2] == [BASE_NS + first, BASE_NS + first + 2]
        late = pl.col("start_ns") - pl.col("launch_ns")
        assert found.select(late.unique()).to_series().to_list() == [1]


def test_no_table_of_the_environment_is_ever_read(tmp_path: Path) -> None:
    secret = "hf_PlantedPlantedPlanted"
    path = an_export(
        tmp_path / "a.sqlite",
        kernel("a", 20, 30, correlationId=1),
        Row(CALLS, call(5, 1).values),
        pushed("step", 1, 40),
        Row("META_DATA_CAPTURE", {"name": "PROCESS_0:ENVIRONMENT_VARIABLE", "value": secret}),
        Row("META_DATA_EXPORT", {"name": "EXPORT_INPUT_PATH", "value": secret}),
        Row("TARGET_INFO_SYSTEM_ENV", {"name": "DeviceEnvironment", "value": secret}),
        Row("ProcessStreams", {"contentId": 900}),
        Row("StringIds", {"id": 900, "value": f"HF_TOKEN={secret}"}),
    )
    trace = one(path)
    tables = (trace.activities, trace.ranges, trace.syncs, trace.devices)
    text = "".join(table.write_csv() for table in tables) + str(trace.findings) + trace.recognised
    assert "step" in text
    assert secret not in text


def test_a_kernel_without_a_device_is_kept_on_an_unknown_one(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("a", 1, 2, deviceId=None), kernel("b", 3, 4))
    (trace,) = read_nsys(path)
    assert sorted(trace.activities.select("device", "name").rows()) == [
        ("cuda:0", "b"),
        ("cuda:?", "a"),
    ]


def test_a_number_too_large_for_a_device_is_none(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("a", 1, 2, deviceId=2**62))
    (trace,) = read_nsys(path)
    assert trace.activities["device"].to_list() == ["cuda:?"]


@pytest.mark.parametrize("value", ["", "EXPORT_PRODUCT_NAME", b"\x00\xff"])
def test_a_start_time_that_is_no_number_is_not_known(value: str | bytes, tmp_path: Path) -> None:
    start = Row("TARGET_INFO_SESSION_START_TIME", {"utcEpochNs": value})
    path = an_export(tmp_path / "a.sqlite", kernel("a", 1, 2), start, start_utc_ns=None)
    (trace,) = read_nsys(path)
    assert "no-start-time" in [row["code"] for row in trace.findings]
