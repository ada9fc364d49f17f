"""One run as one HTML file that needs nothing else: no network, no folder beside it.

The page carries the Vega bundle, its style and its charts' data. Every text goes through Jinja's
escaping, and the charts' JSON through `tojson`, which writes < as \\u003c.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from perfkit import __version__
from perfkit.compare.run import Comparison, compare_run, doubts, find_rates, headline_table
from perfkit.errors import ConfigError, ToolMissing
from perfkit.paths import cache_folder
from perfkit.predict.rates import Rates
from perfkit.report import html_parts as parts
from perfkit.report.causes import CAUSE_COLUMNS, CAUSE_NOTE, cause_rows, clocks, stragglers
from perfkit.report.collected import absent, blocks
from perfkit.report.comparison import readable
from perfkit.report.ending import first_lines, traced
from perfkit.report.summary import summary
from perfkit.report.time_split import COLLECTIVE_COLUMNS, job_id, legend, ratio_line
from perfkit.schema import RunFolder, open_run, read_json
from perfkit.timeline.analysis import Analysis, analyze_run

TEMPLATES = Path(__file__).with_name("templates")
PHASES = {"whole": "Whole request", "prefill": "Prefill", "decode": "Decode"}
UNPREDICTED = {"ttft_s": None, "tpot_s": None, "end_to_end_s": None, "tokens_per_s": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A run's measurement, and its prediction or the reason why there is none."""

    path: Path
    analysis: Analysis
    headline: pl.DataFrame
    prediction: Mapping[str, Any] | None
    rates_source: str | None
    rates: Mapping[str, Any]
    no_prediction: str | None
    warnings: list[str]
    classes: pl.DataFrame | None = None
    """kernels by class (compare/classes.py CLASSES); None without a prediction"""
    machine: Rates | None = None


def render_report(
    path: Path,
    *,
    calibration: Path | None = None,
    gpu: str | None = None,
    models_dir: Path | None = None,
) -> str:
    """The page of a run folder; without known rates it has the measurement only.

    A calibration or GPU that was asked for and cannot be used is an error, as in `compare`.
    """
    require_libraries()
    found = find(path, calibration, gpu, models_dir)
    return page(context(found), vega_bundle())


def require_libraries() -> None:
    """ToolMissing unless the `report` extra is installed."""
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise ToolMissing(
            f"the HTML report needs altair and vl-convert-python ({error}). "
            "Install them with: pip install 'perfkit[report]'",
        ) from error
    assert altair


def find(
    path: Path, calibration: Path | None, gpu: str | None, models_dir: Path | None
) -> Findings:
    """Everything the page says; asks for rates first, so that a run is analysed only once."""
    _folder, run = open_run(path)
    try:
        if missing := [key for key in ("config", "model", "hardware") if not run.get(key)]:
            raise ConfigError(f"run.json has no {', '.join(missing)}: the run never started.")
        find_rates(path, run, calibration, gpu, models_dir)
        comparison = compare_run(path, calibration=calibration, gpu=gpu, models_dir=models_dir)
    except ConfigError as error:
        if calibration or gpu:
            raise
        return _measured_only(path, str(error))
    return _compared(path, comparison)


def _compared(path: Path, comparison: Comparison) -> Findings:
    return Findings(
        path=path,
        analysis=comparison.analysis,
        headline=readable(comparison.headline),
        prediction=comparison.prediction,
        rates_source=comparison.rates_source,
        rates=dict(comparison.rates.provenance),
        no_prediction=None,
        warnings=comparison.warnings,
        classes=comparison.classes,
        machine=comparison.rates,
    )


def _measured_only(path: Path, reason: str) -> Findings:
    analysis = analyze_run(path)
    headline = headline_table(UNPREDICTED, analysis)
    known = analysis.run.get("config", {}).get("load")
    return Findings(
        path=path,
        analysis=analysis,
        headline=readable(headline),
        prediction=None,
        rates_source=None,
        rates={},
        no_prediction=reason,
        warnings=[*analysis.warnings, *(doubts(analysis.run, headline) if known else [])],
    )


