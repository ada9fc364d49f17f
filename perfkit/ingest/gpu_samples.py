"""Samples of a GPU's hardware counters -> what they were while kernels ran, and while none did.

A sample is of the time from its own timestamp to the next one's. By the edges of 37 bursts of
kernels on an H100 (nsys 2025.3, a sample every 5 ms) it starts there to within 20 us.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfkit.ingest.frames import DURING, GPU_METRICS

# One sample; time by the clock of the file.
SAMPLES = pl.Schema(
    {
        "gpu": pl.Int64(),  # number of the GPU in its node
        "time_ns": pl.Int64(),
        "metric": pl.String(),
        "unit": pl.String(),
        "value": pl.Float64(),
    }
)
# How often a value was seen; `during` is null for samples that are neither.
COUNTS = pl.Schema(
    {
        "gpu": pl.Int64(),
        "metric": pl.String(),
        "unit": pl.String(),
        "during": DURING,
        "value": pl.Float64(),
        "count": pl.Int64(),
    }
)
VALUES = [name for name in COUNTS.names() if name != "count"]
# Kernels ran during a sample when they cover this share of it: there are gaps between any two.
RAN = 0.95

Ns = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Kernels:
    """When kernels ran on one GPU: stretches in order that do not overlap."""

    starts: Ns
    ends: Ns
    before: Ns
    """ns covered by the stretches ahead of each one"""

    def covered(self, starts: Ns, ends: Ns) -> Ns:
        """ns of each [start, end) in which a kernel ran."""
        return self._up_to(ends) - self._up_to(starts)

    def _up_to(self, times: Ns) -> Ns:
        index = np.searchsorted(self.starts, times, side="right") - 1
        at = np.maximum(index, 0)
        partly = np.minimum(times, self.ends[at]) - self.starts[at]
        return np.where(index < 0, 0, self.before[at] + partly)


def stretches(kernels: pl.DataFrame) -> Kernels:
    """What each kernel adds to those that started before it."""
    reach = np.maximum.accumulate(kernels["end"].to_numpy())
    starts = kernels["start"].to_numpy().copy()
    starts[1:] = np.maximum(starts[1:], reach[:-1])
    before = np.concatenate(([0], np.cumsum(reach - starts)[:-1])).astype(np.int64)
    return Kernels(starts, reach, before)


def counted(samples: pl.DataFrame, kernels: Mapping[int, Kernels]) -> pl.DataFrame:
    """COUNTS of the samples that lie between the first and the last kernel of their GPU."""
    parts = [pl.DataFrame(schema={**SAMPLES, "during": DURING})]
    for (gpu,), mine in samples.partition_by("gpu", as_dict=True).items():
        if gpu in kernels:
            parts.append(_inside(mine, kernels[gpu]))
    counts = pl.concat(parts).group_by(VALUES).agg(pl.len().cast(pl.Int64).alias("count"))
    return counts.select(COUNTS.names())


def _inside(mine: pl.DataFrame, kernels: Kernels) -> pl.DataFrame:
    """The samples of one GPU that are wholly in the capture, and what ran during each."""
    # A part with one sample only does not say how long it is: it counts for the capture alone.
    step = mine["time_ns"].unique().sort().diff().median()
    length = int(step) if isinstance(step, float) else 0
    starts = mine["time_ns"].to_numpy()
    ends = starts + length
    inside = (starts >= kernels.starts[0]) & (ends <= kernels.ends[-1])
    share = kernels.covered(starts, ends) / length if length else np.full(len(starts), np.nan)
    during = (
        pl.when(pl.lit(pl.Series(share >= RAN)))
        .then(pl.lit("kernels"))
        .when(pl.lit(pl.Series(share == 0)))
        .then(pl.lit("no kernels"))
    )
    return mine.with_columns(during=during.cast(DURING)).filter(pl.Series(inside))


def summed_up(counts: pl.DataFrame, rank: int, device: str) -> pl.DataFrame:
    """GPU_METRICS of one device, by metric; a metric without samples has no row."""
    captured = counts.with_columns(during=pl.lit("capture", DURING))
    values = ["metric", "unit", "during", "value"]
    both = pl.concat([captured, counts.drop_nulls("during")])
    each = both.group_by(values).agg(pl.col("count").sum()).sort("metric", "during", "value")
    value, count = pl.col("value"), pl.col("count")
    seen, total = count.cum_sum(), count.sum()
    middle = [value.filter(seen > at).first() for at in ((total - 1) // 2, total // 2)]
    table = each.group_by("metric", "unit", "during", maintain_order=True).agg(
        samples=total,
        mean=(value * count).sum() / total,
        p50=(middle[0] + middle[1]) / 2,
        max=value.max(),
    )
    placed = table.with_columns(rank=pl.lit(rank), device=pl.lit(device))
    return placed.select(pl.col(name).cast(dtype) for name, dtype in GPU_METRICS.items())
