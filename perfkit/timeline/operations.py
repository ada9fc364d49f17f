"""What the time was spent on: operations by name, classes of operations, collectives by size."""

import polars as pl

from perfkit.timeline.waits import WAITS

OPERATIONS = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "name": pl.String,
        "class": pl.String,
        "family": pl.String,
        "calls": pl.Int64,
        "total_ns": pl.Int64,  # summed durations: those that run at once count twice
        "mean_ns": pl.Float64,
        "share": pl.Float64,  # of the summed durations of this rank's device
    }
)

COLLECTIVES = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "op": pl.String,  # all_reduce, send ...
        "group": pl.String,  # communicator; null when the source does not name it (gloo)
        "num_ranks": pl.Int32,
        "bytes": pl.Int64,  # of one call on this rank; null when shapes were not recorded
        "calls": pl.Int64,
        "total_ns": pl.Int64,  # with waiting for the other ranks in it
        "mean_ns": pl.Float64,
        "matched": pl.Int64,  # calls that were matched over ranks
        "wait_ns": pl.Int64,  # of those, until the last rank had entered; null: none matched
        "transfer_ns": pl.Int64,  # of those, from then on
        "algorithm_bytes_per_s": pl.Float64,  # bytes of one call / its mean transfer time
        "bus_bytes_per_s": pl.Float64,  # the same times BUS_FACTOR: to set beside a link's rate
    }
)

RANKS = pl.col("num_ranks").cast(pl.Float64)
# Bytes that each rank's link carries for one byte of the buffer, n ranks.
# Source: nccl-tests, doc/PERFORMANCE.md.
BUS_FACTOR = {
    "all_reduce": 2 * (RANKS - 1) / RANKS,
    "all_gather": (RANKS - 1) / RANKS,
    "reduce_scatter": (RANKS - 1) / RANKS,
    "all_to_all": (RANKS - 1) / RANKS,
    "broadcast": pl.lit(1.0),
    "reduce": pl.lit(1.0),
    "send": pl.lit(1.0),
    "recv": pl.lit(1.0),
}

FAMILIES = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "class": pl.String,
        "family": pl.String,
        "calls": pl.Int64,
        "total_ns": pl.Int64,
        "share": pl.Float64,  # of the summed durations of this rank's device
    }
)

DURATION = pl.col("end_ns") - pl.col("start_ns")


def operations_table(activities: pl.DataFrame) -> pl.DataFrame:
    """One row for each rank, device and name, the longest first (OPERATIONS)."""
    return _summed(activities, ["name", "class", "family"], OPERATIONS)


def families_table(operations: pl.DataFrame) -> pl.DataFrame:
    """One row for each rank, device, class and family, the longest first (FAMILIES).

    Added up from OPERATIONS, which have every name once.
    """
    keys = ["rank", "device", "class", "family"]
    sums = operations.group_by(keys).agg(pl.col("calls").sum(), pl.col("total_ns").sum())
    return _shared(sums, ["class", "family"], FAMILIES)


def collectives_table(activities: pl.DataFrame, waits: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row for each rank, collective, communicator and size, the longest first (COLLECTIVES).

    `waits` (perfkit.timeline.waits.WAITS) adds waiting, transfer and rates of what was matched.
    """
    keys = ["rank", "device", "op", "group", "num_ranks", "bytes"]
    rows = activities.filter(pl.col("op").is_not_null())
    known = pl.DataFrame(schema=WAITS) if waits is None else waits
    mine = known.select(
        "rank", "device", "start_ns", "end_ns", "group", "wait_ns", "transfer_ns"
    ).with_columns(matched=pl.lit(1))
    both = rows.join(
        mine, on=["rank", "device", "start_ns", "end_ns", "group"], how="left", nulls_equal=True
    )
    some = pl.col("matched").sum() > 0
    sums = both.group_by(keys).agg(
        calls=pl.len(),
        total_ns=DURATION.sum(),
        mean_ns=DURATION.mean(),
        matched=pl.col("matched").sum(),
        wait_ns=pl.when(some).then(pl.col("wait_ns").sum()),
        transfer_ns=pl.when(some).then(pl.col("transfer_ns").sum()),
    )
    moving = pl.when(pl.col("transfer_ns") > 0).then(pl.col("transfer_ns") / 1e9)
    rates = sums.with_columns(algorithm_bytes_per_s=pl.col("bytes") * pl.col("matched") / moving)
    rates = rates.with_columns(bus_bytes_per_s=pl.col("algorithm_bytes_per_s") * bus_factor())
    ordered = rates.with_columns(longest=-pl.col("total_ns")).sort(
        "rank", "device", "longest", "op", "group", "bytes"
    )
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in COLLECTIVES.items())


def bus_factor() -> pl.Expr:
    """BUS_FACTOR of each row's op and num_ranks; null where either is not known."""
    found: pl.Expr = pl.lit(None, dtype=pl.Float64)
    for op, factor in BUS_FACTOR.items():
        found = pl.when(pl.col("op") == op).then(factor).otherwise(found)
    return found


def _summed(rows: pl.DataFrame, by: list[str], schema: pl.Schema) -> pl.DataFrame:
    """Durations added up by some columns; the longest first in each rank's device."""
    keys = ["rank", "device", *by]
    # Kernels' names are up to a thousand letters long: grouped as they are, each would be copied.
    columns = rows.select(*keys, "start_ns", "end_ns").with_columns(
        pl.col(pl.String).cast(pl.Categorical)
    )
    grouped = columns.group_by(keys).agg(
        calls=pl.len(), total_ns=DURATION.sum(), mean_ns=DURATION.mean()
    )
    return _shared(grouped.with_columns(pl.col(pl.Categorical).cast(pl.String)), by, schema)


def _shared(sums: pl.DataFrame, by: list[str], schema: pl.Schema) -> pl.DataFrame:
    """With each row's share of its device's time; the longest first."""
    everything = pl.col("total_ns").sum().over("rank", "device")
    share = pl.when(everything > 0).then(pl.col("total_ns") / everything)
    shared = sums.with_columns(share=share, longest=-pl.col("total_ns"))
    ordered = shared.sort("rank", "device", "longest", *by)
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
