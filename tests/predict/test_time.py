"""How long a run takes."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_configs import TINY, WITH_EXPERTS

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_config, load_spec
from perfkit.predict.gpus import load_gpu
from perfkit.predict.grid import numbers, predict_frame
from perfkit.predict.kernels import Pass, Shard
from perfkit.predict.network import Network
from perfkit.predict.plan import Plan, decode_pass
from perfkit.predict.rates import Compute, Link, Rates, rates_from_gpu, scaled
from perfkit.predict.schedule import BOTTLENECKS, PassTime, Schedule, bottleneck
from perfkit.predict.spec import num_parameters
from perfkit.predict.time import predict, predict_run
from perfkit.predict.work import pass_work

LLAMA_8B = load_spec("llama-3.1-8b")
LLAMA_70B = load_spec("llama-3.3-70b")
H200 = rates_from_gpu(load_gpu("h200-sxm"), "bfloat16")
ONE = Shard(tp=1, pp=1, tp_rank=0, pp_rank=0)


def some_rates(*, latency_s: float = 0.0, device: str = "cuda") -> Rates:
    """1 TFLOP/s, 100 GB/s, links of 10 GB/s."""
    compute = Compute(
        active_ranks=None, gemm_flops_per_s=1e12, read_bytes_per_s=1e11, dispatch_s=latency_s
    )
    link = Link(alpha_s=latency_s, bytes_per_s=1e10)
    return Rates(
        device=device,
        name="some",
        dtype="bfloat16",
        compute=(compute,),
        all_reduce={2: link, 4: link, 8: link},
        send_recv=link,
    )


def a_pass(total_s: float) -> PassTime:
    return PassTime(device_s=total_s, host_s=0, comm_s=0, flops_bound_s=0, one_queue=False)


def a_schedule(stages: list[float], *, microbatches: int = 1, hop_s: float = 0.0) -> Schedule:
    ranks = tuple((a_pass(seconds),) for seconds in stages)
    hops_s = (len(stages) - 1) * hop_s
    return Schedule(ranks=ranks, microbatches=microbatches, hops_s=hops_s)


def test_gemm_operations_of_a_decode_step_are_two_per_parameter() -> None:
    work = pass_work(LLAMA_8B, ONE, Pass(sequences=1, tokens=1, context=1, bytes_per_value=2))
    gemms = sum(k.count * k.flops for k in work.kernels if k.kind == "gemm")
    embedding = LLAMA_8B.vocab * LLAMA_8B.hidden
    norms = (2 * 32 + 1) * 4096
    assert gemms == 2 * (num_parameters(LLAMA_8B) - embedding - norms)


def test_the_head_sees_the_last_position_only() -> None:
    step = Pass(sequences=2, tokens=100, context=100, bytes_per_value=2)
    head = next(k for k in pass_work(LLAMA_8B, ONE, step).kernels if k.count == 1)
    assert head.flops == 2.0 * 2 * 128_256 * 4096


def test_prefill_attention_counts_causal_pairs() -> None:
    step = Pass(sequences=1, tokens=100, context=100, bytes_per_value=2)
    attention = next(
        k for k in pass_work(LLAMA_8B, ONE, step).kernels if k.kind.endswith("attention")
    )
    assert attention.kind == "prefill_attention"
    assert attention.flops == 4 * 32 * 128 * 100 * 101 / 2


def test_a_tied_head_is_computed_though_it_is_not_stored() -> None:
    spec = load_spec("llama-3.2-1b")
    work = pass_work(spec, ONE, Pass(sequences=1, tokens=1, context=1, bytes_per_value=2))
    gemms = sum(k.count * k.flops for k in work.kernels if k.kind == "gemm")
    assert gemms == 2 * (num_parameters(spec) - (2 * 16 + 1) * 2048)


def test_two_all_reduces_per_layer_and_one_for_the_head() -> None:
    shard = Shard(tp=8, pp=2, tp_rank=0, pp_rank=1)
    step = Pass(sequences=8, tokens=1, context=1, bytes_per_value=2)
    work = pass_work(LLAMA_70B, shard, step)
    assert work.all_reduces == ((80, 131_072), (1, 8 * 128_256 * 2))


def test_flops_of_all_shards_are_those_of_the_model() -> None:
    step = Pass(sequences=4, tokens=64, context=64, bytes_per_value=2)
    shards = [Shard(tp=4, pp=2, tp_rank=t, pp_rank=p) for t in range(4) for p in range(2)]
    whole = pass_work(LLAMA_70B, ONE, step).flops
    assert sum(pass_work(LLAMA_70B, s, step).flops for s in shards) == pytest.approx(whole)


def test_prefill_fills_the_pipeline_then_the_slowest_stage_sets_the_pace() -> None:
    schedule = a_schedule([2.0, 3.0], microbatches=4, hop_s=0.5)
    assert schedule.fill_s == 2 + 3 + 3 * 3 + 0.5


@pytest.mark.parametrize(("microbatches", "period_s"), [(1, 5.0), (2, 6.0), (4, 12.0)])
def test_decode_period_is_a_round_trip_or_the_slowest_stage(
    microbatches: int, period_s: float
) -> None:
    assert a_schedule([2.0, 3.0], microbatches=microbatches).period_s == period_s


def test_one_microbatch_leaves_half_of_two_stages_idle() -> None:
    assert a_schedule([1.0, 1.0]).bubble == 0.5


def test_the_slower_of_host_and_device_counts_on_a_gpu_and_both_on_a_cpu() -> None:
    gpu = PassTime(device_s=2, host_s=3, comm_s=1, flops_bound_s=0, one_queue=False)
    assert (gpu.total_s, gpu.exposed_host_s, BOTTLENECKS[bottleneck(gpu)]) == (3, 0, "memory")
    slower = replace(gpu, host_s=4)
    assert (slower.total_s, slower.exposed_host_s, BOTTLENECKS[bottleneck(slower)]) == (
        4,
        1,
        "host",
    )
    cpu = replace(gpu, one_queue=True)
    assert (cpu.total_s, cpu.exposed_host_s, BOTTLENECKS[bottleneck(cpu)]) == (6, 3, "host")


def test_decode_of_8b_takes_little_more_than_the_time_to_read_it_once() -> None:
    found = predict(LLAMA_8B, H200, Plan(prompt_tokens=1, new_tokens=2, decode="graph"))
    read_s = 2 * (num_parameters(LLAMA_8B) - 128_256 * 4096) / 4.8e12
    assert 1.1 * read_s < found["tpot_s"] < 1.35 * read_s
    assert found["bottleneck"] == "memory"


def test_captured_steps_on_h200_take_what_was_measured() -> None:
    """ms a token, traces/h200-8b-tp1-p512-graph and h200-70b-tp2-graph."""
    small = predict(LLAMA_8B, H200, Plan(prompt_tokens=512, new_tokens=33, decode="graph"))
    large = predict(LLAMA_70B, H200, Plan(tp=2, new_tokens=33, decode="graph"))
    assert small["tpot_s"] == pytest.approx(4.12e-3, rel=0.045)
    assert large["tpot_s"] == pytest.approx(18.93e-3, rel=0.045)


def test_eager_decode_of_8b_on_an_h200_is_host_bound_as_measured() -> None:
    """Runs of one configuration took 18 to 37 ms, on five hosts; one of them 24.5."""
    found = predict(LLAMA_8B, H200, Plan(prompt_tokens=128))
    assert found["bottleneck"] == "host"
    assert found["tpot_s"] == pytest.approx(24.5e-3, rel=0.05)
    assert found["tpot_p05_s"] < 18e-3
    assert found["tpot_p95_s"] > 36e-3


def test_a_gpu_that_nobody_measured_has_the_wider_interval() -> None:
    plan = Plan(decode="graph")
    sheet = predict(LLAMA_8B, rates_from_gpu(load_gpu("a100-80-sxm"), "bfloat16"), plan)
    curves = predict(LLAMA_8B, H200, plan)
    widths = [found["tpot_p95_s"] / found["tpot_p05_s"] for found in (sheet, curves)]
    assert widths[0] > widths[1] > 1.05


@settings(max_examples=25, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.integers(1, 3),
    batch=st.sampled_from([1, 4, 32]),
    prompt=st.sampled_from([16, 512, 4096]),
)
def test_captured_steps_are_never_slower_than_eager_ones(
    tp: int, pp: int, batch: int, prompt: int
) -> None:
    eager, graph = (
        predict(LLAMA_8B, H200, Plan(tp=tp, pp=pp, batch=batch, prompt_tokens=prompt, decode=mode))
        for mode in ("eager", "graph")
    )
    assert graph["tpot_s"] <= eager["tpot_s"]


def test_pipeline_stages_without_microbatches_do_not_raise_throughput() -> None:
    one = predict(LLAMA_70B, H200, Plan(tp=4, pp=1, batch=8))
    two = predict(LLAMA_70B, H200, Plan(tp=4, pp=2, batch=8))
    assert two["tokens_per_s"] < one["tokens_per_s"]


def test_time_adds_up_to_throughput() -> None:
    found = predict(LLAMA_8B, H200, Plan(batch=4, new_tokens=11))
    assert found["end_to_end_s"] == pytest.approx(found["ttft_s"] + 10 * found["tpot_s"])
    assert found["tokens_per_s"] == pytest.approx(44 / found["end_to_end_s"])


def test_memory_of_a_run_is_what_its_last_step_holds() -> None:
    plan = Plan(prompt_tokens=100, new_tokens=29)
    on_gpu = predict(LLAMA_8B, some_rates(), plan)["ranks"][0]
    on_cpu = predict(LLAMA_8B, some_rates(device="cpu"), plan)["ranks"][0]
    assert on_gpu["kv_bytes"] == on_cpu["kv_bytes"] == 131_072 * 128
    assert on_gpu["overhead_bytes"] > on_cpu["overhead_bytes"] == 0


def test_one_new_token_has_no_tpot() -> None:
    assert predict(LLAMA_8B, H200, Plan(new_tokens=1))["tpot_s"] is None


@settings(max_examples=25, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.integers(1, 3),
    microbatches=st.sampled_from([1, 2, 4]),
    device=st.sampled_from(["cuda", "cpu"]),
    decode=st.sampled_from(["eager", "graph"]),
)
def test_twice_as_fast_a_machine_takes_half_the_time(
    tp: int, pp: int, microbatches: int, device: str, decode: str
) -> None:
    plan = Plan(tp=tp, pp=pp, batch=4, microbatches=microbatches, prompt_tokens=64, decode=decode)
    rates = some_rates(latency_s=1e-5, device=device)
    slow, fast = predict(LLAMA_8B, rates, plan), predict(LLAMA_8B, scaled(rates, 2), plan)
    assert fast["ttft_s"] == pytest.approx(slow["ttft_s"] / 2)
    assert fast["tpot_s"] == pytest.approx(slow["tpot_s"] / 2)


@settings(max_examples=25, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.integers(1, 3),
    batch=st.sampled_from([4, 32]),
    decode=st.sampled_from(["eager", "graph"]),
    over_nodes=st.booleans(),
)
def test_twice_as_fast_curves_take_half_the_time(
    tp: int, pp: int, batch: int, decode: str, over_nodes: bool
) -> None:
    network = Network(gpus_per_node=2, bytes_per_s=1e10) if over_nodes else None
    rates, plan = replace(H200, network=network), Plan(tp=tp, pp=pp, batch=batch, decode=decode)
    slow, fast = predict(LLAMA_8B, rates, plan), predict(LLAMA_8B, scaled(rates, 2), plan)
    for name in ("ttft_s", "ttft_p95_s", "tpot_s", "tpot_p05_s", "end_to_end_s"):
        assert fast[name] == pytest.approx(slow[name] / 2)


@settings(max_examples=25, deadline=None)
@given(tp=st.sampled_from([1, 2, 4, 8]), pp=st.integers(1, 4), batch=st.sampled_from([4, 8]))
def test_speed_up_never_exceeds_the_number_of_ranks(tp: int, pp: int, batch: int) -> None:
    plan = Plan(tp=tp, pp=pp, batch=batch, microbatches=4, prompt_tokens=64, decode="graph")
    one = predict(LLAMA_8B, some_rates(), replace(plan, tp=1, pp=1, microbatches=1))
    many = predict(LLAMA_8B, some_rates(), plan)
    assert many["tokens_per_s"] <= one["tokens_per_s"] * tp * pp * (1 + 1e-9)


def test_shares_of_a_step_add_up() -> None:
    found = predict(LLAMA_70B, H200, Plan(tp=4, pp=2, batch=8))
    names = ("compute", "comm", "wait", "host")
    shares = sum(found[f"{name}_share"] for name in names)
    assert shares == pytest.approx(1)


def test_a_run_is_predicted_from_its_config_with_phases_per_rank() -> None:
    found = predict_run(
        load_config("smollm2-135m-instruct")[1], H200, tp=2, pp=2, batch=4, microbatches=2
    )
    assert [(r["rank"], r["stage"], r["tp_rank"]) for r in found["ranks"]] == [
        (0, 0, 0),
        (1, 0, 1),
        (2, 1, 0),
        (3, 1, 1),
    ]
    first = found["ranks"][0]
    assert first["weights_bytes"] > found["ranks"][1]["weights_bytes"]
    assert 0 < first["prefill"]["compute_s"] < first["prefill"]["wall_s"]
    assert first["decode"]["wall_s"] == pytest.approx(127 * found["tpot_s"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 3, "microbatches": 4}, "4 microbatches are more than batch=3"),
        ({"tp": 16}, "more than the 8 kv heads"),
        ({"new_tokens": 0}, "new_tokens=0"),
        ({"prompt_tokens": 200_000}, "more than the 131072 positions"),
        ({"decode": "magic"}, "Use eager or graph"),
        ({"dtype": "float32"}, "rates are for bfloat16"),
    ],
)
def test_a_plan_that_cannot_run_says_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(LLAMA_70B, H200, Plan(**change))


def test_a_refused_layout_is_a_row_with_the_reason() -> None:
    frame = predict_frame(LLAMA_70B, H200, {"tp": [8, 16]}, capacity_bytes=150 * 10**9)
    rows = frame.to_dicts()
    assert rows[0]["refused"] is None
    assert rows[0]["fits"] == "fits"
    assert rows[1]["ttft_ms"] is None
    assert "8 kv heads" in rows[1]["refused"]


GRID: dict[str, list[Any]] = {
    "tp": [1, 2, 8],
    "pp": [1, 3],
    "batch": [1, 5, 32],
    "prompt_tokens": [16, 2048],
    "new_tokens": [1, 33],
    "decode": ["eager", "graph"],
}


@pytest.mark.parametrize("model", ["llama-3.3-70b", "gemma-2-9b", "qwen3-8b"])
def test_a_row_of_a_grid_is_what_the_plan_alone_gives(model: str) -> None:
    spec = load_spec(model)
    for row in predict_frame(spec, H200, GRID, capacity_bytes=150 * 10**9).to_dicts():
        names = ("tp", "pp", "batch", "microbatches", "prompt_tokens", "new_tokens", "decode")
        plan = Plan(**{name: row[name] for name in names})
        assert row["microbatches"] == min(row["pp"], row["batch"])
        if row["refused"] is not None:
            with pytest.raises(ConfigError, match=re.escape(row["refused"])):
                predict(spec, H200, plan)
            continue
        alone = predict(spec, H200, plan)
        for name in ("ttft", "tpot", "tpot_p05", "tpot_p95", "end_to_end"):
            seconds = alone[f"{name}_s"]
            assert row[f"{name}_ms"] == (seconds and pytest.approx(1e3 * seconds))
        for name in ("tokens_per_s", "compute_share", "wait_share", "bubble"):
            assert row[name] == pytest.approx(alone[name])
        assert row["bottleneck"] == alone["bottleneck"]
        parts = ("weights_bytes", "kv_bytes", "activation_bytes", "overhead_bytes")
        fullest = max(sum(rank[part] for part in parts) for rank in alone["ranks"])
        assert row["total_bytes"] == pytest.approx(fullest)


def test_rows_are_in_the_order_of_the_axes() -> None:
    frame = predict_frame(LLAMA_8B, H200, GRID)
    keys = frame.select("tp", "pp", "batch", "prompt_tokens", "new_tokens").rows()
    assert keys == sorted(keys)
    assert frame.height == 3 * 2 * 3 * 2 * 2 * 2


def test_more_microbatches_than_sequences_are_refused_row_by_row() -> None:
    axes = {"batch": [1, 4], "microbatches": [2], "pp": [2]}
    first, second = predict_frame(LLAMA_8B, H200, axes)["refused"]
    assert first == "2 microbatches are more than batch=1. Use 1 or fewer."
    assert second is None


@pytest.mark.parametrize(
    ("model", "measured_ms"),
    [
        ("gpt-oss-20b", 5.05),
        ("gpt-oss-120b", 7.48),
        ("qwen3-30b-a3b", 7.68),
        ("mixtral-8x7b", 9.44),
    ],
)
def test_experts_on_two_h200_are_as_fast_as_they_were(model: str, measured_ms: float) -> None:
    """Captured, random routing; the two constants of predict/experts.py come from these four."""
    plan = Plan(tp=2, decode="graph", prompt_tokens=2048, new_tokens=9)
    found = predict(load_spec(model), H200, plan)
    assert 1e3 * found["tpot_s"] == pytest.approx(measured_ms, rel=0.1)
    assert found["tpot_p05_s"] < measured_ms / 1e3 < found["tpot_p95_s"]


def test_a_batch_reads_more_experts_until_it_reads_all() -> None:
    """Qwen3-30B-A3B, 128 experts, 8 a token: one more token reads 8 more at first, then none."""
    plan = Plan(tp=2, decode="graph", batch=np.array([1, 2, 256, 257]), new_tokens=9)
    spec = load_spec("qwen3-30b-a3b")
    work = pass_work(spec, plan.shard(0, 0), decode_pass(plan))
    grouped = [k.num_bytes for k in work.kernels if k.kind == "grouped"]
    first, second, late, later = sum(grouped)  # a layer's two products
    weights = 3 * spec.hidden * spec.expert_intermediate / 2 * 2
    assert (second - first) / weights == pytest.approx(7.5, rel=0.02)
    assert (later - late) / weights < 0.02


@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_experts_are_predicted_in_both_modes(family: str) -> None:
    for decode in ("eager", "graph"):
        found = predict_run(
            WITH_EXPERTS[family], H200, tp=2, decode=decode, prompt_tokens=8, new_tokens=4
        )
        assert 0 < found["tpot_p05_s"] < found["tpot_s"] < found["tpot_p95_s"]


def test_a_family_whose_steps_nobody_counted_is_not_guessed() -> None:
    with pytest.raises(ConfigError, match="its memory is predicted, its time is not"):
        predict(load_spec("deepseek-v3"), H200, Plan(tp=8, prompt_tokens=8, new_tokens=4))


@pytest.mark.parametrize("family", TINY)
def test_every_family_is_predicted(family: str) -> None:
    found = predict_run(TINY[family], H200, tp=2, pp=3, prompt_tokens=8, new_tokens=4)
    assert found["tpot_s"] > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,2,4", [1, 2, 4]), ("1:4", [1, 2, 3, 4]), ("1:20:8", [1, 9, 17]), ("2,8:16:8", [2, 8, 16])],
)
def test_lists_and_ranges_of_numbers(text: str, expected: list[int]) -> None:
    assert numbers(text, "--batch") == expected


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "4:1", "1:4:0"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--batch"):
        numbers(text, "--batch")
