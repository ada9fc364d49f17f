"""The parts of one run's page that are more than a table: what the template prints of each."""

from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.fidelity_gates import GateResult
from perfkit.predict.rates import Rates
from perfkit.report import html_parts as parts
from perfkit.report.causes import CAUSE_COLUMNS, cause_rows
from perfkit.report.fidelity import FIGURES, FIRST_LINE, figure_rows
from perfkit.report.time_split import COLLECTIVE_COLUMNS
from perfkit.schema import RunFolder, read_if_whole
from perfkit.timeline.analysis import Analysis

PHASES = {"whole": "Whole request", "prefill": "Prefill", "decode": "Decode"}


def classes_block(classes: pl.DataFrame | None) -> dict[str, Any] | None:
    """Kernels by class, predicted beside traced; None without either."""
    from perfkit.report.class_charts import CLASS_COLUMNS, class_figures

    if classes is None or classes.is_empty():
        return None
    return {
        "figures": class_figures(classes),
        "table": parts.table("classes", classes, CLASS_COLUMNS),
    }


def collectives_block(collectives: pl.DataFrame, machine: Rates | None) -> dict[str, Any] | None:
    """Collectives by size beside their link; None where no trace has any."""
    from perfkit.report.class_charts import collective_figure, collective_rows, marks_of_ops

    if collectives.is_empty():
        return None
    rows = collective_rows(collectives)
    groups = set(rows.filter(op="all_reduce")["num_ranks"].drop_nulls().to_list())
    seconds = partial(machine.all_reduce_s, groups.pop()) if machine and len(groups) == 1 else None
    link = machine.link_bytes_per_s if machine else None
    return {
        "figure": collective_figure(rows, link, seconds),
        "marks": marks_of_ops(rows),
        "link": link,
        "predicted": seconds is not None,
        "table": parts.table("collectives", collectives, COLLECTIVE_COLUMNS),
    }


def fidelity_block(path: Path) -> dict[str, Any] | None:
    """What `perfkit verify` said of the run; None where it was not asked, or was cut short."""
    said = read_if_whole(RunFolder(path).tables / "fidelity.json")
    if said is None:
        return None
    try:
        counts, baseline = said["figures"], said["baseline"]["source"]
        gates = [GateResult(**gate) for gate in said["gates"]]
        rows = figure_rows(counts["equal"], counts["prompts"], gates)
        return {
            "verdict": said["verdict"],
            "sentence": FIRST_LINE[said["verdict"]].format(run="it", baseline=baseline),
            "baseline": baseline,
            "reasons": said["reasons"],
            "notes": said["notes"],
            "caption": f"{counts['places']} places of {counts['prompts']} prompts; limits: "
            f"{said['limits_from']}",
            "table": parts.table("fidelity", rows, _figures_of(rows)),
        }
    except (KeyError, TypeError):  # of another version of perfkit
        return None


def _figures_of(rows: pl.DataFrame) -> list[Any]:
    """The good repeat's column only where there was one."""
    return [column for column in FIGURES if column.name != "noise" or rows["noise"].count()]


def causes_table(analysis: Analysis) -> parts.Table | None:
    """Waiting, transfer and the causes of idle time; None where nothing is known of them."""
    rows = cause_rows(analysis)
    return None if rows.is_empty() else parts.table("causes", rows, CAUSE_COLUMNS)


def split_figures(analysis: Analysis) -> list[Any]:
    """A chart for the whole and for each phase that every run has."""
    from perfkit.report.charts import split_figure

    present = set(analysis.split["phase"].to_list())
    return [
        split_figure(parts.split_shares(analysis, phase), title)
        for phase, title in PHASES.items()
        if phase in present
    ]


def strip_block(analysis: Analysis) -> dict[str, Any] | None:
    """The timeline of one decode step, and how far to trust it."""
    from perfkit.report.charts import LANE_COLOURS, busy_words, strip_figure
    from perfkit.report.strip import decode_step

    microbatches = int(analysis.run.get("config", {}).get("microbatches") or 1)
    step = decode_step(
        analysis.activities, analysis.ranges, analysis.waits, microbatches=microbatches
    )
    if step is None:
        return None
    labels = parts.rank_labels(analysis)
    hosts = {place.get("host") for place in analysis.run.get("layout", [])}
    return {
        "figure": strip_figure(step, labels),
        "shares": busy_words(step, labels),
        "column_us": f"{step.column_ns / 1e3:.0f}",
        "hosts": len(hosts),
        "lanes": [lane for lane in LANE_COLOURS if lane in step.marks["lane"].to_list()],
    }
