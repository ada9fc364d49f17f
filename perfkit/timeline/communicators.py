"""Communicators that the traces name in part or not at all, told from how their kernels end.

A trace can name a communicator without its size: NCCL says the size when it is set up, and that is
often before the recording begins. Then the ranks whose traces name it are taken for all of it.

A trace can leave out the name: nsys exports it only with --include-blobs=true. No rank has the
result of an all-reduce before the last one has given its part, so on all ranks it ends at the same
moment (0.3 us apart at the median on NVLink, 0.6 to 1.2 us over nodes), and its kernels overlap.
Streams of different ranks with the same operations in the same order that do so, each time, are one
communicator. The difference of clocks, the median of that of ends, is taken off first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfkit.ingest.frames import finding
from perfkit.ingest.rank_words import listed
from perfkit.timeline.matching import ROOTED

# In these nobody can leave before all have come; in a rooted one (a broadcast, say) the source can.
TOGETHER = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
# Fewer could end together by chance.
FEWEST = 8
# Spread of ends, less the difference of clocks: at the median and at the 95th percentile.
SPREAD_P50_NS, SPREAD_P95_NS = 5_000, 50_000

# rank, device, stream
Place = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Stream:
    """The unnamed collectives of one stream, in order."""

    ops: tuple[str, ...]
    starts: NDArray[np.int64]
    """of those that end together, as the ends"""
    ends: NDArray[np.int64]

    def ends_with(self, other: "Stream") -> bool:
        """Whether the same operations end together and overlap, whatever the clocks differ by."""
        if self.ops != other.ops:
            return False
        apart = self.ends - other.ends
        clocks = round(float(np.median(apart)))
        median, high = np.percentile(np.abs(apart - clocks), (50, 95))
        last = np.maximum(self.starts, other.starts + clocks)
        first = np.minimum(self.ends, other.ends + clocks)
        overlap = bool((last < first + SPREAD_P50_NS).all())
        return overlap and bool(median <= SPREAD_P50_NS and high <= SPREAD_P95_NS)


@dataclass(frozen=True, slots=True)
class Names:
    """What was found out: the size of communicators that had a name, and the names of others."""

    sizes: Mapping[str, int]
    places: Mapping[Place, tuple[str, int]]


def find_communicators(collectives: pl.DataFrame) -> tuple[Names, list[dict[str, Any]]]:
    """What can be told of the communicators of these collectives (ACTIVITIES), and how."""
    sizes, sizes_told = _sizes(collectives)
    streams = _unnamed(collectives)
    found = _ending_together(streams)
    places = {place: (f"by ends {i}", len(mine)) for i, mine in enumerate(found) for place in mine}
    told = [*sizes_told, _told(streams, found)] if found else sizes_told
    return Names(sizes, places), told


def named(rows: pl.DataFrame, names: Names) -> pl.DataFrame:
    """The same rows (ACTIVITIES) with what was found out."""
    if not names.sizes and not names.places:
        return rows
    unknown = pl.col("op").is_not_null() & pl.col("group").is_null()
    group = pl.col("group")
    num_ranks = pl.coalesce(
        "num_ranks", group.replace_strict(names.sizes, default=None, return_dtype=pl.Int32)
    )
    for (rank, device, stream), (name, count) in names.places.items():
        place = (pl.col("rank") == rank) & (pl.col("device") == device)
        here = unknown & place & (pl.col("stream") == stream)
        group = pl.when(here).then(pl.lit(name)).otherwise(group)
        num_ranks = pl.when(here).then(pl.lit(count, pl.Int32)).otherwise(num_ranks)
    return rows.with_columns(group=group, num_ranks=num_ranks)


def _sizes(collectives: pl.DataFrame) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """num_ranks of communicators that have a name only: the ranks that name it."""
    nameless = pl.col("group").is_not_null() & pl.col("num_ranks").is_null()
    rows = collectives.filter(nameless).select("rank", "group")
    ranks = rows.group_by("group").agg(pl.col("rank").unique().sort())
    ranks = ranks.filter(pl.col("rank").list.len() > 1).sort("group")
    if ranks.is_empty():
        return {}, []
    sizes = {group: len(mine) for group, mine in ranks.iter_rows()}
    told = "; ".join(f"{group}: {listed(mine)}" for group, mine in ranks.iter_rows())
    text = (
        "the traces name communicators and not their size (set up before the recording): the ranks "
        f"that name one are taken for all of it: {told}"
    )
    return sizes, [finding("sizes-seen", text, count=len(sizes), severity="info")]


def _unnamed(collectives: pl.DataFrame) -> dict[Place, Stream]:
    """The streams of collectives without a name, with enough of them that end together."""
    rows = collectives.filter(
        pl.col("kind") == "kernel", pl.col("op").is_not_null(), pl.col("group").is_null()
    )
    streams = {
        (rank, device, stream): _stream(mine)
        for (rank, device, stream), mine in rows.sort("start_ns").group_by(
            "rank", "device", "stream", maintain_order=True
        )
        if mine["op"].is_in([*TOGETHER, *ROOTED]).all()
    }
    return {place: stream for place, stream in streams.items() if len(stream.ends) >= FEWEST}


def _stream(rows: pl.DataFrame) -> Stream:
    together = rows.filter(pl.col("op").is_in(TOGETHER))
    times = together["start_ns"].to_numpy(), together["end_ns"].to_numpy()
    return Stream(tuple(rows["op"]), *times)


def _ending_together(streams: Mapping[Place, Stream]) -> list[list[Place]]:
    """Places that belong together: one of each rank, each with each other, and no second choice."""
    partners: dict[Place, list[Place]] = {place: [] for place in streams}
    for one, other in combinations(sorted(streams), 2):
        if one[0] != other[0] and streams[one].ends_with(streams[other]):
            partners[one].append(other)
            partners[other].append(one)
    groups = {
        tuple(sorted((place, *others)))
        for place, others in partners.items()
        if others and len({other[0] for other in others}) == len(others)
    }
    return [
        list(group)
        for group in sorted(groups)
        if all(sorted((place, *partners[place])) == list(group) for place in group)
    ]


def _told(streams: Mapping[Place, Stream], found: Sequence[Sequence[Place]]) -> dict[str, Any]:
    count = sum(len(streams[place].ops) for mine in found for place in mine)
    groups = "; ".join(listed([rank for rank, _device, _stream in mine]) for mine in found)
    text = (
        f"the communicators of {count} NCCL kernels are not in the traces (export them with "
        f"--include-blobs=true): by when they end they are those of {groups}. Ranks "
        "without a trace are not counted"
    )
    return finding("groups-by-ends", text, count=count, severity="info")
