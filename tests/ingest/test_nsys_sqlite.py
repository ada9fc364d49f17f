"""nsys SQLite files as tables: what is there, what is broken, and nothing is ever written."""

import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from nsys_builder import KERNELS, RawText, Row, an_export, kernel, pushed

from perfkit.errors import ConfigError
from perfkit.ingest.nsys import read_nsys
from perfkit.ingest.nsys_sqlite import SqliteSource

RECORDED = Path(__file__).parent.parent / "data" / "nsys" / "h200x2-allreduce-2025.3.sqlite"
INT = pl.Int64()


def test_columns_and_tables_that_are_not_there_are_null_and_empty(tmp_path: Path) -> None:
    source = SqliteSource(an_export(tmp_path / "a.sqlite", kernel("k", 5, 9)))
    columns = {"start": INT, "graphNodeId": INT, "streamId": pl.Int32()}
    found = source.integers(KERNELS, columns)
    assert found.rows() == [(5, None, 7)]
    assert found.schema == pl.Schema(columns)
    assert source.integers("CUPTI_ACTIVITY_KIND_MEMCPY", columns).shape == (0, 3)
    assert source.values("DIAGNOSTIC_EVENT", ("text",), "text") == []


def test_nulls_stay_nulls_and_rows_can_be_chosen(tmp_path: Path) -> None:
    rows = [kernel("k", start, start + 1, graphNodeId=node) for start, node in ((3, None), (1, 8))]
    source = SqliteSource(an_export(tmp_path / "a.sqlite", *rows))
    columns = {"rowid": INT, "start": INT, "graphNodeId": INT}
    assert source.integers(KERNELS, columns).rows() == [(1, 3, None), (2, 1, 8)]
    assert source.integers(KERNELS, columns, {"start": [1]}).rows() == [(2, 1, 8)]


def test_a_column_of_words_where_numbers_belong_is_one_clear_error(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("k", 5, 9, deviceId="cuda"))
    with pytest.raises(ConfigError, match=r"a\.sqlite: column deviceId of CUPTI_ACTIVITY_KIND"):
        read_nsys(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: nsys was stopped while it exported"),
        (b"PK\x03\x04 not a database", "is no SQLite file, whatever its name says"),
        (b"SQLite format 3\0", "is cut off: it has 16 of 100 bytes"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "broken.sqlite"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"broken\.sqlite {says}.*nsys export"):
        SqliteSource(path)


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "cut.sqlite"
    path.write_bytes(RECORDED.read_bytes()[:100_000])
    with pytest.raises(ConfigError, match=r"cut\.sqlite is cut off: it has 100000 of \d{6} bytes"):
        SqliteSource(path)


def test_a_damaged_schema_that_is_no_text_is_found(tmp_path: Path) -> None:
    """SQLite quotes the schema in its message, and Python cannot decode that."""
    path = an_export(tmp_path / "bad.sqlite", kernel("a", 1, 2))
    content = path.read_bytes().replace(b"tableCUPTI", b"table\x90\xc5(TI")
    path.write_bytes(content.replace(b'CREATE TABLE "CUPTI', b'CREXTE TABLE "CUPTI'))
    with pytest.raises(ConfigError, match=r"bad\.sqlite is a damaged SQLite file"):
        read_nsys(path)


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.sqlite"
    content = bytearray(RECORDED.read_bytes())
    with closing(sqlite3.connect(RECORDED)) as file:
        query = "select rootpage from sqlite_master where name = ?"
        page = file.execute(query, (KERNELS,)).fetchone()[0]
        size = file.execute("pragma page_size").fetchone()[0]
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.sqlite is a damaged SQLite file"):
        read_nsys(path)


def test_another_database_is_not_taken_for_an_export(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with closing(sqlite3.connect(path)) as file:
        file.execute("create table albums (name TEXT)")
        file.commit()
    with pytest.raises(ConfigError, match=r"photos\.sqlite is no Nsight Systems export"):
        SqliteSource(path)


def test_a_file_that_is_still_written_is_refused(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("k", 5, 9))
    (tmp_path / "a.sqlite-journal").write_bytes(b"pages to roll back")
    with pytest.raises(ConfigError, match=r"a\.sqlite is not finished: a\.sqlite-journal beside"):
        SqliteSource(path)


def test_a_locked_file_is_read(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("k", 5, 9))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("begin exclusive")
        assert SqliteSource(path).integers(KERNELS, {"start": INT}).rows() == [(5,)]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_nothing_is_written_to_the_file_or_beside_it(tmp_path: Path, mode: str) -> None:
    path = an_export(tmp_path / "a.sqlite", kernel("k", 5, 9), pushed("step", 1, 20))
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"pragma journal_mode = {mode}")
    before = path.read_bytes()
    assert len(read_nsys(path)) == 1
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.sqlite"]


def test_a_path_with_letters_of_an_address_is_a_path(tmp_path: Path) -> None:
    path = an_export(tmp_path / "a?mode=rwc#1%20 b.sqlite", kernel("k", 5, 9))
    assert SqliteSource(path).integers(KERNELS, {"start": INT}).rows() == [(5,)]


def test_names_that_are_not_utf8_are_kept_with_a_mark(tmp_path: Path) -> None:
    path = an_export(
        tmp_path / "a.sqlite",
        kernel(RawText(b"gemm_\xff\xfe"), 5, 9),
        pushed(None, 1, 20, text=RawText(b"phase \xe9")),
    )
    trace = read_nsys(path)[0]
    assert trace.activities["name"].to_list() == ["gemm_\ufffd\ufffd"]
    assert trace.ranges["phase"].to_list() == ["phase \ufffd"]


def test_added_columns_do_no_harm(tmp_path: Path) -> None:
    """Other tools write their own columns into exports."""
    row = kernel("k", 5, 9)
    path = an_export(tmp_path / "a.sqlite", Row(KERNELS, {"kernel_name": "mine", **row.values}))
    assert read_nsys(path)[0].activities["name"].to_list() == ["k"]
