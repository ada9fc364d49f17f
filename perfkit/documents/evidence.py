"""The runs behind a document: what each measured and what was predicted of it, under one name.

A folder that is no usable run is left out with the reason; a document is made from the rest, and
from none at all.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.run_facts import Rates, facts_of
from perfkit.compare.study_runs import Found, find_runs
from perfkit.errors import ConfigError
from perfkit.report.given import names_of
from perfkit.report.html import Findings, find
from perfkit.report.side_by_side import ORDER, RUNS, described, engine_facts
from perfkit.schema import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run folder."""

    name: str
    """the folder's, or the point's of a study; with its parent's where two are called the same"""
    path: Path
    row: Mapping[str, Any]
    """perfkit.report.side_by_side.RUNS"""
    facts: Mapping[str, Any]
    """perfkit.compare.run_facts, under `name`"""
    findings: Findings
    digest: str
    """SHA-256 of run.json"""

    @property
    def record(self) -> Mapping[str, Any]:
        return self.findings.analysis.run

    @property
    def finished(self) -> bool:
        return self.record.get("state") == "finished"

    @property
    def inside(self) -> str | None:
        """The profiler that the timed passes ran in, which costs time; None for none."""
        inside: str | None = self.facts["inside"]
        return inside

    @property
    def wall_s(self) -> float | None:
        """Start to end of the run, loading included."""
        started, ended = self.record.get("started_at"), self.record.get("ended_at")
        if not started or not ended:
            return None
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()

    def measured(self, measure: str, what: str = "median") -> float | None:
        """Of perfkit.ingest.timers.SUMMARY: ttft_s, tpot_s, e2e_s, tokens_per_s."""
        rows = self.findings.analysis.summary.filter(measure=measure).to_dicts()
        return rows[0][what] if rows else None

    def engine(self) -> list[dict[str, Any]]:
        """engine.json of each rank that left one."""
        return engine_facts(self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Every run of a document, in the order of its tables."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()
    """what is no run, and why"""

    def named(self, name: str) -> Run | None:
        return next((run for run in self.runs if run.name == name), None)

    @property
    def timed(self) -> tuple[Run, ...]:
        """Runs with at least one timed pass."""
        return tuple(run for run in self.runs if run.measured("e2e_s") is not None)


def runs_in(paths: Sequence[Path]) -> Found:
    """Run folders, and what is none: a folder of runs and a study's stand for the runs in them."""
    found: dict[Path, Path] = {}
    missing: list[str] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist. Give the folders that `perfkit run` wrote.")
        try:
            inside = find_runs([path])
        except ConfigError as error:
            missing.append(str(error))
            continue
        found |= {run.resolve(): run for run in inside.runs if run.resolve() not in found}
        missing += inside.missing if path.is_dir() else [f"{path}: a file, not a run folder"]
    return Found(list(found.values()), missing)


def read_evidence(paths: Sequence[Path], rates: Rates = Rates()) -> Evidence:
    """Every run that can be read. Rates that were asked for and cannot be used are an error."""
    folders = runs_in(paths)
    left_out = list(folders.missing)
    runs = []
    for name, folder in zip(names_of(folders.runs), folders.runs, strict=True):
        try:
            runs.append(_read(name, folder, rates))
        except (ConfigError, OSError) as error:
            if rates != Rates():
                raise
            left_out.append(f"{name}: {str(error).splitlines()[0]}")
    different, copies = without_copies(runs)
    return Evidence(runs=tuple(_in_order(different)), left_out=(*left_out, *copies))


def without_copies(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """(the runs, what is left out): a run that lies in two folders must not count twice."""
    found: dict[Any, Run] = {}
    copies = []
    for run in runs:
        record = run.record
        known = record.get("id") and record.get("started_at")
        key = (record["id"], record["started_at"]) if known else run.name
        first = found.setdefault(key, run)
        if first is not run:
            copies.append(f"{run.name}: the same run as {first.name}")
    return list(found.values()), copies


def _read(name: str, folder: Path, rates: Rates) -> Run:
    found = find(folder, rates.calibration, rates.gpu, rates.models_dir)
    run, content = found.analysis.run, RunFolder(folder).run_json.read_bytes()
    facts = facts_of(folder, run, found.analysis, found.prediction, found.no_prediction)
    return Run(
        name=name,
        path=folder,
        row=described(found),
        facts={**facts, "run": name},
        findings=found,
        digest=hashlib.sha256(content).hexdigest(),
    )


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """As `perfkit report` lists them, whatever order they were given in."""
    rows = [{**{key: run.row[key] for key in ORDER}, "at": at} for at, run in enumerate(runs)]
    schema = pl.Schema([*((key, RUNS[key]) for key in ORDER), ("at", pl.Int64())])
    order = pl.DataFrame(rows, schema=schema).sort(*ORDER, "at", nulls_last=True)["at"]
    return [runs[at] for at in order]
