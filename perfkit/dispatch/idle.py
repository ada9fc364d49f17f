"""Why a replica was idle: its time between two moments, divided by cause. All times are ns.

    busy       it answered batches
    start_up   until the model was loaded, also after a restart
    lost       from its last answer until it was born again (or to the end, when it never was): what
               it did then was lost with it
    starved    no batch was ready, and prompts were still to be prepared: CPU workers are too slow
    hand_over  a batch was ready and had not reached it
    drained    no batch was ready, and every prompt had been prepared: the end of the file

Their sum is the whole time, exactly: busy + idle = wall.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

CAUSES = ("busy", "start_up", "lost", "starved", "hand_over", "drained")

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Life:
    """One process of a replica: when it began, and when its model was there (None: never)."""

    born: int
    ready: int | None


class Supply:
    """How many batches were ready and not begun, as it changed over time."""

    def __init__(
        self, ready_at: Iterable[int], begun_at: Iterable[int], unfinished: int | None = None
    ) -> None:
        """`unfinished` is the end of a part that left prompts: more was to come until then."""
        changes: dict[int, int] = {}
        for moment in ready_at:
            changes[moment] = changes.get(moment, 0) + 1
        self.last_ready = unfinished or max(changes, default=0)
        for moment in begun_at:
            changes[moment] = changes.get(moment, 0) - 1
        self.moments = sorted(changes)
        self.levels: list[int] = []
        level = 0
        for moment in self.moments:
            level += changes[moment]
            self.levels.append(level)

    def pieces(self, gap: Interval) -> Iterable[tuple[Interval, str]]:
        """An idle gap cut where its cause changes: starved, hand_over or drained."""
        start, end = gap
        first = bisect_right(self.moments, start)
        inner = self.moments[first : bisect_right(self.moments, end)]
        cuts = sorted({start, *inner, end, min(max(self.last_ready, start), end)})
        for a, b in pairwise(cuts):
            at = bisect_right(self.moments, a) - 1
            waiting = at >= 0 and self.levels[at] > 0
            cause = "hand_over" if waiting else "starved" if a < self.last_ready else "drained"
            yield (a, b), cause


@dataclass(slots=True)
class Divided:
    """One replica's time by cause, and the moments when it was starved."""

    ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    starved: list[Interval] = field(default_factory=list)
    first_starved: int = 0
    """of it, what was before the first batch"""

    def wait(self, supply: Supply, gap: Interval) -> None:
        for piece, cause in supply.pieces(gap):
            self.ns[cause] += piece[1] - piece[0]
            if cause == "starved":
                self.starved.append(piece)
                self.first_starved += 0 if self.ns["busy"] else piece[1] - piece[0]


def divide_time(
    span: Interval,
    lives: Sequence[Life],
    batches: Sequence[Interval],
    supply: Supply,
    gone: int | None = None,
) -> Divided:
    """`span` of one replica by cause; `batches` are those that it has answered.

    `gone` is when it left for good.
    """
    start, end = span
    found = Divided()
    if not lives:
        found.ns["start_up"] = end - start
        return found
    at = start
    for life, until in zip(lives, [*(life.born for life in lives[1:]), end], strict=True):
        # Before its first birth nothing was lost, and nothing could be answered.
        cause = "lost" if life is not lives[0] else "start_up"
        born = min(max(at, life.born), end)
        found.ns[cause] += born - at
        at = born
        until = max(at, min(until, end))
        ready = until if life.ready is None else min(max(life.ready, at), until)
        found.ns["start_up"] += ready - at
        at = ready
        for a, b in sorted(one for one in batches if life.born <= one[0] < until):
            begun, done = max(a, at), min(max(b, at), until)
            found.wait(supply, (at, begun))
            found.ns["busy"] += done - begun
            at = done
    if gone is not None and lives[-1].born < gone:
        found.ns["lost"] += end - at
    else:
        found.wait(supply, (at, end))
    return found


def overlap_ns(one: Iterable[Interval], other: Sequence[Interval]) -> int:
    """Summed overlap of each interval of `one` with each of `other`, which do not overlap."""
    ordered = sorted(other)
    total = 0
    for start, end in one:
        first = max(0, bisect_right(ordered, (start, start)) - 1)
        for a, b in ordered[first:]:
            if a >= end:
                break
            total += max(0, min(b, end) - max(a, start))
    return total
