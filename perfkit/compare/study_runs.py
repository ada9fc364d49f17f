"""Which run folders are meant: given as such, inside a folder, or those of a study's points."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.errors import ConfigError
from perfkit.study.store import point_folders, read_run


@dataclass(frozen=True, slots=True)
class Found:
    """Run folders in order, and points of studies that have none, with what is known of them."""

    runs: list[Path]
    missing: list[str]


def find_runs(paths: Sequence[Path]) -> Found:
    """ConfigError for a path in which there is neither a run nor a study."""
    runs: dict[Path, None] = {}
    missing: list[str] = []
    for path in paths:
        if path.is_file():
            continue  # a shell's `traces/*` names the README in it, too
        if (path / "run.json").is_file():
            runs[path] = None
            continue
        inside, without = _inside(path)
        if not inside and not without:
            raise ConfigError(
                f"{path} has no run: neither a run.json, nor folders with one, nor a study's "
                "points. Give what `perfkit run` or `perfkit submit` wrote."
            )
        runs |= dict.fromkeys(inside)
        missing += without
    return Found(list(runs), missing)


def run_name(path: Path) -> str:
    """The run folder's, or its point's in a study, where every run folder has the same name."""
    of_point = path.parent / "point.json"
    return path.parent.name if of_point.is_file() else path.name


def _inside(path: Path) -> tuple[list[Path], list[str]]:
    points = point_folders(path)
    with_run = [point.run.root for point in points if read_run(point) is not None]
    without = [
        f"{point.root.name} of {path.name}: submitted, no run folder yet"
        for point in points
        if read_run(point) is None
    ]
    direct = sorted(inner.parent for inner in path.glob("*/run.json"))
    return [*direct, *with_run], without
