"""The split and its windows, on activities small enough to add up by hand."""

from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.ingest.frames import ACTIVITIES, RANGES, SYNCS
from perfkit.timeline.findings import unknown_findings
from perfkit.timeline.operations import collectives_table, operations_table
from perfkit.timeline.split import split_table
from perfkit.timeline.windows import inside_whole


def activity(cls: str, start: int, end: int, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(ACTIVITIES.names())
    fixed = {"rank": 0, "device": "cpu", "stream": 1, "kind": "cpu_op", "name": cls, "family": "f"}
    return {**row, **fixed, "class": cls, "start_ns": start, "end_ns": end, **more}


def kernel(cls: str, start: int, end: int, launch: int | None, **more: Any) -> dict[str, Any]:
    fixed = {"device": "cuda:0", "kind": "kernel", "launch_ns": launch}
    return activity(cls, start, end, **{**fixed, **more})


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=ACTIVITIES)


def ranges(*rows: tuple[str, int, int]) -> pl.DataFrame:
    return pl.DataFrame([(0, *row) for row in rows], schema=RANGES, orient="row")


def row_of(split: pl.DataFrame, phase: str = "whole", device: str = "cpu") -> dict[str, Any]:
    found = split.filter(pl.col("phase") == phase, pl.col("device") == device)
    return found.row(0, named=True)


def test_overlap_counts_nested_communication_once() -> None:
    rows = frame(activity("compute", 0, 100), activity("comm", 50, 150), activity("comm", 60, 70))
    found = row_of(split_table(rows, ranges(("request", 0, 200))))
    assert found["compute_ns"] == 100
    assert found["comm_ns"] == 100
    assert found["overlap_ns"] == 50
    assert found["exposed_comm_ns"] == 50
    assert found["idle_ns"] == 50


def test_a_copy_counts_only_where_nothing_else_runs() -> None:
    rows = frame(activity("compute", 0, 10), activity("copy", 5, 20), activity("comm", 18, 25))
    found = row_of(split_table(rows, ranges(("request", 0, 25))))
    assert (found["copy_ns"], found["idle_ns"]) == (8, 0)


def test_unknown_kernels_count_as_compute_and_are_told() -> None:
    rows = frame(kernel("unknown", 0, 25, 0), kernel("compute", 25, 100, 0))
    found = row_of(split_table(rows, ranges()), device="cuda:0")
    assert found["compute_ns"] == 100
    assert found["unknown_share"] == 0.25


def test_wait_and_transfer_are_not_measured_yet() -> None:
    found = row_of(split_table(frame(activity("comm", 0, 10)), ranges()))
    assert found["wait_ns"] is None
    assert found["transfer_ns"] is None


def test_idle_time_is_told_by_cause() -> None:
    """Gaps 10-30 (launched at 25, in a synchronisation until 18), 40-50 (launched long before)."""
    rows = frame(
        kernel("compute", 0, 10, -5), kernel("comm", 30, 40, 25), kernel("compute", 50, 60, 26)
    )
    syncs = pl.DataFrame([(0, "cudaStreamSynchronize", 5, 18)], schema=SYNCS, orient="row")
    found = row_of(split_table(rows, ranges(), syncs=syncs), device="cuda:0")
    assert found["idle_ns"] == 30
    assert found["synchronising_ns"] == 8
    assert found["launch_bound_ns"] == 12
    assert found["unknown_idle_ns"] == 10


def test_without_launches_no_cause_is_told() -> None:
    found = row_of(
        split_table(frame(activity("compute", 0, 5), activity("compute", 9, 10)), ranges())
    )
    assert (found["idle_ns"], found["launch_bound_ns"], found["unknown_idle_ns"]) == (4, None, None)


def test_a_phase_is_the_sum_over_its_instances_with_the_median_of_one() -> None:
    rows = frame(activity("compute", 0, 5), activity("compute", 10, 11), activity("comm", 30, 40))
    phases = ranges(("request", 0, 50), ("decode", 0, 10), ("decode", 10, 14), ("decode", 30, 42))
    found = row_of(split_table(rows, phases), "decode")
    assert (found["instances"], found["window_ns"], found["median_window_ns"]) == (3, 26, 10.0)
    assert (found["compute_ns"], found["exposed_comm_ns"], found["idle_ns"]) == (6, 10, 10)


def test_without_a_request_the_whole_is_first_start_to_last_end() -> None:
    rows = frame(activity("compute", 100, 110), activity("compute", 190, 200))
    assert row_of(split_table(rows, ranges()))["window_ns"] == 100


def test_a_gpu_phase_is_where_the_device_ran_what_it_launched() -> None:
    rows = frame(
        kernel("compute", 50, 60, 5), kernel("comm", 70, 90, 9), kernel("compute", 95, 99, 12)
    )
    phases = ranges(("request", 0, 20), ("prefill", 0, 10), ("decode", 10, 15))
    split = split_table(rows, phases)
    prefill, whole = row_of(split, "prefill", "cuda:0"), row_of(split, device="cuda:0")
    assert (prefill["window_ns"], prefill["idle_ns"]) == (40, 10)
    assert whole["window_ns"] == 99  # until the last kernel that the request launched


