"""A study on a system as a plan: each point with its forecast, state and what is to be done."""

import fnmatch
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.collect.collectors import choose, read_collectors
from perfkit.errors import ConfigError
from perfkit.predict.gpus import Gpu
from perfkit.submit.fingerprint import differences, digest, made_of
from perfkit.submit.forecast import Forecast, forecast
from perfkit.submit.model import Model, check_weights
from perfkit.submit.points import Point, expand
from perfkit.submit.queue import Answer, ask
from perfkit.submit.script import Job
from perfkit.submit.states import State, state_of
from perfkit.submit.store import PointFolder, Record, read_record, read_run
from perfkit.submit.study import Study
from perfkit.submit.systems import System
from perfkit.submit.walltime import format_walltime

# The end of what a job printed, where it says why it failed.
OUTPUT_BYTES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for on the command line."""

    root: Path
    """the study's folder of results, absolute"""
    account: str | None = None
    image: Path | None = None
    binds: tuple[str, ...] = ()
    only: str | None = None
    stale: bool = False
    force_points: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every point of a plan shares."""

    study: Study
    system: System
    model: Model
    wishes: Wishes
    gpu: Gpu | None
    """of the system, as models/gpus.toml knows it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One point and what is to be done with it."""

    point: Point
    forecast: Forecast | None
    folder: PointFolder
    record: Record | None
    made_of: Mapping[str, Any]
    hash: str | None
    """of made_of; None for a point that cannot run"""
    state: str
    why: str | None
    """of skipped, stale and failed"""
    job: Job | None
    """the job to submit; None when nothing is"""


def make_plan(setting: Setting) -> tuple[list[Planned], tuple[str, ...]]:
    """(every point of the study, what Slurm could not be asked); ConfigError for all points."""
    check(setting)
    study, wishes = setting.study, setting.wishes
    points = expand(study, setting.system, setting.model.spec)
    chosen = [point for point in points if wanted(point.name, wishes.only)]
    if not chosen:
        names = ", ".join(point.name for point in points[:8])
        raise ConfigError(f"--only {wishes.only!r} matches no point. Points: {names} ...")
    folders = [PointFolder(wishes.root / point.name) for point in chosen]
    records = [read_record(folder) for folder in folders]
    answer = ask([record.last.job_id for record in records if record])
    binds = container_binds(setting) if wishes.image else ()
    plan = []
    for point, folder, record in zip(chosen, folders, records, strict=True):
        state = current_state(folder, record, answer)
        plan.append(_planned(setting, binds, point, folder, record, state))
    return plan, answer.problems


def check(setting: Setting) -> None:
    """What would make every point fail, found before the first is submitted."""
    study, system, wishes = setting.study, setting.system, setting.wishes
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
    for collect in values_of(study, "collect", "auto"):
        choose(collect, read_collectors(_collectors(study)))
    if wishes.dry_run:
        return
    if "safetensors" in values_of(study, "load", "safetensors"):
        check_weights(setting.model)
    if wishes.image is not None and not wishes.image.exists():
        raise ConfigError(f"--container {wishes.image}: there is no such image.")
    if system.account_required and not (wishes.account or os.environ.get("SBATCH_ACCOUNT")):
        raise ConfigError(
            f"{system.name} charges every job to a project. Give --account PROJECT, or set "
            "PERFKIT_SUBMIT_ACCOUNT or SBATCH_ACCOUNT.",
        )


def values_of(study: Study, key: str, default: Any) -> tuple[Any, ...]:
    """Every value that a setting takes in the study."""
    return study.axes.get(key, (study.run.get(key, default),))


def wanted(name: str, only: str | None) -> bool:
    return only is None or fnmatch.fnmatchcase(name, only)


def current_state(folder: PointFolder, record: Record | None, answer: Answer) -> State:
    """A point's state from its folder and Slurm's answer."""
    if record is None:
        return State(name="new")
    job_id = record.last.job_id
    output = tail(folder.output(job_id))
    slurm = answer.jobs.get(job_id)
    return state_of(record.last, read_run(folder), slurm, asked=answer.asked, output=output)


def tail(path: Path) -> str:
    """The end of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - OUTPUT_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def decide(
    state: State, changed: str, point: Point, needs: Forecast | None, wishes: Wishes
) -> tuple[str, bool, str | None]:
    """(state as shown, whether to submit, why): `changed` is what differs from the last job."""
    unfit = needs.unfit if needs else None
    if point.refused:
        return "skipped", False, point.refused
    if state.name == "finished" and changed:
        return "stale", wishes.stale, changed
    if state.name in ("finished", "waiting", "running"):
        return state.name, False, f"submitted with other settings: {changed}" if changed else None
    if unfit and not wishes.force_points:
        return "skipped", False, f"{unfit}; --force-points submits it all the same"
    return state.name, True, state.cause


def _planned(
    setting: Setting,
    binds: tuple[str, ...],
    point: Point,
    folder: PointFolder,
    record: Record | None,
    state: State,
) -> Planned:
    study, system, model, wishes = setting.study, setting.system, setting.model, setting.wishes
    parts = {} if point.refused else made_of(point, model, system, wishes.image)
    needs = None if point.refused else forecast(point.settings, model.spec, setting.gpu)
    changed = differences(record.made_of, parts) if record and parts else ""
    shown, submit, why = decide(state, changed, point, needs, wishes)
    job = Job(
        study=study.name,
        point=point,
        hash=digest(parts),
        system=system,
        folder=folder.root,
        model=model.argument,
        time_limit_s=study.time_limit_s,
        account=wishes.account,
        memory=study.memory,
        python=sys.executable,
        image=wishes.image,
        binds=binds,
    )
    return Planned(
        point=point,
        forecast=needs,
        folder=folder,
        record=record,
        made_of=parts,
        hash=digest(parts) if parts else None,
        state=shown,
        why=why,
        job=job if submit else None,
    )


def container_binds(setting: Setting) -> tuple[str, ...]:
    """What the container must see: results, model, prompts, collectors, then the user's binds."""
    study, wishes = setting.study, setting.wishes
    prompts = Path(study.run["prompts"]).parent if "prompts" in study.run else None
    ours = [wishes.root, setting.model.folder, prompts, _collectors(study)]
    paths = [str(path) for path in ours if path is not None]
    for path in paths:
        if ":" in path or "," in path:
            raise ConfigError(
                f"{path} cannot be bound into a container: --bind reads ':' and ',' as separators."
            )
    return (*dict.fromkeys(paths), *wishes.binds)


def _collectors(study: Study) -> Path | None:
    folder = study.run.get("collectors_dir")
    return Path(folder) if folder else None
