"""F3 to F5: what a step is made of, predicted against measured, memory against capacity."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from perfkit.documents.accuracy_tables import Predictions
from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.figures import HEIGHT, ROW_HEIGHT, DocFigure, not_there
from perfkit.documents.measured_tables import RUN_MODEL
from perfkit.documents.memory_tables import fullest_rank, fullest_runs, predicted_parts
from perfkit.documents.scaling_tables import series_of
from perfkit.predict.memory import GIB
from perfkit.report.charts import IDEAL, MEASURED, MEMORY_COLOURS, PREDICTED, fixed, inline
from perfkit.report.side_by_side_charts import PARTS, STEP_COLOURS

MOST_ROWS = 24
TRACED = f"{RUN_MODEL} --collect kineto"
LEGEND = alt.Legend(title=None, orient="top", columns=3, symbolStrokeWidth=2)
MODES = {"eager": PREDICTED, "graph": MEASURED}
PART_NAMES = {
    "weights_bytes": "weights",
    "kv_bytes": "KV cache",
    "activation_bytes": "activations",
    "overhead_bytes": "overhead",
}


def rows_axis(labels: Sequence[str]) -> alt.Y:
    """Runs in the order of the tables."""
    axis = alt.Axis(labelLimit=0, ticks=False)
    return alt.Y("run:N", title=None, sort=list(labels), axis=axis)


def step_figure(evidence: Evidence, scaling: pl.DataFrame) -> DocFigure:
    """F3: of runs that do the same work on different numbers of GPUs, else of the first ones."""
    caption = (
        "What a decode step of the captured pass is made of, mean of the run's GPUs: in shares, "
        "because the profiler lengthens it"
    )
    traced = [run for run in evidence.runs if run.row["step_ns"]]
    series = {run for rows in series_of(scaling, "strong") for row in rows for run in row["runs"]}
    chosen = [run for run in traced if run.name in series] or traced
    if not chosen:
        return not_there("F3", caption, "no run has a trace of a decode step", TRACED)
    return _step_figure(caption + shown_of(len(chosen)), chosen[:MOST_ROWS])


def shown_of(runs: int) -> str:
    """What a caption says where not every run has room."""
    return f" (the first {MOST_ROWS} of {runs} runs)" if runs > MOST_ROWS else ""


def _step_figure(caption: str, chosen: Sequence[Run]) -> DocFigure:
    bars = [
        {
            "run": run.name,
            "part": name,
            "order": order,
            "share": run.row[part] / run.row["step_ns"],
        }
        for run in chosen
        for order, (name, part) in enumerate(zip(STEP_COLOURS, PARTS, strict=True))
        if run.row[part]
    ]
    used = {bar["part"] for bar in bars}
    colours = {name: colour for name, colour in STEP_COLOURS.items() if name in used}
    chart = (
        alt.Chart(inline(bars))
        .mark_bar()
        .encode(
            y=rows_axis([run.name for run in chosen]),
            x=alt.X(
                "sum(share):Q",
                title="share of the step [%]",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format=".0%", tickCount=5),
            ),
            color=fixed("part:N", colours, alt.Color, LEGEND),
            order="order:Q",
        )
    )
    spec = chart.properties(width=230, height=ROW_HEIGHT * len(chosen)).to_dict()
    words = [f"{bar['run']} {bar['part']} {100 * float(str(bar['share'])):.0f} %" for bar in bars]
    return DocFigure(
        id="F3",
        caption=caption,
        alt="; ".join(words),
        spec=spec,
        runs=tuple(run.name for run in chosen),
        query="step of the captured pass, mean of its ranks",
    )


def error_figure(evidence: Evidence, predictions: Predictions) -> DocFigure:
    """F4: TPOT of every run that tests its prediction."""
    caption = (
        "Predicted against measured time per output token; on the dashed line both are the same. "
        "Measured: median of the timed passes, the line through it from the fastest to the slowest"
    )
    tested = [(run, predictions.tpot(run)) for run in evidence.runs]
    known = [(run, tpot) for run, tpot in tested if tpot.error is not None]
    if not known:
        why = "no run has both a measured and a predicted TPOT"
        return not_there("F4", caption, why, "perfkit calibrate, then perfkit compare RUN")
    points = [
        {
            "measured": 1e3 * run.row["tpot_s"],
            "low": 1e3 * run.row["tpot_min_s"],
            "high": 1e3 * run.row["tpot_max_s"],
            "predicted": 1e3 * (tpot.predicted_s or 0.0),
            "mode": "graph" if str(run.row["decode"]).startswith("graph") else "eager",
        }
        for run, tpot in known
    ]
    words = [f"{run.name}: {100 * (tpot.error or 0):+.0f} %" for run, tpot in known]
    return DocFigure(
        id="F4",
        caption=caption,
        alt="Error of each prediction. " + "; ".join(words),
        spec=_error_chart(points),
        runs=tuple(run.name for run, _tpot in known),
        query="runs: TPOT measured, its range, and predicted",
    )


def _error_chart(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Marks and their ranges on both logarithms, and the line of what is the same."""
    ends = [f(p[name] for p in points for name in ("low", "high", "predicted")) for f in (min, max)]
    domain = [0.8 * float(ends[0]), 1.25 * float(ends[1])]
    scale = alt.Scale(type="log", domain=domain, nice=False)
    axis = alt.Axis(tickCount=6, format="~g")
    y = alt.Y("predicted:Q", title="predicted TPOT [ms]", scale=scale, axis=axis)
    x = alt.X("measured:Q", title="measured TPOT [ms]", scale=scale, axis=axis)
    base = alt.Chart(inline(points))
    colour = fixed("mode:N", MODES, alt.Color, LEGEND)
    line = alt.Chart(inline([{"measured": end, "predicted": end} for end in domain])).mark_line(
        color=IDEAL, strokeDash=[4, 3]
    )
    ranges = base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
        y=y, x=alt.X("low:Q", scale=scale), x2="high:Q", color=colour
    )
    marks = base.mark_point(size=45, opacity=1, strokeWidth=1.5).encode(
        y=y,
        x=x,
        color=colour,
        shape=fixed("mode:N", {"eager": "diamond", "graph": "circle"}, alt.Shape, LEGEND),
    )
    layers = alt.layer(line.encode(x=x, y=y), ranges, marks)
    return dict(layers.properties(width=260, height=HEIGHT + 40).to_dict())


