"""NVTX ranges of nsys exports as phases, and NCCL's payloads as sizes and communicators."""

from pathlib import Path

import pytest
from nsys_builder import BASE_NS, Row, an_export, call, domain, graph, kernel, payload, pushed

from perfkit.ingest.nsys import read_nsys
from perfkit.ingest.trace import Trace

NCCL = 5
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)"
ALL_GATHER = "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096>)"
SEND_RECV = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096>)"
COMMUNICATOR = 0xAB
INIT, COLLECTIVE, BARE = 1 << 24, (1 << 24) + 1, (1 << 24) + 2


def traces_of(tmp_path: Path, *rows: Row) -> list[Trace]:
    return read_nsys(an_export(tmp_path / "a.sqlite", *rows))


def phases(tmp_path: Path, *rows: Row) -> list[tuple[str, int, int]]:
    (trace,) = traces_of(tmp_path, *rows)
    found = trace.ranges.select("phase", "start_ns", "end_ns").rows()
    return [(phase, start - BASE_NS, end - BASE_NS) for phase, start, end in found]


def test_registered_and_own_texts_are_names(tmp_path: Path) -> None:
    rows = [pushed("decode", 5, 9), pushed(None, 1, 4, text="prefill"), pushed("decode", 10, 12)]
    assert phases(tmp_path, *rows) == [("prefill", 1, 4), ("decode", 5, 9), ("decode", 10, 12)]


def test_files_from_before_registered_texts_are_read(tmp_path: Path) -> None:
    old = pushed(None, 1, 4, text="prefill").values
    row = Row("NVTX_EVENTS", {name: value for name, value in old.items() if name != "textId"})
    assert phases(tmp_path, row) == [("prefill", 1, 4)]


def test_ranges_that_start_and_end_on_two_threads_are_phases(tmp_path: Path) -> None:
    rows = [pushed("step", 1, 9), pushed("batch", 2, 8, kind=60, tid=555, endGlobalTid=556)]
    assert phases(tmp_path, *rows) == [("step", 1, 9), ("batch", 2, 8)]


def test_ranges_that_never_ended_are_counted(tmp_path: Path) -> None:
    (trace,) = traces_of(tmp_path, pushed("step", 1, 9), pushed("decode", 7, None))
    assert trace.ranges["phase"].to_list() == ["step"]
    assert ("open-ranges", 1) in [(row["code"], row["count"]) for row in trace.findings]


def test_marks_and_categories_are_no_ranges(tmp_path: Path) -> None:
    rows = [
        pushed("step", 1, 9),
        pushed("mark", 3, None, kind=34),
        pushed("category", 0, 0, kind=33),
    ]
    assert phases(tmp_path, *rows) == [("step", 1, 9)]


@pytest.mark.parametrize(
    ("names", "phase"),
    [
        (("step 1", "step 2"), "step"),
        (("iteration=7", "iteration=8"), "iteration"),
        (("ProfilerStep#1", "ProfilerStep#2"), "ProfilerStep"),
        (("aten::mm, seq = 5", "aten::mm, seq = 6"), "aten::mm"),
    ],
)
def test_numbers_at_the_end_make_instances_of_one_phase(
    tmp_path: Path, names: tuple[str, str], phase: str
) -> None:
    rows = [pushed(name, 10 * i, 10 * i + 5) for i, name in enumerate(names)]
    assert [name for name, _start, _end in phases(tmp_path, *rows)] == [phase, phase]


@pytest.mark.parametrize("name", ["gpt2", "fp8", "42"])
def test_numbers_that_belong_to_a_name_stay(tmp_path: Path, name: str) -> None:
    assert phases(tmp_path, pushed(name, 1, 2)) == [(name, 1, 2)]


def test_marks_of_libraries_are_no_phases(tmp_path: Path) -> None:
    rows = [
        domain("NCCL", NCCL),
        domain("cuBLAS", 6),
        pushed("ncclAllReduce", 2, 3, domainId=NCCL),
        pushed("cublasGemmEx", 3, 4, domainId=6),
        pushed("nccl:all_reduce", 4, 5),
        pushed("step", 1, 9),
    ]
    assert phases(tmp_path, *rows) == [("step", 1, 9)]


