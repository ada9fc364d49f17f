"""Charts of kernels by class, predicted beside traced, and of collectives beside their link."""

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from perfkit.report.charts import (
    IDEAL,
    MEASURED,
    POINT_SIZES,
    PREDICTED,
    Figure,
    fixed,
    height_of,
    in_words,
    inline,
    page_spec,
)
from perfkit.report.tables import Column, significant

CLASS_COLUMNS = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="phase", title="one pass of", kind="text"),
    Column(name="class", title="kernels", kind="text"),
    Column(name="predicted_s", title="predicted [ms]", scale=1e3),
    Column(name="measured_s", title="measured [ms]", scale=1e3),
    Column(name="error", title="error", kind="signed"),
)
LEAST_DRAWN = 512
"""bytes: below, a point says latency only and stretches the axes"""
OPS = {
    "all_reduce": (MEASURED, "circle"),
    "all_gather": ("#009E73", "square"),
    "reduce_scatter": ("#C4699B", "triangle-up"),
    "send": ("#7A6FD0", "triangle-right"),
    "recv": ("#B07700", "triangle-left"),
    "broadcast": ("#9C6B3C", "cross"),
}
"""colour and shape of each collective that is drawn"""
POINTS = 40

Seconds = Callable[[float], float]
"""predicted seconds of an all-reduce of so many bytes"""


def class_figures(classes: pl.DataFrame) -> list[Figure]:
    """A chart for each phase, the mean of the ranks (compare/classes.py CLASSES)."""
    means = classes.group_by("phase", "class", maintain_order=True).agg(
        pl.col("predicted_s").mean(), pl.col("measured_s").mean()
    )
    phases = means["phase"].unique(maintain_order=True).to_list()
    return [_class_figure(phase, means.filter(phase=phase).to_dicts()) for phase in phases]


def _class_figure(phase: str, rows: Sequence[dict[str, Any]]) -> Figure:
    points = [
        {"class": row["class"], "what": what, "ms": 1e3 * row[f"{what}_s"]}
        for row in rows
        for what in POINT_SIZES
        if row[f"{what}_s"] is not None
    ]
    names = [row["class"] for row in rows]
    chart = (
        alt.Chart(inline(points))
        .mark_point(strokeWidth=2.5, opacity=1)
        .encode(
            y=alt.Y("class:N", title=None, sort=names, axis=alt.Axis(labelLimit=0)),
            x=alt.X("ms:Q", title="time of one pass [ms]", axis=alt.Axis(tickCount=5)),
            shape=fixed("what:N", {"predicted": "diamond", "measured": "circle"}, alt.Shape),
            stroke=fixed("what:N", {"predicted": PREDICTED, "measured": MEASURED}, alt.Stroke),
            fill=fixed("what:N", {"predicted": "transparent", "measured": MEASURED}, alt.Fill),
            size=fixed("what:O", POINT_SIZES, alt.Size),
            tooltip=["class:N", "what:N", alt.Tooltip("ms:Q", format=",.4~g")],
        )
    )
    title = f"One pass of {phase}"
    spec = page_spec(chart, height_of(len(rows)))
    return Figure(title=title, spec=spec, alt=in_words(title, [_class_words(r) for r in rows]))


def _class_words(row: dict[str, Any]) -> str:
    times = [
        f"{what} {significant(1e3 * row[f'{what}_s'])} ms"
        if row[f"{what}_s"] is not None
        else f"{what}: not known"
        for what in ("predicted", "measured")
    ]
    return f"{row['class']} {', '.join(times)}"


def collective_rows(collectives: pl.DataFrame) -> pl.DataFrame:
    """Those worth drawing, of which both the size and the transfer were measured."""
    known = pl.col("bus_bytes_per_s").is_not_null() & (pl.col("bytes") >= LEAST_DRAWN)
    return collectives.filter(known, pl.col("op").is_in(list(OPS))).sort("rank", "op", "bytes")


