"""One Kineto file -> activities and phase ranges, the tables that any trace source fills."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.ingest.frames import ACTIVITIES, RANGES, SYNC_CALLS, SYNCS, finding
from perfkit.ingest.kineto_cpu import busiest_thread, cpu_activities
from perfkit.ingest.kineto_file import KinetoFile, events_frame, read_kineto_file
from perfkit.ingest.kineto_gpu import GPU, gpu_activities

# Marks of communication libraries are no phases of a program.
NO_PHASE = re.compile(r"^(gloo|nccl|mpi|ucc|xccl):")
# ProfilerStep#12 -> ProfilerStep: instances of one phase.
INSTANCE = r"#\d+.*$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one trace file says about one rank."""

    rank: int
    world_size: int | None
    activities: pl.DataFrame
    ranges: pl.DataFrame
    syncs: pl.DataFrame
    findings: list[dict[str, Any]]


def read_kineto(path: Path, rank: int | None = None) -> Trace:
    """Read one file; `rank` comes from its folder in a run, else from the file itself.

    With GPU activities in it, the GPUs are the devices; without, the CPU's main thread is.
    """
    file = read_kineto_file(path)
    number = rank if rank is not None else rank_of(file)
    ranges = phase_ranges(file)
    if any(file.events[kind] for kind in GPU):
        activities, findings = gpu_activities(file, number)
    else:
        activities, findings = cpu_activities(file, number, ranges)
    declared = ranges.with_columns(rank=pl.lit(number, pl.Int32)).select(RANGES.names())
    return Trace(
        rank=number,
        world_size=file.world_size,
        activities=pl.DataFrame(activities, schema=ACTIVITIES),
        ranges=declared,
        syncs=sync_calls(file, number),
        findings=findings + _findings(file, number, activities),
    )


def rank_of(file: KinetoFile) -> int:
    """The rank the file says it is of, else the number in its name, else 0."""
    if file.rank is not None:
        return file.rank
    found = re.search(r"rank[-_]?(\d+)", file.path.name)
    return int(found.group(1)) if found else 0


def phase_ranges(file: KinetoFile) -> pl.DataFrame:
    """phase, tid, start_ns, end_ns of the ranges that the program's main thread opened."""
    events = [e for e in file.events["user_annotation"] if not NO_PHASE.match(e.name)]
    frame = events_frame(file, events).drop_nulls().sort("start_ns")
    frame = frame.with_columns(phase=pl.col("name").str.replace(INSTANCE, ""))
    return frame.filter(pl.col("tid") == busiest_thread(frame))


def sync_calls(file: KinetoFile, rank: int) -> pl.DataFrame:
    """Calls in which the host waited for a device (SYNCS)."""
    calls = [event for event in file.events["launch"] if re.match(SYNC_CALLS, event.name)]
    frame = events_frame(file, calls).drop_nulls().with_columns(rank=pl.lit(rank))
    return frame.select(pl.col(name).cast(dtype) for name, dtype in SYNCS.items())


def _findings(file: KinetoFile, rank: int, activities: pl.DataFrame) -> list[dict[str, Any]]:
    found = []
    source = str(file.path)
    if file.repaired:
        text = "bytes that are not UTF-8 text were replaced in names"
        found.append(finding("repaired", text, rank=rank, source=source, severity="info"))
    if file.rank not in (None, rank):
        text = f"{source} says it is of rank {file.rank} but lies in the folder of rank {rank}"
        found.append(finding("rank-mismatch", text, rank=rank, source=source))
    if activities.is_empty():
        text = f"{file.path.name} holds no operation: nothing ran while the profiler recorded"
        found.append(finding("empty-trace", text, rank=rank, source=source))
    return found
