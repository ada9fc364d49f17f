"""A decode step's parts, on activities small enough to add up by hand."""

from typing import Any

import polars as pl

from perfkit.ingest.frames import ACTIVITIES, RANGES, SYNCS
from perfkit.report.step_parts import STEP_PARTS, mean_step, step_parts
from perfkit.timeline.waits import WAITS

# Steps start at 0, 1000, 1200 and 1400; the last one ends the measure.
STARTS = (0, 1000, 1200, 1400)
WORK = [(start, start + 50) for start in STARTS]


def of_steps(
    *comm: tuple[int, int], waits: tuple[tuple[int, int, int], ...] = (), **options: Any
) -> dict[str, Any]:
    """The parts of one GPU that computes 50 ns from the start of each step, and communicates.

    Everything was launched before the first step began but what starts at 1200: its host was late.
    `waits` are (start, end, transfer) of matched collectives.
    """
    kernels = [("compute", *one) for one in WORK] + [("comm", *one) for one in comm]
    rows = [
        {
            "rank": 0,
            "device": "cuda:0",
            "kind": "kernel",
            "class": cls,
            "start_ns": start,
            "end_ns": end,
            "launch_ns": start if cls == "compute" else start - 1,
        }
        for cls, start, end in kernels
    ]
    matched = [
        {"rank": 0, "device": "cuda:0", "start_ns": s, "end_ns": e, "transfer_ns": t}
        for s, e, t in waits
    ]
    ranges = [
        {"rank": 0, "phase": "decode", "start_ns": start, "end_ns": start + 10} for start in STARTS
    ]
    found = step_parts(
        pl.DataFrame(rows, schema=ACTIVITIES),
        pl.DataFrame(ranges, schema=RANGES),
        pl.DataFrame(matched, schema=WAITS),
        pl.DataFrame(schema=SYNCS),
        **options,
    )
    return found.row(0, named=True) if found.height else {}


def test_a_step_is_from_its_start_to_the_next_one_and_the_first_is_left_out() -> None:
    found = of_steps()
    assert (found["steps"], found["step_ns"], found["compute_ns"]) == (2, 200, 50)
    assert (found["launch_bound_ns"], found["other_ns"]) == (150, 0)


def test_without_communication_nothing_was_transferred_and_nobody_waited() -> None:
    found = of_steps()
    assert (found["transfer_ns"], found["wait_ns"], found["untold_comm_ns"]) == (0, 0, 0)


def test_only_communication_that_no_compute_hides_counts() -> None:
    # 20 ns of the 60 are hidden by compute until 1050; then 30 ns of waiting, 10 of transfer.
    found = of_steps((1030, 1090), waits=((1030, 1090, 10),))
    assert (found["wait_ns"], found["transfer_ns"], found["untold_comm_ns"]) == (15, 5, 0)
    assert found["compute_ns"] == 50


def test_communication_of_unknown_partners_is_not_called_waiting_or_transfer() -> None:
    found = of_steps((1060, 1100))
    assert (found["wait_ns"], found["transfer_ns"], found["untold_comm_ns"]) == (None, None, 20)


def test_the_parts_are_the_whole_step() -> None:
    found = of_steps((1030, 1090), (1300, 1310), waits=((1030, 1090, 10),))
    parts = [name for name in STEP_PARTS.names() if name.endswith("_ns") and name != "step_ns"]
    assert sum(found[name] for name in parts) == found["step_ns"] == 200
    assert found["untold_comm_ns"] == 5


def test_a_step_has_all_its_microbatches() -> None:
    """Four decodes are two steps of two microbatches: too few, the first being left out."""
    assert of_steps(microbatches=2) == {}


def a_device(rank: int, **parts: float | None) -> dict[str, Any]:
    known = dict.fromkeys(STEP_PARTS.names(), 0.0) | {"rank": rank, "device": "cuda:0", "steps": 1}
    return known | {"step_ns": 100.0} | parts


def test_the_mean_is_of_all_devices() -> None:
    rows = [a_device(0, wait_ns=60.0, other_ns=40.0), a_device(1, wait_ns=0.0, other_ns=100.0)]
    mean = mean_step(pl.DataFrame(rows, schema=STEP_PARTS))
    assert (mean["wait_ns"], mean["other_ns"], mean["step_ns"]) == (30, 70, 100)


def test_what_one_device_does_not_tell_is_not_told_of_the_mean() -> None:
    told = a_device(0, transfer_ns=10.0, wait_ns=30.0, launch_bound_ns=60.0)
    not_told = {"transfer_ns": None, "wait_ns": None, "launch_bound_ns": None}
    rows = [told, a_device(1, **not_told, untold_comm_ns=80.0, other_ns=20.0)]
    mean = mean_step(pl.DataFrame(rows, schema=STEP_PARTS))
    assert (mean["transfer_ns"], mean["wait_ns"], mean["untold_comm_ns"]) == (None, None, 60)
    assert (mean["launch_bound_ns"], mean["other_ns"]) == (None, 40)


def test_without_a_trace_every_part_is_unknown() -> None:
    assert set(mean_step(pl.DataFrame(schema=STEP_PARTS)).values()) == {None}