def collective_figure(
    rows: pl.DataFrame, link_bytes_per_s: float | None, predicted: Seconds | None
) -> Figure | None:
    """Bus bandwidth over the size of a call, under the link's own rate; None of nothing.

    Waiting for other ranks is not in it: a transfer starts when the last rank has entered.
    """
    if rows.is_empty():
        return None
    points = [
        {"op": row["op"], "rank": f"rank {row['rank']}", "bytes": row["bytes"], "rate": rate}
        for row in rows.to_dicts()
        for rate in [row["bus_bytes_per_s"] / 1e9]
    ]
    layers = [_link(link_bytes_per_s)] if link_bytes_per_s else []
    layers += [_predicted(rows, predicted)] if predicted else []
    ops = marks_of_ops(rows)
    layers.append(
        alt.Chart(inline(points))
        .mark_point(size=110, strokeWidth=2, opacity=1, filled=True)
        .encode(
            x=_sizes(),
            y=_rates(),
            shape=fixed("op:N", {op: shape for op, (_c, shape) in ops.items()}, alt.Shape),
            color=fixed("op:N", {op: colour for op, (colour, _s) in ops.items()}, alt.Color),
            tooltip=["op:N", "rank:N", "bytes:Q", alt.Tooltip("rate:Q", format=",.3~g")],
        )
    )
    words = [
        f"{point['op']} of {point['bytes']:,} bytes on {point['rank']} {point['rate']:.3g} GB/s"
        for point in points
    ]
    if link_bytes_per_s:
        words.append(f"the link {link_bytes_per_s / 1e9:.0f} GB/s")
    title = "Bus bandwidth of the collectives by the size of a call"
    # Vega warns of the extent of nothing, so a layer with nothing in it stays out.
    spec = page_spec(alt.layer(*[layer for layer in layers if layer]), 220)
    return Figure(title="", spec=spec, alt=in_words(title, words, "points"))


def marks_of_ops(rows: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """What the legend names: colour and shape of each collective among the rows."""
    return {op: mark for op, mark in OPS.items() if op in rows["op"].to_list()}


def _sizes() -> alt.X:
    scale = alt.Scale(type="log", nice=True)
    return alt.X("bytes:Q", title="bytes of a call", scale=scale, axis=_powers("~s"))


def _rates() -> alt.Y:
    scale = alt.Scale(type="log", nice=True)
    return alt.Y("rate:Q", title="bus bandwidth [GB/s]", scale=scale, axis=_powers("~g"))


def _powers(format: str) -> alt.Axis:
    """Lines at powers of ten only."""
    return alt.Axis(format=format, values=[10.0**power for power in range(-6, 13)])


def _link(bytes_per_s: float) -> Any:
    of_link = alt.Chart(inline([{"rate": bytes_per_s / 1e9, "name": "the link"}]))
    rule = of_link.mark_rule(color=IDEAL, strokeWidth=2, strokeDash=[6, 4]).encode(y=_rates())
    name = of_link.mark_text(align="left", dx=4, dy=10, color=IDEAL, x=0)
    return alt.layer(rule, name.encode(y=_rates(), text="name:N"))


def _predicted(rows: pl.DataFrame, seconds: Seconds) -> Any | None:
    """The curve that an all-reduce was predicted with, between the sizes that ran."""
    reduces = rows.filter(op="all_reduce")
    sizes = reduces["bytes"].cast(pl.Float64).to_numpy()
    if not len(sizes):
        return None
    group = int(reduces["num_ranks"][0])
    factor = 2 * (group - 1) / group
    line = [
        {"bytes": float(size), "rate": factor * size / seconds(float(size)) / 1e9}
        for size in np.geomspace(sizes.min(), max(sizes.max(), 2 * sizes.min()), POINTS)
    ]
    chart = alt.Chart(inline(line)).mark_line(color=PREDICTED, strokeWidth=2)
    return chart.encode(x=_sizes(), y=_rates())
