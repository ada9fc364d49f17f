"""One place of traces (the files of one rank, or one loose file): the work done where it is.

Reading takes long and gives much; these functions run on any core or node that sees the files. Only
what they return to be looked at, a Head or what timeline makes of it, has to travel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding
from perfkit.ingest.recognise import read_traces
from perfkit.ingest.trace import Trace

# Starting a process and bringing the tables back takes as long as decoding that much: 0.7 s.
KINETO_BYTES = {".gz": 4_000_000, ".json": 50_000_000}


@dataclass(frozen=True, slots=True)
class Place:
    """The traces of the first file that could be read, and what is wrong with those before it."""

    traces: tuple[Trace, ...]
    source: str
    """the file, relative to the run folder"""
    findings: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is to be known of a trace to put it among the others."""

    rank: int
    rank_known: bool
    world_size: int | None
    recognised: str
    own_clock: bool
    any_ranges: bool
    findings: list[dict[str, Any]]


def read_place(
    files: Sequence[Path], rank: int | None, root: Path | None, alone: bool, phases: bool
) -> Place:
    """The first of the files that can be read; `root` is the run folder that they are in.

    See read_traces for the rest.
    """
    findings = []
    for file in files:
        source = str(file.relative_to(root)) if root else str(file)
        if not file.exists():
            text = f"{source} cannot be seen on {gethostname()}: workers need the same file system"
            findings.append(finding("unreadable-trace", text, rank=rank, source=source))
            continue
        try:
            traces = read_traces(file, rank, alone=alone, phases=phases)
        except ConfigError as error:
            text = str(error).replace(str(file), source)
            findings.append(finding("unreadable-trace", text, rank=rank, source=source))
            continue
        return Place(tuple(traces), source, findings)
    return Place((), "", findings)


def worth_a_process(function: Callable[..., Any], row: tuple[Any, ...]) -> bool:
    """Whether a call is faster in a process of its own: reading a large Kineto file.

    Kineto files are decoded under Python's lock, one core each; the reader of nsys exports uses all
    cores by itself.
    """
    first: Path | None = next(iter(row[0]), None) if function is read_place else None
    if first is None or first.suffix not in KINETO_BYTES or not first.is_file():
        return False
    return first.stat().st_size >= KINETO_BYTES[first.suffix]


def heads_of(place: Place) -> tuple[list[Head], str, list[dict[str, Any]]]:
    """(a head for each trace, their file, what is wrong with others)."""
    heads = [
        Head(
            rank=trace.rank,
            rank_known=trace.rank_known,
            world_size=trace.world_size,
            recognised=trace.recognised,
            own_clock=trace.own_clock,
            any_ranges=not trace.ranges.is_empty(),
            findings=trace.findings,
        )
        for trace in place.traces
    ]
    return heads, place.source, place.findings
