"""One Kineto file (PyTorch profiler, .json or .json.gz) as columns, read and never changed.

Only complete events of the kinds in kineto_events.py are kept; what is wrong is counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.kineto_events import (
    BROKEN,
    SHAPES,
    Decoded,
    Small,
    decode_events,
    decoded,
)
from perfkit.ingest.kineto_repair import repaired
from perfkit.ingest.kineto_rows import LAST_NS, Names, Rows
from perfkit.ingest.kineto_text import pieces, split_head, unusable

GPU = ("kernel", "memcpy", "memset")
OPERATIONS = "cpu_op"
# What stands before the events of a job of thousands of ranks names the ranks of each group.
MOST_HEAD_BYTES = 2**24
LEVELS = ("ERROR", "WARNING")
NULL = msgspec.Raw(b"null")
BARE_ARRAY = re.compile(rb"\s*\[")

Facts = dict[str, msgspec.Raw]
Base = Annotated[int, msgspec.Meta(ge=0, le=LAST_NS)]
Rank = Annotated[int, msgspec.Meta(ge=0, le=2**20)]
Ranks = Annotated[int, msgspec.Meta(ge=1, le=2**20)]


class DistributedInfo(msgspec.Struct):
    """What torch.distributed told the profiler."""

    rank: Rank | None = None
    world_size: Ranks | None = None


class Device(msgspec.Struct):
    """A GPU, as CUDA describes it to the profiler."""

    id: Small = -1
    name: str | None = None
    memory_bytes: Base | None = msgspec.field(name="totalGlobalMem", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KinetoFile:
    """The events of one file by kind, and whose they are."""

    path: Path
    frames: dict[str, pl.DataFrame]
    """Rows.frame of every kind that was read"""
    args: dict[str, list[Any]]
    """the arguments of the same rows, of kinds of which they are read"""
    rank: int | None
    world_size: int | None
    devices: list[Device]
    repaired: bool
    """True when something had to be replaced to make it JSON"""
    odd: int
    """events with something of a wrong type: read as far as they go"""
    others: int
    """entries that are no events"""
    said: dict[str, list[str]]
    """the profiler's own messages by level, ERROR and WARNING: lost records, for example"""

    @property
    def on_gpu(self) -> bool:
        return any(self.frames[kind].height for kind in GPU)

    @property
    def untimed(self) -> int:
        """Events without a usable time."""
        return sum(frame["end_ns"].null_count() for frame in self.frames.values())


@dataclass(slots=True)
class Reading:
    """What has been read so far."""

    operations: bool
    """whether the CPU's operations are read, too"""
    rows: dict[str, Rows] = field(default_factory=lambda: {kind: Rows() for kind in SHAPES})
    names: Names = field(default_factory=Names)
    repaired: bool = False
    entries: int = 0
    odd: int = 0
    others: int = 0

    def add(self, found: Decoded) -> None:
        for kind, events in found.events.items():
            if self.operations or kind != OPERATIONS:
                self.rows[kind].add(events, self.names)
        self.entries += found.entries
        self.odd += found.odd
        self.others += found.others

    def add_array(self, text: bytes) -> bool:
        """Whether the text is a JSON array, if need be after a repair; then it has been added."""
        try:
            self.add(decode_events(text, self.operations))
        except BROKEN:
            try:
                self.add(decode_events(repaired(text), self.operations))
            except BROKEN:
                return False
            self.repaired = True
        return True

    def add_document(self, text: bytes) -> Facts:
        """Add a whole document, or a bare array; returns what stands around the events."""
        facts = {}
        events: bytes | msgspec.Raw = text
        if not BARE_ARRAY.match(text):
            facts = msgspec.json.decode(text, type=Facts)
            if "traceEvents" not in facts:
                raise msgspec.ValidationError("Object missing required field `traceEvents`")
            events = facts["traceEvents"]
        self.add(decode_events(events, self.operations))
        return facts


def read_kineto_file(path: Path) -> KinetoFile:
    """The file's events; ConfigError that names the file when it cannot be used.

    Where the profiler knew of GPUs, the CPU's operations are only read when no GPU did anything.
    """
    reading = Reading(operations=False)
    file = _columns(path, reading, _read(path, reading))
    if file.on_gpu or reading.operations:
        return file
    reading = Reading(operations=True)
    return _columns(path, reading, _read(path, reading))


def _read(path: Path, reading: Reading) -> Facts:
    """Add all events, piece by piece; returns what stands around them."""
    texts = pieces(path)
    text = next(texts)
    facts, piece = _opened(text)
    while piece is None and len(text) < MOST_HEAD_BYTES and (following := next(texts, b"")):
        text = b",".join([text, following])
        facts, piece = _opened(text)
    reading.operations |= not _devices(facts)
    if piece is None:
        return _add_rest(path, b",".join([text, *texts]), reading)
    for following in texts:
        if not reading.add_array(b"[%b]" % piece):
            # It was not cut between two events: the rest is read at once.
            piece = b",".join([piece, following, *texts])
            break
        piece = following
    return facts | _add_rest(path, b'{"traceEvents":[' + piece, reading)


def _opened(piece: bytes) -> tuple[Facts, bytes | None]:
    """What stands before the first event, and the piece from there on; None when it has none."""
    head, events = split_head(piece)
    if events is None:
        return {}, None
    try:
        return msgspec.json.decode(head + b"]}", type=Facts), events
    except BROKEN:
        return {}, None


def _add_rest(path: Path, text: bytes, reading: Reading) -> Facts:
    """Add a document, if need be after a repair; ConfigError when that does not help."""
    if not text or text.isspace():
        raise unusable(path, "is empty")
    try:
        try:
            return reading.add_document(text)
        except BROKEN:
            facts = reading.add_document(repaired(text))
            reading.repaired = True
            return facts
    except msgspec.ValidationError as error:
        raise _no_trace(path, str(error)) from error
    except BROKEN as error:
        raise unusable(path, f"is not whole JSON ({error})") from error


def _no_trace(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{path} is JSON but no Kineto trace: {found}. "
        "Give a file from torch.profiler's export_chrome_trace.",
    )


def _columns(path: Path, reading: Reading, facts: Facts) -> KinetoFile:
    if reading.entries and reading.entries == reading.others:
        raise _no_trace(path, "nothing in it is an event")
    base_ns = decoded(facts.get("baseTimeNanoseconds", NULL), Base, 0)
    info = decoded(facts.get("distributedInfo", NULL), DistributedInfo, DistributedInfo())
    return KinetoFile(
        path=path,
        frames={kind: rows.frame(reading.names, base_ns) for kind, rows in reading.rows.items()},
        args={kind: rows.args for kind, rows in reading.rows.items()},
        rank=info.rank,
        world_size=info.world_size,
        devices=_devices(facts),
        repaired=reading.repaired,
        odd=reading.odd,
        others=reading.others,
        said={level: decoded(facts.get(level, NULL), list[str], []) for level in LEVELS},
    )


def _devices(facts: Facts) -> list[Device]:
    """The GPUs that the profiler knew of, without descriptions that are none."""
    given: list[msgspec.Raw] = decoded(facts.get("deviceProperties", NULL), list[msgspec.Raw], [])
    found: Sequence[Device | None] = [decoded(each, Device, None) for each in given]
    return [device for device in found if device]
