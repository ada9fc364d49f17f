"""The run folder: where each file of a run stands. Standard library only.

    runs/<id>/
      run.json                 what was asked, resolved and found; state, warnings, failure
      ranks/0000/status.json   host, pid, start, end, exit status, from the supervisor of the rank
      ranks/0000/exit.json     the program's own exit, and what the kernel counted for it
      ranks/0000/engine.json   facts only the engine knows: bytes held, memory peaks, load time
      ranks/0000/error.json    the rank's own error, when it had one
      ranks/0000/timers.jsonl  one header line, then one line per timed phase
      ranks/0000/<collector>.*  what a collector recorded: kineto.json.gz, perf-stat.jsonl, nsys.*
      ranks/0000/log.txt       what the rank printed
      nodes/<host>/nvml.csv    GPU utilisation, power, clocks and memory of a node
      job/sacct.psv            Slurm's accounting of the job
      job/calibration.json     the machine's measured rates, when there were any
      outputs.jsonl            prompt id, token ids, text; with --logprobs what each token was given
      tables/*.parquet         what `perfkit analyze` made

Every JSON file carries `schema_version`.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError

SCHEMA_VERSION = 1

# Held on disk, so that a run can still say how it ended when its products have filled it.
RESERVE, RESERVE_BYTES = ".reserve", 256 * 1024
NEARLY_FULL_BYTES = 4 * RESERVE_BYTES


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside one run folder."""

    root: Path

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs.jsonl"

    @property
    def calibration(self) -> Path:
        return self.root / "job" / "calibration.json"

    @property
    def job(self) -> Path:
        return self.root / "job"

    def node(self, host: str) -> Path:
        return self.root / "nodes" / host

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    def rank(self, rank: int) -> Path:
        return self.root / "ranks" / f"{rank:04d}"

    def rank_file(self, rank: int, name: str) -> Path:
        return self.rank(rank) / name

    def ranks(self) -> Iterator[tuple[int, Path]]:
        """(rank, folder) of every rank that left a folder, in order."""
        for folder in sorted((self.root / "ranks").glob("[0-9]*")):
            yield int(folder.name), folder


def open_run(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run folder and its run.json; ConfigError where there is none."""
    folder = RunFolder(path)
    if not folder.run_json.is_file():
        raise ConfigError(
            f"{path} is not a run folder: it has no run.json. "
            "Give the folder that `perfkit run --out` wrote.",
        )
    return folder, read_json(folder.run_json)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ConfigError naming the file if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not a JSON object.")
    version = content.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema_version {version}; this perfkit reads {SCHEMA_VERSION}. "
            "Use the perfkit version that wrote it.",
        )
    return content


def read_if_whole(path: Path) -> dict[str, Any] | None:
    """read_json, or None where the file is missing or cannot be used."""
    try:
        return read_json(path)
    except ConfigError:
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its schema_version, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    document = {"schema_version": SCHEMA_VERSION, **content}
    try:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def reserve(folder: Path) -> None:
    """Hold a little of the disk in this folder for what must be written at the end."""
    with contextlib.suppress(OSError), (folder / RESERVE).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)


def release(folder: Path) -> None:
    """Give the reserve back."""
    with contextlib.suppress(OSError):
        (folder / RESERVE).unlink(missing_ok=True)


def write_surely(path: Path, content: Mapping[str, Any]) -> None:
    """write_json that takes the folder's reserve on a full disk, and never raises OSError."""
    try:
        write_json(path, content)
    except OSError:
        release(path.parent)
        with contextlib.suppress(OSError):
            write_json(path, content)


def nearly_full(folder: Path) -> bool:
    """True when the folder's file system has no room left (a quota cannot be seen)."""
    try:
        return shutil.disk_usage(folder).free < NEARLY_FULL_BYTES
    except OSError:
        return False
