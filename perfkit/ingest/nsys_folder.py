"""An Nsight Systems parquetdir or arrowdir export: a folder with one file for each table."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from perfkit.errors import ConfigError
from perfkit.ingest.nsys_source import (
    STRINGS,
    Columns,
    Folded,
    Only,
    require_export,
    text_of,
)

SUFFIXES = (".parquet", ".arrow")
# What a damaged file makes of polars: its own errors, and at times a panic, which is no Exception.
UNREADABLE = (PolarsError, PanicException, OSError)
# Arrow has a file format, which begins so, and a stream format.
ARROW_FILE = b"ARROW1"
ROWS_A_PART = 1_000_000


class FolderSource:
    """A folder that `nsys export --type parquetdir` or `arrowdir` wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = {file.stem: file for file in sorted(path.iterdir()) if is_table(file)}
        kinds = {file.suffix[1:] for file in self._files.values()}
        self.format = f"{' and '.join(sorted(kinds)) or 'empty'} folder"
        self._known: dict[str, Collection[str]] = {}
        self.unreadable: list[str] = []
        require_export(self)

    @property
    def files(self) -> dict[str, Path]:
        """The file of each table."""
        return dict(self._files)

    def whole(self, table: str) -> pl.DataFrame:
        """Every row and every readable column of a table that is there."""
        readable = [name for name in self.columns(table) if self._is_readable(table, name)]
        return self._collected(table, self._scan(table).select(readable))

    def _is_readable(self, table: str, column: str) -> bool:
        try:
            self._scan(table).select(column).collect()
        except UNREADABLE:
            self.unreadable.append(f"{table}.{column}")
            return False
        return True

    def columns(self, table: str) -> Collection[str]:
        if table not in self._files:
            return ()
        if table not in self._known:
            self._known[table] = self._schema(table)
        return self._known[table]

    def _schema(self, table: str) -> Collection[str]:
        try:
            return self._scan(table).collect_schema().names()
        except UNREADABLE as error:
            raise self._unreadable(table, error) from error

    def _scan(self, table: str) -> pl.LazyFrame:
        file = self._files[table]
        if file.suffix == ".parquet":
            return pl.scan_parquet(file)
        with file.open("rb") as opened:
            seekable = opened.read(len(ARROW_FILE)) == ARROW_FILE
        return pl.scan_ipc(file) if seekable else pl.read_ipc_stream(file).lazy()

    def _unreadable(self, table: str, error: Exception) -> ConfigError:
        first = str(error).splitlines()[0]
        return ConfigError(
            f"{self._files[table]} cannot be read ({first}). Export the report again with "
            "`nsys export --type parquetdir FILE.nsys-rep`, or copy the folder again.",
        )

    def integers(self, table: str, columns: Columns, only: Only | None = None) -> pl.DataFrame:
        known = self.columns(table)
        if not known:
            return pl.DataFrame(schema=dict(columns))
        return self._collected(table, self._rows(table, only).select(_cast(columns, known)))

    def folded(self, table: str, columns: Columns, start: Callable[[], Folded]) -> Folded:
        known, fold = self.columns(table), start()
        if not known:
            return fold
        rows = self._scan(table).select(_cast(columns, known))
        try:
            for part in rows.collect_batches(chunk_size=ROWS_A_PART):
                fold.add(part)
            return fold
        except UNREADABLE as error:
            raise self._unreadable(table, error) from error

    def values(
        self, table: str, columns: Sequence[str], present: str, only: Only | None = None
    ) -> list[tuple[Any, ...]]:
        known = self.columns(table)
        if not {present, *(only or ())} <= set(known):
            return []
        rows = self._rows(table, only).filter(pl.col(present).is_not_null())
        chosen = [
            pl.col(n) if n in known or n == "rowid" else pl.lit(None).alias(n) for n in columns
        ]
        return self._collected(table, rows.select(chosen)).rows()

    def blobs(self, table: str, column: str) -> list[tuple[int, bytes]]:
        if column not in self.columns(table):
            return []
        rows = self._rows(table, None).select("rowid", pl.col(column).cast(pl.Binary))
        try:
            return rows.filter(pl.col(column).bin.size() > 0).collect().rows()
        except UNREADABLE:
            return self._blobs_by_pyarrow(table, column)

    def _blobs_by_pyarrow(self, table: str, column: str) -> list[tuple[int, bytes]]:
        """nsys 2025.3 declares payloads as text, which polars refuses; pyarrow does not look."""
        try:
            from pyarrow import parquet
        except ImportError:
            self.unreadable.append(f"{table}.{column}")
            return []
        values = parquet.read_table(self._files[table], columns=[column])[column].cast("binary")
        return [(i, value) for i, value in enumerate(values.to_pylist(), 1) if value]

    def _rows(self, table: str, only: Only | None) -> pl.LazyFrame:
        """The rows, numbered from 1, in which columns have some values."""
        rows = self._scan(table).with_row_index("rowid", 1)
        for name, values in (only or {}).items():
            rows = rows.filter(pl.col(name).is_in(list(values)))
        return rows

    def strings(self, ids: Iterable[int]) -> dict[int, str]:
        if "value" not in self.columns(STRINGS):
            return {}
        rows = self._scan(STRINGS).select(pl.col("id").cast(pl.Int64), "value")
        wanted = rows.filter(pl.col("id").is_in(sorted(set(ids))))
        return {
            number: str(text_of(value))
            for number, value in self._collected(STRINGS, wanted).iter_rows()
        }

    def _collected(self, table: str, rows: pl.LazyFrame) -> pl.DataFrame:
        try:
            return rows.collect()
        except UNREADABLE as error:
            raise self._unreadable(table, error) from error


def _cast(columns: Columns, known: Collection[str]) -> list[pl.Expr]:
    """The columns as integers of their width; null where there is no such column."""
    return [
        (pl.col(n) if n in known or n == "rowid" else pl.lit(None)).cast(t, strict=False).alias(n)
        for n, t in columns.items()
    ]


def is_table(file: Path) -> bool:
    return file.suffix in SUFFIXES and file.is_file()


def is_export(folder: Path) -> bool:
    """True for a folder that holds the tables of an export."""
    return any((folder / f"{STRINGS}{suffix}").is_file() for suffix in SUFFIXES)
