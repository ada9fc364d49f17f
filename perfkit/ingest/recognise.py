"""What a trace file or folder is, by what is in it, and the traces that it holds."""

import tempfile
from pathlib import Path

from perfkit.errors import ConfigError
from perfkit.ingest.kineto import read_kineto
from perfkit.ingest.nsys import read_nsys
from perfkit.ingest.nsys_export import export_report
from perfkit.ingest.nsys_folder import is_export
from perfkit.ingest.nsys_sqlite import MAGIC
from perfkit.ingest.trace import Trace

# Reports of nsys, which only nsys can read; .qdrep was the name until 2021.
REPORTS = (".nsys-rep", ".qdrep")
UNFINISHED = ".qdstrm"
SQLITE = ".sqlite"
# What a rank of a run leaves; the first that can be read is taken.
OF_RANK = ("kineto.json.gz", "nsys.sqlite", "nsys_pqtdir", "nsys_arwdir", "nsys.nsys-rep")


def read_traces(
    path: Path, rank: int | None = None, *, alone: bool = False, phases: bool = True
) -> list[Trace]:
    """The traces in one file or folder; `rank` is that of its folder in a run.

    In an nsys export the processes of a rank that is `alone` in its run are ranks of their own: it
    may be what started them. Without `phases` the export's launches and ranges are not read.
    """
    owner = None if alone else rank
    if path.suffix in REPORTS:
        return _read_report(path, owner, phases)
    if path.suffix == UNFINISHED:
        raise ConfigError(
            f"{path} is a recording of which nsys has made no report. Where the nsys that recorded "
            f"it is installed, run `QdstrmImporter -i {path.name}`.",
        )
    if path.is_dir() or is_sqlite(path):
        return read_nsys(path, owner, phases=phases)
    return [read_kineto(path, rank)]


def is_sqlite(path: Path) -> bool:
    """By its first bytes, else (it may be broken) by its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC or path.suffix == SQLITE
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error


def _read_report(path: Path, rank: int | None, phases: bool) -> list[Trace]:
    """Export it to where nobody else looks, and forget the export: it holds the environment."""
    with tempfile.TemporaryDirectory(prefix="perfkit-") as folder:
        exported = export_report(path, Path(folder))
        try:
            return read_nsys(exported, rank, phases=phases)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(exported), str(path))) from error


def traces_of_rank(folder: Path) -> list[Path]:
    """What can be read in the folder of a run's rank, the best first."""
    found = [folder / name for name in OF_RANK]
    return [path for path in found if path.exists()]


def trace_files(path: Path) -> list[Path]:
    """The trace files and exports that a path stands for."""
    if path.is_file() or (path.is_dir() and is_export(path)):
        return [path]
    if not path.is_dir():
        raise ConfigError(
            f"{path} does not exist. Give a run folder, a Kineto file or an nsys export."
        )
    folders = {file.parent for file in path.rglob("StringIds.*") if is_export(file.parent)}
    files = {*path.rglob("*.json.gz"), *path.rglob("*.pt.trace.json"), *path.glob("*.json")}
    files |= {file for end in (SQLITE, *REPORTS, UNFINISHED) for file in path.rglob(f"*{end}")}
    found = sorted(without_copies(folders | files))
    if not found:
        if inside := sorted(file.parent for file in path.rglob("run.json")):
            raise ConfigError(
                f"{path} holds run folders and is none. Analyse one of them, such as {inside[0]}, "
                "or see them side by side: perfkit report.",
            )
        raise ConfigError(
            f"{path} is no run folder (no run.json) and holds no Kineto file (.json, .json.gz) and "
            "no nsys export (.sqlite, parquetdir, .nsys-rep). "
            "Give the folder that `perfkit run --out` wrote, or the files themselves.",
        )
    return found


def without_copies(paths: set[Path]) -> set[Path]:
    """Without reports whose export stands beside them, and without one of two exports."""
    names = {path.with_name(plain_name(path)): path for path in sorted(paths, key=_preference)}
    return set(names.values())


def plain_name(path: Path) -> str:
    """report1 for report1.nsys-rep, report1.sqlite and report1_pqtdir; else the whole name."""
    if path.suffix in (SQLITE, *REPORTS, UNFINISHED):
        return path.stem
    return path.name.removesuffix("_pqtdir").removesuffix("_arwdir").removesuffix(".parquetdir")


def _preference(path: Path) -> int:
    """The last is kept: an export rather than the report, a folder rather than SQLite."""
    order = (UNFINISHED, *reversed(REPORTS), SQLITE)
    return order.index(path.suffix) if path.suffix in order else len(order)
