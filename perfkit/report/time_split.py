"""What `perfkit analyze` prints: measures, the split of each rank and phase, what is missing.

Renderers take an Analysis and return text. Exact ns are in JSON and CSV, rounded ms here.
"""

from collections.abc import Sequence

import polars as pl

from perfkit.report.causes import causes
from perfkit.report.collected import sections
from perfkit.report.ending import first_lines, traced
from perfkit.report.tables import Column, render
from perfkit.timeline.analysis import Analysis
from perfkit.timeline.windows import WHOLE

MS, US = 1e-6, 1e-3
SHARES = ("compute", "exposed_comm", "copy", "idle", "overlap")

SPLIT_COLUMNS = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="device", title="device", kind="text"),
    Column(name="phase", title="phase", kind="text"),
    Column(name="instances", title="runs", kind="integer"),
    Column(name="window_ns", title="sum ms", scale=MS),
    Column(name="median_window_ns", title="median ms", scale=MS),
    Column(name="compute", title="compute %", scale=100),
    Column(name="exposed_comm", title="exp.comm %", scale=100),
    Column(name="copy", title="copy %", scale=100),
    Column(name="idle", title="idle %", scale=100),
    Column(name="overlap", title="overlap %", scale=100),
)

MEASURE_COLUMNS = (
    Column(name="measure", title="timed passes", kind="text"),
    Column(name="median", title="median"),
    Column(name="min", title="min"),
    Column(name="max", title="max"),
    Column(name="count", title="passes", kind="integer"),
    Column(name="captured", title="captured"),
)

# Seconds are read as ms, tokens/s as they are.
MEASURES = {
    "ttft_s": ("TTFT [ms]", 1e3),
    "ttft_first_s": ("TTFT, first microbatch [ms]", 1e3),
    "tpot_s": ("TPOT [ms]", 1e3),
    "e2e_s": ("end to end [ms]", 1e3),
    "tokens_per_s": ("throughput [tokens/s]", 1.0),
}

OPERATION_COLUMNS = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="device", title="device", kind="text"),
    Column(name="name", title="operation", kind="text"),
    Column(name="class", title="class", kind="text"),
    Column(name="family", title="family", kind="text"),
    Column(name="calls", title="calls", kind="integer"),
    Column(name="total_ns", title="total ms", scale=MS),
    Column(name="mean_ns", title="mean us", scale=US),
    Column(name="share", title="share", kind="percent"),
)

COLLECTIVE_COLUMNS = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="device", title="device", kind="text"),
    Column(name="op", title="collective", kind="text"),
    Column(name="group", title="group", kind="text"),
    Column(name="num_ranks", title="ranks", kind="integer"),
    Column(name="bytes", title="bytes", kind="integer"),
    Column(name="calls", title="calls", kind="integer"),
    Column(name="total_ns", title="total ms", scale=MS),
    Column(name="mean_ns", title="mean us", scale=US),
    Column(name="wait_ns", title="wait ms", scale=MS),
    Column(name="bus_bytes_per_s", title="bus GB/s", scale=1e-9),
)

NAME_WIDTH = 44


def text(analysis: Analysis, fmt: str, top: int) -> str:
    """The analysis as a terminal or Markdown text; `top` operations of each rank on request."""
    parts = [headline(analysis), *first_lines(analysis), ""]
    if not analysis.measures.is_empty():
        parts += [render(readable_measures(analysis.summary), MEASURE_COLUMNS, fmt)]
        parts += [ratio_line(analysis), ""]
    if not analysis.split.is_empty():
        parts += [split_text(analysis, fmt), *legend(analysis), "", *causes(analysis, fmt)]
    parts += sections(analysis.collected, fmt, job_id(analysis))
    if top and not analysis.operations.is_empty():
        parts += [render(top_operations(analysis, top), OPERATION_COLUMNS, fmt)]
        parts += [render(analysis.collectives, COLLECTIVE_COLUMNS, fmt)]
    parts += warning_lines(analysis.warnings, fmt)
    return "\n".join(parts).rstrip() + "\n"


