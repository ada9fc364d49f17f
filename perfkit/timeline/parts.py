"""The activities of a run as one frame for each device of each rank.

Every table is made device by device: all of a large trace at once would be copied too often.
"""

from collections.abc import Sequence

import polars as pl

from perfkit.ingest.frames import ACTIVITIES
from perfkit.ingest.trace import Trace
from perfkit.timeline.peers import Layout, with_groups


def device_parts(
    traces: Sequence[Trace], ranges: pl.DataFrame, layout: Layout | None
) -> list[pl.DataFrame]:
    """The activities of each rank's devices, communicators named as far as the layout says.

    One empty frame when there are none.
    """
    rows = [trace.activities for trace in traces if trace.activities.height]
    if layout and any(map(any_unnamed, rows)):
        rows = with_groups(pl.concat(rows), ranges, layout).partition_by("rank")
    parts = [
        part
        for frame in rows
        for part in (
            [frame]
            if frame["device"].n_unique() == 1
            else frame.partition_by("device", maintain_order=True)
        )
    ]
    ordered = sorted(parts, key=lambda part: (part["rank"][0], part["device"][0]))
    return ordered or [pl.DataFrame(schema=ACTIVITIES)]


def any_unnamed(activities: pl.DataFrame) -> bool:
    """Whether a collective's communicator is not named."""
    return activities.filter(pl.col("op").is_not_null())["group"].has_nulls()


def together(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=ACTIVITIES), *parts])
