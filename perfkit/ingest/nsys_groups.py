"""Communicators of NCCL's kernels in an export that does not name them, seen from when they ran.

No rank can leave an all-reduce before the last one has entered it, so its kernels overlap in time
on all ranks. Where the i-th collective of one stream overlaps with the i-th of a stream on another
rank, for every i, in the same file and so by the same clock, the two are one communicator. A single
exception, or another number of collectives, and they are not. Ranks outside of the file are not
seen: a communicator over several nodes looks like that of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfkit.ingest.frames import finding
from perfkit.ingest.trace import Trace

# In these nobody can leave before all have come (a broadcast's source can).
TOGETHER = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
# Fewer could overlap by chance.
FEWEST = 4

# rank, device, stream
Place = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Collectives:
    """The unnamed collectives of one stream, in order."""

    ops: tuple[str, ...]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def alongside(self, other: "Collectives") -> bool:
        """Whether the same operations ran at the same time, each one."""
        if self.ops != other.ops:
            return False
        last, first = np.maximum(self.starts, other.starts), np.minimum(self.ends, other.ends)
        return bool((last < first).all())


def with_groups_seen(traces: Sequence[Trace]) -> list[Trace]:
    """The traces of one file, with the communicators that can be told from their kernels."""
    places = {place: c for trace in traces for place, c in unnamed(trace.activities).items()}
    found = communicators(places)
    if not found:
        return list(traces)
    names = {place: (f"seen {i}", len(mine)) for i, mine in enumerate(found) for place in mine}
    own = [{place: n for place, n in names.items() if place[0] == t.rank} for t in traces]
    named = [
        replace(trace, activities=_named(trace.activities, mine))
        for trace, mine in zip(traces, own, strict=True)
    ]
    traces[0].findings.append(_told(places, found))
    return named


def unnamed(activities: pl.DataFrame) -> dict[Place, Collectives]:
    """The streams of NCCL whose communicator has no name, where all of them can be matched."""
    rows = activities.filter(
        pl.col("kind") == "kernel", pl.col("op").is_not_null(), pl.col("group").is_null()
    ).sort("start_ns")
    return {
        (rank, device, stream): Collectives(
            tuple(mine["op"]), mine["start_ns"].to_numpy(), mine["end_ns"].to_numpy()
        )
        for (rank, device, stream), mine in rows.group_by("rank", "device", "stream")
        if mine.height >= FEWEST and mine["op"].is_in(TOGETHER).all()
    }


def communicators(places: Mapping[Place, Collectives]) -> list[list[Place]]:
    """The places that belong together; each one alongside each other one, one of each rank."""
    together = {
        frozenset(pair)
        for pair in combinations(sorted(places), 2)
        if pair[0][0] != pair[1][0] and places[pair[0]].alongside(places[pair[1]])
    }
    left, found = sorted(places), []
    while left:
        mine = [left[0], *(p for p in left[1:] if frozenset((left[0], p)) in together)]
        if len(mine) > 1 and all(frozenset(pair) in together for pair in combinations(mine, 2)):
            found.append(mine)
        left = [place for place in left if place not in mine]
    return found


def _named(activities: pl.DataFrame, names: Mapping[Place, tuple[str, int]]) -> pl.DataFrame:
    unknown = pl.col("op").is_not_null() & pl.col("group").is_null()
    group, num_ranks = pl.col("group"), pl.col("num_ranks")
    for (_rank, device, stream), (name, count) in names.items():
        here = unknown & (pl.col("device") == device) & (pl.col("stream") == stream)
        group = pl.when(here).then(pl.lit(name)).otherwise(group)
        num_ranks = pl.when(here).then(pl.lit(count, pl.Int32)).otherwise(num_ranks)
    return activities.with_columns(group=group, num_ranks=num_ranks)


def _told(places: Mapping[Place, Collectives], found: Sequence[Sequence[Place]]) -> dict[str, Any]:
    count = sum(len(places[place].ops) for mine in found for place in mine)
    groups = "; ".join(", ".join(str(rank) for rank, _device, _stream in mine) for mine in found)
    text = (
        f"the communicators of {count} NCCL kernels are not in the file (export it with "
        "--include-blobs=true): by when they ran they are those of ranks "
        f"{groups}. Ranks in other files are not counted"
    )
    return finding("groups-seen", text, count=count)
