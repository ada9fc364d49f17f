"""What is made of one trace where it is: a small look for the others, and its own split.

`prepare` sorts a trace's activities by device; the result is as large as the trace and stays.
`look` is what the analysis of all ranks needs of it: collectives, and sums by operation. `split`
comes last, when the waiting for other ranks is known.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.places import Place
from perfkit.ingest.trace import Trace, renumbered
from perfkit.timeline.communicators import Names, named
from perfkit.timeline.operations import families_table, operations_table
from perfkit.timeline.parts import device_parts, together
from perfkit.timeline.peers import Layout
from perfkit.timeline.split import split_table
from perfkit.timeline.windows import inside_whole


@dataclass(frozen=True, slots=True)
class Prepared:
    """One rank's trace, one frame of activities for each device."""

    trace: Trace
    parts: list[pl.DataFrame]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The tables of one rank that are small, whatever its trace is."""

    collectives: pl.DataFrame
    """ACTIVITIES that stand for a collective, inside the whole"""
    ranges: pl.DataFrame
    syncs: pl.DataFrame
    devices: pl.DataFrame
    operations: pl.DataFrame
    families: pl.DataFrame
    gpu_metrics: pl.DataFrame


def prepare(place: Place, index: int, rank: int, layout: Layout | None) -> Prepared:
    """Trace `index` of a place, as that of `rank`; communicators as far as the layout says."""
    trace = place.traces[index]
    if trace.rank != rank:
        trace = renumbered(trace, rank)
    return Prepared(trace, device_parts([trace], trace.ranges, layout))


def look(prepared: Prepared) -> Look:
    trace = prepared.trace
    inside = [inside_whole(part, trace.ranges) for part in prepared.parts]
    operations = pl.concat(map(operations_table, inside))
    return Look(
        collectives=together([part.filter(pl.col("op").is_not_null()) for part in inside]),
        ranges=trace.ranges,
        syncs=trace.syncs,
        devices=trace.devices,
        operations=operations,
        families=families_table(operations),
        gpu_metrics=trace.gpu_metrics,
    )


def split(prepared: Prepared, waits: pl.DataFrame) -> pl.DataFrame:
    """SPLIT of one rank; `waits` are its own."""
    trace = prepared.trace
    return pl.concat(split_table(part, trace.ranges, waits, trace.syncs) for part in prepared.parts)


def activities(prepared: Prepared, names: Names) -> pl.DataFrame:
    """Every activity of one rank, its communicators named."""
    return named(together(prepared.parts), names)


def write_activities(prepared: Prepared, names: Names, path: Path) -> None:
    """The same as a parquet file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        activities(prepared, names).write_parquet(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}. Use --out FOLDER.") from error
