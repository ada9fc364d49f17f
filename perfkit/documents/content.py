"""Everything that a document says, before it is set: read once, every table and figure made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfkit import __version__
from perfkit.allocation.burn import as_grant
from perfkit.allocation.snapshot import read_snapshot
from perfkit.compare.frozen import read_frozen
from perfkit.compare.run_facts import Rates
from perfkit.documents.accuracy_tables import (
    AGAIN,
    FROZEN,
    Values,
    read_predictions,
    score_table,
    score_values,
)
from perfkit.documents.allocation_tables import burn_table, final_table
from perfkit.documents.artifact import description
from perfkit.documents.evidence import Evidence, read_evidence
from perfkit.documents.figures import DocFigure
from perfkit.documents.figures import as_data as figure_data
from perfkit.documents.given_tables import (
    data_table,
    packages_table,
    risks_table,
    storage_table,
)
from perfkit.documents.measured_tables import runs_table
from perfkit.documents.memory_tables import memory_table
from perfkit.documents.plan_figures import burn_figure, gantt
from perfkit.documents.plan_tables import (
    jobs_table,
    partitions_table,
    request_table,
    system_tables,
    units_table,
)
from perfkit.documents.request import Computed, compute
from perfkit.documents.request_lines import Basis
from perfkit.documents.run_figures import error_figure, memory_figure, step_figure
from perfkit.documents.scaling_figures import scaling_figures
from perfkit.documents.scaling_tables import scaling_of, scaling_tables
from perfkit.documents.settings import DocumentFile
from perfkit.documents.software_table import software_table
from perfkit.documents.tables import NOT_GIVEN, DocTable
from perfkit.documents.tables import as_data as table_data
from perfkit.documents.text import OwnText, read_text
from perfkit.documents.values import request_values, run_values
from perfkit.study.systems import System, load_system


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asked for on the command line."""

    kind: str
    """paper or proposal"""
    runs: Sequence[Path]
    out: Path
    text: Path | None = None
    system: str | None = None
    pages: int | None = None
    reserve: float | None = None
    snapshot: Path | None = None
    frozen: Sequence[Path] = ()
    """files of predictions that were made before the runs"""
    tex: Path | None = None
    sources: Path | None = None
    force: bool = False
    rates: Rates = field(default_factory=Rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Everything that a document says, before it is set."""

    evidence: Evidence
    text: OwnText
    system: System | None
    computed: Computed | None
    tables: Mapping[str, DocTable]
    figures: Mapping[str, DocFigure]
    values: Mapping[str, Values]


def content(wanted: Wanted) -> Content:
    """Reads everything and makes every table and figure."""
    text = read_text(wanted.kind, wanted.text)
    models_dir = wanted.rates.models_dir
    system = load_system(wanted.system, models_dir) if wanted.system else None
    evidence = read_evidence(wanted.runs, wanted.rates)
    computed = None
    if text.file.request is not None and system is not None:
        basis = Basis(system=system, evidence=evidence, folder=text.folder, models_dir=models_dir)
        computed = compute(text.file.request, basis, wanted.reserve)
    snapshot = read_snapshot(wanted.snapshot) if wanted.snapshot else None
    predictions = read_predictions(evidence, [read_frozen(path) for path in wanted.frozen])
    scores = [(AGAIN, predictions.again)]
    scores += [(FROZEN, predictions.frozen)] if wanted.frozen else []
    scaling = scaling_of(evidence)
    tables = [
        runs_table(evidence, predictions),
        *(score_table(id, predicted) for id, predicted in scores),
        *scaling_tables(scaling),
        *_given_tables(wanted, text.file, evidence, system, computed),
        burn_table(snapshot, as_grant(text.file.allocation), system),
        final_table(snapshot, text.file.final_report),
    ]
    speedup, weak, sensitivity, roofline = scaling_figures(scaling)
    figures = [
        speedup,
        weak,
        step_figure(evidence, scaling),
        error_figure(evidence, predictions),
        memory_figure(evidence),
        sensitivity,
        roofline,
        gantt(text.file.work_packages),
        burn_figure(snapshot, as_grant(text.file.allocation), system),
    ]
    values = {id: score_values(id, predicted) for id, predicted in scores}
    return Content(
        evidence=evidence,
        text=text,
        system=system,
        computed=computed,
        tables={table.id: table for table in tables},
        figures={figure.id: figure for figure in figures},
        values={**run_values(evidence, predictions), **values, "request": request_values(computed)},
    )


def _given_tables(
    wanted: Wanted,
    file: DocumentFile,
    evidence: Evidence,
    system: System | None,
    computed: Computed | None,
) -> list[DocTable]:
    """T4 to T12: what a form asks for."""
    models_dir = wanted.rates.models_dir
    sources = system_tables(wanted.system, models_dir) if wanted.system else {}
    total = float(computed.total) if computed and computed.lines else None
    return [
        request_table(computed),
        partitions_table(system, sources, models_dir),
        units_table(system, total),
        memory_table(evidence, file.model, system, models_dir),
        jobs_table(computed, file.jobs),
        storage_table(file.storage, evidence),
        software_table(evidence, file.licences),
        packages_table(file.work_packages),
        risks_table(file.risks),
        data_table(file.datasets),
    ]


def template_data(kind: str, made: Content) -> dict[str, Any]:
    """data.json: all that the templates and the user's text can print."""
    file = made.text.file
    computed = made.computed
    asked = computed is not None and bool(computed.lines)
    given = file.artifact
    return {
        "kind": kind,
        "perfkit": __version__,
        "document": file.model_dump(
            include={
                *("title", "subtitle", "date", "authors", "abstract", "sections", "bibliography"),
                *("appendix", "call"),
            }
        ),
        "system": made.system.title if made.system else None,
        "request": request_words(computed) if computed and asked else None,
        "runs": [run.name for run in made.evidence.runs],
        "numbers": made.values,
        "tables": {id: table_data(table) for id, table in made.tables.items()},
        "figures": {id: figure_data(figure) for id, figure in made.figures.items()},
        "order": {
            "tables": [one.id for one in shown(kind, made) if isinstance(one, DocTable)],
            "figures": [one.id for one in shown(kind, made) if isinstance(one, DocFigure)],
        },
        "artifact": description(made.evidence, given, kind) if given else None,
    }


def shown(kind: str, made: Content) -> list[DocTable | DocFigure]:
    """What belongs into the document: a paper has what a form asks for only where it is given."""
    parts: list[DocTable | DocFigure] = [*made.tables.values(), *made.figures.values()]
    return [one for one in parts if kind != "paper" or not (one.missing and one.lack == NOT_GIVEN)]


def request_words(computed: Computed) -> str:
    """13,312.0 node-hours = 53,248.0 GPU-hours = 425,984.0 local core-hours."""
    units = computed.amount
    words = [f"{computed.total:,} node-hours"]
    if units.gpu_hours is not None:
        words.append(f"{round(units.gpu_hours, 1):,} GPU-hours")
    if units.local is not None and units.unit not in ("node-hours", "GPU-hours"):
        words.append(f"{round(units.local, 1):,} {units.unit}")
    return " = ".join(words)
