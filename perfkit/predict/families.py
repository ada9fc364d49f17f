"""Which model families are known, and why others are refused.

The engine runs the families of RUNNABLE; the others can be counted, not run.
Standard library only: the engine imports this module inside containers.
"""

from collections.abc import Callable, Mapping
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict import family_readers as readers
from perfkit.predict.config_reader import ConfigReader
from perfkit.predict.spec import ModelSpec

RUNNABLE = ("llama", "mistral", "qwen2", "qwen3", "opt", "mixtral", "qwen3_moe", "gpt_oss")
"""of engine/families.py"""
FUSED_QKV = ("phi3", "gpt2", "gpt_neox", "falcon", "bloom", "gpt_bigcode", "mpt", "chatglm")
MIXTURE_OF_EXPERTS = ("qwen2_moe", "deepseek_v2", "deepseek_v3", "llama4", "olmoe", "dbrx")
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")

QUANTISED = {"gpt_oss": "mxfp4"}
"""the weights that the engine unpacks"""
QUANTISED_COUNTED = {**QUANTISED, "deepseek_v3": "fp8"}
"""counted as unpacked too: memory is that of the dtype asked for"""


def read_config(config: Mapping[str, Any], model_id: str, *, to_run: bool) -> ModelSpec:
    """The spec of a config.json; ConfigError with the reason where it cannot be had."""
    config = _text_part(config)
    model_type = str(config.get("model_type"))
    if reason := _why_unsupported(config, model_type, to_run=to_run):
        known = ", ".join(RUNNABLE if to_run else FAMILIES)
        counted = " `perfkit memory` can count it." if to_run and model_type in FAMILIES else ""
        raise ConfigError(f"{model_id}: {reason}. Supported: {known}.{counted}")
    spec = FAMILIES[model_type](ConfigReader(config, model_id))
    if spec.num_heads % spec.num_kv_heads:
        raise ConfigError(
            f"{model_id}: num_attention_heads={spec.num_heads} is not a multiple of "
            f"num_key_value_heads={spec.num_kv_heads}. Correct its config.json.",
        )
    dense = [layer for layer, kind in enumerate(spec.layer_kinds) if not kind.experts]
    if to_run and spec.num_experts and dense:
        raise ConfigError(
            f"{model_id}: layers without experts among layers with them (first: layer {dense[0]}) "
            "are not supported. Use another model. `perfkit memory` can count it.",
        )
    return spec


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model of Gemma 3's vision models; of all others the config itself."""
    if config.get("model_type") != "gemma3":
        return config
    outer = {key: config[key] for key in ("dtype", "torch_dtype") if key in config}
    return {**outer, "model_type": "gemma3_text", **config.get("text_config", {})}


def _why_unsupported(config: Mapping[str, Any], model_type: str, *, to_run: bool) -> str | None:
    supported = RUNNABLE if to_run else tuple(FAMILIES)
    if config.get("model_type") is None:
        return "model_type is missing in its config.json"
    has_experts = model_type in MIXTURE_OF_EXPERTS or any(config.get(key) for key in EXPERT_KEYS)
    if has_experts and not (model_type in supported and model_type in WITH_EXPERTS):
        return f"model_type {model_type!r}: this mixture of experts is not supported"
    if model_type not in supported:
        if model_type in FUSED_QKV:
            return f"model_type {model_type!r} fuses q, k and v in one matrix, not supported"
        return f"model_type {model_type!r} is not supported"
    quantised = config.get("quantization_config")
    known = QUANTISED if to_run else QUANTISED_COUNTED
    if quantised and quantised.get("quant_method") != known.get(model_type, ""):
        return "quantization_config is set: of quantised weights only gpt-oss's MXFP4 are supported"
    return None


FAMILIES: dict[str, Callable[[ConfigReader], ModelSpec]] = {
    "llama": readers.llama,
    "mistral": readers.mistral,
    "qwen2": readers.qwen2,
    "qwen3": readers.qwen3,
    "opt": readers.opt,
    "mixtral": readers.mixtral,
    "qwen3_moe": readers.qwen3_moe,
    "gpt_oss": readers.gpt_oss,
    "phi3": readers.phi3,
    "gemma2": readers.gemma2,
    "gemma3_text": readers.gemma3,
    "qwen2_moe": readers.qwen2_moe,
    "deepseek_v2": readers.deepseek,
    "deepseek_v3": readers.deepseek,
}
WITH_EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss", "qwen2_moe", "deepseek_v2", "deepseek_v3")
