"""Several runs in a few sentences: how fast, how far predictions are off, how it scales.

Each is left out where nothing was measured of it.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from perfkit.report.scaling import series
from perfkit.report.side_by_side import groups
from perfkit.report.side_by_side_text import group_title
from perfkit.report.tables import significant

CLOSE = 0.1
"""a prediction off by less counts as close; a share of the measured time"""
MOST_GROUPS = 4


def summary(runs: pl.DataFrame, scaled: pl.DataFrame) -> list[str]:
    """Sentences; `runs` is side_by_side.RUNS, `scaled` is compare.scaling.SCALING."""
    return [f"{text}." for text in (*speeds(runs), *predictions(runs), *speedups(scaled))]


def speeds(runs: pl.DataFrame) -> Iterator[str]:
    """The shortest and the longest median TPOT of each model on each kind of device."""
    timed = [part for part in groups(runs.drop_nulls("tpot_s")) if part.height]
    for part in timed[:MOST_GROUPS]:
        rows = part.sort("tpot_s").to_dicts()
        ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
        times = [f"{significant(1e3 * row['tpot_s'])} ms ({row['run']})" for row in ends]
        yield f"{group_title(rows[0])}: a token took {' to '.join(times)}"


def predictions(runs: pl.DataFrame) -> Iterator[str]:
    """How many predicted TPOT are close to the measured ones, and which is furthest off."""
    known = runs.drop_nulls("error").sort(pl.col("error").abs(), descending=True)
    if known.is_empty():
        return
    close = known.filter(pl.col("error").abs() <= CLOSE).height
    worst = known.row(0, named=True)
    yield (
        f"Predicted TPOT is within {100 * CLOSE:.0f} % for {close} of {known.height} runs; "
        f"furthest off is {worst['run']}, by {100 * worst['error']:+.0f} %"
    )


def speedups(scaled: pl.DataFrame) -> Iterator[str]:
    """The best efficiency on the most GPUs of any series, strong and weak, against its first."""
    for kind in ("strong", "weak"):
        ends = [row for found, part in series(scaled) if found == kind for row in _end(part)]
        if not ends:
            continue
        row = max(ends, key=lambda row: (row["gpus"], row["efficiency"]))
        layout = f"{row['gpus']} GPUs (TP{row['tp']} PP{row['pp']})"
        share = f"parallel efficiency {100 * row['efficiency']:.0f} %"
        speedup = f"speed-up {row['speedup']:.2f}, " if kind == "strong" else ""
        best = f", the best of {len(ends)} series" if len(ends) > 1 else ""
        yield f"{kind.capitalize()} scaling of {row['model']} to {layout}: {speedup}{share}{best}"


def _end(part: pl.DataFrame) -> list[dict[str, Any]]:
    """The best layout on the most GPUs of one series, if any was measured."""
    measured = part.drop_nulls("efficiency").filter(~pl.col("first"))
    return measured.sort("gpus", "efficiency").tail(1).to_dicts()
