"""Integers straight from a SQLite file's pages: the same as SQLite's own."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.ingest.sqlite_pages import NULL, NotPlain, read_columns

RECORDED = Path(__file__).parent.parent / "data" / "nsys" / "h200x2-allreduce-2025.3.sqlite"
# Edges of every length that SQLite stores a whole number in.
EDGES = sorted(
    {0, 1, -1, 2, 2**63 - 1, -(2**63) + 1}
    | {
        sign * 2**bits + more
        for bits in (7, 15, 23, 31, 47)
        for sign in (1, -1)
        for more in (-1, 0)
    }
)


def by_pages(path: Path, table: str, columns: Sequence[str]) -> list[tuple[int | None, ...]]:
    """The table's rows, without SQLite."""
    with closing(sqlite3.connect(path)) as file:
        query = "select rootpage from sqlite_master where name = ?"
        root = file.execute(query, (table,)).fetchone()[0]
        order = [row[1] for row in file.execute(f"pragma table_info({table})")]
    positions = {name: order.index(name) for name in columns}
    parts = read_columns(path, root, positions, dict)
    whole = [np.concatenate([part[name] for part in parts]).tolist() for name in columns]
    rows = zip(*whole, strict=True)
    return [tuple(None if value == NULL else value for value in row) for row in rows]


def by_sqlite(path: Path, table: str, columns: Sequence[str]) -> list[tuple[int | None, ...]]:
    names = ", ".join(f'"{name}"' for name in columns)
    with closing(sqlite3.connect(path)) as file:
        return file.execute(f"select {names} from {table} order by rowid").fetchall()


def a_table(
    path: Path, declared: str, rows: Sequence[Sequence[object]], page_size: int = 4096
) -> Path:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"pragma page_size = {page_size}")
        file.execute(f"create table t ({declared})")
        places = ", ".join("?" * len(declared.split(",")))
        file.executemany(f"insert into t values ({places})", rows)
        file.commit()
    return path


@pytest.mark.parametrize(
    ("table", "columns", "count"),
    [
        ("KERNEL", ("start", "end", "deviceId", "correlationId", "globalPid", "graphNodeId"), 122),
        ("RUNTIME", ("start", "globalTid", "correlationId", "nameId", "callchainId"), 10447),
        ("MEMCPY", ("start", "bytes", "copyKind", "srcDeviceId", "copyCount"), 292),
    ],
)
def test_recorded_tables_are_the_same(table: str, columns: Sequence[str], count: int) -> None:
    name = f"CUPTI_ACTIVITY_KIND_{table}"
    found = by_pages(RECORDED, name, columns)
    assert len(found) == count
    assert found == by_sqlite(RECORDED, name, columns)


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_several_levels_of_pages_come_in_order(tmp_path: Path, page_size: int) -> None:
    rows = [(i, i * 7919 % 1000) for i in range(20_000)]
    path = a_table(tmp_path / "t", "a INTEGER, b INTEGER", rows, page_size)
    assert by_pages(path, "t", ["b", "a"]) == [(b, a) for a, b in rows]


def test_rows_that_were_deleted_are_not_there(tmp_path: Path) -> None:
    path = a_table(tmp_path / "t", "a INTEGER", [(i,) for i in range(5000)])
    with closing(sqlite3.connect(path)) as file:
        file.execute("delete from t where a % 3 = 0 or a between 1000 and 4000")
        file.commit()
    expected = [(i,) for i in range(5000) if i % 3 and not 1000 <= i <= 4000]
    assert by_pages(path, "t", ["a"]) == expected


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.sampled_from(EDGES) | st.integers(-(2**63) + 1, 2**63 - 1),
            st.text(max_size=40),
            st.none() | st.sampled_from(EDGES),
        ),
        min_size=1,
        max_size=300,
    )
)
def test_any_numbers_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int | None, str, int | None]]
) -> None:
    """With short texts between them: those are stepped over."""
    path = a_table(tmp_path_factory.mktemp("pages") / "t", "a INTEGER, w TEXT, b INTEGER", rows)
    try:
        found = by_pages(path, "t", ["a", "b"])
    except NotPlain:
        assert any(len(word.encode()) > 57 for _a, word, _b in rows)
    else:
        assert found == [(a, b) for a, _word, b in rows]


@pytest.mark.parametrize(
    "row",
    [(1, "x" * 60, 2), (1, "x", 2.5), (1, "x", "two"), (1, "x", b"2")],
    ids=["a long text", "a float", "a word", "bytes"],
)
def test_what_is_not_plain_is_left_to_sqlite(tmp_path: Path, row: tuple[object, ...]) -> None:
    path = a_table(tmp_path / "t", "a INTEGER, w TEXT, b", [(5, "", 6), row])
    with pytest.raises(NotPlain):
        by_pages(path, "t", ["a", "b"])


def test_a_column_added_later_is_left_to_sqlite(tmp_path: Path) -> None:
    path = a_table(tmp_path / "t", "a INTEGER", [(1,), (2,)])
    with closing(sqlite3.connect(path)) as file:
        file.execute("alter table t add column b INTEGER default 7")
        file.commit()
    with pytest.raises(NotPlain):
        by_pages(path, "t", ["a", "b"])


def test_a_table_without_rowids_is_left_to_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with closing(sqlite3.connect(path)) as file:
        file.execute("create table t (a INTEGER PRIMARY KEY, b INTEGER) without rowid")
        file.execute("insert into t values (1, 2)")
        file.commit()
    with pytest.raises(NotPlain):
        by_pages(path, "t", ["b"])


def test_a_record_on_several_pages_is_left_to_sqlite(tmp_path: Path) -> None:
    path = a_table(tmp_path / "t", "a INTEGER, b INTEGER, w TEXT", [(1, 2, "x" * 5000)])
    with pytest.raises(NotPlain):
        by_pages(path, "t", ["a", "b"])


def test_damaged_pages_are_left_to_sqlite(tmp_path: Path) -> None:
    path = a_table(tmp_path / "t", "a INTEGER, b INTEGER", [(i, i) for i in range(3000)])
    content = bytearray(path.read_bytes())
    content[2 * 4096 + 100 : 2 * 4096 + 600] = b"\xff" * 500
    path.write_bytes(content)
    with pytest.raises(NotPlain):
        by_pages(path, "t", ["a", "b"])
