"""What one decode step of the captured pass is made of, from its start to that of the next.

    compute + transfer + wait + untold_comm + launch_bound + other = step, exactly

compute is all of it, communication only what compute does not hide; untold_comm is communication
of which transfer and wait cannot be told apart; other is the rest of the idle time, and copies.
Unlike the phase `decode` of the split, a step has the sampling, the hops between stages and the
waiting for other stages in it: its length is the captured pass's time per output token.
"""

from typing import Any

import numpy as np
import polars as pl

from perfkit.report.strip import decode_windows
from perfkit.timeline.intervals import Union, both
from perfkit.timeline.split import Sets, sets_of

STEP_PARTS = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "steps": pl.Int64,  # whole steps that the means are of
        "step_ns": pl.Float64,  # mean of one step, as are the others
        "compute_ns": pl.Float64,
        "transfer_ns": pl.Float64,  # null: not told apart from waiting
        "wait_ns": pl.Float64,
        "untold_comm_ns": pl.Float64,
        "launch_bound_ns": pl.Float64,  # null: no launches were traced
        "other_ns": pl.Float64,
    }
)
# The first step is left out: in a pipeline the prefill of later microbatches runs into it.
SKIPPED_STEPS = 1


def step_parts(
    activities: pl.DataFrame,
    ranges: pl.DataFrame,
    waits: pl.DataFrame,
    syncs: pl.DataFrame,
    *,
    microbatches: int = 1,
) -> pl.DataFrame:
    """One row for each traced rank's device (STEP_PARTS); none of a device with under 3 steps."""
    decodes = decode_windows(activities, ranges.filter(phase="decode"))
    rows = []
    for (rank, device), (starts, _ends) in decodes.items():
        whole_steps = len(starts) // microbatches * microbatches
        edges = starts[:whole_steps:microbatches][SKIPPED_STEPS:]
        if len(edges) < 2:
            continue
        sets = sets_of(
            activities.filter(rank=rank, device=device),
            waits.filter(rank=rank, device=device),
            syncs.filter(rank=rank),
        )
        steps = len(edges) - 1
        parts = parts_within(sets, int(edges[0]), int(edges[-1]))
        means = {name: None if ns is None else ns / steps for name, ns in parts.items()}
        rows.append({"rank": rank, "device": device, "steps": steps, **means})
    return pl.DataFrame(rows, schema=STEP_PARTS)


def parts_within(sets: Sets, start: int, end: int) -> dict[str, int | None]:
    """The parts of one window of one device, in ns, and its length as step_ns."""

    def covered(*parts: Union) -> int:
        return int(both(*parts).within(np.array([start]), np.array([end]))[0])

    compute, busy = covered(sets.compute), covered(sets.busy)
    told, sent = covered(sets.compute, sets.matched), covered(sets.compute, sets.transfer)
    # Without any communication there is nothing to tell apart: both are a measured 0.
    known = sets.any_matched or busy == compute
    launch_bound = covered(sets.causes.launch_bound) if sets.causes else None
    return {
        "step_ns": end - start,
        "compute_ns": compute,
        "transfer_ns": sent - compute if known else None,
        "wait_ns": told - sent if known else None,
        "untold_comm_ns": busy - told,
        "launch_bound_ns": launch_bound,
        "other_ns": end - start - busy - (launch_bound or 0),
    }


def mean_step(parts: pl.DataFrame) -> dict[str, Any]:
    """The mean of the devices (STEP_PARTS) by part; what one of them does not tell, none does."""
    names = [name for name in STEP_PARTS.names() if name.endswith("_ns")]
    if parts.is_empty():
        return dict.fromkeys(names)
    if parts["transfer_ns"].null_count():
        comm = pl.sum_horizontal("transfer_ns", "wait_ns", "untold_comm_ns")
        nothing = pl.lit(None, dtype=pl.Float64)
        parts = parts.with_columns(untold_comm_ns=comm, transfer_ns=nothing, wait_ns=nothing)
    if parts["launch_bound_ns"].null_count():
        idle = pl.sum_horizontal("launch_bound_ns", "other_ns")
        parts = parts.with_columns(other_ns=idle, launch_bound_ns=pl.lit(None, dtype=pl.Float64))
    return parts.select(pl.col(names).mean()).row(0, named=True)
