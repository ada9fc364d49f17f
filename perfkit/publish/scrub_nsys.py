"""Publishable copies of nsys exports: what is analysed, and nothing else that nsys writes down.

An export holds the environment of every process in more places than one: as rows of metadata, and
as strings in the table that also has the names of kernels. So of strings only those are kept that
an activity or a range is named by, of metadata an allow-list, of payloads those of NCCL.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.nsys_folder import FolderSource
from perfkit.ingest.nsys_source import STRINGS
from perfkit.publish.clean import clean, own_secrets

METADATA_TABLES = ("META_DATA_CAPTURE", "META_DATA_EXPORT", "EXPORT_META_DATA")
SYSTEM_TABLE = "TARGET_INFO_SYSTEM_ENV"
# Of the tables that describe capture and machine: what is kept. Other names of EXPORT_ are those of
# the user and host that exported, and of files.
KEPT_METADATA = r"(?i)^(EXPORT_(PRODUCT|SCHEMA|TIME|PARAM_TIME)|CAPTURE_VERSION|PRODUCT_|SCHEMA_)"
KEPT_SYSTEM = r"(?i)^(Nv|Cuda|Cpu|Os|Kernel|Gpu|Num|Driver)"
# What the processes printed, files that nsys packed in, and what else ran on the machine.
LEFT_OUT = ("ProcessStreams", "ANALYSIS_FILE", "PROCESSES", "ThreadNames")
# Columns that name a kernel, a call, a range or a thread by a number of the table of strings.
NAMING = ("demangledName", "shortName", "mangledName", "nameId", "textId")
RANGES, PAYLOAD, DOMAIN_CREATED, NCCL = "NVTX_EVENTS", "binaryData", 75, "NCCL"


def scrub_sqlite(source: Path, target: Path) -> str:
    """A copy of the database without the rows and texts that must not be published."""
    uri = f"{source.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as before, _empty_copy(target) as copy:
            before.backup(copy)
            removed = _clean_database(copy)
    except sqlite3.DatabaseError as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"{source} cannot be copied: {error}. Is it a whole export?") from error
    return f"copied {source.name} without {removed} rows of environment, output and command lines"


def _empty_copy(target: Path) -> closing[sqlite3.Connection]:
    copy = sqlite3.connect(target)
    copy.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
    own = own_secrets()
    copy.create_function("clean", 1, lambda cell: _clean_cell(cell, own), deterministic=True)
    copy.create_function("matches", 2, _matches, deterministic=True)
    return closing(copy)


def _clean_cell(value: Any, own: Sequence[str]) -> Any:
    return clean(value, own) if isinstance(value, str) else value


def _matches(text: Any, pattern: str) -> bool:
    return bool(pl.Series([str(text)]).str.contains(pattern).item())


def _clean_database(copy: sqlite3.Connection) -> int:
    """Returns how many rows were taken out."""
    rows = copy.execute("select name from sqlite_master where type = 'table'").fetchall()
    columns = {str(name): _columns(copy, str(name)) for (name,) in rows}
    removed = 0
    for table in columns:
        removed += _drop_rows(copy, table)
    if STRINGS in columns:
        removed += _drop_strings(copy, columns)
    if {PAYLOAD, "domainId", "eventType"} <= columns.get(RANGES, {}).keys():
        _drop_payloads(copy, columns)
    for table, kinds in columns.items():
        _clean_table(copy, table, (name for name, kind in kinds.items() if "TEXT" in kind))
    copy.commit()
    # Deleted rows stay in free pages until the file is written anew.
    copy.execute("vacuum")
    return removed


def _columns(copy: sqlite3.Connection, table: str) -> dict[str, str]:
    rows = copy.execute(f'pragma table_info("{table}")').fetchall()
    return {str(row[1]): str(row[2]).upper() for row in rows}


def _drop_rows(copy: sqlite3.Connection, table: str) -> int:
    if table in LEFT_OUT:
        return copy.execute(f'delete from "{table}"').rowcount
    if (kept := _kept_metadata(table)) is None:
        return 0
    return copy.execute(f'delete from "{table}" where not matches(name, ?)', (kept,)).rowcount


def _kept_metadata(table: str) -> str | None:
    """Which names are kept of a table of metadata; None for any other table."""
    if table in METADATA_TABLES:
        return KEPT_METADATA
    return KEPT_SYSTEM if table == SYSTEM_TABLE else None


def _drop_strings(copy: sqlite3.Connection, columns: dict[str, dict[str, str]]) -> int:
    """Strings that name nothing."""
    naming = [
        f'select "{column}" from "{table}" where "{column}" is not null'
        for table, known in columns.items()
        for column in NAMING
        if column in known
    ]
    used = " union ".join(naming) or "select null where false"
    return copy.execute(f'delete from "{STRINGS}" where id not in ({used})').rowcount


def _drop_payloads(copy: sqlite3.Connection, columns: dict[str, dict[str, str]]) -> None:
    """Payloads of other domains than NCCL's can hold anything."""
    name = "text"
    if "textId" in columns[RANGES] and STRINGS in columns:
        name = f'coalesce(text, (select value from "{STRINGS}" where id = textId))'
    copy.execute(
        f'update "{RANGES}" set "{PAYLOAD}" = null where domainId not in '
        f'(select domainId from "{RANGES}" where eventType = ? and {name} = ?)',
        (DOMAIN_CREATED, NCCL),
    )


