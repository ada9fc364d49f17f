"""Real runs on two H200, kept in traces/: what the analysis must find in them."""

import json
from pathlib import Path

import polars as pl
import pytest

from perfkit.timeline.analysis import Analysis, analyze_run
from perfkit.timeline.replay import Change
from perfkit.timeline.whatif import whatif

TRACES = Path(__file__).parents[2] / "traces"


@pytest.fixture(scope="module")
def tp2() -> Analysis:
    return analyze_run(TRACES / "h200-8b-tp2")


@pytest.fixture(scope="module")
def pp2() -> Analysis:
    return analyze_run(TRACES / "h200-smollm2-pp2")


def test_every_all_reduce_of_both_ranks_is_matched(tp2: Analysis) -> None:
    """2 a layer and one of the embedding, 32 layers, prefill and 7 decode steps; one a sample."""
    rows = tp2.collectives.filter(pl.col("op") == "all_reduce")
    assert rows["calls"].sum() == rows["matched"].sum() == 2 * 8 * 65
    assert set(tp2.split["unmatched_ns"]) == {0}


def test_a_collective_ends_on_both_ranks_within_microseconds(tp2: Analysis) -> None:
    ends = tp2.waits.pivot(on="rank", index=["op", "group", "sequence"], values="end_ns")
    assert (ends["0"] - ends["1"]).abs().sort()[ends.height // 2] < 2_000


def test_transfer_over_nvlink_is_told_from_waiting(tp2: Analysis) -> None:
    """32 KiB of a decode step take 6 to 8 us once both have come; the rest of 350 ms is waiting."""
    decode = tp2.waits.filter(pl.col("bytes") == 32_768)
    assert (
        decode.filter(pl.col("transfer_ns").is_between(5_000, 9_000)).height > 0.8 * decode.height
    )
    whole = tp2.split.filter(phase="whole").sort("rank")
    assert whole["wait_ns"][0] > 0.9 * whole["comm_ns"][0]
    big = tp2.collectives.filter(pl.col("bytes") == 16_777_216)
    assert 150e9 < max(big["bus_bytes_per_s"]) < 450e9


def test_the_rank_that_made_the_other_wait_is_named(tp2: Analysis) -> None:
    worst = tp2.stragglers.row(0, named=True)
    assert (worst["op"], worst["rank"], worst["collectives"]) == ("all_reduce", 1, 520)
    assert worst["share"] == pytest.approx(0.75, abs=0.01)


def test_an_eager_decode_is_launch_bound(tp2: Analysis) -> None:
    decode = tp2.split.filter(phase="decode", rank=1).row(0, named=True)
    assert decode["launch_bound_ns"] > 0.95 * decode["idle_ns"]
    assert decode["idle_ns"] > 0.6 * decode["window_ns"]


def test_the_second_stage_waits_for_the_first(pp2: Analysis) -> None:
    received = pp2.split.filter(phase="pp_recv", rank=1).row(0, named=True)
    assert received["wait_ns"] > 0.99 * received["comm_ns"]
    assert pp2.stragglers.row(0, named=True)["op"] == "send 0 to 1"


@pytest.fixture(scope="module")
def graph() -> Analysis:
    return analyze_run(TRACES / "h200-8b-tp1-graph")


def test_a_captured_decode_step_keeps_the_gpu_busy(graph: Analysis) -> None:
    decode = graph.split.filter(phase="decode").row(0, named=True)
    assert decode["instances"] == 32
    assert decode["compute_ns"] > 0.95 * decode["window_ns"]
    assert decode["launch_bound_ns"] < 0.01 * decode["window_ns"]


def test_every_kernel_of_the_captured_step_has_a_class(graph: Analysis) -> None:
    assert "unknown" not in set(graph.activities["class"])


def test_eager_and_captured_steps_choose_the_same_tokens() -> None:
    """Random weights in bf16: the first tokens agree, and so do two stages with one."""
    names = ("tp1-eager", "tp1-graph", "pp2-m2-graph", "pp2-m1-sockets-graph")
    first = [
        json.loads((TRACES / f"h200-8b-{name}" / "outputs.jsonl").read_text().splitlines()[0])
        for name in names
    ]
    shortest = min(len(record["token_ids"]) for record in first)
    assert shortest == 9
    assert len({tuple(record["token_ids"][:shortest]) for record in first}) == 1


RECORDED = (
    "h200-8b-tp2",
    "h200-smollm2-pp2",
    "h200-8b-tp1-eager",
    "h200-8b-tp1-graph",
    "h200-8b-pp2-m2-graph",
    "h200-8b-pp2-m1-sockets-graph",
    "h200-70b-tp2-graph",
    "h200-nsys-8b-pp2-m2-graph",
)


@pytest.mark.parametrize("name", RECORDED)
def test_a_replay_with_nothing_changed_gives_the_step_back(name: str) -> None:
    analysis = analyze_run(TRACES / name)
    assert whatif(analysis, Change()).ratio == pytest.approx(1.0, abs=0.02)


def test_without_launches_a_decode_comes_near_its_kernels(tp2: Analysis) -> None:
    changed = whatif(tp2, Change(launch=0))
    busy = max(tp2.split.filter(phase="whole")["compute_ns"])
    assert busy < changed.replayed_ns < 1.5 * busy
