"""The events of one kind of a Kineto file, column by column, with whole ns for times.

Times become ns straight from their decimal text: a float loses the last digit some 50 days after
a host's start.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl

# A time or duration beyond these is a broken one: the year 2116, 104 days.
LAST_NS, LONGEST_NS = 2**62, 2**53
TIMES = ("start_ns", "end_ns")
NO_THREAD = -1


class Names(dict[str, int]):
    """A number for each different name, in the order of their first use."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


@dataclass(frozen=True, slots=True)
class Rows:
    """What has been read of the events of one kind."""

    codes: list[int] = field(default_factory=list)
    starts: list[bytes] = field(default_factory=list)
    """lines of decimal text, in us"""
    durations: list[bytes] = field(default_factory=list)
    tids: list[int] = field(default_factory=list)
    """empty for events whose thread is not read"""
    args: list[Any] = field(default_factory=list)
    """empty for events whose arguments are not read"""

    def add(self, events: Sequence[Any], names: Names) -> None:
        """Add some events, all of this kind."""
        self.codes.extend([names[event.name] for event in events])
        self.starts.append(lines([event.ts for event in events]))
        self.durations.append(lines([event.dur for event in events]))
        read = type(events[0]).__struct_fields__
        if "tid" in read:
            self.tids.extend([thread_id(event.tid) for event in events])
        if "args" in read:
            self.args.extend([event.args for event in events])

    def frame(self, names: Names, base_ns: int) -> pl.DataFrame:
        """name, tid, start_ns, end_ns in file order; null where a time is no usable number."""
        every_name = pl.Series(list(names), dtype=pl.String)
        start = whole_ns(self.starts) + base_ns
        length = whole_ns(self.durations).clip(lower_bound=0)
        frame = pl.DataFrame(
            {
                "name": every_name.gather(self.codes),
                "tid": pl.Series(self.tids or [NO_THREAD] * len(self.codes), dtype=pl.Int64),
                "start_ns": start,
                "end_ns": start + length,
            }
        )
        usable = start.is_between(0, LAST_NS) & (length <= LONGEST_NS)
        return frame.with_columns(pl.when(usable).then(pl.col(TIMES)))


def lines(times: Sequence[msgspec.Raw]) -> bytes:
    """One line for each time; what is no number may hold line ends, and then becomes a blank."""
    text = b"\n".join(times)
    if text.count(b"\n") == len(times) - 1:
        return text
    return b"\n".join(b"" if b"\n" in bytes(time) else time for time in times)


def whole_ns(texts: Sequence[bytes]) -> pl.Series:
    """Lines of decimal text in us -> integer ns, exactly; a fraction of a ns is cut off.

    Some writers quote the numbers. What is none, or is far away, is null.
    """
    if not texts:
        return pl.Series([], dtype=pl.Int64)
    joined = pl.Series([str(b"\n".join(texts).replace(b'"', b""), "ascii", "replace")])
    us = joined.str.split("\n").explode().cast(pl.Decimal(38, 6), strict=False)
    near = us.abs() <= LAST_NS // 1000
    return (us.set(~near, None) * 1000).cast(pl.Int64, strict=False)


def thread_id(value: Any) -> int:
    """Thread ids are numbers, but some writers quote them."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        return NO_THREAD
    return number if abs(number) < LAST_NS else NO_THREAD
