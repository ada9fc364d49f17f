"""Sizes and communicators of NCCL's kernels, from what NCCL tells NVTX about its calls.

NCCL marks each call with a range in its own domain, with the arguments as a payload: bytes, laid
out by a schema that the export describes. Newer nsys exports them only with --include-blobs=true.

A kernel belongs to the call in which it was launched. Calls between ncclGroupStart and ncclGroupEnd
are launched together by the latter: one call there is the kernel's, of several only the sum is
known, and of several that make several kernels nothing.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfkit.ingest.classes import collective
from perfkit.ingest.nsys_ranges import NCCL
from perfkit.ingest.nsys_source import RANGES, Source

SCHEMAS, ENTRIES = "NVTX_PAYLOAD_SCHEMAS", "NVTX_PAYLOAD_SCHEMA_ENTRIES"
# Domain, schema, size and offset of the payload, in front of it.
HEADER = struct.Struct("<QQQQ")
# NVTX's numbers of C types, whole numbers of 4 and 8 bytes; source: nvToolsExtPayload.h.
FORMATS = {5: "<i", 6: "<I", 9: "<q", 10: "<Q", 15: "<i", 16: "<I", 17: "<q", 18: "<Q", 22: "<Q"}
COMMUNICATOR, RANK, NUM_RANKS = "NCCL communicator ID", "Rank", "No. of ranks"
SIZES = ("Message size [bytes]", "Bytes")
GROUP_END = "ncclGroupEnd"
# NCCL tells one rank's part of these; the larger buffer holds a part of every rank.
IN_PARTS = ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter")

Payload = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of NCCL."""

    start: int
    end: int
    name: str
    payload: Payload

    @property
    def op(self) -> str | None:
        return collective(self.name.removeprefix("nccl"))

    @property
    def size(self) -> int | None:
        return next((self.payload[name] for name in SIZES if name in self.payload), None)


@dataclass(frozen=True, slots=True)
class Communicator:
    """What ncclCommInitRank said: how many ranks there are, and which this process is."""

    num_ranks: int
    rank: int


def nccl_calls(source: Source, nvtx: pl.DataFrame) -> dict[int, list[Call]]:
    """NCCL's calls of each process, in order of start."""
    rows = nvtx.filter(pl.col("domain") == NCCL)
    if rows.is_empty():
        return {}
    schemas = read_schemas(source)
    payloads = {
        number: decode(data, schemas) for number, data in source.blobs(RANGES, "binaryData")
    }
    found: dict[int, list[Call]] = {}
    for number, process, name, start, end in rows.select(
        "rowid", "process", "name", "start", "end"
    ).iter_rows():
        found.setdefault(process, []).append(Call(start, end, name, payloads.get(number, {})))
    return found


def read_schemas(source: Source) -> dict[int, list[tuple[str, int, str]]]:
    """schema -> (field, offset, format) of its fields; the first one's offset is left out."""
    rows = source.values(ENTRIES, ("schemaId", "name", "offset", "type"), "name")
    found: dict[int, list[tuple[str, int, str]]] = {}
    for schema, name, offset, kind in dict.fromkeys(rows):
        at = offset or 0
        if kind in FORMATS and isinstance(at, int) and at >= 0:
            found.setdefault(schema, []).append((str(name), at, FORMATS[kind]))
    return found


def decode(data: bytes, schemas: Mapping[int, Sequence[tuple[str, int, str]]]) -> Payload:
    """The fields of a payload; none of one that no schema describes or that is cut off."""
    if len(data) < HEADER.size:
        return {}
    _domain, schema, size, _offset = HEADER.unpack_from(data)
    body = data[HEADER.size : HEADER.size + size]
    return {
        name: struct.unpack_from(form, body, offset)[0]
        for name, offset, form in schemas.get(schema, ())
        if offset + struct.calcsize(form) <= len(body)
    }


def communicators(calls: Mapping[int, Sequence[Call]]) -> dict[int, dict[int, Communicator]]:
    """process -> communicator -> its ranks, of those that were set up while nsys recorded."""
    found: dict[int, dict[int, Communicator]] = {}
    for process, mine in calls.items():
        for call in mine:
            fields = call.payload
            if {COMMUNICATOR, NUM_RANKS, RANK} <= fields.keys():
                ranks = Communicator(fields[NUM_RANKS], fields[RANK])
                found.setdefault(process, {})[fields[COMMUNICATOR]] = ranks
    return found


def launched_in(
    launches: pl.Series, calls: Sequence[Call], known: Mapping[int, Communicator]
) -> pl.DataFrame:
    """op, group, num_ranks, bytes of NCCL's kernels, by when each was launched (in order)."""
    launching = [call for call in calls if call.size is not None or call.name == GROUP_END]
    index = enclosing(launches, launching)
    kernels = np.bincount(index[index >= 0], minlength=len(launching))
    told = [
        _told(members, known) if members and count == 1 else {}
        for members, count in zip(_members(launching, kernels), kernels, strict=True)
    ]
    schema = {"op": pl.String, "group": pl.String, "num_ranks": pl.Int32, "bytes": pl.Int64}
    return pl.DataFrame([told[i] if i >= 0 else {} for i in index], schema=schema)


def enclosing(times: pl.Series, calls: Sequence[Call]) -> NDArray[np.int64]:
    """The number of the last call that began before each time and lasts beyond it, or -1."""
    if not calls:
        return np.full(len(times), -1)
    starts = np.array([call.start for call in calls])
    ends = np.array([call.end for call in calls])
    wanted = times.fill_null(np.iinfo(np.int64).min).to_numpy()
    index = np.searchsorted(starts, wanted, side="right") - 1
    return np.where((index >= 0) & (wanted <= ends[np.maximum(index, 0)]), index, -1)


def _members(calls: Sequence[Call], kernels: NDArray[np.int64]) -> list[list[Call]]:
    """The calls that each one launched: itself, or what was gathered before the end of a group."""
    found, waiting = [], list[Call]()
    for call, count in zip(calls, kernels, strict=True):
        if call.name == GROUP_END:
            found.append(waiting)
            waiting = []
        elif count:
            found.append([call])
        else:
            found.append([])
            waiting = [*waiting, call]
    return found


def _told(members: Sequence[Call], known: Mapping[int, Communicator]) -> dict[str, object]:
    """What a kernel did that was launched by these calls; bytes of several are added up."""
    ops = {call.op for call in members}
    groups = {call.payload.get(COMMUNICATOR) for call in members}
    op = ops.pop() if len(ops) == 1 else "send_recv" if ops <= {"send", "recv"} else None
    group = groups.pop() if len(groups) == 1 else None
    ranks = None if group is None or group not in known else known[group].num_ranks
    size: int | None = sum(call.size or 0 for call in members)
    if size and op in IN_PARTS:
        size = size * ranks if ranks else None
    return {
        "op": op,
        "group": None if group is None else f"{group:016x}",
        "num_ranks": ranks,
        "bytes": size,
    }
