"""The tensor list against transformers, and shards against the whole."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_configs import COUNTED, TINY, WITH_EXPERTS

from perfkit.engine.disk_names import on_disk
from perfkit.errors import ConfigError
from perfkit.predict.cards import card_ids, load_config, load_spec
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

PHI_3_MINI = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
}
ALL = {**TINY, **WITH_EXPERTS, **COUNTED}


def a_spec(name: str) -> Any:
    return spec_from_config(ALL[name], model_id=name, to_run=False)


def model_of(config: dict[str, Any]) -> Any:
    """The model as transformers builds it, without memory."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    built = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(built.get_text_config())


def shapes_in_transformers(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters, and buffers that are saved with them; a tied head is not among them."""
    model = model_of(config)
    stored = {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    return {
        name: tuple(t.shape) for name, t in {**dict(model.named_parameters()), **stored}.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_tensors_equal_those_of_transformers(name: str) -> None:
    expected = shapes_in_transformers(ALL[name])
    assert {t.name: t.shape for t in tensors(a_spec(name))} == expected


@pytest.mark.parametrize("card", card_ids())
def test_real_shapes_equal_those_of_transformers(card: str) -> None:
    expected = shapes_in_transformers(load_config(card)[1])
    assert {t.name: t.shape for t in tensors(load_spec(card))} == expected


@pytest.mark.parametrize("name", ALL)
def test_files_hold_what_is_listed(name: str, tmp_path: Path) -> None:
    """The header of a file that transformers wrote: names and shapes, experts one by one."""
    model = model_of(ALL[name]).to_empty(device="cpu")
    model.tie_weights()  # to_empty() gives a shared parameter two storages
    model.save_pretrained(tmp_path)
    stored = header(tmp_path / "model.safetensors")
    listed = tensors(a_spec(name))
    expected = dict(part for t in listed for part in on_disk(t.name, t.shape, stored))
    assert stored == expected


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape: 8 bytes of length, then as much JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content = json.loads(file.read(length))
    return {name: tuple(t["shape"]) for name, t in content.items() if name != "__metadata__"}


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


PLANNED = sorted(set(ALL) - {"opt", "opt-350m-like", "opt-bare", "gpt-oss", "phi3", "phi3-tied"})


@pytest.mark.parametrize("name", PLANNED)
def test_hf_tp_cuts_what_the_plan_of_transformers_names(name: str) -> None:
    """The head is cut whatever the plan says, and stacks of experts by the engine itself."""
    transformers = pytest.importorskip("transformers")
    plan = transformers.AutoConfig.for_model(**ALL[name]).base_model_tp_plan
    planned = {pattern for pattern, how in plan.items() if how in ("colwise", "rowwise")}
    spec = a_spec(name)
    local = local_tensors(spec, tp=2, pp=1, tp_rank=0, pp_rank=0, sharding="hf-tp")
    for whole, part in zip(tensors(spec), local, strict=False):
        if whole.role in ("head", "experts") or not whole.name.endswith(".weight"):
            continue
        module = re.sub(r"\.\d+\.", ".*.", whole.name.removeprefix("model."))
        cut = part.shape != whole.shape
        assert cut == (module.removesuffix(".weight") in planned), whole.name


@pytest.mark.parametrize("name", ["opt", "gpt-oss", "phi3"])
def test_hf_tp_is_refused_where_there_is_no_plan_that_cuts_matrices(name: str) -> None:
    with pytest.raises(ConfigError, match="Use sharding 'deepspeed'"):
        check_layout(a_spec(name), tp=2, pp=1, sharding="hf-tp")


@pytest.mark.parametrize("sharding", ["deepspeed", "hf-tp"])
def test_a_latent_is_whole_on_every_rank_and_its_heads_are_cut(sharding: str) -> None:
    """DeepSeek-V3's plan in transformers cuts no attention, V2's and AutoTP do."""
    held = {
        t.name.rpartition("self_attn.")[2]: t.shape
        for t in local_tensors(
            load_spec("deepseek-v2-lite"), tp=4, pp=1, tp_rank=3, pp_rank=0, sharding=sharding
        )
        if t.layer == 5
    }
    assert held["kv_a_proj_with_mqa.weight"] == (576, 2048)
    assert held["kv_b_proj.weight"] == (4 * 256, 512)
    assert held["q_proj.weight"] == (4 * 192, 2048)
    assert held["o_proj.weight"] == (2048, 4 * 128)


def test_each_matrix_of_a_fused_one_is_cut() -> None:
    """Two ranks of 32 heads of 96 and MLPs of 8192 (Phi-3-mini)."""
    spec = spec_from_config(PHI_3_MINI, model_id="phi-3-mini", to_run=False)
    held = local_tensors(spec, tp=2, pp=1, tp_rank=1, pp_rank=0)
    shapes = [t.shape for t in held if t.layer == 0 and t.role in ("qkv", "gate_up")]
    assert shapes == [(3 * 1536, 3072), (2 * 4096, 3072)]


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
        ({"tp": 2, "pp": 1, "sharding": "magic"}, "Use deepspeed or hf-tp or none"),
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
