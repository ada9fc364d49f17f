"""One decode step over all ranks, in as few marks as a picture of it needs.

A GPU's kernels are often microseconds long with wider gaps between them, a thousand to a pixel.
Drawn one by one they are too many; with their gaps closed an idle GPU would look busy. So the step
is cut into columns about a pixel wide, and each says what part of it is busy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perfkit.timeline.intervals import Ns, Union, union
from perfkit.timeline.windows import Windows, windows_of

# Lanes of one rank, and the classes of activity in each; unknown counts as compute, as in the split
LANES = {"compute": ("compute", "unknown"), "communication": ("comm",), "copy": ("copy",)}
WAITING = "of it waiting for a rank"
"""a lane of its own below the communication, of which it is a part"""
MARKS = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "lane": pl.String,
        "start_ns": pl.Int64,  # from the start of the step on the first rank that began it
        "end_ns": pl.Int64,
        "busy": pl.Float64,  # part of the mark's time that is busy, in 0..1, rounded up
    }
)
BUSY = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "lane": pl.String,
        "share": pl.Float64,  # of the strip's window
    }
)
MAX_MARKS = 4000
MAX_COLUMNS, MIN_COLUMNS = 1000, 100
LEVELS = 10

Lane = tuple[int, str, str]
Decodes = dict[tuple[int, str], Windows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The intervals of one decode step."""

    number: int
    """which decode step, from 1; the prefill makes the first token"""
    steps: int
    window_ns: int
    column_ns: int
    """nothing shorter than this can be told apart"""
    marks: pl.DataFrame
    busy: pl.DataFrame


def decode_step(
    activities: pl.DataFrame,
    ranges: pl.DataFrame,
    waits: pl.DataFrame,
    *,
    microbatches: int = 1,
    max_marks: int = MAX_MARKS,
) -> Strip | None:
    """The middle decode step of the captured pass; None when no rank recorded one. `waits` are
    the collectives matched over ranks (timeline/waits.py WAITS).

    Its window is from the first rank's start to the last rank's end, so that in a pipeline the
    neighbouring steps of other stages are in the picture too.
    """
    decodes = decode_windows(activities, ranges.filter(pl.col("phase") == "decode"))
    steps = min((len(starts) // microbatches for starts, _ends in decodes.values()), default=0)
    if not steps:
        return None
    number = steps // 2
    block = slice(number * microbatches, (number + 1) * microbatches)
    start = min(int(starts[block].min()) for starts, _ends in decodes.values())
    end = max(int(ends[block].max()) for _starts, ends in decodes.values())
    unions = _lanes(activities, start, end) | _waiting(waits, start, end)
    columns = min(end - start, MAX_COLUMNS, max(MIN_COLUMNS, max_marks // max(len(unions), 1)))
    return Strip(
        number=number + 1,
        steps=steps,
        window_ns=end - start,
        column_ns=(end - start) // columns,
        marks=_frame(unions, end - start, columns),
        busy=_busy(unions, end - start),
    )


def decode_windows(activities: pl.DataFrame, ranges: pl.DataFrame) -> Decodes:
    """Windows of the decode forwards of each rank's device, in the order of time."""
    found: Decodes = {}
    for (rank, device), mine in activities.group_by("rank", "device", maintain_order=True):
        windows = windows_of(mine, ranges.filter(pl.col("rank") == rank)).get("decode")
        if windows is not None:
            order = np.argsort(windows[0], kind="stable")
            found[int(str(rank)), str(device)] = (windows[0][order], windows[1][order])
    return found


def _lanes(activities: pl.DataFrame, start: int, end: int) -> dict[Lane, Union]:
    """What each rank did in the window, as one union a lane, from 0 at the window's start."""
    inside = activities.filter(pl.col("start_ns") < end, pl.col("end_ns") > start)
    found = {}
    for (rank, device), mine in inside.group_by("rank", "device", maintain_order=True):
        for lane, classes in LANES.items():
            of = mine.filter(pl.col("class").is_in(classes))
            starts = np.clip(of["start_ns"].to_numpy() - start, 0, end - start)
            ends = np.clip(of["end_ns"].to_numpy() - start, 0, end - start)
            covered = union(starts, ends)
            if len(covered.starts):
                found[int(str(rank)), str(device), lane] = covered
    return found


def _waiting(waits: pl.DataFrame, start: int, end: int) -> dict[Lane, Union]:
    """What part of each rank's communication was before the last rank had entered."""
    found = {}
    until = waits.with_columns(end_ns=pl.col("start_ns") + pl.col("wait_ns"))
    inside = until.filter(pl.col("start_ns") < end, pl.col("end_ns") > start, pl.col("wait_ns") > 0)
    for (rank, device), mine in inside.group_by("rank", "device", maintain_order=True):
        starts = np.clip(mine["start_ns"].to_numpy() - start, 0, end - start)
        ends = np.clip(mine["end_ns"].to_numpy() - start, 0, end - start)
        found[int(str(rank)), str(device), WAITING] = union(starts, ends)
    return found


def _frame(unions: dict[Lane, Union], window_ns: int, columns: int) -> pl.DataFrame:
    """Each lane cut into columns; neighbours that are equally busy become one mark."""
    edges = np.linspace(0, window_ns, columns + 1).astype(np.int64)
    rows = [
        {"rank": rank, "device": device, "lane": lane, **mark}
        for (rank, device, lane), covered in unions.items()
        for mark in _marks(covered, edges)
    ]
    return pl.DataFrame(rows, schema=MARKS)


def _marks(covered: Union, edges: Ns) -> Iterator[dict[str, Any]]:
    """Stretches of one lane: what part of each is busy, in steps of 1/LEVELS; idle ones not."""
    busy = covered.within(edges[:-1], edges[1:]) / np.diff(edges)
    # Rounded up: what is hardly there must not become nothing.
    level = np.ceil(busy * LEVELS - 1e-9).astype(np.int64)
    opens = np.append(True, level[1:] != level[:-1])
    first = np.flatnonzero(opens)
    last = np.append(first[1:], len(level))
    for start, end in zip(first, last, strict=True):
        if level[start]:
            yield {
                "start_ns": int(edges[start]),
                "end_ns": int(edges[end]),
                "busy": float(level[start]) / LEVELS,
            }


def _busy(unions: dict[Lane, Union], window_ns: int) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {"rank": rank, "device": device, "lane": lane, "share": covered.total_ns / window_ns}
        for (rank, device, lane), covered in unions.items()
    ]
    return pl.DataFrame(rows, schema=BUSY)