def test_perfkits_own_phases_leave_no_room_for_others(tmp_path: Path) -> None:
    rows = [
        domain("perfkit", 3),
        pushed("layer", 2, 3),
        pushed("request", 1, 9, domainId=3),
        pushed("decode", 4, 6, domainId=3),
    ]
    assert phases(tmp_path, *rows) == [("request", 1, 9), ("decode", 4, 6)]


def test_only_the_main_thread_opens_phases(tmp_path: Path) -> None:
    rows = [pushed(f"backward {i}", i, i + 1, tid=77) for i in range(5)]
    (trace,) = traces_of(tmp_path, pushed("request", 1, 9), pushed("decode", 2, 8), *rows)
    assert trace.ranges["phase"].to_list() == ["request", "decode"]
    assert ("other-ranges", 5) in [(row["code"], row["count"]) for row in trace.findings]


def test_of_too_many_names_the_outermost_are_phases(tmp_path: Path) -> None:
    inner = [pushed(f"op{chr(97 + i % 26)}{i}x", 10 + 2 * i, 11 + 2 * i) for i in range(150)]
    assert phases(tmp_path, pushed("step", 5, 900), *inner) == [("step", 5, 900)]


# --- NCCL -------------------------------------------------------------------------------------


def schemas() -> list[Row]:
    """As NCCL 2.27 describes its payloads; the first offset is left out, as in real files."""
    fields: dict[int, list[tuple[str, int, int | None]]] = {
        INIT: [
            ("NCCL communicator ID", 18, None),
            ("No. of ranks", 5, 8),
            ("Rank", 5, 12),
            ("CUDA device", 5, 16),
        ],
        COLLECTIVE: [
            ("NCCL communicator ID", 18, None),
            ("Message size [bytes]", 22, 8),
            ("Reduction operation", (1 << 24) + 20, 16),
        ],
        BARE: [("NCCL communicator ID", 18, None)],
    }
    return [
        Row(
            "NVTX_PAYLOAD_SCHEMA_ENTRIES",
            {"domainId": NCCL, "schemaId": schema, "name": name, "type": kind, "offset": offset},
        )
        for schema, entries in fields.items()
        for name, kind, offset in entries
    ]


def nccl_call(
    name: str,
    start: int,
    end: int,
    size: int | None = None,
    pid: int = 100,
    more: int = COMMUNICATOR,
) -> Row:
    data = payload(BARE, ("<Q", more))
    if size is not None:
        data = payload(COLLECTIVE, ("<Q", more), ("<Q", size), ("<Q", 0))
    return pushed(name, start, end, domainId=NCCL, pid=pid, binaryData=data)


def initialised(rank: int, num_ranks: int, pid: int = 100, communicator: int = COMMUNICATOR) -> Row:
    fields = (("<Q", communicator), ("<i", num_ranks), ("<i", rank), ("<q", 0))
    return pushed(
        "ncclCommInitRank", 1, 2, domainId=NCCL, pid=pid, binaryData=payload(INIT, *fields)
    )


def collectives(trace: Trace) -> list[tuple[str | None, str | None, int | None, int | None]]:
    return trace.activities.select("op", "group", "num_ranks", "bytes").rows()


def test_a_collective_has_the_size_and_communicator_of_its_call(tmp_path: Path) -> None:
    (trace,) = traces_of(
        tmp_path,
        domain("NCCL", NCCL),
        *schemas(),
        initialised(0, 4),
        nccl_call("ncclAllReduce", 10, 20, 8192),
        call(15, 1),
        kernel(ALL_REDUCE, 30, 40, correlationId=1),
        nccl_call("ncclAllGather", 40, 50, 1000),
        call(45, 2),
        kernel(ALL_GATHER, 60, 70, correlationId=2),
        call(80, 3),
        kernel(ALL_REDUCE, 90, 95, correlationId=3),
        kernel("gemm", 96, 99, correlationId=1),
    )
    name = "00000000000000ab"
    assert collectives(trace) == [
        ("all_reduce", name, 4, 8192),
        # NCCL tells one rank's part of a gather.
        ("all_gather", name, 4, 4000),
        # Not launched by a call of NCCL: replayed in a graph, say.
        ("all_reduce", None, None, None),
        (None, None, None, None),
    ]
    assert (trace.rank, trace.rank_known, trace.world_size) == (0, True, 4)


