"""The tensor list against transformers, and shards against the whole."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_configs import TINY, WITH_EXPERTS

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_config, load_spec
from perfkit.predict.spec import num_parameters, spec_from_config
from perfkit.predict.tensors import (
    balanced_layers,
    check_layout,
    kv_heads_of_rank,
    local_parameter_bytes,
    local_tensors,
    shard_sizes,
    stage_layers,
    tensors,
)

ALL = {**TINY, **WITH_EXPERTS}
REAL = ("smollm2-135m-instruct", "llama-3.1-8b", "qwen2.5-7b", "qwen3-8b", "mistral-7b-v0.3")
REAL_WITH_EXPERTS = ("gpt-oss-20b", "gpt-oss-120b", "mixtral-8x7b", "qwen3-30b-a3b")


def a_spec(name: str) -> Any:
    return spec_from_config(ALL[name], model_id=name)


def shapes_in_transformers(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    built = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(built)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


@pytest.mark.parametrize("name", ALL)
def test_tensors_equal_those_of_transformers(name: str) -> None:
    expected = shapes_in_transformers(ALL[name])
    assert {t.name: t.shape for t in tensors(a_spec(name))} == expected


@pytest.mark.parametrize("card", [*REAL, "opt-1.3b", "openllama-3b", *REAL_WITH_EXPERTS])
def test_real_shapes_equal_those_of_transformers(card: str) -> None:
    expected = shapes_in_transformers(load_config(card)[1])
    assert {t.name: t.shape for t in tensors(load_spec(card))} == expected


def test_stages_are_even_and_the_first_take_the_rest() -> None:
    assert [len(s) for s in stage_layers(80, 3)] == [27, 27, 26]
    assert stage_layers(5, 2, (2, 3)) == [range(2), range(2, 5)]


@pytest.mark.parametrize("split", [(3, 3), (5,), (5, 0), (6, -1)])
def test_a_split_must_give_every_layer_to_a_stage(split: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="does not give 5 layers to 2 stages"):
        stage_layers(5, 2, split)


def test_attention_is_cut_by_kv_heads_even_if_uneven() -> None:
    assert shard_sizes(576, 2, num_kv_heads=3) == (384, 192)
    assert kv_heads_of_rank(load_spec("smollm2-135m-instruct"), tp=2, tp_rank=0) == 2


def test_the_mlp_is_cut_in_grains_of_64_and_the_last_rank_takes_the_rest() -> None:
    assert shard_sizes(1000, 2) == (512, 488)
    assert shard_sizes(63, 2) == (32, 31)


@given(total=st.integers(1, 5000), tp=st.integers(1, 9), heads=st.none() | st.integers(1, 64))
def test_shards_of_a_dimension_add_up(total: int, tp: int, heads: int | None) -> None:
    assert sum(shard_sizes(total, tp, num_kv_heads=heads)) == total


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(ALL)), tp=st.integers(1, 2), pp=st.integers(1, 3))
def test_every_tensor_is_held_once_per_replica(name: str, tp: int, pp: int) -> None:
    spec = a_spec(name)
    held: dict[str, int] = {}
    for stage in range(pp):
        for rank in range(tp):
            for tensor in local_tensors(spec, tp=tp, pp=pp, tp_rank=rank, pp_rank=stage):
                share = tensor.num_values / (tp if tensor.shard == "replicated" else 1)
                held[tensor.name] = held.get(tensor.name, 0) + int(share)
    if spec.tied:
        held.pop("lm_head.weight", None)
    assert held == {tensor.name: tensor.num_values for tensor in tensors(spec)}


def test_a_tied_head_is_shared_on_one_rank_and_copied_when_sharded_or_staged() -> None:
    spec = load_spec("llama-3.2-1b")
    table = spec.vocab * spec.hidden * 2
    one = local_parameter_bytes(spec, tp=1, pp=1, tp_rank=0, pp_rank=0)
    stages = [local_parameter_bytes(spec, tp=1, pp=2, tp_rank=0, pp_rank=s) for s in (0, 1)]
    assert one == 2 * num_parameters(spec)
    assert sum(stages) == one + table


def test_bytes_of_70b_shards() -> None:
    spec = load_spec("llama-3.3-70b")
    ranks = [local_parameter_bytes(spec, tp=4, pp=2, tp_rank=0, pp_rank=s) for s in (0, 1)]
    assert [round(value / 1e9, 1) for value in ranks] == [19.2, 17.6]


def test_bytes_of_gpt_oss_shards() -> None:
    """The second of two ranks: 22 of the head's 45 grains, all of the embedding and routers."""
    spec = load_spec("gpt-oss-120b")
    whole, half = (
        local_parameter_bytes(spec, tp=tp, pp=1, tp_rank=tp - 1, pp_rank=0) for tp in (1, 2)
    )
    assert round(whole / 1e9, 1) == 233.7
    assert round(half / 1e9, 2) == 117.42


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tp": 16, "pp": 1}, "tp=16 is more than the 8 kv heads .* Use tp 1, 2, 4, 8"),
        ({"tp": 0, "pp": 1}, "must be 1 or more"),
        ({"tp": 1, "pp": 81}, "Use 1 to 80 stages"),
        ({"tp": 4, "pp": 2, "num_ranks": 4}, "8 ranks, but 4 were started.*tp=2 pp=2"),
        ({"tp": 2, "pp": 1, "sharding": "none"}, "use tp=1"),
        ({"tp": 2, "pp": 1, "sharding": "magic"}, "Use deepspeed or none"),
    ],
)
def test_a_layout_that_cannot_run_says_what_to_use(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_layout(load_spec("llama-3.3-70b"), **layout)


@pytest.mark.parametrize(
    ("model", "pp", "layers"),
    [
        ("llama-3.1-8b", 1, (32,)),
        ("llama-3.1-8b", 2, (17, 15)),
        ("llama-3.3-70b", 2, (41, 39)),
        ("llama-3.3-70b", 3, (27, 27, 26)),
        ("llama-3.2-1b", 4, (5, 5, 5, 1)),
    ],
)
def test_a_balanced_split_gives_the_stage_with_the_head_fewer_layers(
    model: str, pp: int, layers: tuple[int, ...]
) -> None:
    """8B: a layer has 218,112,000 values, the head 525,336,576; 1B: 60,821,504 and 262,668,288."""
    assert balanced_layers(load_spec(model), pp) == layers
