"""How much memory a rank needs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_configs import COUNTED, TINY, WITH_EXPERTS

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_spec
from perfkit.predict.memory import (
    ALLOCATOR_SLACK,
    GIB,
    Workload,
    activation_bytes,
    allocated_bytes,
    kv_bytes,
    rank_parts,
    verdict,
)
from perfkit.predict.memory_rows import Overrides, even_row, memory_rows, override_notes
from perfkit.predict.spec import spec_from_config

LLAMA_8B = load_spec("llama-3.1-8b")
LLAMA_70B = load_spec("llama-3.3-70b")
FIRST_USERS = Overrides(params=70e9, kv_heads=64, activations_bytes=2 * GIB, overhead_bytes=6 * GIB)


@pytest.mark.parametrize(
    ("context", "kv", "total"), [(2048, "0.625", "24.92"), (4096, "1.250", "25.55")]
)
def test_the_first_users_table_comes_out_of_its_assumptions(
    context: int, kv: str, total: str
) -> None:
    row = even_row(LLAMA_70B, Workload(context=context), num_gpus=8, overrides=FIRST_USERS)
    assert f"{row['weights_bytes'] / GIB:.2f}" == "16.30"
    assert f"{row['kv_bytes'] / GIB:.3f}" == kv
    assert f"{row['total_bytes'] / GIB:.2f}" == total


def test_every_override_is_named_with_its_effect() -> None:
    notes = override_notes(LLAMA_70B, FIRST_USERS)
    assert notes[0] == (
        "--params 70,000,000,000: the model has 70,553,706,496 parameters, "
        "so weights are 0.992 times the real ones"
    )
    assert notes[1] == (
        "--kv-heads 64: the model has 8 (grouped-query attention), so KV is 8 times too large"
    )


def test_kv_heads_do_not_change_the_weights() -> None:
    work, heads = Workload(), Overrides(kv_heads=64)
    own = even_row(LLAMA_70B, work, num_gpus=8)
    changed = even_row(LLAMA_70B, work, num_gpus=8, overrides=heads)
    assert changed["weights_bytes"] == own["weights_bytes"]
    assert changed["kv_bytes"] == 8 * own["kv_bytes"]


def test_kv_of_the_real_model_is_an_eighth_of_the_tables() -> None:
    row = even_row(LLAMA_70B, Workload(context=2048), num_gpus=8)
    assert row["kv_bytes"] == 327_680 * 2048 / 8


def test_equal_ranks_share_a_row() -> None:
    rows = memory_rows(LLAMA_70B, Workload(batch=8), tp=4, pp=2)
    assert [row["ranks"] for row in rows] == ["0 1 2 3", "4 5 6 7"]
    assert rows[0]["kv_bytes"] == 327_680 * 2048 * 8 / 8


def test_uneven_ranks_have_their_own_rows() -> None:
    rows = memory_rows(load_spec("smollm2-135m-instruct"), Workload(), tp=2, pp=1)
    assert [row["kv_bytes"] for row in rows] == [31_457_280, 15_728_640]


def test_kv_of_all_ranks_is_kv_of_the_model() -> None:
    work = Workload(batch=4, context=100)
    parts = [
        rank_parts(LLAMA_70B, work, tp=8, pp=3, tp_rank=t, pp_rank=p)["kv_bytes"]
        for p in range(3)
        for t in range(8)
    ]
    assert sum(parts) == 327_680 * 400


SLIDING = {
    "gpt-oss": {**WITH_EXPERTS["gpt-oss"], "sliding_window": 6},
    "gemma3": COUNTED["gemma3"],
    "mistral": {**TINY["mistral"], "sliding_window": 5},
    "llama": TINY["llama"],
    "deepseek-v3": COUNTED["deepseek-v3"],
}


@pytest.mark.parametrize("name", SLIDING)
@pytest.mark.parametrize(("prompt", "context"), [(20, 23), (3, 30), (5, 8)])
def test_kv_bytes_are_those_of_the_cache_of_transformers(
    name: str, prompt: int, context: int
) -> None:
    """The bytes behind its tensors, at their most: after a prompt, or at the end."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**SLIDING[name])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    cache = transformers.DynamicCache(config=config)

    def held(tokens: int) -> int:
        with torch.no_grad():
            model(torch.ones(2, tokens, dtype=torch.long), past_key_values=cache)
        stored = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        return sum(t.untyped_storage().nbytes() for t in stored)

    most = max([held(prompt), *(held(1) for _ in range(context - prompt))])
    spec = spec_from_config(SLIDING[name], model_id=name, to_run=False)
    work = Workload(batch=2, context=context, prompt=prompt, dtype="float32")
    heads = spec.num_kv_heads
    assert kv_bytes(spec, work, layers=range(spec.num_layers), kv_heads=heads) == most


def test_graph_decoding_keeps_every_slot_of_sliding_layers() -> None:
    spec = load_spec("gpt-oss-20b")
    eager, graph = (
        kv_bytes(
            spec,
            Workload(context=8192, prompt=1024, decode=decode),
            layers=range(24),
            kv_heads=8,
        )
        for decode in ("eager", "graph")
    )
    assert graph == 49_152 * 8192
    assert eager == 2048 * 12 * (8192 + 128)


