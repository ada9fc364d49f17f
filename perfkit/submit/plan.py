"""A study on a system as a plan: each point with its forecast, state and what is to be done."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.study.file import Study
from perfkit.study.fingerprint import differences, digest, made_of
from perfkit.study.forecast import Forecast, Target, forecast
from perfkit.study.model import Model
from perfkit.study.points import Place, Point, expand, place_ranks
from perfkit.study.states import State
from perfkit.study.store import PointFolder, Record, read_record
from perfkit.study.systems import System
from perfkit.submit.states import ask_of, current_state


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
    target: Target
    """of the forecasts"""
    place: Place = place_ranks


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
    todo: bool
    """to be submitted, or run"""


def make_plan(setting: Setting) -> tuple[list[Planned], tuple[str, ...]]:
    """(every point of the study, what Slurm could not be asked)."""
    wishes = setting.wishes
    points = expand(setting.study, setting.system, setting.model.spec, setting.place)
    chosen = [point for point in points if wanted(point.name, wishes.only)]
    if not chosen:
        names = ", ".join(point.name for point in points[:8])
        raise ConfigError(f"--only {wishes.only!r} matches no point. Points: {names} ...")
    folders = [PointFolder(wishes.root / point.name) for point in chosen]
    records = [read_record(folder) for folder in folders]
    answer = ask_of(records)
    plan = []
    for point, folder, record in zip(chosen, folders, records, strict=True):
        state = current_state(folder, record, answer)
        plan.append(_planned(setting, point, folder, record, state))
    return plan, answer.problems


def values_of(study: Study, key: str, default: Any) -> set[Any]:
    """Every value that a setting takes in the study."""
    of_points = [point.get(key, study.run.get(key, default)) for point in study.points or ({},)]
    return set(study.axes.get(key, of_points))


def wanted(name: str, only: str | None) -> bool:
    return only is None or fnmatch.fnmatchcase(name, only)


def decide(
    state: State, changed: str, point: Point, needs: Forecast | None, wishes: Wishes
) -> tuple[str, bool, str | None]:
    """(state as shown, whether to run, why): `changed` is what differs from the last job."""
    unfit = needs.unfit if needs else None
    if point.refused:
        return "skipped", False, point.refused
    if state.name == "finished" and changed:
        return "stale", wishes.stale, changed
    if state.name in ("finished", "waiting", "running"):
        return state.name, False, f"started with other settings: {changed}" if changed else None
    if unfit and not wishes.force_points:
        return "skipped", False, f"{unfit}; --force-points takes it all the same"
    return state.name, True, state.cause


def _planned(
    setting: Setting, point: Point, folder: PointFolder, record: Record | None, state: State
) -> Planned:
    model, wishes = setting.model, setting.wishes
    parts: dict[str, Any] = {}
    needs = None
    if not point.refused:
        parts = made_of(point, model, setting.system, wishes.image)
        needs = forecast(point.settings, model.spec, setting.target, point.placement)
    changed = differences(record.made_of, parts) if record and parts else ""
    shown, todo, why = decide(state, changed, point, needs, wishes)
    return Planned(
        point=point,
        forecast=needs,
        folder=folder,
        record=record,
        made_of=parts,
        hash=digest(parts) if parts else None,
        state=shown,
        why=why,
        todo=todo,
    )
