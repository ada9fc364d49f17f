"""Runs the microbenchmark on the ranks and keeps the calibration made from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.calibrate.fit import fit
from perfkit.calibrate.fit_curves import check_fitting
from perfkit.calibrate.store import collected_points
from perfkit.calibrate.toml_file import write_toml
from perfkit.collect.facts import versions
from perfkit.collect.plan import RunPlan
from perfkit.collect.run import execute
from perfkit.collect.supervise import now
from perfkit.collect.verdict import tell
from perfkit.errors import PerfkitError
from perfkit.report.tables import Column, as_json, render
from perfkit.schema import RunFolder, write_json

# A collective whose timings lie this far from alpha + bytes / bandwidth is said to.
FIT_TOLERANCE = 0.15

COLUMNS = (
    Column(name="what", title="rate", kind="text"),
    Column(name="ranks", title="ranks", kind="text"),
    Column(name="value", title="value"),
    Column(name="unit", title="unit", kind="text"),
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration document, where it is kept, and what to think of it."""

    document: Mapping[str, Any]
    path: Path
    warnings: tuple[str, ...]


def calibrate(
    plan: RunPlan, progress: Callable[[str], None], out: Path | None
) -> Calibration | None:
    """Measure, fit, keep; None on every Slurm rank but the first."""
    if plan.task.record()["config"]["device"] == "cuda":
        check_fitting()
    outcome = execute(plan, progress)
    if outcome.exit_code:
        raise PerfkitError(f"calibration {outcome.state}: {tell(outcome)}")
    if not plan.place.first:
        return None
    document = fit(collected_points(RunFolder(plan.folder)), date=now()[:10])
    path = plan.folder / "calibration.json"
    write_json(path, document)
    if out is not None and out.suffix == ".toml":
        write_toml(document, versions(), out)
    elif out is not None:
        write_json(out, document)
    return Calibration(document, out or path, tuple(doubts(document)))


def doubts(document: Mapping[str, Any]) -> list[str]:
    """Collectives whose timings alpha + bytes / bandwidth does not describe well."""
    return [
        f"{op} over {group} ranks lies {link['mean_error']:.0%} off alpha + bytes / bandwidth"
        for op in ("all_reduce", "send_recv")
        for group, link in document[op].items()
        if link["mean_error"] > FIT_TOLERANCE
    ]


def render_rates(document: Mapping[str, Any], fmt: str) -> str:
    """The rates as a table; JSON is the calibration document itself."""
    if fmt == "json":
        return as_json(document)
    import polars as pl

    frame = pl.DataFrame(_rows(document))
    title = f"{document['device_name']}, {document['dtype']}"
    return render(frame, COLUMNS, fmt, title=title)


def _rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for entry in document["compute"]:
        at_work = f"{entry['active_ranks']} at work"
        rows += [
            _row("GEMM", at_work, entry["gemm_flops_per_s"] / 1e9, "GFLOP/s"),
            _row("weights read", at_work, entry["read_bytes_per_s"] / 1e9, "GB/s"),
            _row("dispatch", at_work, entry["dispatch_s"] * 1e6, "us"),
        ]
    for op in ("all_reduce", "send_recv"):
        for group, link in document[op].items():
            rows += [
                _row(f"{op} latency", f"group of {group}", link["alpha_s"] * 1e6, "us"),
                _row(f"{op} bandwidth", f"group of {group}", link["bytes_per_s"] / 1e9, "GB/s"),
            ]
    return rows


def _row(what: str, ranks: str, value: float, unit: str) -> dict[str, Any]:
    return {"what": what, "ranks": ranks, "value": value, "unit": unit}