def test_a_gpu_phase_that_launched_nothing_has_no_window() -> None:
    rows = frame(kernel("compute", 50, 60, 5))
    phases = ranges(("request", 0, 70), ("prefill", 0, 10), ("tok_recv", 10, 20))
    assert split_table(rows, phases)["phase"].to_list() == ["whole", "prefill"]


def test_a_kernel_without_a_launch_is_in_the_whole_and_in_no_phase() -> None:
    rows = frame(kernel("compute", 2, 4, 1), kernel("compute", 50, 60, None))
    split = split_table(rows, ranges(("request", 0, 70), ("prefill", 0, 10)))
    assert row_of(split, device="cuda:0")["compute_ns"] == 12
    assert row_of(split, "prefill", "cuda:0")["compute_ns"] == 2


def test_each_device_of_a_rank_is_split_by_itself() -> None:
    rows = frame(kernel("compute", 0, 10, 0), kernel("compute", 0, 4, 0, device="cuda:1"))
    split = split_table(rows, ranges(("request", 0, 10)))
    assert split["idle_ns"].to_list() == [0, 6]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["compute", "comm", "copy", "unknown"]),
        st.integers(0, 60),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=15,
)
WINDOWS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), min_size=1, max_size=4)


@given(ROWS, WINDOWS)
@settings(deadline=None)
def test_parts_equal_a_sweep_and_sum_to_the_window(
    rows: list[tuple[str, int, int]], windows: list[tuple[int, int]]
) -> None:
    activities = frame(*(activity(cls, start, start + length) for cls, start, length in rows))
    phases = ranges(*(("decode", start, start + length) for start, length in windows))
    found = row_of(split_table(activities, phases), "decode")
    assert {key: found[key] for key in SWEPT} == sweep(rows, windows)
    parts = ("compute_ns", "exposed_comm_ns", "copy_ns", "idle_ns")
    assert sum(found[part] for part in parts) == found["window_ns"]


SWEPT = ("compute_ns", "comm_ns", "overlap_ns", "exposed_comm_ns", "copy_ns", "idle_ns")


def sweep(rows: list[tuple[str, int, int]], windows: list[tuple[int, int]]) -> dict[str, int]:
    """The split, one nanosecond at a time."""
    totals = dict.fromkeys(SWEPT, 0)
    for start, length in windows:
        for moment in range(start, start + length):
            on = {cls for cls, s, n in rows if s <= moment < s + n}
            compute, comm = bool(on & {"compute", "unknown"}), "comm" in on
            totals["compute_ns"] += compute
            totals["comm_ns"] += comm
            totals["overlap_ns"] += compute and comm
            totals["exposed_comm_ns"] += comm and not compute
            totals["copy_ns"] += "copy" in on and not compute and not comm
            totals["idle_ns"] += not on
    return totals


def test_operations_are_summed_by_name_the_longest_first() -> None:
    rows = frame(
        activity("compute", 0, 10, name="mm"),
        activity("compute", 20, 40, name="mm"),
        activity("comm", 40, 50, name="gloo:send"),
    )
    table = operations_table(rows).select("name", "calls", "total_ns", "mean_ns", "share")
    assert table.rows() == [("mm", 2, 30, 15.0, 0.75), ("gloo:send", 1, 10, 10.0, 0.25)]


def test_collectives_are_summed_by_kind_and_size() -> None:
    rows = frame(
        activity("comm", 0, 10, op="all_reduce", bytes=64),
        activity("comm", 20, 40, op="all_reduce", bytes=64),
        activity("comm", 40, 45, op="all_reduce", bytes=8),
        activity("comm", 50, 51),
    )
    table = collectives_table(rows).select("op", "bytes", "calls", "total_ns")
    assert table.rows() == [("all_reduce", 64, 2, 30), ("all_reduce", 8, 1, 5)]


def test_what_ran_before_the_request_is_not_in_the_tables_of_operations() -> None:
    rows = frame(activity("comm", 0, 10), activity("compute", 20, 30))
    assert inside_whole(rows, ranges(("request", 15, 40)))["class"].to_list() == ["compute"]


def test_a_notable_part_of_unknown_kernels_is_a_warning_with_their_names() -> None:
    rows = frame(kernel("unknown", 0, 6, 0, name="xyz"), kernel("compute", 6, 100, 0))
    split, operations = split_table(rows, ranges()), operations_table(rows)
    found = unknown_findings(split, operations)
    assert [row["text"] for row in found] == [
        "6 % of the kernels' time on rank 0 is of unknown class and counts as compute: xyz"
    ]
    assert unknown_findings(split_table(rows.tail(1), ranges()), operations) == []
