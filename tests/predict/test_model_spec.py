"""Which models are understood, and how large they are."""

from itertools import combinations, product

import pytest
from tiny_configs import TINY_LLAMA, WITH_EXPERTS

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_config, load_spec
from perfkit.predict.spec import (
    LayerKind,
    active_parameters,
    count_kinds,
    distinct_experts,
    kv_bytes_per_token,
    kv_values_per_layer,
    num_parameters,
    spec_from_config,
)


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
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-14b", 14_768_307_200),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("mistral-small-24b", 23_572_403_200),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("gemma-2-9b", 9_241_705_984),
        ("gemma-2-27b", 27_227_128_320),
        ("gemma-3-27b", 27_009_346_304),
        ("deepseek-v2-lite", 15_706_484_224),
        ("deepseek-v3", 671_026_419_200),
    ],
)
def test_a_card_has_the_published_number_of_parameters(card: str, parameters: int) -> None:
    assert num_parameters(load_spec(card)) == parameters


def test_phi_3_mini_has_the_published_number_of_parameters() -> None:
    phi = {"model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32}
    sizes = {"num_attention_heads": 32, "intermediate_size": 8192, "vocab_size": 32064}
    config = {**phi, **sizes, "max_position_embeddings": 4096}
    assert num_parameters(spec_from_config(config, model_id="p", to_run=False)) == 3_821_079_552


def test_kv_cache_counts_kv_heads_not_query_heads() -> None:
    assert kv_bytes_per_token(load_spec("llama-3.3-70b")) == 327_680


def test_kv_cache_in_32_bit_is_twice_that_in_16_bit() -> None:
    spec = load_spec("llama-3.1-8b")
    assert kv_bytes_per_token(spec, 4) == 2 * kv_bytes_per_token(spec, 2)


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


def test_kinds_of_layers_are_counted_for_the_model_and_for_a_stage() -> None:
    gemma = load_spec("gemma-3-27b")
    sliding, full = LayerKind(window=1024), LayerKind()
    assert dict(count_kinds(gemma)) == {sliding: 52, full: 10}
    assert dict(count_kinds(gemma, range(4, 12))) == {sliding: 6, full: 2}
    deepseek = load_spec("deepseek-v3")
    assert dict(count_kinds(deepseek)) == {full: 3, LayerKind(experts=True): 58}
    assert gemma.sliding_window is None
    assert load_spec("llama-3.1-8b").sliding_window is None


def test_a_window_that_all_layers_have_is_the_models() -> None:
    config = {**TINY_LLAMA, "model_type": "mistral"}
    assert spec_from_config(config, model_id="m").sliding_window == 4096
    full = spec_from_config({**config, "sliding_window": None}, model_id="m")
    assert full.sliding_window is None


@pytest.mark.parametrize(
    ("card", "parameters"),
    [
        ("gpt-oss-20b", 3_608_307_264),
        ("gpt-oss-120b", 5_132_849_472),
        ("deepseek-v3", 36_625_618_432),
        ("qwen3-235b-a22b", 21_568_433_664),
        ("llama-3.2-1b", 1_235_814_400),
    ],
)
def test_active_parameters_are_those_a_token_goes_through(card: str, parameters: int) -> None:
    """Published: 3.6B, 5.1B, 36.6B; 22B with the embedding table; all of a tied dense model."""
    assert active_parameters(load_spec(card)) == parameters


def test_the_expected_number_of_distinct_experts_is_that_over_all_draws() -> None:
    """3 tokens of 2 experts out of 4: every combination of the 6 pairs is as likely."""
    spec = spec_from_config(WITH_EXPERTS["mixtral"], model_id="tiny")
    pairs = [set(pair) for pair in combinations(range(4), 2)]
    draws = [len(set.union(*draw)) for draw in product(pairs, repeat=3)]
    assert distinct_experts(spec, 3) == pytest.approx(sum(draws) / len(draws))
    assert distinct_experts(spec, 1) == 2


def test_a_latent_is_cached_once_for_all_heads() -> None:
    spec = load_spec("deepseek-v3")
    assert kv_bytes_per_token(spec) == 61 * 576 * 2
    assert kv_values_per_layer(spec, kv_heads=16) == 576


def test_gemma_3s_vision_model_is_counted_without_its_vision_part() -> None:
    """Published with it: 27,432,406,640; transformers builds both from the card."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**load_config("gemma-3-27b")[1])
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    vision = {n: p.numel() for n, p in model.named_parameters() if "language_model" not in n}
    assert num_parameters(load_spec("gemma-3-27b")) + sum(vision.values()) == 27_432_406_640