def warning_lines(warnings: Sequence[str], fmt: str) -> list[str]:
    return [f"- {warning}" if fmt == "md" else f"warning: {warning}" for warning in warnings]


def headline(analysis: Analysis) -> str:
    """What was analysed; a run that did not finish says so here."""
    if not analysis.run:
        return f"{analysis.source}: {len(analysis.ranks) - len(analysis.missing_traces)} trace(s)"
    run, config = analysis.run, analysis.run.get("config", {})
    name = run.get("id") or analysis.source.name
    state = run.get("state", "of unknown state")
    layout = f"TP {config['tp']} x PP {config['pp']}, " if {"tp", "pp"} <= set(config) else ""
    failure = run.get("failure") or {}
    who = f" because of rank {failure['rank']}" if "rank" in failure else ""
    word = f"{state.upper()}{who}" if state != "finished" else state
    return f"run {name}: {word}, {layout}{len(analysis.ranks)} rank(s)"


def job_id(analysis: Analysis) -> str | None:
    """The run's own Slurm job; None outside of one."""
    found = (analysis.run.get("slurm") or {}).get("SLURM_JOB_ID")
    return str(found) if found else None


def readable_measures(summary: pl.DataFrame) -> pl.DataFrame:
    """The summary with titles, in the units that people read."""
    rows = []
    for row in summary.to_dicts():
        title, scale = MEASURES[row["measure"]]
        numbers = {
            key: None if row[key] is None else row[key] * scale
            for key in ("median", "min", "max", "captured")
        }
        rows.append({"measure": title, "count": row["count"], **numbers})
    return pl.DataFrame(rows, schema={c.name: summary.schema[c.name] for c in MEASURE_COLUMNS})


def ratio_line(analysis: Analysis) -> str:
    if analysis.profiler_ratio is None:
        return "profiler ratio: - (it needs a timed and a captured pass)"
    return (
        f"profiler ratio {analysis.profiler_ratio:.2f}: the captured pass, from which the split is,"
        " took that many times a timed one"
    )


def readable_split(analysis: Analysis) -> pl.DataFrame:
    """Shares of each window; a rank without a trace has a row of dashes."""
    window = pl.when(pl.col("window_ns") > 0).then(pl.col("window_ns"))
    shares = [(pl.col(f"{name}_ns") / window).alias(name) for name in SHARES]
    missing = pl.DataFrame({"rank": analysis.missing_traces}, schema={"rank": pl.Int32})
    rows = pl.concat([analysis.split, missing], how="diagonal")
    return rows.with_columns(shares).sort("rank", maintain_order=True)


def split_text(analysis: Analysis, fmt: str) -> str:
    return render(readable_split(analysis), SPLIT_COLUMNS, fmt)


def legend(analysis: Analysis) -> list[str]:
    """How to read the split, and what part of it rests on unknown kernels."""
    lines = [
        "shares of the sum: compute + exp.comm (comm not hidden by compute) + copy + idle = 100 %"
    ]
    if analysis.split["wait_ns"].null_count() == analysis.split.height:
        lines.append("wait -, transfer -: not measured (no collective was matched over ranks)")
    whole = analysis.split.filter(pl.col("phase") == WHOLE, pl.col("device") != "cpu")
    worst = whole["unknown_share"].max()
    if isinstance(worst, float):
        of = f" on {traced(analysis)}" if analysis.missing_traces else ""
        text = f"kernels of unknown class (counted as compute): at most {100 * worst:.1f} %{of}"
        lines.append(text)
    return lines


def top_operations(analysis: Analysis, top: int) -> pl.DataFrame:
    """The longest operations of each rank's device."""
    longest = analysis.operations.group_by("rank", "device", maintain_order=True).head(top)
    cut = pl.col("name").str.head(NAME_WIDTH - 3) + "..."
    fits = pl.col("name").str.len_chars() <= NAME_WIDTH
    return longest.with_columns(name=pl.when(fits).then("name").otherwise(cut))
