"""Exact measures of sets of intervals: integers in, integers out, numpy inside.

An interval is half open, [start, end) in ns. Sets may be unsorted, nested, overlapping or hold
intervals of no length. |A and B| = |A| + |B| - |A or B|, so a union is all that is ever built.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ns = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Union:
    """Disjoint intervals in order, and how much they cover up to each of them."""

    starts: Ns
    ends: Ns
    before: Ns
    """before[i]: ns covered by the intervals ahead of number i; one entry more than intervals."""

    @property
    def total_ns(self) -> int:
        return int(self.before[-1])

    def up_to(self, times: Ns) -> Ns:
        """ns covered in (-infinity, t) for each t."""
        if not len(self.starts):
            return np.zeros(len(times), dtype=np.int64)
        index = np.searchsorted(self.starts, times, side="right") - 1
        inside = np.maximum(index, 0)
        partly = np.minimum(times, self.ends[inside]) - self.starts[inside]
        return np.where(index < 0, 0, self.before[inside] + partly)

    def within(self, starts: Ns, ends: Ns) -> Ns:
        """ns covered inside each window [start, end); windows may overlap each other."""
        return self.up_to(ends) - self.up_to(starts)


def union(starts: Ns | Sequence[int], ends: Ns | Sequence[int]) -> Union:
    """The union of a set of intervals; those that end at or before their start are nothing."""
    first, last = np.asarray(starts, dtype=np.int64), np.asarray(ends, dtype=np.int64)
    kept = last > first
    first, last = first[kept], last[kept]
    order = np.argsort(first, kind="stable")
    first, reach = first[order], np.maximum.accumulate(last[order])
    opens = np.ones(len(first), dtype=bool)
    opens[1:] = first[1:] > reach[:-1]
    closes = np.roll(opens, -1)
    merged_starts, merged_ends = first[opens], reach[closes]
    before = np.concatenate(([0], np.cumsum(merged_ends - merged_starts)))
    return Union(merged_starts, merged_ends, before.astype(np.int64))


def both(*sets: Union) -> Union:
    """The union of unions."""
    return union(
        np.concatenate([part.starts for part in sets]), np.concatenate([part.ends for part in sets])
    )


def meet(a: Union, b: Union) -> Union:
    """What is in both."""
    first = np.searchsorted(b.ends, a.starts, side="right")
    count = np.maximum(np.searchsorted(b.starts, a.ends, side="left") - first, 0)
    left = np.repeat(np.arange(len(count)), count)
    right = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[left]
    starts = np.maximum(a.starts[left], b.starts[right])
    return union(starts, np.minimum(a.ends[left], b.ends[right]))
