"""Which families are known, which of them run, and how their layers differ."""

from typing import Any

import pytest
from tiny_configs import COUNTED, TINY, TINY_LLAMA, WITH_EXPERTS

from perfkit.errors import ConfigError
from perfkit.predict.families import RUNNABLE
from perfkit.predict.spec import spec_from_config

ALL = {**TINY, **WITH_EXPERTS, **COUNTED}


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
    config = {**WITH_EXPERTS["qwen3-moe"], **mix}
    with pytest.raises(ConfigError, match=r"layers without experts .*first: layer 0"):
        spec_from_config(config, model_id="mixed")
    assert spec_from_config(config, model_id="mixed", to_run=False).intermediate == 200


def windows(config: dict[str, Any]) -> list[int | None]:
    spec = spec_from_config({**TINY_LLAMA, **config}, model_id="w", to_run=False)
    return [kind.window for kind in spec.layer_kinds]


def test_qwen_sliding_window_counts_only_when_it_is_on_and_in_the_upper_layers() -> None:
    qwen = {"model_type": "qwen2", "sliding_window": 32, "max_window_layers": 1}
    assert windows(qwen) == [None, None, None]
    assert windows({**qwen, "use_sliding_window": True}) == [None, 32, 32]


def test_the_file_s_own_list_of_layers_decides_which_of_them_slide() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    assert windows({"model_type": "gemma2"}) == [4096, None, 4096]
    assert windows({"model_type": "gemma2", "layer_types": kinds}) == [None, 4096, 4096]
    with pytest.raises(ConfigError, match="names 2 layers of 3"):
        windows({"model_type": "gemma2", "layer_types": kinds[:2]})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("more", [{}, {"use_sliding_window": True, "max_window_layers": 2}])
def test_windows_are_those_of_the_cache_of_transformers(name: str, more: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    config = ALL[name] | more
    cache = transformers.DynamicCache(config=transformers.AutoConfig.for_model(**config))
    spec = spec_from_config(config, model_id=name, to_run=False)
    expected = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    assert [kind.window for kind in spec.layer_kinds] == expected


def test_the_engine_runs_the_families_of_its_own_table() -> None:
    engine = pytest.importorskip("perfkit.engine.families")
    assert set(engine.FAMILIES) == set(RUNNABLE)


@pytest.mark.parametrize("name", COUNTED)
def test_families_that_cannot_run_are_refused_there_and_counted(name: str) -> None:
    with pytest.raises(ConfigError, match="`perfkit memory` can count it"):
        spec_from_config(COUNTED[name], model_id=name)


@pytest.mark.parametrize("model_type", ["llama4", "olmoe", "gpt2", "mamba"])
def test_unknown_families_are_not_counted_either(model_type: str) -> None:
    with pytest.raises(ConfigError, match=r"Supported: .*deepseek_v3\.$"):
        spec_from_config({"model_type": model_type}, model_id="some", to_run=False)


def test_fp8_weights_of_deepseek_are_counted_and_not_run() -> None:
    quantised = {**COUNTED["deepseek-v3"], "quantization_config": {"quant_method": "fp8"}}
    assert spec_from_config(quantised, model_id="d", to_run=False).num_experts == 4
    with pytest.raises(ConfigError, match="this mixture of experts is not supported"):
        spec_from_config(quantised, model_id="d")