def memory_figure(evidence: Evidence) -> DocFigure:
    """F5: of each model, GPU and layout the run that held most."""
    caption = (
        "Memory of the fullest GPU: predicted parts as bars, measured in use as points, what the "
        "GPU has as a line"
    )
    every = fullest_runs(evidence)
    chosen = every[:MOST_ROWS]
    if not chosen:
        return not_there("F5", caption, "no run recorded the memory of a GPU", RUN_MODEL)
    bars, points, capacity = [], [], []
    for run in chosen:
        bars += [
            {"run": run.name, "what": PART_NAMES[part], "GiB": size / GIB, "order": order}
            for order, (part, size) in enumerate(predicted_parts(run).items())
        ]
        points.append({"run": run.name, "GiB": run.row["peak_gpu_bytes"] / GIB, "what": "measured"})
        if total := fullest_rank(run).get("device_total_bytes"):
            capacity.append({"run": run.name, "GiB": total / GIB})
    y = rows_axis([run.name for run in chosen])
    x = alt.X("GiB:Q", title="memory of a GPU [GiB]")
    colours = {**MEMORY_COLOURS, "measured": MEASURED}
    colour = fixed("what:N", colours, alt.Color, LEGEND)
    layers = [
        alt.Chart(inline(bars)).mark_bar(height=9).encode(y=y, x=x, color=colour, order="order:Q"),
        alt.Chart(inline(capacity)).mark_tick(color=IDEAL, thickness=2, size=12).encode(y=y, x=x),
        alt.Chart(inline(points))
        .mark_point(size=40, filled=True, opacity=1, stroke="#ffffff", strokeWidth=1)
        .encode(y=y, x=x, color=colour),
    ]
    drawn = [layer for layer in layers if layer.data.values]
    words = [f"{point['run']} {point['GiB']:.1f} GiB measured" for point in points]
    return DocFigure(
        id="F5",
        caption=caption + shown_of(len(every)),
        alt="; ".join(words),
        spec=alt.layer(*drawn).properties(width=240, height=ROW_HEIGHT * len(chosen)).to_dict(),
        runs=tuple(run.name for run in chosen),
        query="engine.json: device_used_bytes; comparison_memory: predicted",
    )