def context(found: Findings) -> dict[str, Any]:
    """What the template prints, section by section."""
    from perfkit.report import charts

    analysis, ending = found.analysis, first_lines(found.analysis)
    headline = parts.headline_rows(found.headline, analysis)
    memory, unit = parts.memory_rows(analysis, found.path, found.prediction)
    labels = memory.with_columns(pl.format("rank {}", "rank").alias("label")).to_dicts()
    operations = parts.longest_operations(analysis.operations)
    return {
        "version": __version__,
        "id": analysis.run.get("id", found.path.name),
        "state": parts.state_sentence(analysis),
        "finished": analysis.run.get("state") == "finished",
        "ending": ending,
        "what": parts.run_sentence(analysis),
        "warnings": [text for text in found.warnings if text not in ending],
        "headline": parts.table("headline", headline, parts.HEADLINE),
        "headline_figures": charts.headline_figures(headline.to_dicts()),
        "rates_source": found.rates_source,
        "no_prediction": found.no_prediction,
        "summary": summary(analysis, found.headline, memory, unit),
        "classes": classes_block(found),
        "collectives": collectives_block(found),
        "fidelity": fidelity_block(found.path),
        "one_rank": len(analysis.ranks) == 1,
        "ratio": ratio_line(analysis),
        "split": parts.split_table(analysis) if not analysis.split.is_empty() else None,
        "split_figures": split_figures(analysis),
        "split_notes": legend(analysis) if not analysis.split.is_empty() else [],
        "causes": causes_table(analysis),
        "cause_notes": [CAUSE_NOTE, *stragglers(analysis), *clocks(analysis)],
        "strip": strip(analysis),
        "memory": parts.memory_table(memory, unit),
        "memory_figure": charts.memory_figure(labels, unit),
        "operations": parts.table("operations", operations, parts.OPERATIONS),
        "top": parts.TOP_OPERATIONS,
        "traced": traced(analysis),
        "partly_traced": bool(analysis.missing_traces),
        "collected": [
            (block, parts.table(block.name, block.frame, block.columns))
            for block in blocks(analysis.collected, job_id(analysis))
        ],
        "absent": absent(analysis.collected),
        "facts": list(parts.facts(analysis, found.rates)),
        "colours": charts,
    }


def classes_block(found: Findings) -> dict[str, Any] | None:
    """Kernels by class, predicted beside traced; None without either."""
    from perfkit.report.class_charts import CLASS_COLUMNS, class_figures

    if found.classes is None or found.classes.is_empty():
        return None
    return {
        "figures": class_figures(found.classes),
        "table": parts.table("classes", found.classes, CLASS_COLUMNS),
    }


def collectives_block(found: Findings) -> dict[str, Any] | None:
    """Collectives by size beside their link; None where no trace has any."""
    from perfkit.report.class_charts import collective_figure, collective_rows, colours_of_ops

    collectives = found.analysis.collectives
    if collectives.is_empty():
        return None
    rows, machine = collective_rows(collectives), found.machine
    groups = set(rows.filter(op="all_reduce")["num_ranks"].drop_nulls().to_list())
    seconds = partial(machine.all_reduce_s, groups.pop()) if machine and len(groups) == 1 else None
    link = machine.link_bytes_per_s if machine else None
    return {
        "figure": collective_figure(rows, link, seconds),
        "colours": colours_of_ops(rows),
        "link": link,
        "predicted": seconds is not None,
        "table": parts.table("collectives", collectives, COLLECTIVE_COLUMNS),
    }


def fidelity_block(path: Path) -> dict[str, Any] | None:
    """What `perfkit verify` said of the run, if it was asked."""
    file = RunFolder(path).tables / "fidelity.json"
    return read_json(file) if file.is_file() else None


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


def strip(analysis: Analysis) -> dict[str, Any] | None:
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


def page(content: dict[str, Any], bundle: str, template: str = "report.html.j2") -> str:
    """A template with its content. An unknown name in the template is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content, bundle=Markup(bundle)).lstrip()


def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, kept in the cache: it takes 1.4 s to make."""
    import vl_convert

    bundler: Any = vl_convert  # its stub asks for a snippet that it documents as optional
    kept = cache_folder() / f"vega-{version('vl-convert-python')}.js"
    try:
        return kept.read_text(encoding="utf-8")
    except OSError:
        pass
    # Inside a script element these two would end it or hide what follows.
    made = bundler.javascript_bundle().replace("</script", r"<\/script")
    bundle = str(made.replace("<!--", r"<\!--"))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f".{kept.name}.{os.getpid()}")
        unfinished.write_text(bundle, encoding="utf-8")
        unfinished.replace(kept)
    except OSError:
        pass
    return bundle
