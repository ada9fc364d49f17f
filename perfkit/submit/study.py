"""A study: what is measured, which settings vary, how long each job may take.

    model = "llama-3.3-70b"
    [job]                     # every combination is a job of its own, `repeats` times
    time_limit = "00:30:00"
    [run]                     # options of `perfkit run`, the same for every point
    prompt_tokens = 2048
    [axes]                    # options of `perfkit run` that vary: every combination is a point
    pp = [1, 2, 3]

Paths are relative to the study's own folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from perfkit.errors import ConfigError
from perfkit.paths import find, listing
from perfkit.submit.model import load_model
from perfkit.submit.toml_file import Table, must_match, place, read_toml, refuse, validate
from perfkit.submit.walltime import WallTime, parse_walltime

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Dtype = Literal["float32", "bfloat16", "float16"]
Load = Literal["safetensors", "dummy"]
Layers = Annotated[str, must_match(r"\d+(,\d+)*", "layer counts such as 16,14")]
Memory = Annotated[str, must_match(r"\d+[KMGT]?", "a size as sbatch takes it, such as 480G")]


class JobTable(Table):
    """What Slurm needs to know of every job."""

    time_limit: WallTime
    repeats: Positive = 1
    stages_per_node: Positive | None = None
    exclusive: bool = False
    memory: Memory | None = None


class RunTable(Table):
    """Options of `perfkit run` under their own names, in its order."""

    tp: Positive | None = None
    pp: Positive | None = None
    split: Layers | None = None
    batch: Positive | None = None
    microbatches: Positive | None = None
    prompt_tokens: Positive | None = None
    new_tokens: Positive | None = None
    stop_at_eos: bool | None = None
    dtype: Dtype | None = None
    load: Load | None = None
    prompts: str | None = None
    device: Literal["cuda", "cpu"] | None = None
    warmup: Positive | None = None
    repeats: Positive | None = None
    collect: str | None = None
    profile_ranks: str | None = None
    collectors_dir: str | None = None
    seed: Count | None = None


class AxesTable(Table):
    """Options that vary, each with its values."""

    tp: list[Positive] | None = None
    pp: list[Positive] | None = None
    split: list[Layers] | None = None
    batch: list[Positive] | None = None
    microbatches: list[Positive] | None = None
    prompt_tokens: list[Positive] | None = None
    new_tokens: list[Positive] | None = None
    stop_at_eos: list[bool] | None = None
    dtype: list[Dtype] | None = None
    load: list[Load] | None = None
    collect: list[str] | None = None
    seed: list[Count] | None = None


class StudyFile(Table):
    """analysis/NAME.toml, or a user's own."""

    title: str = ""
    model: str
    job: JobTable
    run: RunTable = RunTable()
    axes: AxesTable = AxesTable()


SETTINGS = tuple(RunTable.model_fields)


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
    """jobs of each combination; [run] repeats are the timed passes inside one"""
    stages_per_node: int | None
    """None: as many as a node has room for, the same number on every node"""
    exclusive: bool
    memory: str | None
    """host memory of a node as sbatch takes it, such as 480G"""
    run: Mapping[str, Any]
    axes: Mapping[str, tuple[Any, ...]]


def load_study(name_or_path: str, models_dir: Path | None = None) -> Study:
    """A study's TOML file, by path or by the name of a shipped one; ConfigError lists mistakes."""
    path = _find(name_or_path).resolve()
    content = read_toml(path)
    file, mistakes = validate(StudyFile, content)
    mistakes += _contradictions(content)
    mistakes += _missing_files(content, path.parent)
    mistakes += _unknown_model(content, path.parent, models_dir)
    if file is None or mistakes:
        raise refuse(path, mistakes)
    return _study(path, file)


def study_names() -> list[str]:
    """The shipped studies."""
    return sorted({path.stem for path in listing("analysis", "*.toml")})


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = find("analysis", f"{name}.toml")
    if shipped is None:
        raise ConfigError(
            f"no study {name!r}: not a TOML file, and not one of the shipped studies: "
            f"{', '.join(study_names())}.",
        )
    return shipped


def _contradictions(content: Mapping[str, Any]) -> list[str]:
    """What is wrong although each value by itself is not."""
    run, axes = _table(content, "run"), _table(content, "axes")
    found = [f"{place('axes', key)}: is in [run], too. Give it once." for key in axes if key in run]
    for key, values in axes.items():
        if isinstance(values, list) and not values:
            found.append(f"{place('axes', key)}: has no values.")
        elif isinstance(values, list) and len({repr(v) for v in values}) < len(values):
            found.append(f"{place('axes', key)}: has a value twice: {values}.")
    return found


def _missing_files(content: Mapping[str, Any], folder: Path) -> list[str]:
    """Paths that lead nowhere."""
    found = []
    for key in ("prompts", "collectors_dir"):
        value = _table(content, "run").get(key)
        if isinstance(value, str) and not _absolute(value, folder).exists():
            found.append(f"{place('run', key)}: there is no {_absolute(value, folder)}.")
    return found


def _unknown_model(content: Mapping[str, Any], folder: Path, models_dir: Path | None) -> list[str]:
    """Why the model is none; empty when it is one, or when the file names none."""
    name = content.get("model")
    if not isinstance(name, str):
        return []
    try:
        load_model(_model(name, folder), models_dir)
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


def _study(path: Path, file: StudyFile) -> Study:
    run = {key: value for key, value in file.run.model_dump().items() if value is not None}
    for key in ("prompts", "collectors_dir"):
        if key in run:
            run[key] = str(_absolute(run[key], path.parent))
    axes = {key: tuple(v) for key, v in file.axes.model_dump().items() if v is not None}
    return Study(
        name=path.stem,
        path=path,
        title=file.title,
        model=_model(file.model, path.parent),
        time_limit_s=parse_walltime(file.job.time_limit),
        repeats=file.job.repeats,
        stages_per_node=file.job.stages_per_node,
        exclusive=file.job.exclusive,
        memory=file.job.memory,
        run=run,
        axes=axes,
    )


def _absolute(text: str, folder: Path) -> Path:
    return (folder / Path(text).expanduser()).resolve()
