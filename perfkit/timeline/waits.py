"""Communication time told apart: waiting for the last rank to come, and transfer after that.

    wait     = min(end, entry of the last rank) - start, not below 0
    transfer = (end - start) - wait

of each rank's activity of a matched collective, on aligned clocks. Before the last rank has entered
nothing can be transferred; after it nobody waits for anybody. So wait + transfer is its duration.
A rank can leave a broadcast or a send before others have come: it has waited for none of those, so
of these operations only entries before the rank's own end count.

On a device, several activities can run at once. There transfer is the union of their transfer
parts, and wait what is left of their union: a moment in which anything is transferred is transfer.
"""

from collections.abc import Mapping

import polars as pl

from perfkit.timeline.clocks import aligned, ends_together

WAITS = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "op": pl.String,
        "group": pl.String,
        "sequence": pl.Int64,
        "num_ranks": pl.Int32,
        "bytes": pl.Int64,
        "start_ns": pl.Int64,  # by the clock of this rank's host
        "end_ns": pl.Int64,
        "wait_ns": pl.Int64,
        "transfer_ns": pl.Int64,
        "late_ns": pl.Int64,  # entry after that of the first rank, on aligned clocks
        "last": pl.Boolean,  # this rank entered last: the others waited for it
        "alone_ns": pl.Int64,  # of the last one: entry after that of the last but one; else null
    }
)

STRAGGLERS = pl.Schema(
    {
        "op": pl.String,
        "group": pl.String,
        "rank": pl.Int32,
        "collectives": pl.Int64,  # matched, of this op and group
        "last": pl.Int64,  # times that this rank entered last
        "share": pl.Float64,  # last / collectives
        "median_alone_ns": pl.Float64,  # how much later than the last but one, when it was last
        "cost_ns": pl.Int64,  # waiting of all other ranks in the collectives that it was last in
    }
)

ONE = ["group", "op", "sequence"]


def waits_table(
    matched: pl.DataFrame, clocks: pl.DataFrame, hosts: Mapping[int, str]
) -> pl.DataFrame:
    """One row for each rank of each matched collective (WAITS)."""
    rows = aligned(matched, clocks, hosts).with_columns(
        entered=pl.col("entered_ns") - pl.col("offset_ns")
    )
    together = ends_together()
    entered, duration = pl.col("entered"), pl.col("end_ns") - pl.col("start_ns")
    last_entry = entered.max().over(ONE)
    before_last = entered.sort().get(-2).over(ONE)
    rows = pl.concat(
        [_awaited(rows.filter(~together)), rows.filter(together).with_columns(awaited=last_entry)]
    )
    wait = (pl.col("awaited") + pl.col("offset_ns") - pl.col("start_ns")).clip(0, duration)
    # Of several that came at the same moment one is last: the lowest rank.
    position = entered.rank("ordinal", descending=True).over(ONE)
    rows = rows.sort(*ONE, "rank").with_columns(
        wait_ns=wait,
        transfer_ns=duration - wait,
        late_ns=entered - entered.min().over(ONE),
        last=position == 1,
        alone_ns=pl.when(position == 1).then(last_entry - before_last),
    )
    return rows.select(pl.col(name).cast(dtype) for name, dtype in WAITS.items())


def _awaited(rows: pl.DataFrame) -> pl.DataFrame:
    """With `awaited`: the last entry, of any rank, before this rank's own end."""
    entries = rows.select(*ONE, other="entered")
    both = rows.join(entries, on=ONE, nulls_equal=True)
    before = both.filter(pl.col("other") <= pl.col("end_ns") - pl.col("offset_ns"))
    last = before.group_by(*ONE, "rank").agg(awaited=pl.col("other").max())
    return rows.join(last, on=[*ONE, "rank"], how="left", nulls_equal=True).with_columns(
        pl.col("awaited").fill_null(pl.col("entered"))
    )


def stragglers_table(waits: pl.DataFrame) -> pl.DataFrame:
    """Which rank made the others wait, by op and communicator; the costliest first (STRAGGLERS)."""
    everybody = pl.col("wait_ns").sum().over(ONE)
    rows = waits.with_columns(others_ns=everybody - pl.col("wait_ns"))
    total = pl.col("sequence").n_unique()
    by_rank = rows.group_by("op", "group", "rank").agg(
        collectives=total,
        last=pl.col("last").sum(),
        median_alone_ns=pl.col("alone_ns").median(),
        cost_ns=pl.col("others_ns").filter("last").sum(),
    )
    shared = by_rank.with_columns(share=pl.col("last") / pl.col("collectives"))
    ordered = shared.sort(["cost_ns", "op", "group", "rank"], descending=[True, *[False] * 3])
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in STRAGGLERS.items())
