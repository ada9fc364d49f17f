"""An Nsight Systems SQLite export, read without ever changing it.

The file is opened read-only and as immutable: no lock is taken and nothing is written beside it, so
that read-only media work too. What that hides is asked first: a file that is still being written.

Long tables of integers are read from the file's pages (perfkit/ingest/sqlite_pages.py). The others
leave SQLite as one text for each column and some thousand rows (group_concat), which numpy parses:
three times as fast as rows of Python objects.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfkit.errors import ConfigError
from perfkit.ingest.nsys_source import (
    STRINGS,
    Columns,
    Folded,
    Only,
    require_export,
    text_of,
)
from perfkit.ingest.sqlite_pages import NULL, NotPlain, Part, read_columns

MAGIC = b"SQLite format 3\0"
AGAIN = "Export it again with `nsys export --type sqlite FILE.nsys-rep`, or copy it again."
# Longer texts are no faster, and shorter ones need more queries.
ROWS_A_CHUNK = 20_000
SPARSE_ROWS = 500_000_000
# From here on a table is worth reading by pages.
MANY_ROWS = 50_000
IDS_A_QUERY = 900

Finish = Callable[[pl.DataFrame], Part]


class SqliteSource:
    """A .sqlite file of nsys."""

    format = "SQLite export"
    unreadable: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        check_whole(path)
        self._columns: dict[str, dict[str, bool]] = {}
        self._keys: set[str] = set()
        with self._opened() as connection:
            names = connection.execute("select name from sqlite_master where type = 'table'")
            self._tables = {text_of(name) for (name,) in names.fetchall()}
        require_export(self)

    def columns(self, table: str) -> Collection[str]:
        return self._nullable(table)

    def _nullable(self, table: str) -> dict[str, bool]:
        """Whether each column of a table may be null."""
        if table not in self._columns and table in self._tables:
            with self._opened() as connection:
                rows = connection.execute(f"pragma table_info({_quoted(table)})").fetchall()
            self._columns[table] = {str(row[1]): not row[3] for row in rows}
            self._keys |= {table} if any(row[5] for row in rows) else set()
        return self._columns.get(table, {})

    def integers(self, table: str, columns: Columns, only: Only | None = None) -> pl.DataFrame:
        known = self._nullable(table)
        wanted = {n: t for n, t in columns.items() if n in known or n == "rowid"}
        parts = [pl.DataFrame(schema=wanted)]
        parts += self._parts(table, wanted, only, lambda: _whole) if known else []
        missing = [pl.lit(None, t).alias(n) for n, t in columns.items() if n not in wanted]
        return pl.concat(parts).with_columns(missing).select(list(columns))

    def folded(self, table: str, columns: Columns, start: Callable[[], Folded]) -> Folded:
        known = self._nullable(table)
        wanted = {n: t for n, t in columns.items() if n in known}
        missing = [pl.lit(None, t).alias(n) for n, t in columns.items() if n not in wanted]

        folds = [start()]

        def begin() -> Finish[None]:
            fold = start()
            folds.append(fold)
            return lambda part: fold.add(part.with_columns(missing).select(list(columns)))

        if wanted:
            self._parts(table, wanted, None, begin)
        return folds[-1]

    def _parts(
        self, table: str, columns: Columns, only: Only | None, begin: Callable[[], Finish[Part]]
    ) -> list[Part]:
        """The finished parts of the table, which are some of its pages where that is possible.

        `begin` says how to finish them, once for the pages, and again when it was not possible.
        """
        name = _quoted(table)
        span = f"select (select min(rowid) from {name}), (select max(rowid) from {name})"
        first, last = self._fetched(span)[0]
        if first is None:
            return []
        if last - first > MANY_ROWS and only is None:
            with suppress(NotPlain):
                return self._by_pages(table, columns, begin())
        step = ROWS_A_CHUNK if last - first < SPARSE_ROWS else last - first + 1
        query, finish = self._query(table, list(columns), only), begin()
        with self._opened() as connection:
            cuts = pairwise([*range(first - 1, last, step), last])
            rows = (connection.execute(query, pair).fetchone() for pair in cuts)
            return [finish(self._frame(table, row, columns)) for row in rows if row[0]]

    def _by_pages(self, table: str, columns: Columns, finish: Finish[Part]) -> list[Part]:
        order = list(self._nullable(table))
        if table in self._keys or not set(columns) <= set(order):
            raise NotPlain
        root = self._fetched(f"select rootpage from sqlite_master where name = {_text(table)}")
        positions = {name: order.index(name) for name in columns}

        def frame(part: Mapping[str, NDArray[np.int64]]) -> Part:
            return finish(pl.DataFrame([_series(n, part[n], t) for n, t in columns.items()]))

        return read_columns(self.path, int(root[0][0]), positions, frame)

    def _query(self, table: str, columns: Sequence[str], only: Only | None) -> str:
        nullable = self._nullable(table)
        texts = [
            f"group_concat(ifnull({_quoted(n)}, {NULL}))"
            if nullable.get(n)
            else f"group_concat({_quoted(n)})"
            for n in columns
        ]
        chosen = ", ".join(["count(*)", *texts])
        rows = f"from {_quoted(table)} where rowid > ? and rowid <= ?"
        return f"select {chosen} {rows}{_filters(only)}"

    def _frame(self, table: str, row: Sequence[Any], columns: Columns) -> pl.DataFrame:
        count, *texts = row
        series = [
            _series(name, self._parsed(table, name, text, count), dtype)
            for (name, dtype), text in zip(columns.items(), texts, strict=True)
        ]
        return pl.DataFrame(series)

    def _parsed(self, table: str, name: str, text: str, count: int) -> NDArray[np.int64]:
        try:
            values = np.fromstring(text, dtype=np.int64, sep=",")
        except (ValueError, DeprecationWarning):
            values = np.empty(0, dtype=np.int64)
        if len(values) != count:
            raise ConfigError(
                f"{self.path}: column {name} of {table} holds no whole numbers. {AGAIN}"
            )
        return values

    def values(
        self, table: str, columns: Sequence[str], present: str, only: Only | None = None
    ) -> list[tuple[Any, ...]]:
        known = self._nullable(table)
        if not {present, *(only or ())} <= set(known):
            return []
        texts = [_quoted(name) if name in known or name == "rowid" else "null" for name in columns]
        rows = f"from {_quoted(table)} where {_quoted(present)} is not null"
        return self._fetched(f"select {', '.join(texts)} {rows}{_filters(only)}")

    def blobs(self, table: str, column: str) -> list[tuple[int, bytes]]:
        if column not in self._nullable(table):
            return []
        rows = f"from {_quoted(table)} where length({_quoted(column)}) > 0"
        return self._fetched(f"select rowid, cast({_quoted(column)} as blob) {rows}")

    def _fetched(self, query: str) -> list[tuple[Any, ...]]:
        with self._opened() as connection:
            return connection.execute(query).fetchall()

    def strings(self, ids: Iterable[int]) -> dict[int, str]:
        if "value" not in self._nullable(STRINGS):
            return {}
        found: dict[int, str] = {}
        wanted = sorted(set(ids))
        with self._opened() as connection:
            for start in range(0, len(wanted), IDS_A_QUERY):
                some = ",".join(str(int(number)) for number in wanted[start : start + IDS_A_QUERY])
                rows = connection.execute(f"select id, value from {STRINGS} where id in ({some})")
                found.update((int(number), str(value)) for number, value in rows.fetchall())
        return found

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write; what SQLite finds wrong becomes one plain error."""
        address = f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(address, uri=True)) as connection:
                connection.text_factory = text_of
                yield connection
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # A damaged schema is quoted in SQLite's own message, which then is no text either.
            raise ConfigError(f"{self.path} is a damaged SQLite file ({error}). {AGAIN}") from error


