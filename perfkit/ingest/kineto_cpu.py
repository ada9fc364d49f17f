"""What a rank without a GPU did, as its main thread saw it.

The device is `cpu`: the thread that issues the work (the one that opened the phase ranges).

compute    Outermost operations of that thread (aten::linear, not the aten::addmm inside it). An
           operation that contains a communication call is opened up, so that waiting inside a
           custom autograd function does not count as computing.
comm       1. The thread's own calls (c10d::allreduce_): only handing over, often 20 us of 500.
           2. Collectives on gloo's threads (gloo:all_reduce on pt_gloo_runloop), which is where
              they run. An asynchronous collective can overlap with compute, a blocking one cannot.
           3. The gap on the main thread that ends with the gloo operation: the caller waits for
              it. The profiler marks no `wait`, so this is all that shows it.
           gloo:send and gloo:recv are marked from their issue until somebody waits for them, on
           the main thread: a send that left long ago looks as if it filled the whole next step. So
           of these only the gap before their end counts, and their call.
idle       The rest: Python between operations, and waking up after a collective.

Intra-operation threads (OpenMP) are inside their operation. Operations on other threads are not
counted; the quality table says how many there were.
"""

from typing import Any

import msgspec
import numpy as np
import polars as pl

from perfkit.ingest.classes import classified
from perfkit.ingest.frames import ACTIVITIES, finding
from perfkit.ingest.kineto_events import decoded
from perfkit.ingest.kineto_file import KinetoFile
from perfkit.ingest.kineto_rows import TIMES
from perfkit.ingest.sizes import tensors_bytes

GLOO = "gloo:"
NO_THREAD = -2
MOST_BYTES = 2**48


def cpu_activities(
    file: KinetoFile, rank: int, ranges: pl.DataFrame
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Activities of the main thread and of gloo, with findings. `ranges` also has tid."""
    operations = file.frames["cpu_op"].drop_nulls(TIMES)
    main = busiest_thread(ranges if ranges.height else operations)
    mine = operations.filter(pl.col("tid") == main)
    mine = mine.join(classified(mine["name"]), on="name", how="left", maintain_order="left")
    calls = mine.filter(pl.col("class") == "comm").with_columns(kind=pl.lit("comm_call"))
    work = outermost(without_containers(mine.filter(pl.col("class") != "comm"), calls))
    work = work.with_columns(
        pl.lit("cpu_op").alias("kind"),
        pl.lit("compute").alias("class"),
        pl.col("family").replace("unknown", "other"),
    )
    gloo = collectives(file, main, edges(mine, ranges))
    frame = pl.concat([work, outermost(calls), gloo], how="diagonal_relaxed")
    findings = _other_threads(operations.height - mine.height, rank, file)
    return finish(frame, rank), findings


def busiest_thread(frame: pl.DataFrame) -> int:
    """The thread of the request if `frame` is of ranges with one, else of most rows."""
    if "phase" in frame.columns:
        requests = frame.filter(pl.col("phase") == "request")
        frame = requests if requests.height else frame
    counts = frame.group_by("tid").len().sort(["len", "tid"], descending=[True, False])
    return int(counts["tid"][0]) if counts.height else NO_THREAD


def without_containers(work: pl.DataFrame, calls: pl.DataFrame) -> pl.DataFrame:
    """Operations in which no communication call starts."""
    starts = np.sort(calls["start_ns"].to_numpy())
    first = np.searchsorted(starts, work["start_ns"].to_numpy(), side="left")
    last = np.searchsorted(starts, work["end_ns"].to_numpy(), side="left")
    return work.filter(pl.Series(first == last))


def outermost(nested: pl.DataFrame) -> pl.DataFrame:
    """Operations of one thread that are inside no other."""
    ordered = nested.sort(["start_ns", "end_ns"], descending=[False, True])
    reach = pl.col("end_ns").cum_max().shift(1)
    return ordered.filter(reach.is_null() | (pl.col("end_ns") > reach))


def edges(operations: pl.DataFrame, ranges: pl.DataFrame) -> pl.Series:
    """Every moment at which something is known to begin or end on the main thread, sorted."""
    times = [frame[c] for frame in (operations, ranges) for c in ("start_ns", "end_ns")]
    return pl.concat(times).sort()


def collectives(file: KinetoFile, main: int, main_edges: pl.Series) -> pl.DataFrame:
    """gloo's operations, from when the caller began to wait or gloo began to work."""
    args = file.args["user_annotation"]
    frame = file.frames["user_annotation"].with_row_index("number")
    frame = frame.filter(pl.col("name").str.starts_with(GLOO)).drop_nulls(TIMES)
    sizes = [gloo_bytes(args[number]) for number in frame["number"]]
    frame = frame.drop("number").with_columns(
        pl.Series("bytes", sizes, dtype=pl.Int64), kind=pl.lit("collective")
    )
    index = main_edges.search_sorted(frame["end_ns"], side="right").cast(pl.Int64) - 1
    waited = pl.Series([main_edges[i] if i >= 0 else None for i in index], dtype=pl.Int64)
    frame = frame.with_columns(gap=pl.coalesce(waited, "start_ns"))
    start = (
        pl.when(pl.col("tid") == main)
        .then(pl.max_horizontal("start_ns", "gap"))
        .otherwise(pl.min_horizontal("start_ns", "gap"))
    )
    frame = frame.with_columns(start_ns=start)
    classes = classified(frame["name"]).rename({"kernel_op": "op"})
    return frame.join(classes, on="name", how="left", maintain_order="left")


def gloo_bytes(args: msgspec.Raw) -> int | None:
    """Size of the tensors of a gloo operation; None unless shapes were recorded."""
    given: dict[str, Any] = decoded(args, dict[str, Any], {})
    try:
        size = tensors_bytes(given.get("Input Dims"), given.get("Input type"))
    except (TypeError, ValueError, OverflowError):
        return None  # a shape of something else than numbers
    return size if size is not None and 0 <= size <= MOST_BYTES else None


def finish(frame: pl.DataFrame, rank: int) -> pl.DataFrame:
    """The declared columns, in order, by start."""
    given = frame.with_columns(rank=pl.lit(rank), device=pl.lit("cpu"), stream=pl.col("tid")).sort(
        "start_ns", "end_ns", maintain_order=True
    )
    return given.select(
        (pl.col(name) if name in given.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in ACTIVITIES.items()
    )


def _other_threads(count: int, rank: int, file: KinetoFile) -> list[dict[str, Any]]:
    if not count:
        return []
    text = f"{count} operations on other threads than the main one are not in the split"
    return [
        finding(
            "other-threads", text, rank=rank, source=str(file.path), count=count, severity="info"
        )
    ]
