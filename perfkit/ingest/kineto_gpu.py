"""What a rank's GPUs did: kernels, copies and memsets, and when the host launched each.

A kernel is communication when a rule says so or the profiler gave it a collective's name. One
whose launch is not in the trace is kept: it belongs to no phase, and the quality table counts it.
"""

from typing import Any

import msgspec
import polars as pl

from perfkit.ingest.classes import classified, collective
from perfkit.ingest.frames import ACTIVITIES, finding
from perfkit.ingest.kineto_file import Event, KinetoFile, events_frame
from perfkit.ingest.sizes import values_bytes

GPU = ("kernel", "memcpy", "memset")


class GpuArgs(msgspec.Struct, gc=False):
    """The arguments of a GPU event that are read; those of a collective came with torch 2.3."""

    device: int = 0
    stream: int = -1
    correlation: int = 0
    bytes: int | None = None
    collective: str | None = msgspec.field(name="Collective name", default=None)
    values_in: int | None = msgspec.field(name="In msg nelems", default=None)
    values_out: int | None = msgspec.field(name="Out msg nelems", default=None)
    dtype: str | None = None
    group: str | None = msgspec.field(name="Process Group Name", default=None)
    num_ranks: int | None = msgspec.field(name="Group size", default=None)


class LaunchArgs(msgspec.Struct, gc=False):
    """What ties a runtime call to what it launched."""

    correlation: int = 0


ARGS = msgspec.json.Decoder(GpuArgs, strict=False)
LAUNCH_ARGS = msgspec.json.Decoder(LaunchArgs, strict=False)


def gpu_activities(file: KinetoFile, rank: int) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Activities of every GPU in the file, with findings."""
    frame = pl.concat([_events(file, kind) for kind in GPU])
    frame = frame.drop_nulls(["start_ns", "end_ns"])
    frame = frame.join(_launches(file), on="correlation", how="left", maintain_order="left")
    frame = frame.join(classified(frame["name"]), on="name", how="left", maintain_order="left")
    frame = frame.with_columns(_class(), op=_op(), rank=pl.lit(rank))
    frame = frame.sort("start_ns", "end_ns", maintain_order=True)
    findings = _without_launch(frame["launch_ns"].null_count(), rank, file)
    return frame.select(pl.col(n).cast(dtype) for n, dtype in ACTIVITIES.items()), findings


def _class() -> pl.Expr:
    """A kernel's class is its rule's, unless the profiler knows it is a collective."""
    return (
        pl.when(pl.col("kind") != "kernel")
        .then(pl.lit("copy"))
        .when(pl.col("op").is_not_null())
        .then(pl.lit("comm"))
        .otherwise(pl.col("class"))
        .alias("class")
    )


def _op() -> pl.Expr:
    """The profiler's name of the collective, else the kernel's own."""
    named = pl.coalesce("op", "kernel_op")
    return pl.when(pl.col("kind") == "kernel").then(named).otherwise(None)


def _events(file: KinetoFile, kind: str) -> pl.DataFrame:
    events = file.events[kind]
    args = [_args(event) for event in events]
    columns: dict[str, list[Any]] = {
        "kind": [kind] * len(events),
        "device": [f"cuda:{a.device}" for a in args],
        "stream": [a.stream for a in args],
        "op": [collective(a.collective) for a in args],
        "group": [a.group for a in args],
        "num_ranks": [a.num_ranks for a in args],
        "bytes": [_bytes(a) for a in args],
    }
    series = [pl.Series(name, values, _DTYPES[name]) for name, values in columns.items()]
    series.append(pl.Series("correlation", [a.correlation for a in args], pl.Int64))
    return events_frame(file, events).with_columns(series)


_DTYPES = {**ACTIVITIES, "kind": pl.String()}


def _args(event: Event) -> GpuArgs:
    try:
        return ARGS.decode(event.args)
    except msgspec.DecodeError:
        return GpuArgs()


def _bytes(args: GpuArgs) -> int | None:
    """Bytes copied, or of the larger buffer of a collective on this rank, as nccl-tests counts."""
    if args.bytes is not None:
        return args.bytes
    counts = [count for count in (args.values_in, args.values_out) if count is not None]
    return values_bytes(max(counts), args.dtype) if counts else None


def _launches(file: KinetoFile) -> pl.DataFrame:
    """correlation, launch_ns: the first call with each correlation (a graph has one for all)."""
    events = file.events["launch"]
    correlations = [_correlation(event) for event in events]
    frame = events_frame(file, events).with_columns(
        pl.Series("correlation", correlations, dtype=pl.Int64)
    )
    known = frame.filter(pl.col("correlation") > 0).drop_nulls("start_ns")
    return known.group_by("correlation").agg(launch_ns=pl.col("start_ns").min())


def _correlation(event: Event) -> int:
    try:
        return LAUNCH_ARGS.decode(event.args).correlation
    except msgspec.DecodeError:
        return 0


def _without_launch(count: int, rank: int, file: KinetoFile) -> list[dict[str, Any]]:
    if not count:
        return []
    text = f"{count} GPU activities have no launch in the trace: they are in no phase"
    return [
        finding("no-launch", text, rank=rank, source=str(file.path), count=count, severity="info")
    ]
