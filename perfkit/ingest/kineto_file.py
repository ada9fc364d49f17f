"""Decodes one Kineto file (PyTorch profiler, .json or .json.gz) without ever changing it.

Only complete events of the kinds below are kept. Times become whole ns straight from their decimal
text: a float loses the last digit some 50 days after a host's start.
"""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from perfkit.errors import ConfigError

# The second name is what torch before 1.12 wrote.
CATEGORIES = {
    "cpu_op": "cpu_op",
    "Operator": "cpu_op",
    "user_annotation": "user_annotation",
    "kernel": "kernel",
    "Kernel": "kernel",
    "gpu_memcpy": "memcpy",
    "Memcpy": "memcpy",
    "gpu_memset": "memset",
    "Memset": "memset",
    "cuda_runtime": "launch",
    "cuda_driver": "launch",
    "Runtime": "launch",
}

# Control characters do not belong in JSON, but names in real traces hold some (pytorch#130622).
# Blanking all of them is safe: line ends between values may be blanks too.
NO_CONTROL = bytes(32 if byte < 32 else byte for byte in range(256))
NOTHING = msgspec.Raw(b"0")
NO_ARGS = msgspec.Raw(b"{}")
NO_DEVICES = msgspec.Raw(b"[]")


class Event(msgspec.Struct, gc=False):
    """One traceEvent; what costs to decode stays raw."""

    ph: str = ""
    cat: str | None = ""
    name: str = ""
    tid: int | str | None = None
    ts: msgspec.Raw = NOTHING
    dur: msgspec.Raw = NOTHING
    args: msgspec.Raw = NO_ARGS


class DistributedInfo(msgspec.Struct):
    """What torch.distributed told the profiler."""

    rank: int | None = None
    world_size: int | None = None


class Device(msgspec.Struct):
    """A GPU, as CUDA describes it to the profiler."""

    id: int
    name: str | None = None
    memory_bytes: int | None = msgspec.field(name="totalGlobalMem", default=None)


class Document(msgspec.Struct):
    """The parts of the file that are read."""

    traceEvents: list[Event]  # noqa: N815
    baseTimeNanoseconds: int = 0  # noqa: N815
    distributedInfo: DistributedInfo | None = None  # noqa: N815
    deviceProperties: msgspec.Raw = NO_DEVICES  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class KinetoFile:
    """The events of one file by category, and whose they are."""

    path: Path
    events: dict[str, list[Event]]
    base_ns: int
    rank: int | None
    world_size: int | None
    devices: list[Device]
    repaired: bool
    """True when bytes that are not UTF-8 or control characters had to be replaced."""


def read_kineto_file(path: Path) -> KinetoFile:
    """The file's events; ConfigError that names the file when it cannot be used."""
    document, repaired = _decode(path, _content(path))
    info = document.distributedInfo or DistributedInfo()
    events: dict[str, list[Event]] = {name: [] for name in CATEGORIES.values()}
    for event in document.traceEvents:
        if event.ph == "X" and (category := CATEGORIES.get(event.cat or "")):
            events[category].append(event)
    return KinetoFile(
        path=path,
        events=events,
        base_ns=document.baseTimeNanoseconds,
        rank=info.rank,
        world_size=info.world_size,
        devices=_devices(document.deviceProperties),
        repaired=repaired,
    )


def _devices(raw: msgspec.Raw) -> list[Device]:
    try:
        return msgspec.json.decode(raw, type=list[Device])
    except msgspec.DecodeError:
        return []


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except EOFError as error:
        raise ConfigError(_message(path, "its gzip data is cut off")) from error
    except (OSError, zlib.error) as error:
        raise ConfigError(_message(path, f"cannot be read ({error})")) from error
    if not content.strip():
        raise ConfigError(_message(path, "is empty"))
    return content


def _decode(path: Path, content: bytes) -> tuple[Document, bool]:
    try:
        return _document(content), False
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = content.decode("utf-8", errors="replace")
    try:
        return _document(text.encode().translate(NO_CONTROL)), True
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{path} is JSON but no Kineto trace: {error}. "
            "Give a file from torch.profiler's export_chrome_trace.",
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigError(_message(path, f"is not whole JSON ({error})")) from error


def _document(content: bytes) -> Document:
    if content.lstrip()[:1] == b"[":
        return Document(traceEvents=msgspec.json.decode(content, type=list[Event]))
    return msgspec.json.decode(content, type=Document)


def _message(path: Path, found: str) -> str:
    return (
        f"{path} {found}: the profiler was stopped while it wrote it, or the copy is incomplete. "
        "Copy it again, or run again and let the captured pass end."
    )


def events_frame(file: KinetoFile, events: Sequence[Event]) -> pl.DataFrame:
    """name, tid, start_ns, end_ns of events, in file order; null where a time is no number."""
    start = whole_ns([event.ts for event in events])
    return pl.DataFrame(
        {
            "name": [event.name for event in events],
            "tid": [thread_id(event.tid) for event in events],
            "start_ns": start + file.base_ns,
            "end_ns": start + file.base_ns + whole_ns([event.dur for event in events]),
        },
        schema={"name": pl.String, "tid": pl.Int64, "start_ns": pl.Int64, "end_ns": pl.Int64},
    )


def whole_ns(times: Sequence[msgspec.Raw]) -> pl.Series:
    """Decimal text in us -> integer ns, exactly; a fraction of a ns is cut off."""
    text = pl.Series([str(raw, "ascii", "replace") for raw in times], dtype=pl.String)
    return (text.cast(pl.Decimal(38, 6), strict=False) * 1000).cast(pl.Int64)


def thread_id(value: Any) -> int:
    """Thread and stream ids are numbers, but some writers quote them."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return -1
