"""Small nsys exports for tests: `an_export(path, kernel("gemm", 10, 20))`; times in ns.

A table has the columns that its rows name, as versions of nsys differ in both; only tables with
rows are made, as nsys makes them.
"""

import sqlite3
import struct
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE_NS = 1_790_857_026_000_000_000
PID = 100
KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
# Columns whose texts stand in StringIds.
BY_ID = {"demangledName", "shortName", "mangledName", "nameId", "textId"}


@dataclass(frozen=True)
class Row:
    """One row of one table."""

    table: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class RawText:
    """A text column's bytes as they are."""

    data: bytes


def global_pid(pid: int) -> int:
    return (1 << 48) + (pid << 24)


def kernel(name: Any, start: int, end: int | None, *, pid: int = PID, **more: Any) -> Row:
    place = {"deviceId": 0, "contextId": 1, "streamId": 7, "correlationId": 0}
    names = {"demangledName": name, "shortName": name}
    return Row(
        KERNELS,
        {"start": start, "end": end, **place, "globalPid": global_pid(pid), **names, **more},
    )


def copied(start: int, end: int, size: int, kind: int = 1, *, pid: int = PID, **more: Any) -> Row:
    place = {"deviceId": 0, "streamId": 7, "correlationId": 0, "globalPid": global_pid(pid)}
    times = {"start": start, "end": end}
    return Row(
        "CUPTI_ACTIVITY_KIND_MEMCPY", {**times, **place, "bytes": size, "copyKind": kind, **more}
    )


def memset(start: int, end: int, size: int, *, pid: int = PID, **more: Any) -> Row:
    place = {"deviceId": 0, "streamId": 7, "correlationId": 0, "globalPid": global_pid(pid)}
    times = {"start": start, "end": end}
    return Row("CUPTI_ACTIVITY_KIND_MEMSET", {**times, **place, "bytes": size, **more})


def graph(start: int, end: int, *, pid: int = PID, **more: Any) -> Row:
    place = {"deviceId": 0, "streamId": 7, "correlationId": 0, "globalPid": global_pid(pid)}
    times = {"start": start, "end": end}
    return Row("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", {**times, **place, "graphId": 3, **more})


def call(
    start: int, correlation: int, *, name: str = "cudaLaunchKernel_v7000", end: int = 0, **more: Any
) -> Row:
    pid = more.pop("pid", PID)
    return Row(
        CALLS,
        {
            "start": start,
            "end": end or start + 2,
            "eventClass": 0,
            "globalTid": global_pid(pid) + pid,
            "correlationId": correlation,
            "nameId": name,
            "returnValue": 0,
            **more,
        },
    )


def pushed(name: Any, start: int, end: int | None, *, kind: int = 59, **more: Any) -> Row:
    """An NVTX range whose text is registered; give text=... and name=None for one by its own."""
    pid, tid = more.pop("pid", PID), more.pop("tid", 0)
    place = {"eventType": kind, "globalTid": global_pid(pid) + (tid or pid), "domainId": 0}
    text = {"text": None, "textId": name}
    return Row("NVTX_EVENTS", {"start": start, "end": end, **place, **text, **more})


def domain(name: str, number: int, *, pid: int = PID) -> Row:
    return pushed(None, 0, None, kind=75, text=name, domainId=number, pid=pid)


def payload(schema: int, *fields: tuple[str, int]) -> bytes:
    """The arguments of an NCCL call, as nsys exports them with --include-blobs=true."""
    body = b"".join(struct.pack(form, value) for form, value in fields)
    return struct.pack("<QQQQ", 1, schema, len(body), 32) + body


def an_export(path: Path, *rows: Row | Iterable[Row], start_utc_ns: int | None = BASE_NS) -> Path:
    """Write the rows, in order; strings get their ids as they come."""
    given = [r for row in rows for r in ([row] if isinstance(row, Row) else row)]
    if start_utc_ns is not None:
        given.append(Row("TARGET_INFO_SESSION_START_TIME", {"utcEpochNs": start_utc_ns}))
    ids: dict[Any, int] = {}
    for row in given:
        for column in BY_ID & set(row.values):
            if isinstance(row.values[column], str | RawText):
                ids.setdefault(row.values[column], len(ids) + 1)
    strings = [Row("StringIds", {"id": number, "value": text}) for text, number in ids.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as file:
        for table in dict.fromkeys(row.table for row in [*given, *strings]):
            mine = [row.values for row in [*given, *strings] if row.table == table]
            _write(file, table, mine, ids)
        file.commit()
    return path


def _write(
    file: sqlite3.Connection, table: str, rows: list[Mapping[str, Any]], ids: Mapping[Any, int]
) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    file.execute(
        f'create table "{table}" ({", ".join(_declared(table, c, rows) for c in columns)})'
    )
    for row in rows:
        values = [row.get(column) for column in columns]
        as_text = ["cast(? as text)" if isinstance(v, RawText) else "?" for v in values]
        plain = [
            ids.get(value, value) if column in BY_ID and not isinstance(value, int) else value
            for column, value in zip(columns, values, strict=True)
        ]
        plain = [value.data if isinstance(value, RawText) else value for value in plain]
        file.execute(f'insert into "{table}" values ({", ".join(as_text)})', plain)


def _declared(table: str, column: str, rows: list[Mapping[str, Any]]) -> str:
    if (table, column) == ("StringIds", "id"):
        return '"id" INTEGER NOT NULL PRIMARY KEY'
    kinds = {type(row.get(column)) for row in rows}
    text = {str, RawText} & kinds and column not in BY_ID
    return f'"{column}" {"TEXT" if text or bytes in kinds else "INTEGER"}'
