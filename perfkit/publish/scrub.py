"""Publishable copies of traces and runs: no environment, secret, home folder or command line.

Nsight exports hold the whole environment of every process that was recorded, and what it printed.
The original is only read. What a copy keeps is an allow-list; text that is kept is searched for
everything that has the form of a secret, and for the values of this process's own secret variables.
"""

import gzip
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perfkit.errors import CheckFailed, ConfigError
from perfkit.ingest.nsys_folder import is_export
from perfkit.publish.clean import clean, own_secrets
from perfkit.publish.reduce import reduced
from perfkit.publish.scrub_nsys import scrub_folder, scrub_sqlite
from perfkit.schema import RunFolder, read_json, write_json
from perfkit.secrets import HIDDEN, without_secret_arguments, without_secrets

SQLITE_MAGIC, GZIP_MAGIC = b"SQLite format 3\0", b"\x1f\x8b"
# Several variables in a row: what no copy may hold, wherever a tool has put it.
ENVIRONMENT = re.compile(r"(?:\b[A-Z][A-Z0-9_]{2,}=\S*\s){4}")
ADDRESS = re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b")

# Files of a run folder that are worth publishing; logs and job scripts are not.
KEPT_FILES = (
    "run.json",
    "outputs.jsonl",
    "ranks/*/status.json",
    "ranks/*/exit.json",
    "ranks/*/engine.json",
    "ranks/*/error.json",
    "ranks/*/timers.jsonl",
    "ranks/*/kineto.json.gz",
    "ranks/*/nsys.sqlite",
    "ranks/*/perf-stat.jsonl",
    "ranks/*/nccl-log.txt",
    "nodes/*/nvml.csv",
    "job/sacct.psv",
    "job/calibration.json",
)


def scrub(source: Path, target: Path, *, smaller: bool = False) -> list[str]:
    """Write a publishable copy of a trace file or run folder; returns what was done, for people.

    `smaller` keeps of Kineto files only the events that are analysed. ConfigError for what is
    neither; CheckFailed, and no copy, when a secret would be left.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already. Give another name.")
    if source.is_dir() and is_export(source):
        told = scrub_folder(source, target)
    elif source.is_dir():
        told = _scrub_run(source, target, smaller)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        told = [_scrub_file(source, target, smaller)]
    else:
        raise ConfigError(f"{source} does not exist. Give a trace file or a run folder.")
    if left := list(secrets_in(target)):
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        raise CheckFailed(
            f"{left[0]} would still hold what looks like a secret or a process's environment: "
            "nothing was written."
        )
    return told


def _scrub_run(source: Path, target: Path, smaller: bool) -> list[str]:
    if not RunFolder(source).run_json.is_file():
        raise ConfigError(
            f"{source} is no run folder (no run.json). Give one, an nsys "
            "parquetdir or arrowdir, or a trace file.",
        )
    files = [path for pattern in KEPT_FILES for path in sorted(source.glob(pattern))]
    told = []
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        told.append(_scrub_file(path, copy, smaller))
    everything = {path for path in source.rglob("*") if path.is_file()}
    left_out = sorted(str(path.relative_to(source)) for path in everything - set(files))
    return told + [f"left out {name}" for name in left_out if not name.startswith("tables/")]


def _scrub_file(source: Path, target: Path, smaller: bool) -> str:
    """One file by its kind; returns what was done."""
    with source.open("rb") as file:
        start = file.read(len(SQLITE_MAGIC))
    if start == SQLITE_MAGIC:
        return scrub_sqlite(source, target)
    if start[:2] == GZIP_MAGIC:
        text = gzip.decompress(source.read_bytes()).decode("utf-8", errors="replace")
        text = reduced(text) if smaller else text
        # No name and no time in the header: the same trace gives the same bytes.
        target.write_bytes(gzip.compress(clean(text).encode(), mtime=0))
        return f"copied {source.name}"
    if source.name in ("run.json", "status.json"):
        write_json(target, _clean_document(read_json(source)))
        return f"copied {source.name}"
    text = clean(source.read_text(encoding="utf-8", errors="replace"))
    # NCCL's log names the addresses of every node.
    target.write_text(ADDRESS.sub(HIDDEN, text) if source.suffix == ".txt" else text)
    return f"copied {source.name}"


def _clean_document(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with every text cleaned, and command lines without their secret values."""
    return {key: _clean_value(key, value) for key, value in content.items()}


def _clean_value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _clean_document(value)
    if isinstance(value, list) and key in ("command", "program"):
        return [clean(word) for word in without_secret_arguments([str(word) for word in value])]
    if isinstance(value, list):
        return [_clean_value(key, part) for part in value]
    return clean(value) if isinstance(value, str) else value


def secrets_in(path: Path) -> Iterator[Path]:
    """Files in which something still has the form of a secret, or of an environment."""
    own = own_secrets()
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    for file in files:
        content = file.read_bytes()
        if content[:2] == GZIP_MAGIC:
            content = gzip.decompress(content)
        text = content.decode("utf-8", errors="replace")
        secret = without_secrets(text) != text or any(value in text for value in own)
        if secret or ENVIRONMENT.search(text):
            yield file