def check_whole(path: Path) -> None:
    """ConfigError for a file that is empty, cut off, of another kind, or still being written."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(100)
        journals = [path.with_name(path.name + end) for end in ("-journal", "-wal")]
        pending = [journal for journal in journals if journal.is_file() and journal.stat().st_size]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
    if not size:
        raise ConfigError(f"{path} is empty: nsys was stopped while it exported. {AGAIN}")
    if head[:16] != MAGIC:
        raise ConfigError(f"{path} is no SQLite file, whatever its name says. {AGAIN}")
    if pending:
        raise ConfigError(
            f"{path} is not finished: {pending[0].name} beside it holds what is still to be "
            f"written. Close the program that has it open, or wait for the export to end. {AGAIN}",
        )
    whole = whole_bytes(head)
    if size < whole:
        raise ConfigError(f"{path} is cut off: it has {size} of {whole} bytes. {AGAIN}")


def whole_bytes(head: bytes) -> int:
    """The file's size by its first 100 bytes; 0 when they are no whole header, or do not say.

    Source: sqlite.org/fileformat2.html, 1.3: page size at 16 (1 means 65536), pages at 28, valid
    when the counters at 24 and 92 agree.
    """
    if len(head) < 100:
        return 100
    page = int.from_bytes(head[16:18], "big")
    if head[24:28] != head[92:96]:
        return 0
    return (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")


def _series(name: str, values: NDArray[np.int64], dtype: pl.DataType) -> pl.Series:
    series = pl.Series(name, values)
    if values.min() == NULL:
        series = series.set(series == NULL, None)
    # A number that is too large for its column is no number of a device or a string: unknown.
    return series.cast(dtype, strict=False)


def _whole(part: pl.DataFrame) -> pl.DataFrame:
    return part


def _filters(only: Only | None) -> str:
    return "".join(
        f" and {_quoted(name)} in ({','.join(str(int(value)) for value in values)})"
        for name, values in (only or {}).items()
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
