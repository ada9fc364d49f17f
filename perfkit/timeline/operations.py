"""What the time was spent on: operations by name, classes of operations, collectives by size."""

import polars as pl

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
    }
)

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


def families_table(activities: pl.DataFrame) -> pl.DataFrame:
    """One row for each rank, device, class and family, the longest first (FAMILIES)."""
    return _summed(activities, ["class", "family"], FAMILIES)


def collectives_table(activities: pl.DataFrame) -> pl.DataFrame:
    """One row for each rank, collective, communicator and size, the longest first (COLLECTIVES)."""
    rows = activities.filter(pl.col("op").is_not_null())
    return _summed(rows, ["op", "group", "num_ranks", "bytes"], COLLECTIVES)


def _summed(rows: pl.DataFrame, by: list[str], schema: pl.Schema) -> pl.DataFrame:
    """Durations added up by some columns; the longest first in each rank's device."""
    keys = ["rank", "device", *by]
    sums = rows.group_by(keys).agg(calls=pl.len(), total_ns=DURATION.sum(), mean_ns=DURATION.mean())
    everything = pl.col("total_ns").sum().over("rank", "device")
    share = pl.when(everything > 0).then(pl.col("total_ns") / everything)
    shared = sums.with_columns(share=share, longest=-pl.col("total_ns"))
    ordered = shared.sort("rank", "device", "longest", *by)
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
