"""TPOT of several runs as a picture: what a decode step is made of, measured and predicted.

A bar is the mean decode step of the captured pass, which the profiler slowed; the points are the
TPOT of the timed passes and its prediction. How far a bar reaches beyond its measured point is what
the profiler cost. Each model on a kind of device has an axis of its own: times differ tenfold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from perfkit.errors import ConfigError
from perfkit.report.charts import (
    CONFIG,
    DARK_COLOURS,
    MEASURED,
    POINT_SIZES,
    PREDICTED,
    SPLIT_COLOURS,
    UNTOLD,
    WAIT,
    Figure,
    fixed,
    height_of,
    in_words,
    inline,
    page_spec,
)
from perfkit.report.side_by_side import groups
from perfkit.report.side_by_side_text import group_title, layout, number, partly, tokens

STEP_COLOURS = {
    "compute": SPLIT_COLOURS["compute"],
    "transfer": SPLIT_COLOURS["exposed communication"],
    "wait for another rank": WAIT,
    "communication, not told apart": UNTOLD,
    "launch-bound idle": SPLIT_COLOURS["copy"],
    "other idle": SPLIT_COLOURS["idle"],
}
PARTS = ("compute_ns", "transfer_ns", "wait_ns", "untold_comm_ns", "launch_bound_ns", "other_ns")
POINTS = {"measured": "tpot_s", "predicted": "predicted_tpot_s"}
PICTURE_WIDTH, PICTURE_STEP, PAGE_STEP, BAR = 520, 22, 36, 14
# Above the bars, for a phone has no room beside them.
LABELS_INSIDE = {"labelAlign": "left", "labelPadding": -2, "labelOffset": -BAR, "ticks": False}
TITLE = "time per output token [ms]"
# Text is laid out where the file is made, as wide as Arial: other fonts need some room more.
FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
# Its background is part of the file: whoever shows it does not say whether the page is dark.
LIGHT, DARK = "#ffffff", "#14171a"
DARK_RULES = "\n".join(
    f'svg [{what}="{light}"] {{ {what}: {dark}; }}'
    for light, dark in DARK_COLOURS.items()
    for what in ("fill", "stroke")
)
DARK_STYLE = f"""<style>@media (prefers-color-scheme: dark) {{
svg > rect {{ fill: {DARK}; }}
svg text {{ fill: #e8eaed; }}
svg [stroke="#ddd"], svg [stroke="#888"] {{ stroke: #363c43; }}
{DARK_RULES}
}}</style>"""

# What a run is called on the axis, and its row.
Named = tuple[str, Mapping[str, Any]]


def step_colours(runs: pl.DataFrame) -> dict[str, str]:
    """The parts that any run has, with their colours: what the legend names."""
    found = zip(STEP_COLOURS.items(), PARTS, strict=True)
    return {name: colour for (name, colour), part in found if (runs[part].sum() or 0) > 0}


def tpot_figures(runs: pl.DataFrame) -> list[Figure]:
    """A chart for each model and kind of device (RUNS), for the page."""
    colours = step_colours(runs)
    return [_figure(group, colours) for group in _drawable(runs)]


def _drawable(runs: pl.DataFrame) -> list[pl.DataFrame]:
    """The groups of which there is anything to draw."""
    known = ("step_ns", *POINTS.values())
    return [group for group in groups(runs) if group.select(known).count().row(0) != (0, 0, 0)]


def _figure(group: pl.DataFrame, colours: dict[str, str]) -> Figure:
    title, named = group_title(group.row(0, named=True)), _named(group)
    chart = _layers(named, LABELS_INSIDE, colours)
    words = [f"{name}: {_words(row)}" for name, row in named]
    spec = page_spec(chart, height_of(group.height, PAGE_STEP))
    return Figure(title=title, spec=spec, alt=in_words(title, words, "runs"))


def _named(group: pl.DataFrame) -> list[Named]:
    return list(zip(labels(group), group.to_dicts(), strict=True))


def labels(group: pl.DataFrame) -> list[str]:
    """What each run is called on the axis: its layout, and what differs inside the group."""
    rows = group.to_dicts()
    many_batches = group["batch"].n_unique() > 1
    many_lengths = group.select("prompt_tokens", "new_tokens").n_unique() > 1
    names = []
    for row in rows:
        batch = [f"B{number(row['batch'])}"] if many_batches else []
        length = [tokens(row).replace(" ", "")] if many_lengths else []
        names.append(", ".join([layout(row), *batch, *length]) + _untraced(row))
    return [
        f"{name}, {row['run']}" if names.count(name) > 1 else name
        for name, row in zip(names, rows, strict=True)
    ]


def _untraced(row: Mapping[str, Any]) -> str:
    return " (no step recorded)" if row["step_ns"] is None else partly(row)


def _words(row: Mapping[str, Any]) -> str:
    step = [
        f"{name} {number(row[part], 1e-6)} ms"
        for name, part in zip(STEP_COLOURS, PARTS, strict=True)
        if row[part]
    ]
    made_of = f"captured step {', '.join(step)}" if step else "step not recorded"
    times = (f"{what} {number(row[key], 1e3)} ms" for what, key in POINTS.items())
    return ", ".join([*times, made_of])


def _layers(
    named: Sequence[Named],
    style: Mapping[str, Any],
    colours: dict[str, str],
    legend: alt.Legend | None = None,
) -> Any:
    """Bars of the captured step; a rule from the fastest to the slowest pass, and points on it."""
    y = _row_axis([name for name, _row in named], style)
    layers = [_bars(named, y, colours, legend), _rules(named, y), _points(named, y, legend)]
    # Vega warns of the extent of nothing, so a layer with nothing in it stays out.
    return alt.layer(*[layer for layer in layers if layer.data.values])


def _row_axis(names: list[str], style: Mapping[str, Any]) -> alt.Y:
    """Runs in the order of the table; one with nothing to draw keeps its row."""
    scale, axis = alt.Scale(domain=names), alt.Axis(labelLimit=0, zindex=1, **style)
    return alt.Y("run:N", title=None, sort=names, scale=scale, axis=axis)


def _bars(
    named: Sequence[Named], y: alt.Y, colours: dict[str, str], legend: alt.Legend | None
) -> Any:
    values = [
        {"run": name, "part": title, "order": order, "ms": row[part] / 1e6}
        for name, row in named
        for order, (title, part) in enumerate(zip(STEP_COLOURS, PARTS, strict=True))
        if row[part]
    ]
    return (
        alt.Chart(inline(values))
        .mark_bar(size=BAR)
        .encode(
            y=y,
            x=alt.X("ms:Q", title=TITLE, axis=alt.Axis(tickCount=6)),
            color=fixed("part:N", colours, alt.Color, legend),
            order="order:Q",
            tooltip=["run:N", "part:N", alt.Tooltip("ms:Q", format=",.4~g")],
        )
    )


def _rules(named: Sequence[Named], y: alt.Y) -> Any:
    values = [
        {"run": name, "low": row["tpot_min_s"] * 1e3, "high": row["tpot_max_s"] * 1e3}
        for name, row in named
        if row["tpot_min_s"] is not None
    ]
    # A thin bar outlined in white: it is seen on the blue of waiting, too.
    bar = alt.Chart(inline(values)).mark_bar(size=5, fill=MEASURED, stroke="#FFFFFF", strokeWidth=1)
    return bar.encode(y=y, x=alt.X("low:Q", title=TITLE), x2="high:Q")


def _points(named: Sequence[Named], y: alt.Y, legend: alt.Legend | None) -> Any:
    values = [
        {"run": name, "what": what, "value": row[key] * 1e3}
        for name, row in named
        for what in POINT_SIZES
        for key in [POINTS[what]]
        if row[key] is not None
    ]
    # White around or inside: the points are seen on a bar and beside it.
    strokes = {"predicted": PREDICTED, "measured": "#FFFFFF"}
    fills = {"predicted": "#FFFFFF", "measured": MEASURED}
    marks = alt.Chart(inline(values)).mark_point(strokeWidth=2, opacity=1)
    return marks.encode(
        y=y,
        x=alt.X("value:Q", title=TITLE),
        shape=fixed("what:N", {"predicted": "diamond", "measured": "circle"}, alt.Shape, legend),
        stroke=fixed("what:N", strokes, alt.Stroke, legend),
        fill=fixed("what:N", fills, alt.Fill, legend),
        size=fixed("what:O", POINT_SIZES, alt.Size, legend),
        tooltip=["run:N", "what:N", alt.Tooltip("value:Q", format=",.4~g", title="ms")],
    )


def picture(runs: pl.DataFrame, kind: str) -> bytes:
    """All charts below each other as one svg or png, with a legend and a background."""
    import vl_convert

    spec = _picture_spec(runs)
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=2))
    svg = str(vl_convert.vegalite_to_svg(spec))
    head, _end, rest = svg.partition(">")
    return f"{head}>{DARK_STYLE}{rest}".encode()


def _picture_spec(runs: pl.DataFrame) -> dict[str, Any]:
    legend = alt.Legend(title=None, orient="top", columns=3, labelLimit=0, columnPadding=24)
    charts = []
    for group in _drawable(runs):
        title, height = group_title(group.row(0, named=True)), height_of(group.height, PICTURE_STEP)
        chart = _layers(_named(group), {}, step_colours(runs), legend)
        charts.append(chart.properties(title=title, width=PICTURE_WIDTH, height=height))
    if not charts:
        raise ConfigError("these runs have neither a measured nor a predicted TPOT: no picture.")
    whole = alt.vconcat(*charts).resolve_scale(
        x="independent",
        color="shared",
        shape="shared",
        stroke="shared",
        fill="shared",
        size="shared",
    )
    titles = {"anchor": "start", "fontSize": 13, "frame": "group"}
    config = {**CONFIG, "font": FONT, "background": LIGHT, "title": titles, "padding": 24}
    spec: dict[str, Any] = whole.to_dict() | {"config": config}
    return spec