def test_a_stage_holds_the_cache_of_its_own_kinds_of_layers() -> None:
    """Layers 0 to 30 of Gemma 3: 26 that slide and 5 that see all."""
    spec = load_spec("gemma-3-27b")
    parts = rank_parts(spec, Workload(context=8192, prompt=1024), tp=1, pp=2, tp_rank=0, pp_rank=0)
    assert parts["kv_bytes"] == 2 * 16 * 128 * 2 * (26 * 1024 + 5 * 8192)


def test_a_latent_cache_is_whole_on_every_rank() -> None:
    spec = load_spec("deepseek-v3")
    one, eight = (
        rank_parts(spec, Workload(context=1000), tp=tp, pp=1, tp_rank=0, pp_rank=0) for tp in (1, 8)
    )
    assert one["kv_bytes"] == eight["kv_bytes"] == 70_272 * 1000


def test_latent_attention_makes_keys_and_values_of_the_whole_context_anew() -> None:
    """A decode of one token at 4096 tokens, 128 heads: 2 * 128 + 64 + 128 values of each."""
    work = Workload(context=4096, prompt=1)
    spec = load_spec("deepseek-v3")
    peak = activation_bytes(spec, work, kv_heads=128, columns=18432, last=False)
    assert peak == 2 * (4 * 7168 + 5 * 128 * 192 + 4096 * 128 * 448)


def test_experts_need_room_for_every_choice_of_a_token() -> None:
    """Qwen3-30B-A3B: 8 experts of 768; 4 * 2048 + 8 * (4 * 2048 + 768) values a token."""
    spec = load_spec("qwen3-30b-a3b")
    work = Workload(context=100)
    peak = activation_bytes(spec, work, kv_heads=4, columns=0, expert_columns=768, last=False)
    assert peak == 100 * 2 * (4 * 2048 + 8 * (4 * 2048 + 768))


def test_kv_heads_of_a_latent_cache_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match="one vector a token for all heads"):
        even_row(load_spec("deepseek-v3"), Workload(), num_gpus=8, overrides=Overrides(kv_heads=8))


def test_logits_are_counted_for_the_last_position_only() -> None:
    work = Workload(batch=8, context=1)
    peak = activation_bytes(LLAMA_70B, work, kv_heads=8, columns=28672, last=True)
    assert peak == 8 * (128_256 * 6 + 2 * 8192 * 2)


def test_microbatches_divide_activations_but_not_the_kv_cache() -> None:
    one, four = (
        rank_parts(
            LLAMA_70B,
            Workload(batch=8, microbatches=m, device="cpu"),
            tp=8,
            pp=2,
            tp_rank=0,
            pp_rank=0,
        )
        for m in (1, 4)
    )
    assert one["kv_bytes"] == four["kv_bytes"]
    assert one["activation_bytes"] == 4 * four["activation_bytes"]


@pytest.mark.parametrize(
    ("tp", "pp", "batch", "microbatches", "tokens", "allocated"),
    [
        (1, 1, 32, 1, 2081, 32_683_962_368),
        (1, 1, 8, 1, 2081, 20_292_681_728),
        (2, 1, 8, 1, 2081, 10_993_385_472),
        (1, 2, 2, 2, 2081, 8_682_145_792),
    ],
)
def test_memory_allocated_on_h200_is_the_predicted_within_half_a_percent(
    tp: int, pp: int, batch: int, microbatches: int, tokens: int, allocated: int
) -> None:
    """Llama-3.1-8B, captured steps: max_allocated_bytes of the last rank in traces/h200-8b-*."""
    work = Workload(
        batch=batch, context=tokens, prompt=2048, microbatches=microbatches, decode="graph"
    )
    parts = rank_parts(LLAMA_8B, work, tp=tp, pp=pp, tp_rank=tp - 1, pp_rank=pp - 1)
    assert allocated_bytes(parts) == pytest.approx(allocated, rel=0.005)


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 64), context=st.integers(1, 4096), more=st.integers(1, 8))
def test_memory_grows_with_batch_and_context(batch: int, context: int, more: int) -> None:
    def total(work: Workload) -> float:
        return sum(rank_parts(LLAMA_70B, work, tp=8, pp=1, tp_rank=0, pp_rank=0).values())

    here = total(Workload(batch=batch, context=context))
    assert total(Workload(batch=batch + more, context=context)) > here
    assert total(Workload(batch=batch, context=context + more)) > here


@pytest.mark.parametrize(
    ("total", "expected"),
    [(80, "fits"), (100 / ALLOCATOR_SLACK + 1, "tight"), (101, "does not fit")],
)
def test_the_verdict_leaves_room_for_the_allocator(total: float, expected: str) -> None:
    assert verdict(total, 100) == expected


def test_there_is_no_verdict_without_a_gpu() -> None:
    assert verdict(1, None) is None


def test_overrides_of_tensors_need_the_even_split() -> None:
    with pytest.raises(ConfigError, match="Use them with --gpus N"):
        memory_rows(LLAMA_70B, Workload(), tp=8, pp=1, overrides=Overrides(params=70e9))


def test_a_context_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than the 2048 positions"):
        memory_rows(load_spec("opt-125m"), Workload(context=4096), tp=1, pp=1)
