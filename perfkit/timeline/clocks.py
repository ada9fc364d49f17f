"""How far the clocks of two hosts differ, from collectives that both took part in.

A collective ends on all of its ranks at about the same time: none can have the result before the
last one has given its part. So the difference of ends, less the difference of clocks, is small, and
its median over many collectives is the difference of clocks. What is left is the residual: how
far times of different hosts can be trusted. Ranks of one host share its clock.

Source: the rule of NVIDIA's nsys-jax (alignment by median end-time skew); the residual is ours.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from perfkit.timeline.matching import ROOTED

CLOCKS = pl.Schema(
    {
        "host": pl.String,
        "offset_ns": pl.Int64,  # to subtract from this host's times; 0 for the reference
        "collectives": pl.Int64,  # from which it was found; 0 for the reference
        "residual_p50_ns": pl.Float64,  # |end - mean end| of its collectives after alignment
        "residual_p95_ns": pl.Float64,
    }
)


def clocks_table(matched: pl.DataFrame, hosts: Mapping[int, str]) -> pl.DataFrame:
    """One row for each host, the reference (of the lowest rank) first (CLOCKS).

    `hosts` names each rank's host. A host that shares no collective with an aligned one is absent:
    its times cannot be compared with the others.
    """
    if not hosts:
        return pl.DataFrame(schema=CLOCKS)
    reference = hosts[min(hosts)]
    rows = matched.with_columns(
        host=pl.col("rank").replace_strict(hosts, default=None, return_dtype=pl.String),
        together=ends_together(),
    )
    offsets, counts = {reference: 0.0}, {reference: 0}
    pairs = _differences(rows)
    while reachable := [p for p in pairs if (p["a"] in offsets) != (p["b"] in offsets)]:
        best = max(reachable, key=lambda p: (p["together"], p["count"]))
        known, new, sign = (
            (best["a"], best["b"], 1) if best["a"] in offsets else (best["b"], best["a"], -1)
        )
        offsets[new] = offsets[known] + sign * best["difference"]
        counts[new] = best["count"]
    return _with_residuals(rows, offsets, counts)


def ends_together() -> pl.Expr:
    """Operations that no rank can leave before all have come."""
    return ~pl.col("op").is_in(ROOTED) & ~pl.col("op").str.starts_with("send ")


def _differences(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """For each two hosts: the median difference of ends (b - a), and of how many collectives.

    A send and its receive end within microseconds of each other (1.4 us on NVLink): they count
    only where two hosts have nothing better, as the stages of a pipeline have.
    """
    one = ["group", "op", "sequence", "together"]
    ends = rows.group_by(*one, "host").agg(end=pl.col("end_ns").mean())
    both = ends.join(ends, on=one, suffix="_b", nulls_equal=True)
    both = both.filter(pl.col("host") < pl.col("host_b"))
    return (
        both.group_by("together", a="host", b="host_b")
        .agg(difference=(pl.col("end_b") - pl.col("end")).median(), count=pl.len())
        .sort("a", "b", "together")
        .to_dicts()
    )


def _with_residuals(
    rows: pl.DataFrame, offsets: Mapping[str, float], counts: Mapping[str, int]
) -> pl.DataFrame:
    known = rows.filter(pl.col("host").is_in(list(offsets)), "together")
    offset = pl.col("host").replace_strict(dict(offsets), return_dtype=pl.Float64)
    aligned = known.with_columns(end=pl.col("end_ns") - offset)
    mean = pl.col("end").mean().over("group", "op", "sequence")
    residual = aligned.with_columns(residual=(pl.col("end") - mean).abs())
    found = residual.group_by("host").agg(
        residual_p50_ns=pl.col("residual").median(),
        residual_p95_ns=pl.col("residual").quantile(0.95, "linear"),
    )
    table = pl.DataFrame(
        {
            "host": list(offsets),
            "offset_ns": [round(value) for value in offsets.values()],
            "collectives": [counts[host] for host in offsets],
        },
        schema={name: CLOCKS[name] for name in ("host", "offset_ns", "collectives")},
    ).join(found, on="host", how="left", maintain_order="left")
    return table.select(pl.col(name).cast(dtype) for name, dtype in CLOCKS.items())


def aligned(matched: pl.DataFrame, clocks: pl.DataFrame, hosts: Mapping[int, str]) -> pl.DataFrame:
    """Matched rows with `offset_ns` of their host; collectives over an unaligned host are out."""
    offsets = dict(clocks.select("host", "offset_ns").iter_rows())
    of_rank = {rank: offsets.get(host) for rank, host in hosts.items()}
    rows = matched.with_columns(
        offset_ns=pl.col("rank").replace_strict(of_rank, default=None, return_dtype=pl.Int64)
    )
    unknown = pl.col("offset_ns").null_count().over("group", "op", "sequence")
    return rows.filter(unknown == 0)
