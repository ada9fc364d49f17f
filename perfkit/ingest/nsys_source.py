"""The tables of an Nsight Systems export, whatever its format and version.

Which tables and columns there are differs by version, by what was traced and by export options
(tables are made only when there is something to put in), so a reader asks, and never assumes. Only
the tables that a reader names are read: the ones with the processes' environments never are.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl

from perfkit.errors import ConfigError

KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
COPIES = "CUPTI_ACTIVITY_KIND_MEMCPY"
MEMSETS = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
SYNCHRONISATIONS = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"
RANGES = "NVTX_EVENTS"
STRINGS = "StringIds"
METRICS, METRIC_NAMES = "GPU_METRICS", "TARGET_INFO_GPU_METRICS"
# One of these is in every export.
SIGNS = (STRINGS, RANGES, KERNELS, CALLS, "EXPORT_META_DATA", "META_DATA_EXPORT")

Columns = Mapping[str, pl.DataType]
Only = Mapping[str, Collection[int]]


class Fold(Protocol):
    """What is made of a table that is too long to be held, part by part and in any order."""

    def add(self, part: pl.DataFrame) -> None:
        """Called by several threads at once."""


Folded = TypeVar("Folded", bound=Fold)


class Source(Protocol):
    """One export. A table or a column that it does not have is empty or null, not an error."""

    path: Path
    format: str
    """for people: SQLite export, parquet folder ..."""

    @property
    def unreadable(self) -> Sequence[str]:
        """TABLE.column of columns that are there and cannot be read."""

    def columns(self, table: str) -> Collection[str]:
        """The table's columns; none when there is no such table."""

    def integers(self, table: str, columns: Columns, only: Only | None = None) -> pl.DataFrame:
        """Integer columns in the order of the file; `rowid` numbers the rows in every table.

        `only` keeps the rows in which a column has one of some values.
        """

    def folded(self, table: str, columns: Columns, start: Callable[[], Folded]) -> Folded:
        """A new fold, to which every row's integer columns were added once.

        One that `start` made before may have had a part of them: what was begun in vain.
        """

    def values(
        self, table: str, columns: Sequence[str], present: str, only: Only | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows in which column `present` has a value, as Python values; text as str."""

    def blobs(self, table: str, column: str) -> list[tuple[int, bytes]]:
        """(rowid, value) where there is a value, byte by byte: some are declared as text."""

    def strings(self, ids: Iterable[int]) -> dict[int, str]:
        """What StringIds says of some ids."""


def require_export(source: Source) -> None:
    """ConfigError for tables that are of something else."""
    if not any(source.columns(table) for table in SIGNS):
        raise ConfigError(
            f"{source.path} is no Nsight Systems export: it has none of the tables "
            f"{', '.join(SIGNS[:3])}. Export a report with "
            "`nsys export --type sqlite FILE.nsys-rep`.",
        )


def text_of(value: Any) -> str | None:
    """Text, whatever its bytes: names in real files are not always UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)
