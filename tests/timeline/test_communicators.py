"""Communicators that traces name in part or not at all, told from how their kernels end."""

from typing import Any

import polars as pl

from perfkit.ingest.frames import ACTIVITIES
from perfkit.timeline.communicators import find_communicators, named

US = 1000
EIGHT = tuple(range(0, 8000 * US, 1000 * US))
FIXED = {"kind": "kernel", "class": "comm", "family": "nccl", "name": "ncclDevKernel", "bytes": 8}


def some(
    rank: int,
    starts: tuple[int, ...] = EIGHT,
    *,
    clock: int = 0,
    late: int = 0,
    stream: int = 9,
    op: str = "all_reduce",
    group: str | None = None,
) -> list[dict[str, Any]]:
    """Collectives that end 20 us after each start; this rank enters `late`, by its own clock."""
    place = {"rank": rank, "device": "cuda:0", "stream": stream, "op": op, "group": group}
    return [
        dict.fromkeys(ACTIVITIES.names())
        | FIXED
        | place
        | {"start_ns": start + late + clock, "end_ns": start + 20 * US + clock}
        for start in starts
    ]


def groups(*rows: list[dict[str, Any]]) -> list[set[tuple[str | None, int | None]]]:
    """(group, ranks) of the collectives of each rank."""
    activities = pl.DataFrame([row for mine in rows for row in mine], schema=ACTIVITIES)
    names, _told = find_communicators(activities)
    found = named(activities, names).partition_by("rank", maintain_order=True)
    return [set(part.select("group", "num_ranks").rows()) for part in found]


def test_kernels_that_end_together_each_time_are_of_one_communicator() -> None:
    assert groups(some(0), some(1, late=15 * US)) == [{("by ends 0", 2)}] * 2


def test_clocks_of_other_nodes_may_differ() -> None:
    assert groups(some(0), some(1, clock=480_000 * US)) == [{("by ends 0", 2)}] * 2


def test_one_that_ended_at_another_time_says_that_they_are_not() -> None:
    moved = (*EIGHT[:5], EIGHT[5] + 300 * US, *EIGHT[6:])
    assert groups(some(0), some(1, moved)) == [{(None, None)}] * 2


def test_pairs_of_ranks_have_communicators_of_their_own() -> None:
    # The second pair is as regular, but not in step with the first.
    other = tuple(start + 400 * US + start % 7 * 9 * US + start // 90 for start in EIGHT)
    assert groups(some(0), some(1), some(2, other), some(3, other)) == [
        {("by ends 0", 2)},
        {("by ends 0", 2)},
        {("by ends 1", 2)},
        {("by ends 1", 2)},
    ]


def test_pairs_that_run_in_step_cannot_be_told_apart_by_ends_but_by_overlap() -> None:
    # Their ends are always 100 us apart, which a difference of clocks would explain; over the
    # whole set of four nothing is certain, so none is named wrongly: all four are one or none.
    shifted = tuple(start + 100 * US for start in EIGHT)
    found = groups(some(0), some(1), some(2, shifted), some(3, shifted))
    assert len({tuple(sorted(map(str, mine))) for mine in found}) == 1


def test_streams_of_one_rank_are_different_communicators() -> None:
    other = tuple(start + 300 * US + start // 80 for start in EIGHT)
    both = [some(rank) + some(rank, other, stream=5) for rank in (0, 1)]
    assert groups(*both) == [{("by ends 0", 2), ("by ends 1", 2)}] * 2


def test_a_broadcast_in_the_same_stream_belongs_to_the_communicator() -> None:
    rooted = [some(rank) + some(rank, (8000 * US,), op="broadcast") for rank in (0, 1)]
    assert groups(*rooted) == [{("by ends 0", 2)}] * 2


def test_other_counts_other_operations_and_too_few_are_not_matched() -> None:
    nothing = [{(None, None)}] * 2
    assert groups(some(0), some(1, EIGHT[:-1])) == nothing
    assert groups(some(0, EIGHT[:7]), some(1, EIGHT[:7])) == nothing
    assert groups(some(0, op="broadcast"), some(1, op="broadcast")) == nothing
    assert groups(some(0), some(1, op="all_gather")) == nothing


def test_a_named_communicator_without_a_size_has_the_ranks_that_name_it() -> None:
    rows = [some(0, group="ab"), some(1, group="ab"), some(2, group="cd")]
    assert groups(*rows) == [{("ab", 2)}, {("ab", 2)}, {("cd", None)}]
    together = pl.DataFrame([row for mine in rows for row in mine], schema=ACTIVITIES)
    _names, told = find_communicators(together)
    assert [row["code"] for row in told] == ["sizes-seen"]
    assert "ab: ranks 0, 1" in told[0]["text"]
