"""What any trace reader returns: the tables of one rank."""

from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from perfkit.ingest.frames import GPU_METRICS


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one trace file says about one rank."""

    rank: int
    rank_known: bool = True
    """False when nothing names the rank, and it was only counted"""
    world_size: int | None
    activities: pl.DataFrame
    """perfkit.ingest.frames.ACTIVITIES"""
    ranges: pl.DataFrame
    """perfkit.ingest.frames.RANGES"""
    syncs: pl.DataFrame
    """perfkit.ingest.frames.SYNCS"""
    devices: pl.DataFrame
    """perfkit.ingest.frames.DEVICES"""
    findings: list[dict[str, Any]]
    recognised: str
    """what the file is, for people"""
    gpu_metrics: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=GPU_METRICS))
    """perfkit.ingest.frames.GPU_METRICS"""
    own_clock: bool = False
    """True when its times are by the clock of its file, only about that of the host"""


def renumbered(trace: Trace, rank: int) -> Trace:
    """The same trace as that of another rank."""
    tables = {
        name: getattr(trace, name).with_columns(rank=pl.lit(rank, pl.Int32))
        for name in ("activities", "ranges", "syncs", "devices", "gpu_metrics")
    }
    findings = [row if row["rank"] is None else {**row, "rank": rank} for row in trace.findings]
    return replace(trace, rank=rank, findings=findings, **tables)