def _clean_table(copy: sqlite3.Connection, table: str, columns: Iterable[str]) -> None:
    """Every text column, only where cleaning changes something."""
    for column in columns:
        copy.execute(
            f'update "{table}" set "{column}" = clean("{column}") '
            f'where typeof("{column}") = \'text\' and "{column}" is not clean("{column}")'
        )


def scrub_folder(source: Path, target: Path) -> list[str]:
    """The same for a parquetdir or arrowdir; returns what was done, a line a table that changed."""
    folder = FolderSource(source)
    tables = {name: folder.whole(name) for name in folder.files}
    used = pl.concat(
        [
            frame[column].cast(pl.Int64)
            for name, frame in tables.items()
            for column in NAMING
            if column in frame.columns and name not in LEFT_OUT
        ]
    ).unique()
    nccl = _nccl_domains(tables)
    target.mkdir(parents=True)
    told = [f"left out {name}, which polars cannot read" for name in folder.unreadable]
    tidy = partial(_clean_cell, own=own_secrets())
    for name, before in tables.items():
        after = _kept_rows(name, before, used)
        if PAYLOAD in after.columns:
            own = pl.when(pl.col("domainId").is_in(nccl)).then(pl.col(PAYLOAD).cast(pl.Binary))
            after = after.with_columns(own.alias(PAYLOAD))
        texts = [column for column, kind in after.schema.items() if kind == pl.String]
        after = after.with_columns(
            pl.col(column).map_elements(tidy, return_dtype=pl.String) for column in texts
        )
        _write(after, target / folder.files[name].name)
        if removed := before.height - after.height:
            told.append(f"copied {name} without {removed} of its {before.height} rows")
    return told


def _write(table: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_ipc(path)


def _kept_rows(table: str, frame: pl.DataFrame, used: pl.Series) -> pl.DataFrame:
    if table in LEFT_OUT:
        return frame.clear()
    if table == STRINGS:
        return frame.filter(pl.col("id").cast(pl.Int64).is_in(used.implode()))
    kept = _kept_metadata(table)
    return frame if kept is None else frame.filter(pl.col("name").str.contains(kept))


def _nccl_domains(tables: dict[str, pl.DataFrame]) -> list[int]:
    """Numbers of the domains that are called NCCL."""
    if RANGES not in tables or "domainId" not in tables[RANGES].columns:
        return []
    made = tables[RANGES].filter(pl.col("eventType") == DOMAIN_CREATED)
    name = pl.col("text")
    if "textId" in made.columns and STRINGS in tables:
        strings = tables[STRINGS].select(textId=pl.col("id").cast(pl.Int64), value="value")
        made = made.with_columns(pl.col("textId").cast(pl.Int64)).join(
            strings, on="textId", how="left"
        )
        name = pl.coalesce("text", "value")
    return made.filter(name == NCCL)["domainId"].unique().to_list()
