"""Speed-up and efficiency over the number of GPUs, one chart a series of compare/scaling.py.

Ideal as a line, predicted with its band, measured with its spread.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from perfkit.report.charts import (
    IDEAL,
    MEASURED,
    PREDICTED,
    Figure,
    fixed,
    in_words,
    inline,
    page_spec,
)
from perfkit.report.scaling import series, title

KINDS = {"ideal": IDEAL, "predicted": PREDICTED, "measured": MEASURED}
SHAPES = {"ideal": "triangle-up", "predicted": "diamond", "measured": "circle"}
FILLS = {"ideal": "transparent", "predicted": "transparent", "measured": MEASURED}
VALUES = {"strong": ("speedup", "speed-up"), "weak": ("efficiency", "parallel efficiency")}
HEIGHT = 240
# Two places close together in the middle of a number of GPUs; the others stay empty.
PLACES = ["1", "2", "3", "measured", "predicted", "6", "7", "8"]

Row = Mapping[str, Any]


def scaling_figures(frame: pl.DataFrame) -> list[Figure]:
    """Of a SCALING frame; none where no work ran on different numbers of GPUs."""
    return [_figure(kind, part) for kind, part in series(frame) if kind in VALUES]


def _figure(kind: str, part: pl.DataFrame) -> Figure:
    name, axis = VALUES[kind]
    rows = part.to_dicts()
    chart = scaling_chart(scaling_points(rows, name), axis)
    words = [_words(row, name) for row in rows]
    heading = title(kind, part)
    spec = page_spec(chart, HEIGHT)
    return Figure(title=heading, spec=spec, alt=in_words(heading, words, "layouts"))


def scaling_points(rows: Sequence[Row], name: str) -> list[dict[str, Any]]:
    """{gpus, layout, what, value, low, high}: passes' range of the measured, 90 % interval of the
    predicted, nothing of the ideal.

    No interval of a predicted efficiency is known (compare/scaling.py).
    """
    first = next(row for row in rows if row["first"])
    ideal = {row["gpus"]: row["ideal"] if name == "speedup" else 1.0 for row in rows}
    points = [{"gpus": gpus, "what": "ideal", "value": value} for gpus, value in ideal.items()]
    return [*points, *(point for row in rows for point in _points(row, name, first["wall_s"]))]


def _points(row: Row, name: str, first_s: float) -> Iterator[dict[str, Any]]:
    point = {"gpus": row["gpus"], "layout": layout_words(row)}
    if row[name] is not None:
        low, high = (first_s / row[end] for end in ("wall_max_s", "wall_min_s"))
        yield {**point, "what": "measured", "value": row[name], "low": low, "high": high}
    if row[f"predicted_{name}"] is not None:
        low, high = (row.get(f"predicted_{name}_{end}") for end in ("p05", "p95"))
        value = row[f"predicted_{name}"]
        yield {**point, "what": "predicted", "value": value, "low": low, "high": high}


def layout_words(row: Row) -> str:
    """TP2 PP1, with the microbatches if several."""
    several = f" M{row['microbatches']}" if (row["microbatches"] or 1) > 1 else ""
    return f"TP{row['tp']} PP{row['pp']}{several}"


def scaling_chart(
    points: Sequence[Mapping[str, Any]], axis: str, legend: alt.Legend | None = None
) -> Any:
    """Ideal as a line; measured and predicted as marks beside each other, each with its range."""
    gpus = sorted({point["gpus"] for point in points})
    x = alt.X("gpus:O", title="GPUs", sort=gpus, axis=alt.Axis(labelAngle=0))
    y = alt.Y("value:Q", title=axis, scale=alt.Scale(zero=True))
    colour = fixed("what:N", KINDS, alt.Color, legend)
    ideal = [dict(point) for point in points if point["what"] == "ideal"]
    others = [dict(point) for point in points if point["what"] != "ideal"]
    ranged = [point for point in others if point["low"] is not None and point["high"] is not None]
    sides = alt.Scale(type="point", domain=PLACES)
    offset = alt.XOffset("what:N", scale=sides)
    line = alt.Chart(inline(ideal)).mark_line(strokeDash=[4, 3]).encode(x=x, y=y, color=colour)
    rules = (
        alt.Chart(inline(ranged))
        .mark_rule(strokeWidth=3, opacity=0.55)
        .encode(x=x, xOffset=offset, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    )
    marks = (
        alt.Chart(inline(others))
        .mark_point(size=90, opacity=1, strokeWidth=2.5)
        .encode(
            x=x,
            xOffset=offset,
            y=y,
            stroke=colour_of_marks(legend),
            fill=fixed("what:N", FILLS, alt.Fill),
            shape=fixed("what:N", SHAPES, alt.Shape),
            tooltip=["layout:N", "what:N", alt.Tooltip("value:Q", format=",.3~g")],
        )
    )
    names = (
        alt.Chart(inline(_to_name(others)))
        .mark_text(align="left", dx=8, fontSize=11)
        .encode(x=x, xOffset=offset, y=y, text="layout:N")
    )
    # Vega warns of the extent of nothing, so a layer with nothing in it stays out.
    return alt.layer(*[layer for layer in (line, rules, marks, names) if layer.data.values])


def _to_name(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One point of each layout where a number of GPUs has several: the predicted one, which stands
    on the right, or the measured one without it."""
    named: dict[tuple[int, str], Mapping[str, Any]] = {}
    for point in sorted(points, key=lambda point: str(point["what"])):
        named[point["gpus"], point["layout"]] = point
    several = [gpus for gpus, _layout in named]
    return [point for (gpus, _layout), point in named.items() if several.count(gpus) > 1]


def colour_of_marks(legend: alt.Legend | None) -> Any:
    return fixed("what:N", KINDS, alt.Stroke, legend)


def _words(row: Row, name: str) -> str:
    measured, predicted = row[name], row[f"predicted_{name}"]
    told = [
        f"{what} {value:.2f}"
        for what, value in (("measured", measured), ("predicted", predicted))
        if value is not None
    ]
    return f"{layout_words(row)} on {row['gpus']} GPUs {', '.join(told) or 'not measured'}"
