"""One run as one HTML file that needs nothing else: no network, no folder beside it.

The page carries the Vega bundle, its style and its charts' data. Every text goes through Jinja's
escaping, and the charts' JSON through `tojson`, which writes < as \\u003c.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
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
from perfkit.report.blocks import (
    causes_table,
    classes_block,
    collectives_block,
    fidelity_block,
    split_figures,
    strip_block,
)
from perfkit.report.causes import CAUSE_NOTE, clocks, stragglers
from perfkit.report.collected import absent, blocks
from perfkit.report.comparison import readable
from perfkit.report.ending import first_lines, traced
from perfkit.report.given import names_of
from perfkit.report.summary import summary
from perfkit.report.time_split import job_id, legend, ratio_line
from perfkit.schema import open_run
from perfkit.timeline.analysis import Analysis, analyze_run

TEMPLATES = Path(__file__).with_name("templates")
UNPREDICTED = {"ttft_s": None, "tpot_s": None, "end_to_end_s": None, "tokens_per_s": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A run's measurement, and its prediction or the reason why there is none."""

    path: Path
    name: str
    """the folder's, or the point's of a study; beside others as much of its path as tells them
    apart"""
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
    return page({"run": context(found)}, vega_bundle())


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
        name=names_of([path])[0],
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
        name=names_of([path])[0],
        analysis=analysis,
        headline=readable(headline),
        prediction=None,
        rates_source=None,
        rates={},
        no_prediction=reason,
        warnings=[*analysis.warnings, *(doubts(analysis.run, headline) if known else [])],
    )


def outline(found: Findings) -> dict[str, Any]:
    """What the templates print of a run wherever it stands: in words and two tables."""
    analysis, ending = found.analysis, first_lines(found.analysis)
    headline = parts.headline_rows(found.headline, analysis)
    memory, unit = parts.memory_rows(analysis, found.path, found.prediction)
    fidelity = fidelity_block(found.path)
    return {
        "id": analysis.run.get("id", found.path.name),
        "state": parts.state_sentence(analysis),
        "finished": analysis.run.get("state") == "finished",
        "ending": ending,
        "what": parts.run_sentence(analysis),
        "warnings": [text for text in found.warnings if text not in ending],
        "summary": summary(analysis, found.headline, memory, unit, fidelity),
        "no_prediction": found.no_prediction,
        "headline": parts.table("headline", headline, parts.HEADLINE),
        "split": parts.split_table(analysis) if not analysis.split.is_empty() else None,
        "folder": str(found.path),
        "command": parts.command(analysis),
    }


def context(found: Findings) -> dict[str, Any]:
    """All that the templates print of a run, section by section."""
    from perfkit.report import charts

    analysis = found.analysis
    headline = parts.headline_rows(found.headline, analysis)
    memory, unit = parts.memory_rows(analysis, found.path, found.prediction)
    labels = memory.with_columns(pl.format("rank {}", "rank").alias("label")).to_dicts()
    operations = parts.longest_operations(analysis.operations)
    return {
        **outline(found),
        "headline_figures": charts.headline_figures(headline.to_dicts()),
        "rates_source": found.rates_source,
        "classes": classes_block(found.classes),
        "collectives": collectives_block(analysis.collectives, found.machine),
        "fidelity": fidelity_block(found.path),
        "one_rank": len(analysis.ranks) == 1,
        "ratio": ratio_line(analysis),
        "split_figures": split_figures(analysis),
        "split_notes": legend(analysis) if not analysis.split.is_empty() else [],
        "causes": causes_table(analysis),
        "cause_notes": [CAUSE_NOTE, *stragglers(analysis), *clocks(analysis)],
        "strip": strip_block(analysis),
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
    }


def page(content: dict[str, Any], bundle: str, template: str = "report.html.j2") -> str:
    """A template with its content. An unknown name in the template is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from perfkit.report import charts

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {"version": __version__, "colours": charts, "bundle": Markup(bundle)}
    return environment.get_template(template).render(**content, **shared).lstrip()


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
