"""What `perfkit validate` finds in a study: mistakes in the file, points that cannot run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from perfkit.errors import ConfigError
from perfkit.predict.gpus import Gpu
from perfkit.predict.spec import ModelSpec
from perfkit.study.file import Study, find_study, read_study
from perfkit.study.forecast import forecast, target_of
from perfkit.study.model import load_model
from perfkit.study.points import Placement, Point, expand
from perfkit.study.systems import ContainerSite, System
from perfkit.study.walltime import format_walltime

ANYWHERE = System(
    name="any system",
    title="",
    gpus_per_node=1,
    environment={},
    container=ContainerSite(),
    unverified={},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One study file and what was found in it."""

    path: Path
    study: Study | None = None
    points: int = 0
    """that can run; a repeated one counts once"""
    mistakes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """points that this system would leave out, with the reason"""
    notes: list[str] = field(default_factory=list)
    """what runs, and is worth knowing"""


def check_study(
    name: str,
    system: System | None = None,
    gpu: Gpu | None = None,
    models_dir: Path | None = None,
) -> Checked:
    """Every mistake of a study, and with a system and its GPU also what cannot run there."""
    try:
        path = find_study(name)
        study, mistakes = read_study(path.resolve(), models_dir)
        if study is None:
            return Checked(path=path, mistakes=mistakes)
        spec = load_model(study.model, models_dir).spec
        points = expand(replace(study, repeats=1), ANYWHERE, spec, place_anywhere)
    except ConfigError as error:
        return Checked(path=Path(name), mistakes=[str(error)])
    found = Checked(
        path=path,
        study=study,
        points=len(points),
        mistakes=refusals(points),
        notes=list(dict.fromkeys(point.note for point in points if point.note)),
    )
    return found if found.mistakes or system is None else on_system(found, spec, system, gpu)


def on_system(found: Checked, spec: ModelSpec, system: System, gpu: Gpu | None) -> Checked:
    """What a system leaves out is no mistake of the study, unless nothing is left."""
    assert found.study is not None
    try:
        check_system(found.study, system)
    except ConfigError as error:
        return replace(found, mistakes=[str(error)])
    points = expand(replace(found.study, repeats=1), system, spec)
    target = target_of(system, gpu)
    left_out = refusals(points)
    for point in points:
        if not point.refused:
            unfit = forecast(point.settings, spec, target, point.placement).unfit
            left_out += [f"{title(point)}: {unfit}."] if unfit else []
    if len(left_out) == len(points):
        return replace(found, points=0, mistakes=[f"no point can run on {system.name}:", *left_out])
    return replace(found, points=len(points) - len(left_out), skipped=left_out)


def check_system(study: Study, system: System) -> None:
    """ConfigError for what would keep every point from a system."""
    if system.ranks_per_node is None:
        raise ConfigError(
            f"system {system.name} does not say how many GPUs a node has. Give --gpus-per-node, or "
            "a system file of your own with --system YOURS.toml.",
        )
    limit = system.max_walltime_s
    if limit and study.time_limit_s > limit:
        raise ConfigError(
            f"[job] time_limit {format_walltime(study.time_limit_s)} of {study.path.name} is more "
            f"than the {format_walltime(limit)} that {system.name} gives a job.",
        )


def place_anywhere(_study: Study, _system: System, tp: int, pp: int) -> Placement:
    """A node large enough: what is refused now, the model or the options refuse."""
    return Placement(nodes=1, tasks_per_node=tp * pp, cpus_per_task=None)


def refusals(points: Sequence[Point]) -> list[str]:
    return [f"{title(point)}: {point.refused}" for point in points if point.refused]


def title(point: Point) -> str:
    """Its name without the number of the repeat."""
    return f"point {point.name.removesuffix('-r1')}"
