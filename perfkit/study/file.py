"""A study: what is measured, which settings vary, how long each run may take.

    kind = "strong-scaling"   # what it is for; may be left out
    model = "llama-3.3-70b"
    [job]                     # every point is a job of its own, `repeats` times
    time_limit = "00:30:00"
    [run]                     # options of `perfkit run`, the same for every point
    prompt_tokens = 2048
    [axes]                    # options of `perfkit run` that vary: every combination is a point
    pp = [1, 2, 3]
    [[points]]                # or options that vary together: each table is a point
    tp = 2

Paths are relative to the study's own folder.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.collect.collectors import choose, read_collectors
from perfkit.errors import ConfigError
from perfkit.paths import find, listing
from perfkit.study.kinds import combinations, wrong_for_kind
from perfkit.study.model import load_model
from perfkit.study.tables import PER_GPU, StudyFile
from perfkit.study.toml_file import place, read_toml, refuse, validate
from perfkit.study.walltime import parse_walltime

PATHS = ("prompts", "collectors_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study that may be expanded into points; every path is absolute."""

    name: str
    path: Path
    title: str
    model: str
    """an id, or the absolute path of a folder with config.json"""
    time_limit_s: int
    repeats: int
    """runs of each point; [run] repeats are the timed passes inside one"""
    stages_per_node: int | None
    """None: as many as a node has room for, the same number on every node"""
    exclusive: bool
    memory: str | None
    """host memory of a node as sbatch takes it, such as 480G"""
    run: Mapping[str, Any]
    axes: Mapping[str, tuple[Any, ...]]
    points: tuple[Mapping[str, Any], ...] = ()
    """settings that vary together; each with every combination of the axes"""
    kind: str | None = None


def load_study(name_or_path: str, models_dir: Path | None = None) -> Study:
    """A study's TOML file, by path or by the name of a shipped one; ConfigError lists mistakes."""
    path = find_study(name_or_path).resolve()
    study, mistakes = read_study(path, models_dir)
    if study is None:
        raise refuse(path, mistakes)
    return study


def read_study(path: Path, models_dir: Path | None = None) -> tuple[Study | None, list[str]]:
    """(the study, nothing), or (None, every mistake with its place); ConfigError if no TOML."""
    content = read_toml(path)
    file, mistakes = validate(StudyFile, content)
    mistakes += _contradictions(content)
    mistakes += _missing_files(content, path.parent)
    mistakes += _unknown_collectors(content, path.parent)
    mistakes += _unknown_model(content, path.parent, models_dir)
    if file is None or mistakes:
        return None, mistakes
    study = _study(path, file)
    mistakes = wrong_for_kind(study.kind, combinations(study.run, study.points, study.axes))
    return (None, mistakes) if mistakes else (study, [])


def study_names() -> list[str]:
    """The shipped studies."""
    return sorted({path.stem for path in listing("analysis", "*.toml")})


def find_study(name: str) -> Path:
    """A study's file, by path or by the name of a shipped one."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = None if path.suffix == ".toml" else find("analysis", f"{name}.toml")
    if shipped is None:
        near = difflib.get_close_matches(path.stem, study_names(), n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"no study {name!r}: not a TOML file, and not one of the shipped studies: "
            f"{', '.join(study_names())}.{hint} Start your own with: perfkit init",
        )
    return shipped


def _varying(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, its place) of every key in [axes] and of every key in [[points]]."""
    for key in _table(content, "axes"):
        yield key, place("axes", key)
    for number, point in enumerate(_points(content)):
        for key in point:
            yield key, place("points", number, key)


