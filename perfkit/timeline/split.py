"""Where each rank's device time went: compute, exposed communication, copies, idle.

    compute + exposed_comm + copy + idle = window, exactly, in whole ns

compute is everything that is not communication or a copy, unknown kernels too; comm is the union
of communication; overlap is both at once; exposed_comm = comm - overlap; copy counts only outside
compute and comm; idle is what is left of the window.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perfkit.timeline.intervals import Ns, Union, both, union
from perfkit.timeline.windows import WHOLE, starts_inside, windows_of

SPLIT = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "phase": pl.String,  # whole: the captured request; else one of its phases
        "instances": pl.Int64,  # times the phase ran: the ns below are sums over them
        "window_ns": pl.Int64,
        "compute_ns": pl.Int64,
        "comm_ns": pl.Int64,
        "overlap_ns": pl.Int64,
        "exposed_comm_ns": pl.Int64,
        "copy_ns": pl.Int64,
        "idle_ns": pl.Int64,
        "wait_ns": pl.Int64,  # comm until the last rank entered; null: ranks not matched yet
        "transfer_ns": pl.Int64,  # comm from then on; null likewise
        "median_window_ns": pl.Float64,  # of one instance
        "kernels": pl.Int64,  # activities that start inside
        "unknown_share": pl.Float64,  # unknown kernels' part of the kernels' summed time
    }
)


@dataclass(frozen=True, slots=True)
class Sets:
    """One device's activities as unions, ready to be cut by any number of windows."""

    compute: Union
    comm: Union
    busy: Union
    """compute or comm"""
    all: Union


def split_table(activities: pl.DataFrame, ranges: pl.DataFrame) -> pl.DataFrame:
    """One row for each rank, device and phase, `whole` first (SPLIT)."""
    rows: list[dict[str, Any]] = []
    for (rank, device), mine in activities.group_by("rank", "device", maintain_order=True):
        sets = sets_of(mine)
        own = ranges.filter(pl.col("rank") == rank)
        for phase, (starts, ends) in windows_of(mine, own).items():
            row = {"rank": rank, "device": device, "phase": phase}
            rows.append(row | measures_within(sets, starts, ends) | counts(mine, starts, ends))
    order = [pl.col("rank"), pl.col("device"), pl.col("phase") != WHOLE]
    return pl.DataFrame(rows, schema=SPLIT).sort(order, maintain_order=True)


def sets_of(mine: pl.DataFrame) -> Sets:
    compute = _union(mine, "compute", "unknown")
    comm = _union(mine, "comm")
    busy = both(compute, comm)
    return Sets(compute, comm, busy, both(busy, _union(mine, "copy")))


def _union(mine: pl.DataFrame, *classes: str) -> Union:
    of = mine.filter(pl.col("class").is_in(classes))
    return union(of["start_ns"].to_numpy(), of["end_ns"].to_numpy())


def measures_within(sets: Sets, starts: Ns, ends: Ns) -> dict[str, Any]:
    """The split summed over windows; each window is measured by itself."""
    window = ends - starts
    compute, comm, busy, everything = (
        int(part.within(starts, ends).sum())
        for part in (sets.compute, sets.comm, sets.busy, sets.all)
    )
    total = int(window.sum())
    return {
        "instances": len(starts),
        "window_ns": total,
        "compute_ns": compute,
        "comm_ns": comm,
        "overlap_ns": compute + comm - busy,
        "exposed_comm_ns": busy - compute,
        "copy_ns": everything - busy,
        "idle_ns": total - everything,
        "median_window_ns": float(np.median(window)),
    }


def counts(mine: pl.DataFrame, starts: Ns, ends: Ns) -> dict[str, Any]:
    """Activities that start in the windows, and how much of the kernels' time is unknown."""
    started = mine.filter(pl.Series(starts_inside(mine, starts, ends)))
    within = started.filter(pl.col("class") != "copy")
    duration = pl.col("end_ns") - pl.col("start_ns")
    total, unknown = within.select(
        duration.sum(), duration.filter(pl.col("class") == "unknown").sum().alias("unknown")
    ).row(0)
    share = unknown / total if total else None
    return {"kernels": started.height, "unknown_share": share}
