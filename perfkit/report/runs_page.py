"""Several runs as one HTML file: side by side in a table and a picture, then each by itself."""

import shlex
from collections.abc import Sequence
from typing import Any

import polars as pl

from perfkit import __version__
from perfkit.compare.run_facts import facts_of
from perfkit.compare.scaling import scaling
from perfkit.report import html_parts as parts
from perfkit.report import scaling as scaling_text
from perfkit.report.ending import first_lines
from perfkit.report.html import Findings, page, vega_bundle
from perfkit.report.side_by_side import runs_table
from perfkit.report.side_by_side_text import note
from perfkit.report.tables import MISSING, Column
from perfkit.report.time_split import SPLIT_COLUMNS, readable_split

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


def render_runs(found: Sequence[Findings]) -> str:
    """The page of several runs, in the order given."""
    return page(context(found), vega_bundle(), "runs.html.j2")


def context(found: Sequence[Findings]) -> dict[str, Any]:
    """What the template prints."""
    from perfkit.report.side_by_side_charts import step_colours, tpot_figures

    runs, scaled = runs_table(found), scaling_of(found)
    broken = [one for one in found if one.analysis.run.get("state") != "finished"]
    return {
        "version": __version__,
        "title": f"{len(found)} runs side by side",
        "unfinished": [parts.state_sentence(one.analysis) for one in broken],
        "lead": lead(runs),
        "table": parts.table("runs", with_shares(runs), COLUMNS),
        "note": note(runs),
        "figures": tpot_figures(runs),
        "colours": step_colours(runs),
        "scaling": scaling_blocks(scaled),
        "each": [one_run(number, one) for number, one in enumerate(found)],
    }


def scaling_of(found: Sequence[Findings]) -> pl.DataFrame:
    """compare.scaling.SCALING of the runs that the engine made."""
    return scaling(
        [
            facts_of(one.path, one.analysis.run, one.analysis, one.prediction, one.no_prediction)
            for one in found
            if one.analysis.run.get("model")
        ]
    )


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
    words = [", ".join(named["model"]), f"on {', '.join(named['device'])}"]
    dates = named["date"]
    days = [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if len(dates) else []
    return ", ".join([" ".join(words), *days]) + "."


def one_run(number: int, found: Findings) -> dict[str, Any]:
    """What stands about a run by itself; its tables have names of their own on the page."""
    analysis, ending = found.analysis, first_lines(found.analysis)
    headline = parts.headline_rows(found.headline, analysis)
    split = readable_split(analysis)
    return {
        "name": f"run-{number}",
        "state": parts.state_sentence(analysis),
        "ending": ending,
        "what": parts.run_sentence(analysis),
        "warnings": [text for text in found.warnings if text not in ending],
        "no_prediction": found.no_prediction,
        "headline": parts.table(f"headline-{number}", headline, parts.HEADLINE),
        "split": None
        if analysis.split.is_empty()
        else parts.table(f"split-{number}", split, SPLIT_COLUMNS),
        "folder": str(found.path),
        "command": shlex.join(str(word) for word in analysis.run.get("command") or []) or MISSING,
    }
