"""Ways in which an export can be damaged, or differ from what its reader expects."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import polars as pl

ODD_VALUES = (
    *("null", "''", "'text'", "-1", "0", "1", "2147483648", "4611686018427387904"),
    *("9223372036854775807", "-9223372036854775808", "1.5", "9e99", "x'00ff'", "'12'", "'1e3'"),
    *("cast(x'c328' as text)", "start", '"end" - 5', "rowid", "abs(random() % 1000)"),
)
PAGE_SIZES = (512, 1024, 4096, 8192, 65536)
Step = Callable[[random.Random, sqlite3.Connection, str, list[str]], None]


def damaged(chance: random.Random, whole: bytes, folder: Path) -> Path:
    """A damaged copy of an export, as a database or as a folder of tables."""
    path = folder / "case.sqlite"
    path.write_bytes(whole)
    kind = chance.random()
    if kind < 0.55:
        change_tables(chance, path)
    if kind < 0.1:
        return as_folder(chance, path, folder / "case_pqtdir")
    if kind > 0.5:
        path.write_bytes(change_bytes(chance, path.read_bytes()))
    return path


def change_tables(chance: random.Random, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for _ in range(chance.randint(1, 4)):
            rows = file.execute("select name from sqlite_master where type = 'table'").fetchall()
            tables = [str(row[0]) for row in rows]
            if not tables:
                return
            table = chance.choice(tables)
            columns = [row[1] for row in file.execute(f'pragma table_info("{table}")')]
            # What sqlite itself refuses is no case.
            with suppress(sqlite3.Error):
                chance.choice(STEPS)(chance, file, table, columns)


def odd_cells(
    chance: random.Random, file: sqlite3.Connection, table: str, columns: list[str]
) -> None:
    where = chance.choice(["", f"where rowid % {chance.randint(1, 9)} = 0", "where rowid = 1"])
    value = chance.choice(ODD_VALUES)
    file.execute(f'update "{table}" set "{chance.choice(columns)}" = {value} {where}')


def lose_column(
    chance: random.Random, file: sqlite3.Connection, table: str, columns: list[str]
) -> None:
    file.execute(f'alter table "{table}" drop column "{chance.choice(columns)}"')


def rename_column(
    chance: random.Random, file: sqlite3.Connection, table: str, columns: list[str]
) -> None:
    name = chance.choice(columns)
    file.execute(f'alter table "{table}" rename column "{name}" to "{name}Id"')


def lose_rows(
    chance: random.Random, file: sqlite3.Connection, table: str, _columns: list[str]
) -> None:
    file.execute(f'delete from "{table}" where rowid % {chance.randint(1, 4)} = 0')


def double_rows(
    _chance: random.Random, file: sqlite3.Connection, table: str, columns: list[str]
) -> None:
    names = ", ".join(f'"{name}"' for name in columns)
    file.execute(f'insert into "{table}" ({names}) select {names} from "{table}" order by random()')


def lose_table(
    _chance: random.Random, file: sqlite3.Connection, table: str, _columns: list[str]
) -> None:
    file.execute(f'drop table "{table}"')


def retype(chance: random.Random, file: sqlite3.Connection, table: str, columns: list[str]) -> None:
    """The same rows in a table declared otherwise, or in a view."""
    kind = chance.choice(["TEXT", "REAL", "BLOB", "", "INTEGER NOT NULL DEFAULT 0"])
    declared = ", ".join(f'"{name}" {kind}' for name in columns)
    file.execute(f'alter table "{table}" rename to "old"')
    if chance.random() < 0.3:
        file.execute(f'create view "{table}" as select * from "old"')
        return
    keyed = chance.random() < 0.3
    extra = f', primary key ("{columns[0]}")) without rowid' if keyed else ")"
    file.execute(f'create table "{table}" ({declared}{extra}')
    file.execute(f'insert or ignore into "{table}" select * from "old"')
    file.execute('drop table "old"')


def other_pages(
    chance: random.Random, file: sqlite3.Connection, _table: str, _columns: list[str]
) -> None:
    file.execute(f"pragma auto_vacuum = {chance.choice((0, 1, 2))}")
    file.execute(f"pragma page_size = {chance.choice(PAGE_SIZES)}")
    file.execute("vacuum")


def write_ahead(
    _chance: random.Random, file: sqlite3.Connection, _table: str, _columns: list[str]
) -> None:
    file.execute("pragma journal_mode = wal")


STEPS: tuple[Step, ...] = (
    *(odd_cells, odd_cells, odd_cells, lose_column, rename_column, lose_rows, double_rows),
    *(lose_table, retype, other_pages, write_ahead),
)


def change_bytes(chance: random.Random, data: bytes) -> bytes:
    """Flipped, cut, zeroed or swapped parts."""
    content = bytearray(data)
    kind = chance.randrange(5)
    if kind == 0:
        for _ in range(chance.randint(1, 30)):
            content[chance.randrange(len(content))] = chance.randrange(256)
    elif kind == 1:
        del content[chance.choice([chance.randrange(len(content)), len(content) // 2]) :]
    elif kind == 2:
        content[chance.randrange(100)] = chance.randrange(256)
    else:
        size = int.from_bytes(data[16:18], "big") or 4096
        size = 65536 if size == 1 else size
        one, other = (size * chance.randrange(max(1, len(content) // size)) for _ in range(2))
        page = bytes(size) if kind == 3 else bytes(content[other : other + size])
        content[one : one + size] = page
    return bytes(content)


def as_folder(chance: random.Random, path: Path, folder: Path) -> Path:
    """The export as a parquetdir, of which one file is damaged."""
    folder.mkdir()
    with closing(sqlite3.connect(path)) as file:
        file.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        rows = file.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (name,) in rows:
            columns = [row[1] for row in file.execute(f'pragma table_info("{name}")')]
            values = file.execute(f'select * from "{name}"').fetchall()
            series = [column_of(name, [row[i] for row in values]) for i, name in enumerate(columns)]
            pl.DataFrame(series).write_parquet(folder / f"{name}.parquet")
    files = sorted(folder.iterdir())
    if files and chance.random() < 0.5:
        broken = chance.choice(files)
        broken.write_bytes(change_bytes(chance, broken.read_bytes()))
    return folder


def column_of(name: str, values: list[object]) -> pl.Series:
    """A column of one type: that of its first value, what does not fit is null."""
    kind = next((type(value) for value in values if value is not None), int)
    fitting = [value if isinstance(value, kind) else None for value in values]
    return pl.Series(name, fitting, dtype=pl.Int64 if kind is int else None, strict=False)
