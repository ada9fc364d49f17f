"""Publishable copies of traces and runs: no environment, secret, home folder or command line.

Nsight exports hold the whole environment of every process that was recorded, and what it printed.
The original is only read. What a copy keeps is an allow-list; text that is kept is searched for
everything that has the form of a secret, and for the values of this process's own secret variables.
"""

import gzip
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from perfkit.errors import CheckFailed, ConfigError
from perfkit.paths import PACKAGE
from perfkit.publish.reduce import reduced
from perfkit.schema import RunFolder, read_json, write_json
from perfkit.secrets import HIDDEN, says_secret, without_secret_arguments, without_secrets

SQLITE_MAGIC, GZIP_MAGIC = b"SQLite format 3\0", b"\x1f\x8b"
# A value this short is no secret, and would be found everywhere.
SHORTEST_SECRET = 8
ADDRESS = re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b")
HOME = re.compile(r"(?<=/home/)[^/\s\"':]+|(?<=/Users/)[^/\s\"':]+|(?<=/root)(?=/)")

# Of the tables of an nsys export that describe machine and capture: what is kept.
KEPT_METADATA = re.compile(r"^(EXPORT_|CAPTURE_VERSION|PRODUCT_|SCHEMA_)", re.IGNORECASE)
KEPT_SYSTEM = re.compile(r"^(Nv|Cuda|Cpu|Os|Kernel|Gpu|Num|Driver)", re.IGNORECASE)
METADATA_TABLES = ("META_DATA_CAPTURE", "META_DATA_EXPORT", "EXPORT_META_DATA")
SYSTEM_TABLE = "TARGET_INFO_SYSTEM_ENV"

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
    if source.is_dir():
        told = _scrub_run(source, target, smaller)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        told = [_scrub_file(source, target, smaller)]
    else:
        raise ConfigError(f"{source} does not exist. Give a trace file or a run folder.")
    if left := list(secrets_in(target)):
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        raise CheckFailed(
            f"{left[0]} would still hold what looks like a secret: nothing was written."
        )
    return told


def _scrub_run(source: Path, target: Path, smaller: bool) -> list[str]:
    if not RunFolder(source).run_json.is_file():
        raise ConfigError(f"{source} is no run folder (no run.json). Give one, or a trace file.")
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
        return _scrub_sqlite(source, target)
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


def clean(text: str, own: Sequence[str] | None = None) -> str:
    """Without secrets, without the names of home folders and of this checkout.

    `own` are this process's own secrets, where many texts are cleaned with them.
    """
    text = HOME.sub(HIDDEN, without_secrets(text).replace(f"{PACKAGE}/__main__.py", "perfkit"))
    for value in own_secrets() if own is None else own:
        text = text.replace(value, HIDDEN)
    return text


def own_secrets() -> list[str]:
    """Values of this process's variables whose names say that they are secret."""
    return [
        value
        for name, value in os.environ.items()
        if says_secret(name) and len(value) >= SHORTEST_SECRET
    ]


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


def _scrub_sqlite(source: Path, target: Path) -> str:
    """A copy of the database without the rows and texts that must not be published."""
    uri = f"{source.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as before, _empty_copy(target) as copy:
            before.backup(copy)
            removed = _clean_database(copy)
    except sqlite3.DatabaseError as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"{source} cannot be copied: {error}. Is it a whole export?") from error
    return f"copied {source.name} without {removed} rows of environment and command lines"


def _empty_copy(target: Path) -> closing[sqlite3.Connection]:
    copy = sqlite3.connect(target)
    copy.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
    own = own_secrets()
    copy.create_function("clean", 1, lambda cell: _clean_cell(cell, own), deterministic=True)
    return closing(copy)


def _clean_database(copy: sqlite3.Connection) -> int:
    """Returns how many rows were taken out."""
    rows = copy.execute("select name from sqlite_master where type = 'table'").fetchall()
    names = [str(row[0]) for row in rows]
    removed = _drop_metadata(copy, names)
    for table in names:
        _clean_table(copy, table)
    copy.commit()
    # Deleted rows stay in free pages until the file is written anew.
    copy.execute("vacuum")
    return removed


def _clean_cell(value: Any, own: Sequence[str]) -> Any:
    return clean(value, own) if isinstance(value, str) else value


def _drop_metadata(copy: sqlite3.Connection, names: list[str]) -> int:
    removed = 0
    for table in (*METADATA_TABLES, SYSTEM_TABLE):
        if table not in names:
            continue
        kept = KEPT_SYSTEM if table == SYSTEM_TABLE else KEPT_METADATA
        rows = copy.execute(f'select rowid, name from "{table}"').fetchall()
        drop = [(rowid,) for rowid, name in rows if not kept.match(str(name))]
        copy.executemany(f'delete from "{table}" where rowid = ?', drop)
        removed += len(drop)
    return removed


def _clean_table(copy: sqlite3.Connection, table: str) -> None:
    """Every text column, only where cleaning changes something."""
    for _id, column, kind, *_rest in copy.execute(f'pragma table_info("{table}")').fetchall():
        if "TEXT" in str(kind).upper():
            copy.execute(
                f'update "{table}" set "{column}" = clean("{column}") '
                f'where typeof("{column}") = \'text\' and "{column}" is not clean("{column}")'
            )


def secrets_in(path: Path) -> Iterator[Path]:
    """Files in which something still has the form of a secret."""
    own = own_secrets()
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    for file in files:
        content = file.read_bytes()
        if content[:2] == GZIP_MAGIC:
            content = gzip.decompress(content)
        text = content.decode("utf-8", errors="replace")
        if without_secrets(text) != text or any(value in text for value in own):
            yield file
