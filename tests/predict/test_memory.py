"""How much memory a rank needs."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_spec
from perfkit.predict.memory import (
    ALLOCATOR_SLACK,
    GIB,
    Workload,
    activation_bytes,
    kv_bytes,
    rank_parts,
    verdict,
)
from perfkit.predict.memory_rows import Overrides, even_row, memory_rows, override_notes

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


def test_a_sliding_window_caps_the_kv_cache() -> None:
    spec = replace(load_spec("mistral-7b-v0.3"), sliding_window=4096)
    held = [kv_bytes(spec, Workload(context=s), layers=32, kv_heads=8) for s in (4096, 8192)]
    assert held[0] == held[1]


def test_logits_are_counted_for_the_last_position_only() -> None:
    work = Workload(batch=8, context=1)
    peak = activation_bytes(LLAMA_70B, work, kv_heads=8, columns=28672, last=True)
    assert peak == 8 * 128_256 * 6


def test_microbatches_divide_activations_but_not_the_kv_cache() -> None:
    one, four = (
        rank_parts(LLAMA_70B, Workload(batch=8, microbatches=m), tp=8, pp=2, tp_rank=0, pp_rank=0)
        for m in (1, 4)
    )
    assert one["kv_bytes"] == four["kv_bytes"]
    assert one["activation_bytes"] == 4 * four["activation_bytes"]


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
