"""One decode step over all ranks, as few intervals as a picture of it needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perfkit.timeline.analysis import Analysis
from perfkit.timeline.intervals import Ns, Union, union
from perfkit.timeline.windows import Windows, windows_of

# Lanes of one rank, and the classes of activity in each; unknown counts as compute, as in the split
LANES = {"compute": ("compute", "unknown"), "communication": ("comm",), "copy": ("copy",)}
MARKS = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "lane": pl.String,
        "start_ns": pl.Int64,  # from the start of the step on the first rank that began it
        "end_ns": pl.Int64,
    }
)
BUSY = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "lane": pl.String,
        "share": pl.Float64,  # of the strip's window, before any gap was closed
    }
)
MAX_MARKS = 4000
# A gap under 1/1500 of the strip is less than a pixel of it.
PIXELS = 1500

Decodes = dict[tuple[int, str], Windows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The intervals of one decode step."""

    number: int
    """which decode step, from 1; the prefill makes the first token"""
    steps: int
    window_ns: int
    gap_ns: int
    """intervals nearer than this are drawn as one"""
    marks: pl.DataFrame
    busy: pl.DataFrame


def decode_step(analysis: Analysis, max_marks: int = MAX_MARKS) -> Strip | None:
    """The middle decode step of the captured pass; None when no rank recorded one.

    Its window is from the first rank's start to the last rank's end, so that in a pipeline the
    neighbouring steps of other stages are in the picture too.
    """
    microbatches = int(analysis.run.get("config", {}).get("microbatches") or 1)
    decodes = _decodes(analysis)
    steps = min((len(starts) // microbatches for starts, _ends in decodes.values()), default=0)
    if not steps:
        return None
    number = steps // 2
    block = slice(number * microbatches, (number + 1) * microbatches)
    start = min(int(starts[block].min()) for starts, _ends in decodes.values())
    end = max(int(ends[block].max()) for _starts, ends in decodes.values())
    unions = _lanes(analysis.activities, start, end)
    gap, marks = _fitting(unions, end - start, max_marks)
    return Strip(
        number=number + 1,
        steps=steps,
        window_ns=end - start,
        gap_ns=gap,
        marks=marks,
        busy=_busy(unions, end - start),
    )


def _decodes(analysis: Analysis) -> Decodes:
    """Windows of the decode forwards of each rank's device, in the order of time."""
    found: Decodes = {}
    ranges = analysis.ranges.filter(pl.col("phase") == "decode")
    for (rank, device), mine in analysis.activities.group_by("rank", "device", maintain_order=True):
        windows = windows_of(mine, ranges.filter(pl.col("rank") == rank)).get("decode")
        if windows is not None:
            order = np.argsort(windows[0], kind="stable")
            found[int(str(rank)), str(device)] = (windows[0][order], windows[1][order])
    return found


def _lanes(activities: pl.DataFrame, start: int, end: int) -> dict[tuple[int, str, str], Union]:
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


def _fitting(
    unions: dict[tuple[int, str, str], Union], window_ns: int, max_marks: int
) -> tuple[int, pl.DataFrame]:
    """Close the gaps that cannot be seen; then wider ones, until there are few enough marks."""
    gap = max(window_ns // PIXELS, 1)
    while True:
        marks = {key: _closed(covered, gap) for key, covered in unions.items()}
        if sum(len(starts) for starts, _ends in marks.values()) <= max_marks or gap > window_ns:
            return gap, _frame(marks)
        gap *= 2


def _closed(covered: Union, gap_ns: int) -> tuple[Ns, Ns]:
    """The intervals with gaps shorter than gap_ns filled."""
    wide = covered.starts[1:] - covered.ends[:-1] >= gap_ns
    opens, closes = np.append(True, wide), np.append(wide, True)
    return covered.starts[opens], covered.ends[closes]


def _frame(marks: dict[tuple[int, str, str], tuple[Ns, Ns]]) -> pl.DataFrame:
    rows = [
        {"rank": rank, "device": device, "lane": lane, "start_ns": int(first), "end_ns": int(last)}
        for (rank, device, lane), (starts, ends) in marks.items()
        for first, last in zip(starts, ends, strict=True)
    ]
    return pl.DataFrame(rows, schema=MARKS)


def _busy(unions: dict[tuple[int, str, str], Union], window_ns: int) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {"rank": rank, "device": device, "lane": lane, "share": covered.total_ns / window_ns}
        for (rank, device, lane), covered in unions.items()
    ]
    return pl.DataFrame(rows, schema=BUSY)
