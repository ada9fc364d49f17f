"""The declared tables that every trace reader fills, whatever its source."""

from typing import Any

import polars as pl

KINDS = pl.Enum(["cpu_op", "comm_call", "collective", "kernel", "memcpy", "memset", "graph"])
CLASSES = pl.Enum(["compute", "comm", "copy", "unknown"])
SEVERITIES = pl.Enum(["info", "warning"])
DURING = pl.Enum(["capture", "kernels", "no kernels"])

ACTIVITIES = pl.Schema(
    {
        "rank": pl.Int32(),  # rank of the process that the trace is of
        "device": pl.String(),  # cpu (the thread that issues the work), or cuda:N
        "stream": pl.Int64(),  # CUDA stream, or thread id on a CPU
        "kind": KINDS,  # what the source calls it
        "class": CLASSES,  # what the split counts it as; unknown counts as compute, and is told
        "family": pl.String(),  # finer: gemm, attention, nccl, gloo ...; from kernel_classes.toml
        "name": pl.String(),  # the kernel's or operation's own name
        "start_ns": pl.Int64(),  # UNIX time by the clock of this rank's host
        "end_ns": pl.Int64(),
        "launch_ns": pl.Int64(),  # when the host launched it; null on a CPU or when not recorded
        "op": pl.String(),  # all_reduce, send ...: only on the row that stands for a collective
        "group": pl.String(),  # communicator, as its source names it
        "num_ranks": pl.Int32(),  # ranks in the communicator
        "bytes": pl.Int64(),  # largest buffer of a collective on this rank, or bytes copied
    }
)

RANGES = pl.Schema(
    {
        "rank": pl.Int32(),
        "phase": pl.String(),  # request, prefill, decode ...: an NVTX or record_function range
        "start_ns": pl.Int64(),  # on the host; same clock as the activities
        "end_ns": pl.Int64(),
    }
)

SYNCS = pl.Schema(
    {
        "rank": pl.Int32(),
        "name": pl.String(),  # cudaStreamSynchronize, cudaMemcpy ...: the host waits for the device
        "start_ns": pl.Int64(),  # on the host; same clock as the activities
        "end_ns": pl.Int64(),
    }
)

# Runtime and driver calls in which the host may wait for the device; a copy called asynchronous
# waits, too, when its memory on the host is pageable.
SYNC_CALLS = r"^(cuda|cu|hip)(Device|Stream|Event|Ctx|Thread)Synchronize|^(cuda|cu|hip)Memcpy"

DEVICES = pl.Schema(
    {
        "rank": pl.Int32(),
        "device": pl.String(),  # as in the activities
        "name": pl.String(),  # NVIDIA H200 ...: null when the source does not say
        "memory_bytes": pl.Int64(),
        "gpu": pl.Int32(),  # number of the GPU in its node; null when the source does not say
    }
)

GPU_METRICS = pl.Schema(
    {
        "rank": pl.Int32(),
        "device": pl.String(),  # as in the activities
        "metric": pl.String(),  # as nsys calls it, without its unit
        "unit": pl.String(),  # % (of the GPU's own peak) or MHz
        # capture: from the first kernel's start to the last one's end; kernels: samples of it
        # during which they ran nearly all the time; no kernels: samples during which none did
        "during": DURING,
        "samples": pl.Int64(),
        "mean": pl.Float64(),
        "p50": pl.Float64(),
        "max": pl.Float64(),
    }
)

QUALITY = pl.Schema(
    {
        "rank": pl.Int32(),  # null when it is not about one rank
        "source": pl.String(),  # file, relative to the run folder
        "code": pl.String(),  # short name of the finding
        "severity": SEVERITIES,  # a warning is printed, an info is kept
        "count": pl.Int64(),  # how many events, lines or ranks it is about
        "text": pl.String(),  # for people
    }
)


def finding(
    code: str,
    text: str,
    *,
    rank: int | None = None,
    source: str | None = None,
    count: int = 1,
    severity: str = "warning",
) -> dict[str, Any]:
    """One row of the quality table."""
    return {
        "rank": rank,
        "source": source,
        "code": code,
        "severity": severity,
        "count": count,
        "text": text,
    }