def test_a_communicator_from_before_the_recording_has_no_known_size(tmp_path: Path) -> None:
    (trace,) = traces_of(
        tmp_path,
        domain("NCCL", NCCL),
        *schemas(),
        nccl_call("ncclAllReduce", 10, 20, 8192),
        nccl_call("ncclReduceScatter", 21, 30, 500),
        call(15, 1),
        call(25, 2),
        kernel(ALL_REDUCE, 30, 40, correlationId=1),
        kernel(ALL_REDUCE.replace("AllReduce", "ReduceScatter"), 41, 45, correlationId=2),
    )
    name = "00000000000000ab"
    assert collectives(trace) == [
        ("all_reduce", name, None, 8192),
        ("reduce_scatter", name, None, None),
    ]


def test_grouped_calls_belong_to_the_kernel_that_the_groups_end_launches(tmp_path: Path) -> None:
    (trace,) = traces_of(
        tmp_path,
        domain("NCCL", NCCL),
        *schemas(),
        initialised(1, 2),
        nccl_call("ncclGroupStart", 10, 11),
        nccl_call("ncclSend", 12, 13, 100),
        nccl_call("ncclRecv", 14, 15, 300),
        nccl_call("ncclGroupEnd", 16, 20),
        call(18, 1),
        kernel(SEND_RECV, 30, 40, correlationId=1),
        nccl_call("ncclGroupStart", 41, 42),
        nccl_call("ncclSend", 43, 44, 700),
        nccl_call("ncclGroupEnd", 46, 50),
        call(48, 2),
        kernel(SEND_RECV, 60, 70, correlationId=2),
    )
    name = "00000000000000ab"
    assert collectives(trace) == [("send_recv", name, 2, 400), ("send", name, 2, 700)]


def test_a_group_that_makes_several_kernels_tells_nothing_of_each(tmp_path: Path) -> None:
    (trace,) = traces_of(
        tmp_path,
        domain("NCCL", NCCL),
        *schemas(),
        nccl_call("ncclAllReduce", 12, 13, 100),
        nccl_call("ncclAllReduce", 14, 15, 300, more=0xCD),
        nccl_call("ncclGroupEnd", 16, 20),
        call(18, 1),
        call(19, 2),
        kernel(ALL_REDUCE, 30, 40, correlationId=1),
        kernel(ALL_REDUCE, 41, 50, correlationId=2),
    )
    assert collectives(trace) == [("all_reduce", None, None, None)] * 2


def test_ranks_are_those_of_nccls_largest_communicator(tmp_path: Path) -> None:
    rows = [
        row
        for pid, rank in ((100, 3), (200, 2))
        for row in (
            domain("NCCL", NCCL, pid=pid),
            initialised(rank, 4, pid),
            initialised(rank - 2, 2, pid, communicator=0xEE),
            kernel("gemm", 30, 40, pid=pid),
        )
    ]
    traces = traces_of(tmp_path, *schemas(), *rows)
    assert [trace.rank for trace in traces] == [2, 3]
    assert {(trace.rank_known, trace.world_size) for trace in traces} == {(True, 4)}


def test_payloads_that_were_not_exported_leave_the_kernels_name(tmp_path: Path) -> None:
    bare = pushed("ncclAllReduce", 10, 20, domainId=NCCL, binaryData="")
    (trace,) = traces_of(
        tmp_path,
        domain("NCCL", NCCL),
        *schemas(),
        bare,
        call(15, 1),
        kernel(ALL_REDUCE, 30, 40, correlationId=1),
    )
    assert collectives(trace) == [("all_reduce", None, None, None)]


@pytest.mark.parametrize("data", [b"short", payload(999, ("<Q", 1)), payload(COLLECTIVE)])
def test_payloads_that_cannot_be_read_do_no_harm(tmp_path: Path, data: bytes) -> None:
    (trace,) = traces_of(
        tmp_path,
        domain("NCCL", NCCL),
        *schemas(),
        pushed("ncclAllReduce", 10, 20, domainId=NCCL, binaryData=data),
        call(15, 1),
        kernel(ALL_REDUCE, 30, 40, correlationId=1),
        graph(50, 60),
    )
    assert collectives(trace)[0] == ("all_reduce", None, None, None)
