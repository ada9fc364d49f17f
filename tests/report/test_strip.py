"""One decode step: the right one, every busy stretch in it, never busier than it was."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from perfkit.ingest.frames import ACTIVITIES, RANGES
from perfkit.report.strip import MIN_COLUMNS, WAITING, Strip, decode_step
from perfkit.timeline.waits import WAITS

Stretch = tuple[int, str, int, int]
NO_WAITS = pl.DataFrame(schema=WAITS)


def step_of(
    decodes: Sequence[tuple[int, int, int]], work: Sequence[Stretch], **options: Any
) -> Strip | None:
    """Decode ranges (rank, start, end) and activities (rank, class, start, end) on CPUs."""
    activities = pl.DataFrame(
        [
            {"rank": rank, "device": "cpu", "class": cls, "start_ns": start, "end_ns": end}
            for rank, cls, start, end in work
        ],
        schema=ACTIVITIES,
    )
    ranges = pl.DataFrame(
        [{"rank": r, "phase": "decode", "start_ns": s, "end_ns": e} for r, s, e in decodes],
        schema=RANGES,
    )
    return decode_step(activities, ranges, NO_WAITS, **options)


def a_step(*parts: Any, **options: Any) -> Strip:
    step = step_of(*parts, **options)
    assert step is not None
    return step


def test_the_middle_step_is_shown_from_its_own_start() -> None:
    decodes = [(0, 0, 1000), (0, 2000, 3000), (0, 4000, 5000)]
    step = a_step(decodes, [(0, "compute", 0, 900), (0, "compute", 2000, 2500)])
    assert (step.number, step.steps, step.window_ns) == (2, 3, 1000)
    assert step.marks.select("lane", "start_ns", "end_ns", "busy").rows() == [
        ("compute", 0, 500, 1.0)
    ]
    assert step.busy["share"].to_list() == [0.5]


def test_a_step_has_all_its_microbatches_and_spans_all_ranks() -> None:
    decodes = [(0, 0, 1000), (0, 1000, 2000), (1, 1000, 2000), (1, 2000, 3000)]
    step = a_step(decodes, [(0, "compute", 0, 2000), (1, "comm", 1000, 3000)], microbatches=2)
    assert (step.number, step.steps, step.window_ns) == (1, 1, 3000)
    assert step.marks.group_by("rank").agg(pl.col("end_ns").max()).sort("rank").rows() == [
        (0, 2001),  # a column of 3 ns that is busy for 2 of them is drawn, and paler
        (1, 3000),
    ]


def test_many_short_kernels_look_as_idle_as_they_leave_the_device() -> None:
    """1 ns of work every 10 ns: closing the gaps would draw a busy device."""
    work = [(0, "compute", start, start + 1) for start in range(0, 100_000, 10)]
    step = a_step([(0, 0, 100_000)], work)
    assert step.marks["busy"].max() == 0.1
    assert step.marks.height == 1
    assert step.busy["share"].to_list() == [0.1]


def test_unknown_kernels_are_drawn_as_compute_as_the_split_counts_them() -> None:
    step = a_step([(0, 0, 1000)], [(0, "unknown", 0, 1000)])
    assert step.marks["lane"].to_list() == ["compute"]


def test_there_are_never_many_more_marks_than_asked_for() -> None:
    decodes = [(rank, 0, 1_000_000) for rank in range(8)]
    work = [
        (rank, "compute", start, start + 300) for rank in range(8) for start in range(0, 10**6, 997)
    ]
    assert a_step(decodes, work).marks.height <= 4000
    assert a_step(decodes, work, max_marks=1).marks.height <= 8 * MIN_COLUMNS


def test_without_a_decode_there_is_no_step() -> None:
    assert step_of([], [(0, "compute", 0, 10)]) is None
    assert step_of([], []) is None


def test_waiting_has_a_lane_of_its_own_and_is_cut_at_the_step() -> None:
    """A collective of 10 to 90 ns of which 60 were waiting, in a step of 20 to 100."""
    activities = pl.DataFrame(
        [{"rank": 0, "device": "cpu", "class": "comm", "start_ns": 10, "end_ns": 90}],
        schema=ACTIVITIES,
    )
    ranges = pl.DataFrame(
        [{"rank": 0, "phase": "decode", "start_ns": 20, "end_ns": 100}], schema=RANGES
    )
    waits = pl.DataFrame(
        [{"rank": 0, "device": "cpu", "start_ns": 10, "end_ns": 90, "wait_ns": 60}], schema=WAITS
    )
    strip = decode_step(activities, ranges, waits)
    assert strip is not None
    shares = dict(strip.busy.select("lane", "share").rows())
    assert shares == {"communication": 70 / 80, WAITING: 50 / 80}
