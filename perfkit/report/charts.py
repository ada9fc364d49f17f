"""Frames -> charts of the HTML report: a Vega-Lite spec and a sentence that says the same.

Hues are of Okabe and Ito's colour-blind safe set, darkened on a light page and lightened on a dark
one until they stand out from it 3 to 1; only idle time, when nothing happens, is pale on purpose.
Text and axes get their colour from the page's style sheet, so that one chart is right on a light
and on a dark page and on paper. Names go into charts as data only, never as expressions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl
from altair.utils.schemapi import debug_mode

from perfkit.report.strip import WAITING, Strip
from perfkit.report.tables import significant

IDEAL, PREDICTED, MEASURED = "#7F8790", "#D55E00", "#0072B2"
WAIT, UNTOLD = "#3E92D8", "#4B2A8A"
SPLIT_COLOURS = {
    "compute": "#005A43",
    "exposed communication": "#C8508F",
    "copy": "#A87B00",
    "idle": "#BFC4CA",
}
LANE_COLOURS = {
    "compute": SPLIT_COLOURS["compute"],
    "communication": SPLIT_COLOURS["exposed communication"],
    WAITING: WAIT,
    "copy": SPLIT_COLOURS["copy"],
}
# On a dark page: the same hues, lighter or darker, to stand out as they do on a light one.
DARK_COLOURS = {
    MEASURED: "#3A9BD9",
    SPLIT_COLOURS["compute"]: "#0E9467",
    SPLIT_COLOURS["exposed communication"]: "#CC79A7",
    SPLIT_COLOURS["copy"]: "#E6B422",
    SPLIT_COLOURS["idle"]: "#5A626B",
    WAIT: "#56B4E9",
    UNTOLD: "#A05CE6",
}
# Parts of one prediction: shades of its colour.
MEMORY_COLOURS = {
    "weights": "#A34700",
    "KV cache": PREDICTED,
    "activations": "#EF9558",
    "overhead": "#F6CBA8",
}
NAMED_RANKS = 8
# The predicted point is drawn first and larger: where both are the same, its corners are seen.
POINT_SIZES = {"predicted": 130, "measured": 55}
CONFIG = {
    "font": "system-ui, -apple-system, 'Segoe UI', sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "labelSeparation": 6,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "aria": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One chart: what to draw, and its main numbers in words for those who do not see it."""

    title: str
    spec: dict[str, Any]
    alt: str


def headline_figures(rows: Iterable[dict[str, Any]]) -> list[Figure]:
    """One small chart for each measure of `compare.run.HEADLINE` in readable units.

    Each has its own axis from 0, for the measures differ in unit and by orders of magnitude.
    """
    known = [row for row in rows if row["predicted"] is not None or row["measured"] is not None]
    return [_headline_figure(row) for row in known]


def _headline_figure(row: dict[str, Any]) -> Figure:
    points = [
        {
            "what": what,
            "value": row[what],
            "low": row["measured_min"] if what == "measured" else None,
            "high": row["measured_max"] if what == "measured" else None,
        }
        for what in ("predicted", "measured")
        if row[what] is not None
    ]
    title = str(row["title"])
    y = alt.Y("what:N", title=None, sort=["predicted", "measured"])
    x = alt.X(
        "value:Q", title=title, scale=alt.Scale(zero=True, nice=5), axis=alt.Axis(tickCount=5)
    )
    base = alt.Chart(inline(points))
    rule = base.mark_rule(color=MEASURED, strokeWidth=3, opacity=0.55)
    ranged = rule.encode(y=y, x=alt.X("low:Q"), x2="high:Q")
    bars = [ranged] if row["measured"] is not None else []
    marks = base.mark_point(size=130, strokeWidth=2.5, opacity=1).encode(
        y=y,
        x=x,
        shape=fixed("what:N", {"predicted": "diamond", "measured": "circle"}, alt.Shape),
        stroke=fixed("what:N", {"predicted": PREDICTED, "measured": MEASURED}, alt.Stroke),
        fill=fixed("what:N", {"predicted": "transparent", "measured": MEASURED}, alt.Fill),
        tooltip=["what:N", *(alt.Tooltip(f"{n}:Q", format=",.4~g") for n in _FIELDS)],
    )
    return Figure(title="", spec=page_spec(alt.layer(*bars, marks), 76), alt=_headline_words(row))


_FIELDS = ("value", "low", "high")


