"""The traces of several files or ranks together; one that cannot be read never stops the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding
from perfkit.ingest.recognise import read_traces
from perfkit.ingest.trace import Trace, renumbered

Findings = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Traces:
    """Every usable trace by rank, and what was found out about the files."""

    by_rank: dict[int, Trace] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)
    """the file of each rank, relative to the run folder"""
    findings: Findings = field(default_factory=list)

    @property
    def in_order(self) -> list[Trace]:
        return [self.by_rank[rank] for rank in sorted(self.by_rank)]

    @property
    def recognised(self) -> tuple[str, ...]:
        """For people: each kind of trace, and the ranks that have it."""
        ranks: dict[str, list[int]] = {}
        for trace in self.in_order:
            ranks.setdefault(trace.recognised, []).append(trace.rank)
        return tuple(
            f"{kind}, rank{'s' if len(mine) > 1 else ''} {', '.join(map(str, mine))}"
            for kind, mine in ranks.items()
        )

    def clocks(self, hosts: Mapping[int, str]) -> dict[int, str]:
        """Whose clock each rank's times are by: that of its host, or of its file."""
        return {
            rank: self.sources[rank] if trace.own_clock else hosts[rank]
            for rank, trace in self.by_rank.items()
        }


def read_all(
    places: Sequence[tuple[Sequence[Path], int | None]],
    root: Path | None = None,
    *,
    alone: bool = False,
    phases: bool = True,
) -> Traces:
    """For each place (files, rank): the first of its files that can be read.

    `root` is the run folder that they are in. See read_traces for the rest.
    """
    found = Traces()
    for files, rank in places:
        for file in files:
            source = str(file.relative_to(root)) if root else str(file)
            try:
                traces = read_traces(file, rank, alone=alone, phases=phases)
            except ConfigError as error:
                text = str(error).replace(str(file), source)
                found.findings.append(finding("unreadable-trace", text, rank=rank, source=source))
                continue
            for trace in traces:
                _keep(found, trace, source)
            break
    return found


def _keep(found: Traces, trace: Trace, source: str) -> None:
    """Add a trace; one whose rank is only counted takes the next number that is free."""
    taken = trace.rank in found.by_rank
    if taken and trace.rank_known:
        text = f"{source} says it is of rank {trace.rank}, as a file before it: left out"
        found.findings.append(finding("same-rank", text, rank=trace.rank, source=source))
        return
    if taken:
        number = max(found.by_rank) + 1
        text = f"nothing in {source} names its rank: it is taken as rank {number}, by the order"
        found.findings.append(finding("rank-counted", text, rank=number, source=source))
        trace = renumbered(trace, number)
    found.findings.extend({**row, "source": source} for row in trace.findings)
    found.by_rank[trace.rank], found.sources[trace.rank] = trace, source
