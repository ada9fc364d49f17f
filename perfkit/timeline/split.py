"""Where each rank's device time went: compute, exposed communication, copies, idle.

    compute + exposed_comm + copy + idle = window, exactly, in whole ns

compute is everything that is not communication or a copy, unknown kernels too; comm is the union
of communication; overlap is both at once; exposed_comm = comm - overlap; copy counts only outside
compute and comm; idle is what is left of the window.

    wait + transfer + unmatched = comm, exactly

where collectives were matched over ranks (perfkit/timeline/waits.py): transfer is the union of the
transfer parts, wait the rest of the matched collectives, unmatched the communication of which no
other rank is known.

    launch_bound + synchronising + unknown_idle = idle, exactly

where launches were traced (perfkit/timeline/idle.py).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perfkit.ingest.frames import SYNCS
from perfkit.timeline.idle import IdleCauses, any_launches, idle_causes
from perfkit.timeline.intervals import Ns, Union, both, union
from perfkit.timeline.waits import WAITS
from perfkit.timeline.windows import WHOLE, by_device, starts_inside, windows_of

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
        "wait_ns": pl.Int64,  # comm until the last rank entered; null: nothing matched over ranks
        "transfer_ns": pl.Int64,  # comm from then on; null likewise
        "unmatched_ns": pl.Int64,  # comm that is neither
        "launch_bound_ns": pl.Int64,  # idle because the host came too late; null: no launches
        "synchronising_ns": pl.Int64,  # idle because the host waited for the device; null likewise
        "unknown_idle_ns": pl.Int64,  # idle that is neither
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
    matched: Union
    """comm of collectives that were matched over ranks"""
    transfer: Union
    """their part after the last rank had entered"""
    any_matched: bool
    causes: IdleCauses | None
    """None where no launch was traced"""


def split_table(
    activities: pl.DataFrame,
    ranges: pl.DataFrame,
    waits: pl.DataFrame | None = None,
    syncs: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """One row for each rank, device and phase, `whole` first (SPLIT)."""
    rows: list[dict[str, Any]] = []
    matched = pl.DataFrame(schema=WAITS) if waits is None else waits
    calls = pl.DataFrame(schema=SYNCS) if syncs is None else syncs
    for mine in by_device(activities):
        rank, device = mine["rank"][0], mine["device"][0]
        sets = sets_of(mine, matched.filter(rank=rank, device=device), calls.filter(rank=rank))
        own = ranges.filter(pl.col("rank") == rank)
        for phase, (starts, ends) in windows_of(mine, own).items():
            row = {"rank": rank, "device": device, "phase": phase}
            rows.append(row | measures_within(sets, starts, ends) | counts(mine, starts, ends))
    order = [pl.col("rank"), pl.col("device"), pl.col("phase") != WHOLE]
    return pl.DataFrame(rows, schema=SPLIT).sort(order, maintain_order=True)


def sets_of(mine: pl.DataFrame, waits: pl.DataFrame, syncs: pl.DataFrame) -> Sets:
    compute = _union(mine, "compute", "unknown")
    comm = _union(mine, "comm")
    busy = both(compute, comm)
    everything = both(busy, _union(mine, "copy"))
    starts, ends = waits["start_ns"].to_numpy(), waits["end_ns"].to_numpy()
    return Sets(
        compute=compute,
        comm=comm,
        busy=busy,
        all=everything,
        matched=union(starts, ends),
        transfer=union(ends - waits["transfer_ns"].to_numpy(), ends),
        any_matched=not waits.is_empty(),
        causes=idle_causes(mine, everything, syncs) if any_launches(mine) else None,
    )


def _union(mine: pl.DataFrame, *classes: str) -> Union:
    of = mine.select("class", "start_ns", "end_ns").filter(pl.col("class").is_in(classes))
    return union(of["start_ns"].to_numpy(), of["end_ns"].to_numpy())


def measures_within(sets: Sets, starts: Ns, ends: Ns) -> dict[str, Any]:
    """The split summed over windows; each window is measured by itself."""
    window = ends - starts
    compute, comm, busy, everything, matched, transfer = (
        int(part.within(starts, ends).sum())
        for part in (sets.compute, sets.comm, sets.busy, sets.all, sets.matched, sets.transfer)
    )
    total = int(window.sum())
    known = sets.any_matched
    return {
        "instances": len(starts),
        "window_ns": total,
        "compute_ns": compute,
        "comm_ns": comm,
        "overlap_ns": compute + comm - busy,
        "exposed_comm_ns": busy - compute,
        "copy_ns": everything - busy,
        "idle_ns": total - everything,
        "wait_ns": matched - transfer if known else None,
        "transfer_ns": transfer if known else None,
        "unmatched_ns": comm - matched if known else None,
        **idle_by_cause(sets.causes, starts, ends, total - everything),
        "median_window_ns": float(np.median(window)),
    }


def idle_by_cause(causes: IdleCauses | None, starts: Ns, ends: Ns, idle_ns: int) -> dict[str, Any]:
    """The three causes; nothing where none can be told."""
    if causes is None:
        return {}
    found = causes.within(starts, ends)
    return {**found, "unknown_idle_ns": idle_ns - sum(found.values())}


def counts(mine: pl.DataFrame, starts: Ns, ends: Ns) -> dict[str, Any]:
    """Activities that start in the windows, and how much of the kernels' time is unknown."""
    columns = mine.select("class", "start_ns", "end_ns")
    started = columns.filter(pl.Series(starts_inside(mine, starts, ends)))
    within = started.filter(pl.col("class") != "copy")
    duration = pl.col("end_ns") - pl.col("start_ns")
    total, unknown = within.select(
        duration.sum(), duration.filter(pl.col("class") == "unknown").sum().alias("unknown")
    ).row(0)
    share = unknown / total if total else None
    return {"kernels": started.height, "unknown_share": share}
