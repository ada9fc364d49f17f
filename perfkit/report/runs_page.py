"""Several runs as one HTML file: side by side in a table and a picture, then each by itself.

What should have been a run and is none stands at the top.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from perfkit.compare.run_facts import facts_of
from perfkit.compare.scaling import scaling
from perfkit.report import html
from perfkit.report import html_parts as parts
from perfkit.report import scaling as scaling_text
from perfkit.report.html import Findings, page, vega_bundle
from perfkit.report.runs_summary import summary
from perfkit.report.side_by_side import runs_table
from perfkit.report.side_by_side_text import note
from perfkit.report.tables import Column

COLUMNS = (
    Column(name="run", title="run", kind="text"),
    Column(name="model", title="model", kind="text"),
    Column(name="device", title="machine", kind="text"),
    Column(name="ranks", title="ranks", kind="integer"),
    Column(name="tp", title="TP", kind="integer"),
    Column(name="pp", title="PP", kind="integer"),
    Column(name="microbatches", title="microbatches", kind="integer"),
    Column(name="batch", title="batch", kind="integer"),
    Column(name="prompt_tokens", title="prompt tokens", kind="integer"),
    Column(name="new_tokens", title="new tokens", kind="integer"),
    Column(name="decode", title="decode", kind="text"),
    Column(name="ttft_s", title="TTFT [ms]", scale=1e3),
    Column(name="tpot_s", title="measured TPOT [ms]", scale=1e3),
    Column(name="tpot_min_s", title="fastest pass", scale=1e3),
    Column(name="tpot_max_s", title="slowest pass", scale=1e3),
    Column(name="predicted_tpot_s", title="predicted TPOT [ms]", scale=1e3),
    Column(name="error", title="error of it", kind="signed"),
    Column(name="tokens_per_s", title="tokens/s"),
    Column(name="step_ns", title="captured step [ms]", scale=1e-6),
    Column(name="compute", title="compute", kind="percent"),
    Column(name="transfer", title="NCCL transfer", kind="percent"),
    Column(name="wait", title="NCCL wait", kind="percent"),
    Column(name="untold_comm", title="NCCL, either", kind="percent"),
    Column(name="launch_bound", title="launch-bound idle", kind="percent"),
    Column(name="other", title="other idle", kind="percent"),
    Column(name="slowed", title="slowed [times]"),
    Column(name="traced_ranks", title="ranks traced", kind="integer"),
    Column(name="peak_gpu_bytes", title="GPU memory [GiB]", scale=2**-30),
    Column(name="dtype", title="dtype", kind="text"),
    Column(name="sharding", title="sharding", kind="text"),
    Column(name="split", title="layers of stages", kind="text"),
    Column(name="link", title="NCCL went over", kind="text"),
    Column(name="load", title="weights", kind="text"),
    Column(name="hosts", title="hosts", kind="integer"),
    Column(name="gpus_of_host", title="GPUs of a host", kind="integer"),
    Column(name="rates", title="predicted with", kind="text"),
    Column(name="date", title="date", kind="text"),
    Column(name="torch", title="torch", kind="text"),
    Column(name="nccl", title="NCCL", kind="text"),
    Column(name="driver", title="driver", kind="text"),
    Column(name="perfkit", title="perfkit", kind="text"),
)
SHARES = ("compute", "transfer", "wait", "untold_comm", "launch_bound", "other")


MOST_DETAILED = 8
"""so many runs have all their charts on the page; of more it would be slow and long"""


def render_runs(found: Sequence[Findings], missing: Sequence[str] = ()) -> str:
    """The page of several runs, in the order given, and what is missing among them."""
    return page(context(found, missing), vega_bundle(), "runs.html.j2")


def context(found: Sequence[Findings], missing: Sequence[str] = ()) -> dict[str, Any]:
    """What the template prints."""
    from perfkit.report.side_by_side_charts import step_colours, tpot_figures

    runs, scaled = runs_table(found), scaling_of(found)
    broken = [one for one in found if one.analysis.run.get("state") != "finished"]
    detailed = len(found) <= MOST_DETAILED
    return {
        "title": title(len(found)),
        "unfinished": [f"Run {one.name}: {parts.ended(one.analysis)}" for one in broken],
        "missing": list(missing),
        "lead": lead(runs),
        "summary": summary(runs, scaled),
        "table": parts.table("runs", with_shares(runs), COLUMNS),
        "note": note(runs),
        "figures": tpot_figures(runs),
        "step_colours": step_colours(runs),
        "scaling": scaling_blocks(scaled),
        "detailed": detailed,
        "most_detailed": MOST_DETAILED,
        "each": [one_run(number, one, detailed) for number, one in enumerate(found)],
    }


def title(count: int) -> str:
    return {0: "No run yet", 1: "1 run"}.get(count, f"{count} runs side by side")


def scaling_of(found: Sequence[Findings]) -> pl.DataFrame:
    """compare.scaling.SCALING of the runs that the engine made."""
    return scaling([_facts(one) for one in found if one.analysis.run.get("model")])


def _facts(one: Findings) -> dict[str, Any]:
    analysis = one.analysis
    facts = facts_of(one.path, analysis.run, analysis, one.prediction, one.no_prediction)
    return {**facts, "run": one.name}


def scaling_blocks(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A chart, a table and its footnotes for each series of runs of the same work."""
    from perfkit.report.scaling_charts import scaling_figures

    parts_of = [(kind, part) for kind, part in scaling_text.series(frame) if kind]
    return [
        {
            "figure": figure,
            "table": parts.table(
                f"scaling-{number}",
                scaling_text.shown(part),
                scaling_text.columns_of(kind, "users"),
            ),
            "notes": scaling_text.notes(part),
        }
        for number, (figure, (kind, part)) in enumerate(
            zip(scaling_figures(frame), parts_of, strict=True)
        )
    ]


def with_shares(runs: pl.DataFrame) -> pl.DataFrame:
    """The parts of each run's step as shares of it, in 0..1."""
    return runs.with_columns(
        (pl.col(f"{name}_ns") / pl.col("step_ns")).alias(name) for name in SHARES
    )


def lead(runs: pl.DataFrame) -> str:
    """Which models on which machines, and when."""
    named = {name: runs[name].drop_nulls().unique().sort() for name in ("model", "device", "date")}
    models, devices = ", ".join(named["model"]), ", ".join(named["device"])
    dates = named["date"]
    days = [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if len(dates) else []
    words = [models or "model not recorded", f"on {devices or 'devices that are not recorded'}"]
    return ", ".join([" ".join(words), *days]) + "."


def one_run(number: int, found: Findings, detailed: bool) -> dict[str, Any]:
    """What stands about a run by itself, all of it or its outline; the prefix makes ids its own."""
    content = html.context(found) if detailed else html.outline(found)
    return {
        **content,
        "name": found.name,
        "ended": parts.ended(found.analysis),
        "prefix": f"run-{number}-",
    }