def _contradictions(content: Mapping[str, Any]) -> list[str]:
    """What is wrong although each value by itself is not."""
    run, axes = _table(content, "run"), _table(content, "axes")
    found = [
        f"{at}: is in [run], too. Give it once." for key, at in _varying(content) if key in run
    ]
    in_points = {key for point in _points(content) for key in point}
    found += [
        f"{place('axes', key)}: is in [[points]], too. Give it once."
        for key in axes
        if key in in_points
    ]
    for key, values in axes.items():
        if isinstance(values, list) and not values:
            found.append(f"{place('axes', key)}: has no values.")
        elif isinstance(values, list) and len({repr(v) for v in values}) < len(values):
            found.append(f"{place('axes', key)}: has a value twice: {values}.")
    for number, point in enumerate(_points(content)):
        if point in _points(content)[:number]:
            found.append(f"{place('points', number)}: is there twice.")
        if {"batch", PER_GPU} <= {*run, *axes, *point}:
            found.append(f"{place('points', number)}: batch and {PER_GPU}. Give one of them.")
    if not _points(content) and {"batch", PER_GPU} <= {*run, *axes}:
        found.append(f"[run]: batch and {PER_GPU} cannot both be given. Give one of them.")
    return found


def _missing_files(content: Mapping[str, Any], folder: Path) -> list[str]:
    """Paths that lead nowhere."""
    found = []
    for where, table in _run_tables(content):
        for key in PATHS:
            value = table.get(key)
            if isinstance(value, str) and not _absolute(value, folder).exists():
                found.append(f"{place(*where, key)}: there is no {_absolute(value, folder)}.")
    return found


def _unknown_collectors(content: Mapping[str, Any], folder: Path) -> list[str]:
    """Collectors that no file describes."""
    own = _table(content, "run").get("collectors_dir")
    values = [((*where, "collect"), table.get("collect")) for where, table in _run_tables(content)]
    listed = _table(content, "axes").get("collect")
    if isinstance(listed, list):
        values += [(("axes", "collect", number), value) for number, value in enumerate(listed)]
    found = []
    for where, value in values:
        try:
            if isinstance(value, str):
                known = read_collectors(_absolute(own, folder) if isinstance(own, str) else None)
                choose(value, known)
        except ConfigError as error:
            found.append(f"{place(*where)}: {error}")
    return found


def _run_tables(content: Mapping[str, Any]) -> list[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """(place, content) of [run] and of each of [[points]]."""
    points = enumerate(_points(content))
    return [(("run",), _table(content, "run")), *((("points", n), point) for n, point in points)]


def _unknown_model(content: Mapping[str, Any], folder: Path, models_dir: Path | None) -> list[str]:
    """Why the model is none; empty when it is one, or when the file names none."""
    name = content.get("model")
    if not isinstance(name, str):
        return []
    try:
        load_model(_model(name, folder), models_dir).spec  # noqa: B018
    except ConfigError as error:
        return ["model: " + str(error).replace("\n", "\n    ")]
    return []


def _model(name: str, folder: Path) -> str:
    """A folder with config.json, relative to the study's own, or else an id."""
    path = _absolute(name, folder)
    return str(path) if (path / "config.json").is_file() else name


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name)
    return table if isinstance(table, dict) else {}


def _points(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    points = content.get("points")
    return [p for p in points if isinstance(p, dict)] if isinstance(points, list) else []


def _study(path: Path, file: StudyFile) -> Study:
    axes = {key: tuple(v) for key, v in file.axes.model_dump().items() if v is not None}
    return Study(
        name=path.stem,
        path=path,
        title=file.title,
        kind=file.kind,
        model=_model(file.model, path.parent),
        time_limit_s=parse_walltime(file.job.time_limit),
        repeats=file.job.repeats,
        stages_per_node=file.job.stages_per_node,
        exclusive=file.job.exclusive,
        memory=file.job.memory,
        run=_given(file.run.model_dump(), path.parent),
        axes=axes,
        points=tuple(_given(point.model_dump(), path.parent) for point in file.points),
    )


def _given(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a table sets, its paths absolute."""
    values = {key: value for key, value in table.items() if value is not None}
    return {k: str(_absolute(v, folder)) if k in PATHS else v for k, v in values.items()}


def _absolute(text: str, folder: Path) -> Path:
    return (folder / Path(text).expanduser()).resolve()
