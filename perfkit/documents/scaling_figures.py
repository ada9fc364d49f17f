"""F1 speed-up, F2 weak efficiency, F6 what batch and context cost; F7 is not recorded."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from perfkit.documents.figures import HEIGHT, DocFigure, not_there
from perfkit.documents.measured_tables import model_words
from perfkit.documents.scaling_tables import (
    STRONG,
    WEAK,
    Row,
    layout_words,
    series_of,
    typical,
    work_words,
)
from perfkit.report.charts import inline
from perfkit.report.scaling_charts import scaling_chart, scaling_points

LEGEND = alt.Legend(title=None, orient="top")
SIZE = {"width": 240, "height": HEIGHT}
SWEEP = "perfkit run STUDY, with a study of kind batch or context"
ROOFLINE = "ncu --set roofline around one decode step, outside perfkit"


def scaling_figures(frame: pl.DataFrame) -> list[DocFigure]:
    """F1, F2, F6, F7."""
    return [
        speedup_figure(typical(series_of(frame, "strong"))),
        efficiency_figure(typical(series_of(frame, "weak"))),
        sensitivity_figure(frame),
        not_there("F7", "Roofline", "no hardware counters of kernels are recorded", ROOFLINE),
    ]


def speedup_figure(rows: Sequence[Row]) -> DocFigure:
    """F1."""
    if not rows:
        caption = "Strong scaling: speed-up, with the ideal line and the predicted band"
        return not_there("F1", caption, "no work was run on different numbers of GPUs", STRONG)
    said = "; ".join(
        f"{layout_words(row)} on {row['gpus']} GPUs {row['speedup']:.2f} measured"
        + (f", {row['predicted_speedup']:.2f} predicted" if row["predicted_speedup"] else "")
        for row in rows
    )
    return DocFigure(
        id="F1",
        caption=f"Strong scaling of {work_words(rows[0])}. Dashed: ideal; ranges: from the fastest "
        "to the slowest pass where measured, the 90 % interval where predicted",
        alt=said,
        spec=_chart(rows, "speedup", "speed-up"),
        runs=_runs(rows),
        query="scaling.speedup, predicted_speedup, ideal",
    )


def efficiency_figure(rows: Sequence[Row]) -> DocFigure:
    """F2."""
    if not rows:
        caption = "Weak scaling: efficiency at the same batch for each GPU"
        return not_there("F2", caption, "no batch for each GPU was run on more than one size", WEAK)
    words = [f"{layout_words(row)} on {row['gpus']} GPUs {row['efficiency']:.2f}" for row in rows]
    return DocFigure(
        id="F2",
        caption=f"Weak scaling of {work_words(rows[0], per_gpu=True)}. Dashed: ideal; ranges: from "
        "the fastest to the slowest pass",
        alt="; ".join(words),
        spec=_chart(rows, "efficiency", "efficiency"),
        runs=_runs(rows),
        query="scaling.efficiency, predicted_efficiency",
    )


def _chart(rows: Sequence[Row], name: str, axis: str) -> dict[str, Any]:
    """Ideal as a line; measured and predicted as marks of their own with their ranges."""
    chart = scaling_chart(scaling_points(rows, name), axis, LEGEND)
    return dict(chart.properties(**SIZE).to_dict())


def sensitivity_figure(frame: pl.DataFrame) -> DocFigure:
    """F6: TPOT over the batch of each layout and prompt length that was run with several."""
    caption = "Time per output token over the batch, measured"
    timed = frame.filter(pl.col("inside").is_null(), pl.col("tpot_s").is_not_null())
    rows = (timed.filter(decode="graph") if "graph" in timed["decode"] else timed).to_dicts()
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_swept(row), []).append(row)
    swept = {key: found for key, found in groups.items() if len({r["prompts"] for r in found}) > 1}
    if not swept:
        why = "no layout was run with more than one batch"
        return not_there("F6", caption, why, SWEEP)
    points = [
        {"batch": row["prompts"], "ms": 1e3 * row["tpot_s"], "run": key}
        for key, found in swept.items()
        for row in found
    ]
    batches = sorted({point["batch"] for point in points})
    x = alt.X(
        "batch:Q",
        title="batch",
        scale=alt.Scale(type="log", base=2),
        axis=alt.Axis(values=batches, format="d"),
    )
    y = alt.Y("ms:Q", title="TPOT [ms]", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g"))
    legend = alt.Legend(title=None, orient="top", columns=1)
    chart = (
        alt.Chart(inline(points))
        .mark_line(point=True)
        .encode(x=x, y=y, color=alt.Color("run:N", legend=legend))
    )
    words = [f"{point['run']} batch {point['batch']} {point['ms']:.3g} ms" for point in points]
    return DocFigure(
        id="F6",
        caption=caption,
        alt="; ".join(words),
        spec=chart.properties(**SIZE).to_dict(),
        runs=_runs([row for found in swept.values() for row in found]),
        query="scaling.tpot_s",
    )


def _swept(row: Row) -> str:
    """What stays the same in a sweep of batches."""
    return f"{model_words(row)}, {layout_words(row)}, prompts of {row['prompt_tokens'] or 'a file'}"


def _runs(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run for row in rows for run in row["runs"]))
