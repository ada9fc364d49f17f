"""One Kineto file -> activities and phase ranges, the tables that any trace source fills."""

import re
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.ingest.frames import ACTIVITIES, DEVICES, RANGES, SYNC_CALLS, SYNCS, finding
from perfkit.ingest.kineto_cpu import busiest_thread, cpu_activities
from perfkit.ingest.kineto_file import KinetoFile, read_kineto_file
from perfkit.ingest.kineto_gpu import gpu_activities
from perfkit.ingest.kineto_rows import TIMES
from perfkit.ingest.trace import Trace

# Marks of communication libraries are no phases of a program.
NO_PHASE = re.compile(r"^(gloo|nccl|mpi|ucc|xccl):")
# Letters of the profiler's own messages that are told.
MOST_SAID = 400
# ProfilerStep#12 -> ProfilerStep: instances of one phase.
INSTANCE = r"#\d+.*$"


def read_kineto(path: Path, rank: int | None = None) -> Trace:
    """Read one file; `rank` comes from its folder in a run, else from the file itself.

    With GPU activities in it, the GPUs are the devices; without, the CPU's main thread is.
    """
    file = read_kineto_file(path)
    own = rank_of(file)
    number = rank if rank is not None else own or 0
    ranges = phase_ranges(file)
    if file.on_gpu:
        activities, findings = gpu_activities(file, number)
    else:
        activities, findings = cpu_activities(file, number, ranges)
    declared = ranges.with_columns(rank=pl.lit(number, pl.Int32)).select(RANGES.names())
    return Trace(
        rank=number,
        rank_known=rank is not None or own is not None,
        world_size=file.world_size,
        activities=pl.DataFrame(activities, schema=ACTIVITIES),
        ranges=declared,
        syncs=sync_calls(file, number),
        devices=devices(file, number, activities),
        findings=findings + _findings(file, number, activities),
        recognised="PyTorch profiler (Kineto) trace",
    )


def rank_of(file: KinetoFile) -> int | None:
    """The rank the file says it is of, else the number in its name."""
    if file.rank is not None:
        return file.rank
    found = re.search(r"rank[-_]?(\d+)", file.path.name)
    return int(found.group(1)) if found else None


def phase_ranges(file: KinetoFile) -> pl.DataFrame:
    """phase, tid, start_ns, end_ns of the ranges that the program's main thread opened."""
    frame = file.frames["user_annotation"].drop_nulls(TIMES).sort("start_ns")
    frame = frame.filter(~pl.col("name").str.contains(NO_PHASE.pattern))
    frame = frame.with_columns(phase=pl.col("name").str.replace(INSTANCE, ""))
    return frame.filter(pl.col("tid") == busiest_thread(frame))


def sync_calls(file: KinetoFile, rank: int) -> pl.DataFrame:
    """Calls in which the host waited for a device (SYNCS)."""
    calls = file.frames["launch"].drop_nulls(TIMES)
    frame = calls.filter(pl.col("name").str.contains(SYNC_CALLS)).with_columns(rank=pl.lit(rank))
    return frame.select(pl.col(name).cast(dtype) for name, dtype in SYNCS.items())


def devices(file: KinetoFile, rank: int, activities: pl.DataFrame) -> pl.DataFrame:
    """The GPUs that this rank used (DEVICES)."""
    used = set(activities["device"].unique())
    rows = [(rank, f"cuda:{d.id}", d.name, d.memory_bytes, None) for d in file.devices]
    return pl.DataFrame([row for row in rows if row[1] in used], schema=DEVICES, orient="row")


def _findings(file: KinetoFile, rank: int, activities: pl.DataFrame) -> list[dict[str, Any]]:
    found = []
    source = str(file.path)
    if file.repaired:
        text = "what is no JSON (bytes that are not UTF-8, control characters, nan) was replaced"
        found.append(finding("repaired", text, rank=rank, source=source, severity="info"))
    for code, count, text in (
        ("odd-events", file.odd, "events have a field of a wrong type: read without it"),
        ("no-events", file.others, "entries of traceEvents are no events: left out"),
        ("no-time", file.untimed, "events have no usable time: left out"),
    ):
        if count:
            text = f"{file.path.name}: {count} {text}"
            found.append(finding(code, text, rank=rank, source=source, count=count))
    if file.rank not in (None, rank):
        text = f"{source} says it is of rank {file.rank} but lies in the folder of rank {rank}"
        found.append(finding("rank-mismatch", text, rank=rank, source=source))
    if activities.is_empty():
        text = f"{file.path.name} holds no operation: nothing ran while the profiler recorded"
        found.append(finding("empty-trace", text, rank=rank, source=source))
    return found + [_said(file, rank, level) for level, texts in file.said.items() if texts]


def _said(file: KinetoFile, rank: int, level: str) -> dict[str, Any]:
    """The profiler's own messages of one level."""
    texts = file.said[level]
    return finding(
        "profiler-said",
        f"{file.path.name}: the profiler's own {level}: {'; '.join(texts)[:MOST_SAID]}",
        rank=rank,
        source=str(file.path),
        count=len(texts),
        severity="warning" if level == "ERROR" else "info",
    )
