"""Communication by wait and transfer, idle time by cause, who made the others wait: as text."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from perfkit.report.tables import Column, render
from perfkit.timeline.analysis import Analysis

MS, US = 1e-6, 1e-3
# Ranks that made others wait are named while they are a notable part of the worst one's cost.
NOTABLE, MOST_STRAGGLERS = 0.05, 5

CAUSE_NOTE = "comm = wait (until the last rank entered) + transfer + unmatched; idle by its cause"

CAUSE_COLUMNS = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="device", title="device", kind="text"),
    Column(name="phase", title="phase", kind="text"),
    Column(name="comm_ns", title="comm ms", scale=MS),
    Column(name="wait_ns", title="wait", scale=MS),
    Column(name="transfer_ns", title="transfer", scale=MS),
    Column(name="unmatched_ns", title="unmatched", scale=MS),
    Column(name="idle_ns", title="idle ms", scale=MS),
    Column(name="launch_bound_ns", title="launch-bound", scale=MS),
    Column(name="synchronising_ns", title="sync", scale=MS),
    Column(name="unknown_idle_ns", title="unknown", scale=MS),
)


def cause_rows(analysis: Analysis) -> pl.DataFrame:
    """The split's rows of which something is known about causes."""
    known = pl.any_horizontal(pl.col("wait_ns", "launch_bound_ns").is_not_null())
    return analysis.split.filter(known)


def causes(analysis: Analysis, fmt: str) -> Iterator[str]:
    """The table of causes with what it says of ranks and clocks; nothing when none is known."""
    rows = cause_rows(analysis)
    if rows.is_empty():
        return
    yield render(rows, CAUSE_COLUMNS, fmt)
    yield CAUSE_NOTE
    yield from stragglers(analysis)
    yield from clocks(analysis)
    yield ""


def stragglers(analysis: Analysis) -> list[str]:
    """Who made the others wait, the costliest first."""
    table = analysis.stragglers.filter(pl.col("last") > 0, pl.col("cost_ns") > 0)
    worst = table["cost_ns"].max()
    notable = table.filter(pl.col("cost_ns") >= NOTABLE * pl.lit(worst)).head(MOST_STRAGGLERS)
    return [straggler(row) for row in notable.to_dicts()]


def straggler(row: Mapping[str, Any]) -> str:
    """One row of STRAGGLERS as a sentence."""
    what = row["op"] if row["op"].startswith("send") else f"{row['op']} ({row['group']})"
    alone, cost = US * row["median_alone_ns"], MS * row["cost_ns"]
    return (
        f"rank {row['rank']} entered last in {100 * row['share']:.0f} % of {row['collectives']:,} "
        f"{what}, by {alone:,.0f} us at the median: others waited {cost:,.0f} ms"
    )


def clocks(analysis: Analysis) -> list[str]:
    """How the clocks of several hosts were aligned, and how well."""
    rows = analysis.clocks.to_dicts()
    if len(rows) < 2:
        return []
    return [
        f"clock of {row['host']}: {US * row['offset_ns']:+,.1f} us against {rows[0]['host']} from "
        f"{row['collectives']:,} collectives; left over: {_us(row['residual_p50_ns'])} (median), "
        f"{_us(row['residual_p95_ns'])} (95th percentile)"
        for row in rows[1:]
    ]


def _us(ns: float | None) -> str:
    return "-" if ns is None else f"{US * ns:,.1f} us"
