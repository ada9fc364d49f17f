"""What-ifs on rates, and the search for the best layout."""

from dataclasses import replace
from typing import Any

import pytest

from perfkit.errors import ConfigError
from perfkit.predict.best import best, layouts, seconds
from perfkit.predict.cards import load_spec
from perfkit.predict.changes import changed
from perfkit.predict.gpus import load_gpu
from perfkit.predict.network import Network
from perfkit.predict.plan import Plan
from perfkit.predict.rates import Rates, rates_from_gpu
from perfkit.predict.time import predict

LLAMA_8B = load_spec("llama-3.1-8b")
LLAMA_70B = load_spec("llama-3.3-70b")
H200 = rates_from_gpu(load_gpu("h200-sxm"), "bfloat16")
NODES = replace(H200, network=Network(gpus_per_node=2, bytes_per_s=1e10))
GRAPH = Plan(tp=2, decode="graph")


def tpot(rates: Rates, plan: Plan = GRAPH) -> float:
    found: float = predict(LLAMA_8B, rates, plan)["tpot_s"]
    return found


@pytest.mark.parametrize(
    ("setting", "measure", "plan"),
    [
        ("memory=2x", "tpot_s", GRAPH),
        ("flops=2x", "ttft_s", GRAPH),
        ("nvlink=4x", "ttft_s", GRAPH),
        ("launch_us=1", "tpot_s", Plan()),
        ("hop_us=0", "tpot_s", Plan(pp=2, decode="graph")),
        ("network=2x", "ttft_s", Plan(tp=2, pp=2, decode="graph")),
        ("latency_us=0", "tpot_s", Plan(tp=2, pp=2, decode="graph")),
    ],
)
def test_a_better_machine_is_faster_where_it_is_better(
    setting: str, measure: str, plan: Plan
) -> None:
    before = predict(LLAMA_8B, NODES, plan)[measure]
    after = predict(LLAMA_8B, changed(NODES, [setting]), plan)[measure]
    assert after < before


def test_changes_add_up_and_undo_each_other() -> None:
    assert tpot(changed(H200, ["memory=2x", "memory=0.5x"])) == pytest.approx(tpot(H200))
    both = tpot(changed(H200, ["memory=2x", "nvlink=2x"]))
    assert both < tpot(changed(H200, ["memory=2x"]))


def test_twice_the_memory_bandwidth_is_less_than_twice_the_speed() -> None:
    assert 0.5 * tpot(H200) < tpot(changed(H200, ["memory=2x"])) < 0.8 * tpot(H200)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("color=2x", "'color' cannot be changed. Use flops, memory, nvlink, network with a factor"),
        ("memory=2", "use a factor, such as 2x"),
        ("memory=0x", "'0' is not a positive number"),
        ("launch_us=-1", "'-1' is not a number"),
        ("launch_us=fast", "'fast' is not a number"),
        ("network=2x", "no network between nodes is known"),
    ],
)
def test_what_cannot_be_changed_is_said(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(H200, [setting])


def a_row(tpot_ms: float, tokens: float, gpus: int, **more: Any) -> dict[str, Any]:
    return {
        "refused": None,
        "fits": "fits",
        "tpot_ms": tpot_ms,
        "ttft_ms": 100.0,
        "tokens_per_s": tokens,
        "num_gpus": gpus,
        "tp": gpus,
        "pp": 1,
        "batch": 1,
        **more,
    }


def test_only_rows_that_nothing_beats_are_left_and_the_goal_comes_first() -> None:
    rows = [
        a_row(10, 100, 1),
        a_row(12, 90, 1),  # beaten by the first
        a_row(5, 80, 2),
        a_row(20, 500, 8),
        a_row(4, 900, 8, fits="does not fit"),
        a_row(1, 999, 1, refused="why"),
    ]
    assert [row["tokens_per_s"] for row in best(rows, "throughput", None, None)] == [500, 100, 80]
    assert [row["tokens_per_s"] for row in best(rows, "tpot", None, None)] == [80, 100, 500]
    assert [row["tokens_per_s"] for row in best(rows, "throughput", 11e-3, None)] == [100, 80]


def test_when_nothing_keeps_the_limits_the_nearest_is_named() -> None:
    rows = [a_row(10, 100, 2), a_row(20, 500, 8)]
    with pytest.raises(ConfigError, match=r"The fastest, TP 2 x PP 1 at batch 1, has a TPOT of 10"):
        best(rows, "tpot", 1e-3, None)
    with pytest.raises(ConfigError, match="no layout fits"):
        best([a_row(1, 1, 1, fits="does not fit")], "tpot", None, None)


def test_layouts_use_at_most_the_gpus_there_are() -> None:
    found = list(layouts(LLAMA_70B, 4))
    assert found == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (4, 1)]


def test_times_with_their_units() -> None:
    found = [seconds(text, "--max-tpot") for text in ("50ms", "0.5s", "800us")]
    assert found == pytest.approx([0.05, 0.5, 0.0008])
    assert seconds(None, "--max-tpot") is None
    for text in ("50", "ms", "1.2.3ms", "-1s"):
        with pytest.raises(ConfigError, match=r"is no time. Use 50ms"):
            seconds(text, "--max-tpot")
