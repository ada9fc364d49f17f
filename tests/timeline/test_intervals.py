"""Interval algebra against a sweep over single nanoseconds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.timeline.idle import without
from perfkit.timeline.intervals import Union, both, meet, union

INTERVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))),
    max_size=12,
)


def of(intervals: list[tuple[int, int]]) -> Union:
    return union([start for start, _end in intervals], [end for _start, end in intervals])


def nanoseconds(intervals: list[tuple[int, int]]) -> set[int]:
    return {moment for start, end in intervals for moment in range(start, end)}


@given(INTERVALS)
@settings(deadline=None)
def test_union_measures_what_a_sweep_counts(intervals: list[tuple[int, int]]) -> None:
    assert of(intervals).total_ns == len(nanoseconds(intervals))


@given(INTERVALS)
@settings(deadline=None)
def test_union_is_disjoint_sorted_and_has_no_empty_part(intervals: list[tuple[int, int]]) -> None:
    found = of(intervals)
    assert (found.starts < found.ends).all()
    assert (found.ends[:-1] < found.starts[1:]).all()


@given(INTERVALS, INTERVALS)
@settings(deadline=None)
def test_intersection_and_subtraction_measure_what_a_sweep_counts(
    a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    inside = meet(of(a), of(b))
    assert inside.total_ns == len(nanoseconds(a) & nanoseconds(b))
    assert both(of(a), inside).total_ns == of(a).total_ns
    assert without(of(a), inside).total_ns == len(nanoseconds(a) - nanoseconds(b))
    assert both(of(a), of(b)).total_ns == len(nanoseconds(a) | nanoseconds(b))


@given(INTERVALS, INTERVALS)
@settings(max_examples=200, deadline=None)
def test_within_measures_each_window_by_itself(
    intervals: list[tuple[int, int]], windows: list[tuple[int, int]]
) -> None:
    starts = np.array([start for start, _end in windows], dtype=np.int64)
    ends = np.array([end for _start, end in windows], dtype=np.int64)
    expected = [len(nanoseconds(intervals) & nanoseconds([window])) for window in windows]
    assert of(intervals).within(starts, ends).tolist() == expected


def test_nested_and_touching_intervals_count_once() -> None:
    assert union([0, 2, 10], [10, 5, 12]).total_ns == 12


def test_an_interval_of_no_length_is_nothing() -> None:
    assert union([5], [5]).total_ns == 0


def test_times_of_day_in_ns_stay_exact() -> None:
    now = 1_795_383_368_332_597_419
    assert union([now], [now + 1]).total_ns == 1
