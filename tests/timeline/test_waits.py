"""Waiting told from transfer: collectives matched over ranks, clocks aligned, stragglers named."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.ingest.frames import ACTIVITIES, RANGES
from perfkit.timeline.clocks import clocks_table
from perfkit.timeline.matching import match_collectives
from perfkit.timeline.peers import Layout, with_groups
from perfkit.timeline.split import split_table
from perfkit.timeline.waits import stragglers_table, waits_table

ONE_HOST = dict.fromkeys(range(8), "a")


def collective(rank: int, start: int, end: int, **more: Any) -> dict[str, Any]:
    fixed = {"rank": rank, "device": f"cuda:{rank}", "stream": 7, "kind": "kernel"}
    names = {"class": "comm", "family": "nccl", "name": "ncclDevKernel_AllReduce"}
    what = {"op": "all_reduce", "group": "tp", "num_ranks": 2, "bytes": 1024}
    times = {"start_ns": start, "end_ns": end}
    return dict.fromkeys(ACTIVITIES.names()) | fixed | names | what | times | more


def waits_of(
    *rows: dict[str, Any], hosts: dict[int, str] | None = None
) -> dict[int, list[tuple[int, int]]]:
    """rank -> (wait, transfer) of each of its matched collectives, in order."""
    table = whole_table(*rows, hosts=hosts).sort("rank", "start_ns")
    found: dict[int, list[tuple[int, int]]] = {}
    for rank, wait, transfer in table.select("rank", "wait_ns", "transfer_ns").iter_rows():
        found.setdefault(rank, []).append((wait, transfer))
    return found


def whole_table(*rows: dict[str, Any], hosts: dict[int, str] | None = None) -> pl.DataFrame:
    activities = pl.DataFrame(rows, schema=ACTIVITIES)
    matched, _findings = match_collectives(activities, activities["rank"].unique().to_list())
    hosts = hosts or ONE_HOST
    return waits_table(matched, clocks_table(matched, hosts), hosts)


def test_the_first_waits_for_the_last_and_then_both_transfer() -> None:
    assert waits_of(collective(0, 0, 100), collective(1, 30, 100)) == {
        0: [(30, 70)],
        1: [(0, 70)],
    }


def test_collectives_are_matched_by_their_number_in_the_communicator() -> None:
    rows = [
        collective(0, 0, 100),
        collective(0, 40, 60, group="other"),
        collective(0, 200, 300),
        collective(1, 250, 300),
        collective(1, 10, 100),
        collective(1, 20, 60, group="other"),
    ]
    assert waits_of(*rows) == {0: [(10, 90), (0, 20), (50, 50)], 1: [(0, 90), (20, 20), (0, 50)]}


def test_a_count_that_differs_matches_nothing_and_is_told() -> None:
    rows = [collective(0, 0, 10), collective(0, 20, 30), collective(1, 0, 10)]
    matched, findings = match_collectives(pl.DataFrame(rows, schema=ACTIVITIES), [0, 1])
    assert matched.is_empty()
    assert [(row["code"], row["count"]) for row in findings] == [("unmatched-collectives", 3)]
    assert findings[0]["text"] == (
        "3 all_reduce of communicator tp are not matched over ranks: "
        "its ranks have between 1 and 2 of them"
    )


def test_a_rank_without_a_trace_leaves_its_communicator_unmatched() -> None:
    rows = [collective(0, 0, 10, num_ranks=3), collective(1, 0, 10, num_ranks=3)]
    matched, findings = match_collectives(pl.DataFrame(rows, schema=ACTIVITIES), [0, 1])
    assert matched.is_empty()
    assert "traces of 2 of its 3 ranks are here" in findings[0]["text"]


def test_a_communicator_without_a_name_is_never_guessed() -> None:
    rows = [collective(0, 0, 10, group=None), collective(1, 5, 10, group=None)]
    assert waits_of(*rows) == {}


def test_who_leaves_a_broadcast_early_has_not_waited() -> None:
    """The source hands its data over and goes on; the other comes later and waits for nobody."""
    rows = [
        collective(0, 0, 10, op="broadcast"),
        collective(1, 50, 60, op="broadcast"),
        collective(0, 100, 200, op="broadcast"),
        collective(1, 150, 200, op="broadcast"),
    ]
    assert waits_of(*rows) == {0: [(0, 10), (50, 50)], 1: [(0, 10), (0, 50)]}


def test_a_receive_waits_until_its_send_begins() -> None:
    rows = [
        collective(0, 70, 100, op="send"),
        collective(1, 0, 101, op="recv"),
        collective(0, 300, 310, op="recv"),
        collective(1, 250, 255, op="send"),
    ]
    assert waits_of(*rows) == {0: [(0, 30), (0, 10)], 1: [(70, 31), (0, 5)]}


def test_the_clock_of_another_host_is_found_from_the_ends() -> None:
    """480 ms apart, as two real nodes were; collectives end within a microsecond of each other."""
    skew, random = 480_000_000, np.random.default_rng(1)
    rows = []
    for number in range(100):
        end, noise = 1_000_000 * (number + 1), int(random.integers(-1000, 1000))
        rows.append(collective(0, end - 500_000, end))
        rows.append(collective(1, end - 300_000 + skew, end + skew + noise))
    matched, _ = match_collectives(pl.DataFrame(rows, schema=ACTIVITIES), [0, 1])
    clocks = clocks_table(matched, {0: "a", 1: "b"})
    assert clocks["host"].to_list() == ["a", "b"]
    assert clocks["collectives"].to_list() == [0, 100]
    assert clocks["offset_ns"][1] == pytest.approx(skew, abs=300)
    assert clocks.filter(pl.col("residual_p95_ns") < 600).height == 2
    waits = waits_table(matched, clocks, {0: "a", 1: "b"}).filter(rank=0)
    assert waits["wait_ns"].median() == pytest.approx(200_000, abs=300)


def test_hosts_are_aligned_through_each_other() -> None:
    rows = [
        collective(0, 0, 100, group="x"),
        collective(1, 1010, 1100, group="x"),
        collective(1, 1200, 1300, group="y"),
        collective(2, 5200, 5300, group="y"),
    ]
    matched, _ = match_collectives(pl.DataFrame(rows, schema=ACTIVITIES), [0, 1, 2])
    clocks = clocks_table(matched, {0: "a", 1: "b", 2: "c", 3: "nobody"})
    assert dict(clocks.select("host", "offset_ns").iter_rows()) == {"a": 0, "b": 1000, "c": 5000}


def test_a_straggler_is_named_with_its_share_and_by_how_much() -> None:
    """Rank 1 is last in three of four, by 30, 50 and 40 ns; rank 0 once, by 5."""
    entries = [(0, 30), (0, 50), (0, 40), (5, 0)]
    rows = []
    for number, (first, second) in enumerate(entries):
        base = 1000 * number
        rows += [collective(0, base + first, base + 100), collective(1, base + second, base + 100)]
    table = stragglers_table(whole_table(*rows))
    worst = table.row(0, named=True)
    assert (worst["rank"], worst["last"], worst["collectives"], worst["share"]) == (1, 3, 4, 0.75)
    assert worst["median_alone_ns"] == 40
    assert worst["cost_ns"] == 120
    assert table["cost_ns"].to_list() == [120, 5]


def test_the_split_has_wait_and_transfer_of_each_window() -> None:
    rows = [collective(0, 0, 100), collective(1, 30, 100), collective(0, 200, 250, group=None)]
    activities = pl.DataFrame(rows, schema=ACTIVITIES)
    split = split_table(activities, pl.DataFrame(schema=RANGES), whole_table(*rows))
    first = split.filter(rank=0).row(0, named=True)
    assert (first["comm_ns"], first["wait_ns"], first["transfer_ns"]) == (150, 30, 70)
    assert first["unmatched_ns"] == 50


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 60) for _ in range(3)], st.integers(60, 90), st.integers(1, 9)),
        min_size=1,
        max_size=12,
    ),
    st.integers(-(10**9), 10**9),
)
def test_parts_add_up_to_communication_whatever_the_skew(
    instances: list[tuple[int, int, int, int, int]], skew: int
) -> None:
    """Three ranks, the third on a host with another clock; collectives may overlap each other."""
    rows = []
    for number, (*entries, end, stretch) in enumerate(instances):
        base = number * 20 * stretch
        for rank, entry in enumerate(entries):
            late = skew if rank == 2 else 0
            times = (base + entry + late, base + end + late)
            rows.append(collective(rank, *times, num_ranks=3, group=f"g{number}"))
    hosts = {0: "a", 1: "a", 2: "b"}
    waits = whole_table(*rows, hosts=hosts)
    assert waits.height == 3 * len(instances)
    assert waits.select((pl.col("wait_ns") + pl.col("transfer_ns")).sum()).item() == sum(
        row["end_ns"] - row["start_ns"] for row in rows
    )
    split = split_table(pl.DataFrame(rows, schema=ACTIVITIES), pl.DataFrame(schema=RANGES), waits)
    parts = split["wait_ns"] + split["transfer_ns"] + split["unmatched_ns"]
    assert parts.to_list() == split["comm_ns"].to_list()
    assert (
        split.select(pl.min_horizontal("wait_ns", "transfer_ns", "unmatched_ns")).min().item() >= 0
    )
    # The last to enter waits for nobody.
    assert waits.filter("last")["wait_ns"].max() == 0


def cpu(rank: int, op: str | None, start: int, end: int, **more: Any) -> dict[str, Any]:
    """A row of a CPU trace, where gloo names no communicator."""
    row = collective(rank, start, end, op=op, group=None, num_ranks=None, bytes=None)
    return row | {"device": "cpu", "stream": 1, "kind": "collective", "name": f"gloo:{op}"} | more


def call(rank: int, start: int, end: int) -> dict[str, Any]:
    return cpu(rank, None, start, end, kind="comm_call", name="c10d::send")


def test_the_layout_names_what_gloo_does_not() -> None:
    """TP 1 x PP 3: the last stage sends its tokens to stage 0, then to stage 1."""
    ranges = pl.DataFrame(
        [
            (0, "pp_send", 0, 10),
            (1, "pp_recv", 0, 20),
            (1, "pp_send", 30, 40),
            (2, "tok_send", 50, 70),
            (0, "tok_recv", 20, 60),
            (1, "tok_recv", 45, 65),
        ],
        schema=RANGES,
        orient="row",
    )
    rows = [
        call(0, 5, 6),
        cpu(1, "recv", 1, 20),
        call(1, 33, 34),
        call(2, 52, 53),
        call(2, 55, 56),
        cpu(0, "recv", 21, 60),
        cpu(1, "recv", 46, 65),
        cpu(0, "barrier", 80, 90),
    ]
    named = with_groups(pl.DataFrame(rows, schema=ACTIVITIES), ranges, Layout(tp=1, pp=3))
    assert named.select("rank", "op", "group", "num_ranks").rows() == [
        (0, "send", "hidden 0 to 1", 2),
        (0, "recv", "tokens 2 to 0", 2),
        (0, "barrier", "world", 3),
        (1, "recv", "hidden 0 to 1", 2),
        (1, "send", "hidden 1 to 2", 2),
        (1, "recv", "tokens 2 to 1", 2),
        (2, "send", "tokens 2 to 0", 2),
        (2, "send", "tokens 2 to 1", 2),
    ]
    matched, _ = match_collectives(named, [0, 1, 2])
    clocks = clocks_table(matched, ONE_HOST)
    waits = waits_table(matched, clocks, ONE_HOST).filter(group="tokens 2 to 1", rank=1)
    assert waits.select("wait_ns", "transfer_ns").row(0) == (9, 10)


def test_kernels_without_a_communicator_belong_to_the_phase_that_launched_them() -> None:
    ranges = pl.DataFrame(
        [(0, "pp_send", 0, 10), (1, "pp_recv", 0, 20)], schema=RANGES, orient="row"
    )
    unnamed = {"group": None, "num_ranks": None, "bytes": None}
    rows = [
        collective(0, 50, 60, op="send_recv", launch_ns=5, **unnamed),
        collective(1, 12, 61, op="send_recv", launch_ns=7, **unnamed),
        collective(0, 90, 95, op="send_recv", launch_ns=80, **unnamed),
        collective(0, 70, 75, launch_ns=30, **unnamed),
    ]
    named = with_groups(pl.DataFrame(rows, schema=ACTIVITIES), ranges, Layout(tp=1, pp=2))
    assert named.select("rank", "op", "group").rows() == [
        (0, "send", "hidden 0 to 1"),
        (0, "all_reduce", "stage 0"),
        (0, "send_recv", None),
        (1, "recv", "hidden 0 to 1"),
    ]
