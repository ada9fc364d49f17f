"""Which runs a report is of: run folders, folders of them, and studies with points not yet run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.compare.study_runs import find_runs
from perfkit.errors import ConfigError
from perfkit.study.store import point_folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was found in the paths of a command."""

    runs: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    """what should have been a run, and why it is none: told on the page"""
    beside: tuple[str, ...] = ()
    """what a shell's pattern named too: told on stderr only"""


def given(paths: Sequence[Path]) -> Given:
    """The runs of the paths; ConfigError where there are neither runs nor a study.

    A study stands for its points. A folder of runs stands for them, too, unless runs are given
    beside it: `traces/*` names the runs, and `traces/scored`, in which there are others.
    """
    runs: dict[Path, Path] = {}
    missing: list[str] = []
    beside: list[str] = []
    alone = not any((path / "run.json").exists() for path in paths)
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist. Give the folders that `perfkit run` wrote.")
        if path.is_file():
            beside.append(f"{path} is a file, not a run folder: left out")
        elif _holds_runs(path) and not alone:
            beside.append(f"{path} holds run folders and is none: left out")
        elif not _is_something(path):
            missing.append(f"{path} has no run.json: it is no run folder, or the run never started")
        else:
            inside = find_runs([path])
            runs |= {run.resolve(): run for run in inside.runs if run.resolve() not in runs}
            missing += inside.missing
    if not runs and not any(point_folders(path) for path in paths):
        raise ConfigError(
            f"{'; '.join([*missing, *beside])}. Give the folders that `perfkit run` wrote."
        )
    return Given(runs=tuple(runs.values()), missing=tuple(missing), beside=tuple(beside))


def _is_something(path: Path) -> bool:
    return (path / "run.json").exists() or _holds_runs(path) or bool(point_folders(path))


def _holds_runs(path: Path) -> bool:
    inside = next(path.glob("*/run.json"), None) is not None
    return inside and not (path / "run.json").exists() and not point_folders(path)


def names_of(paths: Sequence[Path]) -> list[str]:
    """As many of each path's last folders as tell it from the others."""
    parts = [_parts(path) for path in paths]
    found: dict[int, str] = {}
    for depth in range(1, max(map(len, parts), default=0) + 1):
        ends = ["/".join(part[-depth:]) for part in parts]
        counts = Counter(ends)
        found |= {at: end for at, end in enumerate(ends) if counts[end] == 1 and at not in found}
    return [found.get(at, str(path)) for at, path in enumerate(paths)]


def _parts(path: Path) -> tuple[str, ...]:
    """Of a study's point, runs/STUDY/POINT/run, without the last."""
    resolved = path.resolve()
    of_point = (resolved.parent / "point.json").is_file()
    return resolved.parent.parts if of_point else resolved.parts
