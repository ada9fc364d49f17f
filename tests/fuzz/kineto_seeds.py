"""Whole Kineto traces, small enough to be damaged thousands of times."""

import gzip
import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
for folder in ("ingest", "benchmarks"):
    sys.path.insert(0, str(TESTS / folder))

from kineto_made import make_trace  # noqa: E402
from trace_builder import BASE_NS, event, gloo, kernel, operation, phase  # noqa: E402

COLLECTIVE: dict[str, Any] = {
    "Collective name": "allreduce",
    "In msg nelems": 16384,
    "Out msg nelems": 16384,
    "Group size": 2,
    "dtype": "BFloat16",
    "Process Group Name": "1",
    "Process Group Ranks": "[0, 1]",
}
DEVICE = {"id": 0, "name": "NVIDIA H200", "totalGlobalMem": 150109880320}


@cache
def seeds() -> tuple[bytes, ...]:
    """The text of each trace."""
    recorded = TESTS / "data" / "kineto"
    small = gzip.decompress((recorded / "gloo-tp2/ranks/0000/kineto.json.gz").read_bytes())
    handmade = (recorded / "handmade-gpu.json").read_bytes()
    return (
        handmade,
        small,
        torch_text(),
        gpu_text(),
        cpu_text(),
        gpu_text().replace(b"cuda", b"hip"),
    )


def torch_text() -> bytes:
    """One that looks as torch writes it."""
    with tempfile.TemporaryDirectory() as folder:
        make_trace(path := Path(folder) / "made.json", 250)
        return path.read_bytes()


def gpu_text() -> bytes:
    """Two devices, two streams, phases, a collective, a copy, a memset, waits, an arrow."""
    parts: list[Any] = [
        phase("request", 0, 200),
        phase("prefill", 1, 60),
        phase("decode", 70, 190),
        operation("aten::mm", 2, 8),
        kernel("gemm_a", 20, 40, launch_us=3, correlation=1),
        kernel("gemm_b", 30, 50, launch_us=5, correlation=2, device=1, stream=9),
        kernel("ncclDevKernel_AllReduce_Sum", 35, 70, launch_us=9, correlation=3, **COLLECTIVE),
        kernel("Memcpy HtoD", 90, 95, launch_us=80, correlation=4, cat="gpu_memcpy", bytes=64),
        kernel("Memset", 96, 97, launch_us=82, correlation=5, cat="gpu_memset", bytes=8),
        event("cuda_runtime", "cudaStreamSynchronize", 100, 120, correlation=6),
        event("cuda_sync", "Stream Wait Event", 100, 120, stream=7, device=0),
        event("gpu_user_annotation", "decode", 20, 97, tid=7),
        {"ph": "s", "id": 1, "pid": 1, "tid": 100, "ts": 3, "cat": "ac2g", "name": "ac2g"},
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "python"}},
    ]
    return document(parts, [DEVICE, {**DEVICE, "id": 1}])


def cpu_text() -> bytes:
    """A rank without a GPU, with gloo."""
    shape: dict[str, Any] = {"Input Dims": [[4, 8]], "Input type": ["float"]}
    parts: list[Any] = [
        phase("request", 0, 100),
        operation("aten::linear", 1, 20),
        operation("aten::addmm", 2, 19),
        operation("c10d::allreduce_", 20, 22),
        gloo("all_reduce", 25, 60, **shape),
        gloo("send", 61, 90, tid=100, **shape),
        operation("aten::add", 5, 30, tid=300),
    ]
    return document(parts, [])


def document(parts: list[Any], devices: list[dict[str, Any]]) -> bytes:
    """The whole file, an event on a line."""
    events = [e for part in parts for e in (part if isinstance(part, list) else [part])]
    head = {
        "schemaVersion": 1,
        "deviceProperties": devices,
        "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 2},
        "baseTimeNanoseconds": BASE_NS,
    }
    lines = ",\n".join(map(json.dumps, events))
    return f'{json.dumps(head)[:-1]}, "traceEvents": [\n{lines}\n]}}'.encode()
