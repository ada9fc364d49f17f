"""Which models are understood, and how large they are."""

from typing import Any

import pytest

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_spec
from perfkit.predict.spec import kv_bytes_per_token, num_parameters, spec_from_config

TINY_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 200,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize(
    ("card", "parameters"),
    [
        ("llama-3.3-70b", 70_553_706_496),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-32b", 32_762_123_264),
        ("mistral-7b-v0.3", 7_248_023_552),
        ("opt-125m", 125_239_296),
        ("opt-1.3b", 1_315_758_080),
        ("smollm2-135m-instruct", 134_515_008),
        ("openllama-3b", 3_426_473_600),
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen3-30b-a3b", 30_532_122_624),
    ],
)
def test_a_card_has_the_published_number_of_parameters(card: str, parameters: int) -> None:
    assert num_parameters(load_spec(card)) == parameters


def test_kv_cache_counts_kv_heads_not_query_heads() -> None:
    assert kv_bytes_per_token(load_spec("llama-3.3-70b")) == 327_680


def test_kv_cache_in_32_bit_is_twice_that_in_16_bit() -> None:
    spec = load_spec("llama-3.1-8b")
    assert kv_bytes_per_token(spec, 4) == 2 * kv_bytes_per_token(spec, 2)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("phi3", "fuses q, k and v"),
        ("gpt2", "fuses q, k and v"),
        ("deepseek_v3", "this mixture of experts is not supported"),
        ("mamba", "'mamba' is not supported"),
    ],
)
def test_other_families_are_refused_with_the_reason(model_type: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        spec_from_config({"model_type": model_type}, model_id="some-model")
    assert "Supported: llama, mistral, qwen2, qwen3, opt" in str(caught.value)


def test_experts_in_a_dense_family_are_refused() -> None:
    with pytest.raises(ConfigError, match="mixture of experts"):
        spec_from_config({**TINY_LLAMA, "num_local_experts": 8}, model_id="moe")


def test_quantised_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="quantised weights"):
        spec_from_config({**TINY_LLAMA, "quantization_config": {"bits": 4}}, model_id="q")


@pytest.mark.parametrize("mix", [{"decoder_sparse_step": 2}, {"mlp_only_layers": [0]}])
def test_dense_layers_among_experts_are_refused(mix: dict[str, Any]) -> None:
    qwen = {**TINY_LLAMA, "model_type": "qwen3_moe", "head_dim": 16}
    with pytest.raises(ConfigError, match="layers without experts"):
        spec_from_config({**qwen, **mix}, model_id="mixed")


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_missing_key_is_named(key: str) -> None:
    config = {name: value for name, value in TINY_LLAMA.items() if name != key}
    with pytest.raises(ConfigError, match=f"tiny: {key} is missing"):
        spec_from_config(config, model_id="tiny")


def test_kv_heads_default_to_query_heads_in_old_llama_configs() -> None:
    config = {name: value for name, value in TINY_LLAMA.items() if name != "num_key_value_heads"}
    assert spec_from_config(config, model_id="tiny").num_kv_heads == 4


def test_query_heads_must_be_a_multiple_of_kv_heads() -> None:
    with pytest.raises(ConfigError, match="not a multiple"):
        spec_from_config({**TINY_LLAMA, "num_key_value_heads": 3}, model_id="tiny")


def test_qwen_sliding_window_counts_only_when_it_is_on() -> None:
    qwen = {**TINY_LLAMA, "model_type": "qwen2", "sliding_window": 32}
    assert spec_from_config(qwen, model_id="q").sliding_window is None
    assert spec_from_config({**qwen, "use_sliding_window": True}, model_id="q").sliding_window == 32