def _headline_words(row: dict[str, Any]) -> str:
    predicted, measured = row["predicted"], row["measured"]
    words = f"{row['title']}: predicted {_number(predicted)}, measured {_number(measured)}"
    if measured is not None:
        words += f" ({_number(row['measured_min'])} to {_number(row['measured_max'])})"
    return f"{words}."


def split_figure(shares: pl.DataFrame, title: str) -> Figure:
    """Stacked bars of one phase, from a label and a share in 0..1 (or null) of each part."""
    rows = shares.to_dicts()
    bars = [
        {"rank": row["label"], "part": part, "order": order, "share": row[part]}
        for row in rows
        for order, part in enumerate(SPLIT_COLOURS)
        if row[part] is not None
    ]
    labels = [row["label"] for row in rows]
    chart = (
        alt.Chart(inline(bars))
        .mark_bar()
        .encode(
            y=row_axis(labels),
            x=alt.X(
                "share:Q",
                title="share of the time [%]",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format=".0%", tickCount=5),
            ),
            color=fixed("part:N", SPLIT_COLOURS, alt.Color),
            order="order:Q",
            tooltip=["rank:N", "part:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    sentences = [_split_words(row) for row in rows]
    return Figure(
        title=title, spec=page_spec(chart, height_of(len(rows))), alt=in_words(title, sentences)
    )


def _split_words(row: dict[str, Any]) -> str:
    if row["compute"] is None:
        return f"{row['label']}: not measured"
    return f"{row['label']}: " + ", ".join(f"{p} {100 * row[p]:.0f} %" for p in SPLIT_COLOURS)


def strip_figure(strip: Strip, labels: dict[tuple[int, str], str]) -> Figure:
    """The intervals of one decode step, a row a rank, a lane a class."""
    marks = [
        {
            "rank": labels[row["rank"], row["device"]],
            "lane": row["lane"],
            "start": round(row["start_ns"] / 1e6, 4),
            "end": round(row["end_ns"] / 1e6, 4),
            "busy": row["busy"],
        }
        for row in strip.marks.to_dicts()
    ]
    window_ms = strip.window_ns / 1e6
    lanes = [lane for lane in LANE_COLOURS if lane in strip.marks["lane"].unique().to_list()]
    chart = (
        alt.Chart(inline(marks))
        .mark_bar()
        .encode(
            y=row_axis(list(labels.values()), padding=0.25),
            yOffset=alt.YOffset("lane:N", scale=alt.Scale(domain=lanes, paddingOuter=0)),
            x=alt.X(
                "start:Q",
                title="time from the start of the step [ms]",
                scale=alt.Scale(domain=[0, window_ms], nice=False),
                axis=alt.Axis(tickCount=10),
            ),
            x2="end:Q",
            color=fixed("lane:N", LANE_COLOURS, alt.Color),
            opacity=alt.Opacity(
                "busy:Q", scale=alt.Scale(domain=[0, 1], range=[0.2, 1]), legend=None
            ),
            tooltip=["rank:N", "lane:N", "start:Q", "end:Q", alt.Tooltip("busy:Q", format=".0%")],
        )
    )
    title = f"Decode step {strip.number} of {strip.steps}, {significant(window_ms)} ms"
    spec = page_spec(chart, height_of(len(labels), 16 * max(len(lanes), 2)))
    return Figure(title=title, spec=spec, alt=f"{title}. {busy_words(strip, labels)}.")


def busy_words(strip: Strip, labels: dict[tuple[int, str], str]) -> str:
    """How much of the strip's window each rank spent in each lane."""
    return _listed([_busy_words(strip, key, label) for key, label in labels.items()])


def _busy_words(strip: Strip, key: tuple[int, str], label: str) -> str:
    mine = strip.busy.filter(pl.col("rank") == key[0], pl.col("device") == key[1]).to_dicts()
    return f"{label}: " + (
        ", ".join(f"{row['lane']} {100 * row['share']:.0f} %" for row in mine) or "nothing"
    )


def memory_figure(rows: Sequence[dict[str, Any]], unit: str) -> Figure | None:
    """Predicted parts stacked, measured bytes as points, capacity as a tick; None of nothing."""
    # White around blue or blue around white: the points are seen on a bar and beside it.
    fills = {"measured parameters": MEASURED, "measured in use": "#FFFFFF"}
    strokes = {"measured parameters": "#FFFFFF", "measured in use": MEASURED}
    shapes = {"measured parameters": "circle", "measured in use": "square"}
    bars = _sizes(rows, MEMORY_COLOURS, unit)
    ticks = _sizes(rows, ["capacity"], unit)
    points = _sizes(rows, fills, unit)
    layers = [
        # Outlined, for the palest shades hardly differ from a light page.
        bars.mark_bar(stroke=PREDICTED, strokeWidth=1).encode(
            color=fixed("what:N", MEMORY_COLOURS, alt.Color), order=alt.Order("order:Q")
        ),
        ticks.mark_tick(color=IDEAL, thickness=3, size=20),
        points.mark_point(size=90, strokeWidth=2, opacity=1).encode(
            shape=fixed("what:N", shapes, alt.Shape),
            fill=fixed("what:N", fills, alt.Fill),
            stroke=fixed("what:N", strokes, alt.Stroke),
        ),
    ]
    # Vega warns of the extent of nothing, so a layer with nothing in it stays out.
    drawn = [layer for layer in layers if layer.data.values]
    if not drawn:
        return None
    spec = page_spec(alt.layer(*drawn), height_of(len(rows)))
    words = [_memory_words(row, unit) for row in rows]
    return Figure(title="", spec=spec, alt=in_words("Memory of each rank", words))


def _sizes(rows: Sequence[dict[str, Any]], names: Iterable[str], unit: str) -> Any:
    """Some columns of every rank on the axes that all layers of the memory chart share."""
    values = [
        {"rank": row["label"], "what": name, "order": order, "size": row[name]}
        for row in rows
        for order, name in enumerate(names)
        if row[name] is not None
    ]
    x = alt.X("size:Q", title=f"memory of a rank [{unit}]", axis=alt.Axis(tickCount=8))
    tooltip: list[Any] = ["rank:N", "what:N", alt.Tooltip("size:Q", format=",.4~g", title=unit)]
    labels = [row["label"] for row in rows]
    return alt.Chart(inline(values)).encode(y=row_axis(labels), x=x, tooltip=tooltip)


def _memory_words(row: dict[str, Any], unit: str) -> str:
    names = ("predicted total", "measured parameters", "measured in use", "capacity")
    return f"{row['label']}: " + ", ".join(f"{n} {_number(row[n], unit)}" for n in names)


def inline(values: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows of data; held against no schema, which takes 1 s for 4,000 of them and finds nothing."""
    with debug_mode(False):
        return alt.InlineData(values=[dict(row) for row in values])


def row_axis(labels: list[str], padding: float = 0.2) -> alt.Y:
    """Rows in the given order; a rank with nothing to draw keeps its row."""
    scale = alt.Scale(domain=labels, padding=padding)
    return alt.Y("rank:N", title=None, sort=labels, scale=scale, axis=alt.Axis(labelOverlap=True))


def fixed(
    field: str, mapping: Mapping[str, str | int], channel: Any, legend: alt.Legend | None = None
) -> Any:
    """A channel with fixed values; the legend is the page's own unless there is no page."""
    scale = alt.Scale(domain=list(mapping), range=list(mapping.values()))
    return channel(field, scale=scale, legend=legend)


def height_of(rows: int, step: int = 26) -> int:
    """Lower rows when there are many: a page of 64 ranks must stay a page."""
    return rows * max(6, min(step, 1600 // max(rows, 1)))


def page_spec(chart: Any, height: int) -> dict[str, Any]:
    """The Vega-Lite spec, as wide as its place on the page; $schema is an address, so it goes."""
    sized = chart.properties(width="container", height=height)
    # Its parts were held against the schema when they were made.
    spec: dict[str, Any] = sized.to_dict(validate=False)
    spec.pop("$schema")
    return spec | {"config": CONFIG}


def in_words(title: str, sentences: Sequence[str], what: str = "ranks") -> str:
    return f"{title}. {_listed(sentences, what)}."


def _listed(sentences: Sequence[str], what: str = "ranks") -> str:
    """The first ranks; a sentence about 64 of them would be read by nobody."""
    more = len(sentences) - NAMED_RANKS
    return "; ".join(sentences[:NAMED_RANKS]) + (f"; and {more} more {what}" if more > 0 else "")


def _number(value: float | None, unit: str = "") -> str:
    return "not known" if value is None else f"{significant(value)} {unit}".rstrip()
