"""What a rank's GPUs did: kernels, copies and memsets, and when the host launched each.

A kernel is communication when a rule says so or the profiler gave it a collective's name. One
whose launch is not in the trace is kept: it belongs to no phase, and the quality table counts it.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from perfkit.ingest.classes import classified, collective
from perfkit.ingest.frames import ACTIVITIES, finding
from perfkit.ingest.kineto_events import GpuArgs
from perfkit.ingest.kineto_file import GPU, KinetoFile
from perfkit.ingest.kineto_rows import TIMES
from perfkit.ingest.sizes import values_bytes


def gpu_activities(file: KinetoFile, rank: int) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Activities of every GPU in the file, with findings."""
    frame = pl.concat([_events(file, kind) for kind in GPU]).drop_nulls(TIMES)
    frame = frame.join(_launches(file), on="correlation", how="left", maintain_order="left")
    classes = classified(frame["name"].unique())
    frame = frame.join(classes, on="name", how="left", maintain_order="left")
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
    args: list[GpuArgs] = file.args[kind]
    frame = file.frames[kind].with_columns(
        pl.Series("device", [a.device for a in args], pl.Int64),
        pl.Series("stream", [a.stream for a in args], pl.Int64),
        pl.Series("correlation", [a.correlation for a in args], pl.Int64),
        kind=pl.lit(kind),
    )
    named = frame.with_columns(device=pl.format("cuda:{}", "device"))
    return pl.concat([named, _described(args)], how="horizontal")


def _described(args: Sequence[GpuArgs]) -> pl.DataFrame:
    """op, group, num_ranks, bytes: null in the rows, by far the most, that have none of them."""
    numbers = [number for number, a in enumerate(args) if a.collective or a.bytes is not None]
    some = [args[number] for number in numbers]
    columns: dict[str, list[Any]] = {
        "op": [collective(a.collective) for a in some],
        "group": [a.group for a in some],
        "num_ranks": [a.num_ranks for a in some],
        "bytes": [_bytes(a) for a in some],
    }
    places = pl.Series([None] * len(args), dtype=pl.UInt32).scatter(numbers, range(len(some)))
    found = [pl.Series(name, values, ACTIVITIES[name]) for name, values in columns.items()]
    return pl.DataFrame([series.gather(places) for series in found])


def _bytes(args: GpuArgs) -> int | None:
    """Bytes copied, or of the larger buffer of a collective on this rank, as nccl-tests counts."""
    if args.bytes is not None:
        return args.bytes
    counts = [count for count in (args.values_in, args.values_out) if count is not None]
    return values_bytes(max(counts), args.dtype) if counts else None


def _launches(file: KinetoFile) -> pl.DataFrame:
    """correlation, launch_ns: the first call with each correlation (a graph has one for all)."""
    correlations = [args.correlation for args in file.args["launch"]]
    frame = file.frames["launch"].select(
        pl.Series("correlation", correlations, pl.Int64), launch_ns="start_ns"
    )
    known = frame.filter(pl.col("correlation") > 0).drop_nulls("launch_ns")
    return known.group_by("correlation").agg(pl.col("launch_ns").min())


def _without_launch(count: int, rank: int, file: KinetoFile) -> list[dict[str, Any]]:
    if not count:
        return []
    text = f"{count} GPU activities have no launch in the trace: they are in no phase"
    return [
        finding("no-launch", text, rank=rank, source=str(file.path), count=count, severity="info")
    ]
