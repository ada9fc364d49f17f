"""Forecasts of every kind of study: what is predicted, and why something is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from perfkit.predict.cards import load_spec
from perfkit.predict.gpus import load_gpu
from perfkit.predict.memory import GIB
from perfkit.study.forecast import Forecast, Target, forecast, num_passes
from perfkit.study.points import Placement

LLAMA_8B = load_spec("llama-3.1-8b")
H200 = Target(name="h200s", gpu=load_gpu("h200-sxm"))
BASE = {"tp": 1, "pp": 1, "batch": 1, "device": "cuda", "prompt_tokens": 2048, "new_tokens": 33}


def needs(target: Target = H200, nodes: int = 1, **settings: Any) -> Forecast:
    place = Placement(nodes=nodes, tasks_per_node=1, cpus_per_task=None)
    return forecast({**BASE, **settings}, LLAMA_8B, target, place)


def test_a_pass_is_near_the_recorded_run() -> None:
    """README, h200-8b-tp1-graph: TTFT 58.9 ms and 32 steps of 4.29 ms are 0.196 s."""
    assert needs(decode="graph").pass_s == pytest.approx(0.196, rel=0.05)


def test_graphs_are_predicted_faster_than_eager_steps() -> None:
    eager, graph = needs(decode="eager").pass_s, needs(decode="graph").pass_s
    assert eager is not None
    assert graph is not None
    assert graph < eager / 2


def test_all_passes_are_warm_up_timed_and_captured() -> None:
    assert num_passes({}) == 1 + 3 + 1
    assert num_passes({"warmup": 2, "repeats": 5, "collect": "none"}) == 7
    found = needs(collect="none", repeats=4)
    assert found.pass_s is not None
    assert found.passes_s == pytest.approx(5 * found.pass_s)


def test_8_bit_weights_hold_a_byte_a_value_and_a_scale_a_row() -> None:
    """8B: 32 layers of 4,096 x (4,096 + 2 * 1,024 + 4,096 + 3 * 14,336) values, each a byte less;
    6,144 + 4,096 + 2 * 14,336 + 4,096 rows of 4 bytes."""
    values = 32 * 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336)
    rows = 32 * (6144 + 4096 + 2 * 14336 + 4096)
    saved = needs().memory_bytes - needs(quantize="int8").memory_bytes
    assert saved == values - 4 * rows
    assert saved / GIB == pytest.approx(6.49, abs=0.01)


def test_ranks_of_an_8_bit_model_hold_their_own_part() -> None:
    saved = needs(tp=2).memory_bytes - needs(tp=2, quantize="int8").memory_bytes
    whole = needs().memory_bytes - needs(quantize="int8").memory_bytes
    # Row-parallel matrices have all their rows on both ranks.
    assert saved == pytest.approx(whole / 2, rel=1e-3)


def test_8_bit_kernels_are_not_timed_and_that_is_said() -> None:
    found = needs(quantize="fp8")
    assert (found.pass_s, found.no_time) == (None, "the time of fp8 kernels is not predicted")


def test_prompts_of_unknown_length_are_told() -> None:
    known = {key: value for key, value in BASE.items() if key != "prompt_tokens"}
    found = forecast(known, LLAMA_8B, H200)
    assert (found.pass_s, found.passes_s) == (None, None)
    assert "gives no prompt_tokens" in str(found.no_time)


def test_over_nodes_the_network_counts_or_is_told_to_be_unknown() -> None:
    assert needs(pp=2, nodes=2).no_time == "no network bandwidth is known of h200s"
    slow = Target(name="slow", gpu=load_gpu("h200-sxm"), network_bytes_per_s=1e8)
    fast = Target(name="fast", gpu=load_gpu("h200-sxm"), network_bytes_per_s=5e10)
    over_slow, over_fast = needs(slow, pp=2, nodes=2).pass_s, needs(fast, pp=2, nodes=2).pass_s
    assert over_slow is not None
    assert over_fast is not None
    # 2,048 prompt tokens of 8,192 bytes at 0.09 GB/s, and as many bytes once for each of 32 steps.
    assert over_slow - over_fast == pytest.approx(0.189, rel=0.01)


def test_a_gpu_that_nobody_knows_is_told() -> None:
    found = needs(Target(name="this machine"))
    assert found.no_time == "models/gpus.toml does not know the GPU of this machine"
    assert found.memory_bytes > 15 * GIB


def test_the_ranks_of_one_machine_share_its_memory() -> None:
    small = Target(name="this machine", host_memory_bytes=16 * GIB)
    assert needs(small, device="cpu", tp=2).unfit == (
        "its ranks need 33 GiB, this machine has 16 GiB"
    )
    assert needs(small, device="cpu", tp=2, dtype="bfloat16").unfit is not None
    large = Target(name="this machine", host_memory_bytes=64 * GIB)
    assert needs(large, device="cpu", tp=2).unfit is None


def test_processors_are_predicted_from_their_calibration_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFKIT_CACHE_DIR", str(tmp_path))
    here = Target(name="this machine", device_name="Some CPU")
    assert "perfkit calibrate --tp T --pp P" in str(needs(here, device="cpu").no_time)
    folder = tmp_path / "calibrations" / "some-cpu-float32-tp1-pp1"
    folder.mkdir(parents=True)
    rates = {
        "active_ranks": 1,
        "gemm_flops_per_s": 1e11,
        "read_bytes_per_s": 1e10,
        "dispatch_s": 1e-5,
    }
    document = {"device": "cpu", "dtype": "float32", "compute": [rates]}
    (folder / "calibration.json").write_text(json.dumps(document))
    # Reading 32 GB of weights at 10 GB/s: 3.2 s a token, and 33 tokens.
    seconds = needs(here, device="cpu").pass_s
    assert seconds is not None
    assert seconds > 32 * 3.0
