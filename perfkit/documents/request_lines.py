"""Lines of a resource request: jobs of one size, how long each takes, and who says so.

A study's jobs take their time limit, or passes as predicted and the setup that the user gives; a
recorded run's wall time is measured; the rest are the user's own numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

from perfkit.allocation.units import billed_part
from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.settings import Phase
from perfkit.predict.gpus import gpu_of_device, load_gpu
from perfkit.predict.spec import ModelSpec
from perfkit.study.file import load_study
from perfkit.study.forecast import Target, forecast, target_of
from perfkit.study.model import load_model
from perfkit.study.points import Placement, Point, expand
from perfkit.study.systems import System

TENTH, MINUTE = Decimal("0.1"), 1 / 60
LIMIT, PREDICTED, MEASURED, GIVEN = "time limit", "predicted", "measured", "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Jobs of one kind."""

    phase: str
    nodes: int
    """of a job"""
    gpus_per_node: int | None
    """that a job takes of each node"""
    part: float
    """of a node that is billed, in 0..1"""
    hours_per_run: float
    runs: int
    basis: str
    """LIMIT, PREDICTED, MEASURED or GIVEN: where the hours are from"""
    source: str = ""
    of_runs: tuple[str, ...] = ()
    """run folders that the hours are measured in"""

    @property
    def node_hours(self) -> Decimal:
        """As billed, rounded up to a tenth."""
        exact = Decimal(repr(self.nodes * self.part * self.hours_per_run * self.runs))
        # A product such as 3 * 0.1 must not become the next tenth.
        return exact.quantize(Decimal("1e-9")).quantize(TENTH, rounding=ROUND_CEILING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What lines are made of."""

    system: System
    evidence: Evidence
    folder: Path | None = None
    """of the user's text, where his studies may be"""
    models_dir: Path | None = None


@dataclass(slots=True)
class _Size:
    """Jobs of a study on the same number of nodes and GPUs."""

    part: float
    hours: list[float] = field(default_factory=list)


def lines_of(phase: Phase, basis: Basis) -> tuple[list[Line], list[str]]:
    """(the lines of a phase, what is left out of them and doubts)."""
    if phase.study is not None:
        return _of_study(phase, phase.study, basis)
    if phase.like is not None:
        return _like_run(phase, phase.like, basis)
    return [_given(phase, basis.system)], []


def _given(phase: Phase, system: System) -> Line:
    assert phase.nodes is not None
    assert phase.hours_per_run is not None
    gpus = phase.gpus_per_node or system.gpus_per_node
    return Line(
        phase=phase.name,
        nodes=phase.nodes,
        gpus_per_node=gpus,
        part=billed_part(system, gpus or math.inf),
        hours_per_run=phase.hours_per_run,
        runs=phase.runs,
        basis=GIVEN,
    )


def _like_run(phase: Phase, like: str, basis: Basis) -> tuple[list[Line], list[str]]:
    """As long as a recorded run took, on as many GPUs; no line where its time is not known."""
    system, run = basis.system, basis.evidence.named(like)
    if run is None or run.wall_s is None or not run.finished:
        return [], [f"{phase.name}: not in the request, for {like} {_unknown(run)}"]
    ranks = len(run.findings.analysis.ranks)
    nodes = phase.nodes or math.ceil(ranks / (system.ranks_per_node or ranks))
    gpus = phase.gpus_per_node or math.ceil(ranks / nodes)
    times = f" x {phase.times:g}" if phase.times != 1 else ""
    line = Line(
        phase=phase.name,
        nodes=nodes,
        gpus_per_node=gpus,
        part=billed_part(system, gpus),
        hours_per_run=minutes_up(run.wall_s * phase.times / 3600),
        runs=phase.runs,
        basis=MEASURED,
        source=f"wall time of {run.name}{times}",
        of_runs=(run.name,),
    )
    other = other_hardware(run, system, basis.models_dir)
    return [line], [f"{phase.name}: {other}"] if other else []


def _unknown(run: Run | None) -> str:
    if run is None:
        return "is not among the runs"
    return "has no start and end in run.json" if run.finished else f"is {run.record.get('state')}"


def other_hardware(run: Run, system: System, models_dir: Path | None) -> str | None:
    """A sentence where a run's times are of other GPUs than the system has."""
    gpus = (run.record.get("hardware") or {}).get("gpus") or []
    ran_on = gpu_of_device(gpus, models_dir)
    if ran_on == system.gpu and ran_on is not None:
        return None
    device = run.row["device"] or "hardware that run.json does not name"
    has = load_gpu(system.gpu, models_dir).name if system.gpu else "hardware not known here"
    return f"the time was measured on {device}, {system.name} has {has}"


def _of_study(phase: Phase, name: str, basis: Basis) -> tuple[list[Line], list[str]]:
    """A line for each size of a study's jobs; what does not fit or cannot run is left out."""
    system, models_dir = basis.system, basis.models_dir
    own = basis.folder / name if basis.folder else Path(name)
    study = load_study(str(own) if own.is_file() else name, models_dir)
    spec = load_model(study.model, models_dir).spec
    target = target_of(system, load_gpu(system.gpu, models_dir) if system.gpu else None, models_dir)
    sizes: dict[tuple[int, int], _Size] = {}
    skipped: dict[str, list[str]] = {}
    for point in expand(study, system, spec):
        hours, why = _hours(phase, point, study.time_limit_s / 3600, spec, target)
        if why or point.placement is None:
            skipped.setdefault(str(why), []).append(point.name)
            continue
        place = point.placement
        size = sizes.setdefault((place.nodes, place.tasks_per_node), _Size(_part(place, system)))
        size.hours.append(hours)
    source = f"study {study.name}"
    if phase.hours == PREDICTED:
        source += ", each job as long as the longest of its size"
    lines = [
        Line(
            phase=phase.name,
            nodes=nodes,
            gpus_per_node=tasks if system.gpus_per_node else None,
            part=size.part,
            hours_per_run=max(size.hours),
            runs=len(size.hours) * phase.runs,
            basis=PREDICTED if phase.hours == PREDICTED else LIMIT,
            source=source,
        )
        for (nodes, tasks), size in sorted(sizes.items())
    ]
    return lines, [_left_out(phase, study.name, why, names) for why, names in skipped.items()]


def _hours(
    phase: Phase, point: Point, limit_h: float, spec: ModelSpec, target: Target
) -> tuple[float, str | None]:
    """(hours of a point's job, None), or (0, why it is left out)."""
    if point.refused:
        return 0.0, point.refused
    needs = forecast(point.settings, spec, target, point.placement)
    if needs.unfit or phase.hours != PREDICTED:
        return limit_h, needs.unfit
    return minutes_up((needs.passes_s or 0) / 3600 + phase.setup_minutes / 60), needs.no_time


def _left_out(phase: Phase, study: str, why: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{phase.name}: {names[0]} of study {study} is not in the request: {why}"
    return (
        f"{phase.name}: {len(names)} jobs of study {study} are not in the request, {names[0]} and "
        f"its like: {why}"
    )


def _part(place: Placement, system: System) -> float:
    return billed_part(system, place.tasks_per_node, exclusive=place.exclusive)


def minutes_up(hours: float) -> float:
    """Whole minutes, rounded up: what a job script would ask for."""
    return math.ceil(round(hours / MINUTE, 6)) * MINUTE
