"""The traces of several files or ranks together; one that cannot be read never stops the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perfkit.executors import Executor
from perfkit.ingest.frames import finding
from perfkit.ingest.places import Head, heads_of, read_place

Findings = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Member:
    """A trace of one rank, and where its tables are."""

    head: Head
    source: str
    """its file, relative to the run folder"""
    place: Any
    """what the executor keeps its Place as"""
    index: int
    """which of the place's traces it is"""

    @property
    def rank(self) -> int:
        return self.head.rank


@dataclass(frozen=True, slots=True)
class Traces:
    """Every usable trace by rank, and what was found out about the files."""

    by_rank: dict[int, Member] = field(default_factory=dict)
    findings: Findings = field(default_factory=list)

    @property
    def in_order(self) -> list[Member]:
        return [self.by_rank[rank] for rank in sorted(self.by_rank)]

    @property
    def recognised(self) -> tuple[str, ...]:
        """For people: each kind of trace, and the ranks that have it."""
        ranks: dict[str, list[int]] = {}
        for member in self.in_order:
            ranks.setdefault(member.head.recognised, []).append(member.rank)
        return tuple(
            f"{kind}, rank{'s' if len(mine) > 1 else ''} {', '.join(map(str, mine))}"
            for kind, mine in ranks.items()
        )

    def clocks(self, hosts: Mapping[int, str]) -> dict[int, str]:
        """Whose clock each rank's times are by: that of its host, or of its file."""
        return {
            rank: member.source if member.head.own_clock else hosts[rank]
            for rank, member in self.by_rank.items()
        }


def read_all(
    places: Sequence[tuple[Sequence[Path], int | None]],
    executor: Executor,
    root: Path | None = None,
    *,
    alone: bool = False,
    phases: bool = True,
) -> Traces:
    """For each place (files, rank): the first of its files that can be read.

    `root` is the run folder that they are in. The tables stay where the executor reads them.
    """
    kept = executor.keep(
        read_place, [(tuple(files), rank, root, alone, phases) for files, rank in places]
    )
    found = Traces()
    heads = executor.fetch(heads_of, [(place,) for place in kept])
    for place, (mine, source, findings) in zip(kept, heads, strict=True):
        found.findings.extend(findings)
        for index, head in enumerate(mine):
            _keep(found, Member(head, source, place, index))
    return found


def _keep(found: Traces, member: Member) -> None:
    """Add a trace; one whose rank is only counted takes the next number that is free."""
    head, source = member.head, member.source
    taken = head.rank in found.by_rank
    if taken and head.rank_known:
        text = f"{source} says it is of rank {head.rank}, as a file before it: left out"
        found.findings.append(finding("same-rank", text, rank=head.rank, source=source))
        return
    if taken:
        number = max(found.by_rank) + 1
        text = f"nothing in {source} names its rank: it is taken as rank {number}, by the order"
        found.findings.append(finding("rank-counted", text, rank=number, source=source))
        own = [row if row["rank"] is None else {**row, "rank": number} for row in head.findings]
        member = replace(member, head=replace(head, rank=number, findings=own))
    found.findings.extend({**row, "source": source} for row in member.head.findings)
    found.by_rank[member.rank] = member
