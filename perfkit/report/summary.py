"""A run in a few sentences: how fast, as predicted or not, what it was busy with, what it held,
and whether it answers as its baseline.

Each is left out where nothing was measured of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from perfkit.report.causes import stragglers
from perfkit.report.tables import significant
from perfkit.timeline.analysis import Analysis

SHARES = {
    "compute_ns": "computed for {} of the time",
    "transfer_ns": "moved data for {}",
    "wait_ns": "waited in NCCL for another rank for {}",
    "launch_bound_ns": "had nothing to do for {} because their host launched too late",
}
NOTABLE = 0.005


def summary(
    analysis: Analysis,
    headline: pl.DataFrame,
    memory: pl.DataFrame,
    unit: str,
    fidelity: Mapping[str, Any] | None,
) -> list[str]:
    """Sentences; `headline` is compare.run.HEADLINE in readable units, `memory` of html_parts,
    `fidelity` of blocks."""
    rows = {row["measure"]: row for row in headline.to_dicts()}
    answers = [fidelity["sentence"]] if fidelity else []
    made = (
        *speed(rows),
        *time(analysis),
        *stragglers(analysis)[:1],
        *room(memory, unit),
        *answers,
    )
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in made]


def speed(rows: Mapping[str, Any]) -> Iterator[str]:
    """Median TPOT and TTFT of the timed passes, and how far the prediction is off."""
    for measure, what in (("tpot_s", "a token took"), ("ttft_s", "the first token took")):
        row = rows.get(measure)
        if row is None or row["measured"] is None:
            continue
        found = f"{what} {significant(row['measured'])} ms"
        if row["predicted"] is not None:
            found += f", predicted {significant(row['predicted'])} ms: {off(row)}"
        yield found


def off(row: Mapping[str, Any]) -> str:
    error = row["error"]
    if abs(error) < NOTABLE:
        return "as measured"
    return f"{100 * abs(error):.0f} % {'more' if error > 0 else 'less'}"


def time(analysis: Analysis) -> Iterator[str]:
    """What the GPUs did in the captured decode steps, the mean of all ranks."""
    decode = analysis.split.filter(phase="decode")
    window = int(decode["window_ns"].sum())
    if not window:
        return
    parts = {name: int(decode[name].sum() or 0) / window for name in SHARES}
    told = [
        SHARES[name].format(f"{100 * share:.0f} %")
        for name, share in parts.items()
        if share >= NOTABLE
    ]
    if told:
        yield f"in the captured decode steps the GPUs {', '.join(told)}"


def room(memory: pl.DataFrame, unit: str) -> Iterator[str]:
    """How full the fullest rank's device was."""
    known = memory.filter(pl.col("measured in use").is_not_null(), pl.col("capacity").is_not_null())
    if known.is_empty():
        return
    row = known.sort("measured in use", descending=True).row(0, named=True)
    share = row["measured in use"] / row["capacity"]
    yield (
        f"rank {row['rank']} held most: {significant(row['measured in use'])} of "
        f"{significant(row['capacity'])} {unit}, {100 * share:.0f} %"
    )
