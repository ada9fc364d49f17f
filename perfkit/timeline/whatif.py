"""An analysis -> its captured step replayed with changed durations, all ranks on one clock."""

from collections.abc import Mapping, Sequence

import polars as pl

from perfkit.errors import ConfigError
from perfkit.timeline.analysis import Analysis
from perfkit.timeline.peers import HANDOVERS, layout_of, token_handovers
from perfkit.timeline.replay import Change, Replay, replay
from perfkit.timeline.windows import inside_whole


def whatif(analysis: Analysis, change: Change) -> Replay:
    """The captured step of every rank after the change; ConfigError where there is none."""
    inside = inside_whole(analysis.activities, analysis.ranges)
    if inside.is_empty():
        raise ConfigError(
            f"{analysis.source} has no trace whose steps could be replayed. Record one with "
            "`perfkit run`, which captures a pass after the timed ones.",
        )
    check_kernels(change, inside)
    offsets = clock_offsets(analysis)
    first, last = _bounds(inside)
    within = pl.col("start_ns").is_between(first, last)
    times = ("start_ns", "end_ns")
    return replay(
        shifted(inside, offsets, (*times, "launch_ns")),
        shifted(analysis.waits, offsets, times),
        shifted(analysis.syncs.filter(within), offsets, times),
        host_handovers(analysis, shifted(analysis.ranges.filter(within), offsets, times)),
        change,
    )


def check_kernels(change: Change, inside: pl.DataFrame) -> None:
    """ConfigError for a pattern that no activity has, which would change nothing."""
    names = inside.select("class", "family", "name").unique().rows()
    for pattern in change.kernels:
        if not any(Change(kernels={pattern: 0.0}).of(*row) == 0.0 for row in names):
            families = sorted({str(family) for _cls, family, _name in names})
            raise ConfigError(
                f"--kernel {pattern}: no operation of the trace has that family or name. "
                f"Families: {', '.join(families)}.",
            )


def clock_offsets(analysis: Analysis) -> dict[int, int]:
    """rank -> ns to subtract from its times; 0 for a host that could not be aligned."""
    offsets = dict(analysis.clocks.select("host", "offset_ns").iter_rows())
    return {rank: offsets.get(clock, 0) for rank, clock in analysis.clock_of.items()}


def shifted(
    frame: pl.DataFrame, offsets: Mapping[int, int], columns: Sequence[str]
) -> pl.DataFrame:
    """The frame's times on the clock of the reference host."""
    offset = pl.col("rank").replace_strict(dict(offsets), default=0, return_dtype=pl.Int64)
    return frame.with_columns(pl.col(name) - offset for name in columns)


def host_handovers(analysis: Analysis, ranges: pl.DataFrame) -> pl.DataFrame:
    """Token ids that hosts waited for; on CPUs those are activities like any other."""
    layout = layout_of(analysis.run)
    on_gpus = bool((analysis.activities["device"] != "cpu").any())
    if layout is None or not on_gpus:
        return pl.DataFrame(schema=HANDOVERS)
    return token_handovers(ranges, layout)


def _bounds(inside: pl.DataFrame) -> tuple[int, int]:
    """First launch or start, and last end, of the captured step."""
    first = inside.select(pl.min_horizontal("launch_ns", "start_ns").min()).item()
    return int(first), int(inside.select(pl.col("end_ns").max()).item())
