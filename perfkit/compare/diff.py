"""Two traces side by side: the split, classes of operations and single operations.

Times are means over the ranks of each side, of the captured step: sides with different numbers of
ranks can be compared, and the numbers are printed. What one side does not have is null there.
"""

from dataclasses import dataclass

import polars as pl

from perfkit.timeline.analysis import Analysis
from perfkit.timeline.windows import WHOLE

DIFFERENCE = pl.Schema(
    {
        "name": pl.String,
        "calls_a": pl.Float64,  # mean over the ranks of the side
        "calls_b": pl.Float64,
        "a_ns": pl.Float64,  # summed durations, mean over the ranks
        "b_ns": pl.Float64,
        "difference_ns": pl.Float64,  # b - a; a missing side counts as nothing here
        "ratio": pl.Float64,  # b / a; null unless both have it
    }
)

PARTS = ("window", "compute", "comm", "exposed_comm", "copy", "idle", "wait", "transfer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What changed from a to b; every frame is DIFFERENCE, the largest change first."""

    a: Analysis
    b: Analysis
    split: pl.DataFrame
    families: pl.DataFrame
    operations: pl.DataFrame


def diff(a: Analysis, b: Analysis) -> Difference:
    """The captured steps of two analyses, compared."""
    return Difference(
        a=a,
        b=b,
        split=_split(a, b),
        families=_summed(a, a.families, b, b.families, ["class", "family"]),
        operations=_summed(a, a.operations, b, b.operations, ["name"]),
    )


def traced_ranks(analysis: Analysis) -> int:
    """Ranks of which there is a trace."""
    return int(analysis.split["rank"].n_unique())


def _split(a: Analysis, b: Analysis) -> pl.DataFrame:
    """The parts of the whole step, in their own order."""
    rows = []
    for part in PARTS:
        before, after = (_mean(analysis, f"{part}_ns") for analysis in (a, b))
        rows.append({"name": part, "a_ns": before, "b_ns": after})
    return _differences(
        pl.DataFrame(rows, schema_overrides={"a_ns": pl.Float64, "b_ns": pl.Float64})
    )


def _mean(analysis: Analysis, column: str) -> float | None:
    whole = analysis.split.filter(pl.col("phase") == WHOLE)
    mean = whole[column].mean()
    return float(mean) if isinstance(mean, (int, float)) else None


def _summed(
    a: Analysis, rows_a: pl.DataFrame, b: Analysis, rows_b: pl.DataFrame, by: list[str]
) -> pl.DataFrame:
    sides = [
        rows.group_by(by).agg(
            (pl.col("calls").sum() / traced_ranks(analysis)).alias(f"calls_{side}"),
            (pl.col("total_ns").sum() / traced_ranks(analysis)).alias(f"{side}_ns"),
        )
        for side, analysis, rows in (("a", a, rows_a), ("b", b, rows_b))
    ]
    both = sides[0].join(sides[1], on=by, how="full", coalesce=True)
    found = _differences(both.with_columns(name=pl.concat_str(by, separator=" ")))
    return found.sort(pl.col("difference_ns").abs(), "name", descending=[True, False])


def _differences(rows: pl.DataFrame) -> pl.DataFrame:
    a, b = pl.col("a_ns"), pl.col("b_ns")
    known = rows.with_columns(
        difference_ns=pl.when(a.is_not_null() | b.is_not_null()).then(
            b.fill_null(0) - a.fill_null(0)
        ),
        ratio=pl.when(a > 0).then(b / a),
    )
    return known.select(
        (pl.col(name) if name in known.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in DIFFERENCE.items()
    )
