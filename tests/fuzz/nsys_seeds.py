"""Whole nsys exports, small enough to be damaged thousands of times."""

import sys
import tempfile
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS / "ingest"))

from nsys_builder import (  # noqa: E402
    Row,
    an_export,
    call,
    copied,
    domain,
    graph,
    kernel,
    memset,
    payload,
    pushed,
)

GEMM = "nvjet_sm90_tst_64x8_64x16_2x1_v_bz_TNT"
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)"
SCHEMA = 16777221
FIELDS = (("NCCL communicator ID", None, 18), ("Message size [bytes]", 8, 22))


@cache
def seeds() -> tuple[bytes, ...]:
    """The content of each database."""
    recorded = TESTS / "data" / "nsys"
    real = (recorded / "cpu-rank-2022.4.sqlite").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        made = [
            an_export(Path(folder) / f"{age}.sqlite", rows).read_bytes()
            for age, rows in enumerate((new_rows(), old_rows(), many_rows()))
        ]
    return (*made, made[0], real)


def new_rows() -> list[Row]:
    """Two processes, phases of both kinds, payloads, a graph, copies, waits."""
    rows: list[Row] = [domain("NCCL", 1), domain("perfkit", 2)]
    for name, offset, kind in FIELDS:
        what = {"schemaId": SCHEMA, "domainId": 1, "name": name, "offset": offset, "type": kind}
        rows.append(Row("NVTX_PAYLOAD_SCHEMA_ENTRIES", what))
    for pid in (100, 101):
        rows += one_process(pid)
    rows.append(Row("DIAGNOSTIC_EVENT", {"timestamp": 1, "severity": 2, "text": "events lost"}))
    rows.append(Row("META_DATA_EXPORT", {"name": "EXPORT_SCHEMA_VERSION", "value": "3.25.0"}))
    return rows


def one_process(pid: int) -> list[Row]:
    blob = payload(SCHEMA, ("<Q", 77), ("<Q", 4096))
    return [
        pushed("request", 0, 900, pid=pid, domainId=2),
        pushed("decode", 100, 400, pid=pid, domainId=2),
        pushed("copying", 450, 600, kind=60, pid=pid),
        pushed("ncclAllReduce", 300, 310, pid=pid, domainId=1, binaryData=blob),
        call(110, 1, pid=pid),
        kernel(GEMM, 120, 180, pid=pid, correlationId=1),
        call(305, 2, pid=pid),
        kernel(ALL_REDUCE, 320, 380, pid=pid, correlationId=2, streamId=9),
        call(460, 3, pid=pid, name="cudaMemcpyAsync_v3020"),
        copied(470, 500, 4096, pid=pid, correlationId=3),
        memset(510, 511, 64, pid=pid),
        call(600, 4, pid=pid, name="cudaGraphLaunch_v10000"),
        graph(610, 700, pid=pid, correlationId=4),
        call(800, 5, pid=pid, name="cudaDeviceSynchronize_v3020", end=880),
    ]


def old_rows() -> list[Row]:
    """As versions of 2021 wrote it: no metadata, no process at a kernel."""
    rows = [kernel(f"volta_sgemm_{n}", 10 * n, 10 * n + 7) for n in range(1, 20)]
    for row in rows:
        values = dict(row.values)
        del values["globalPid"]
    return [*rows, pushed(None, 5, 150, text="decode", domainId=0)]


def many_rows() -> list[Row]:
    """More than fit on one page of the database."""
    rows: list[Row] = []
    for n in range(400):
        rows += [
            call(100 * n, n + 1),
            kernel(GEMM, 100 * n + 10, 100 * n + 60, correlationId=n + 1),
        ]
    return [*rows, *(pushed("decode", 1000 * n, 1000 * n + 900) for n in range(40))]
