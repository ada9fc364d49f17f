"""What a model is made of: the few numbers of a Hugging Face config.json that fix its size.

    L layers, D hidden, N query heads, K kv heads, H head size, F intermediate, V vocab,
    E experts, b bytes per value

Standard library only: the engine imports this module inside containers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perfkit.errors import ConfigError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

FUSED_QKV = ("phi3", "gpt2", "gpt_neox", "falcon", "bloom", "gpt_bigcode", "mpt", "chatglm")
MIXTURE_OF_EXPERTS = (
    "qwen2_moe",
    "deepseek_v2",
    "deepseek_v3",
    "llama4",
    "olmoe",
    "dbrx",
)
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")

OPT_POSITION_OFFSET = 2
"""OPT's position table has two rows before position 0 (OPTLearnedPositionalEmbedding)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of one decoder. Biases are per group of linear layers."""

    id: str
    model_type: str
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_positions: int
    tied: bool
    """the output head is the embedding table"""
    dtype: str = "bfloat16"
    """the checkpoint's own dtype"""
    attention_bias: bool = False
    """q, k and v have a bias"""
    output_bias: bool = False
    """the attention output projection has a bias"""
    mlp_bias: bool = False
    qk_norm: bool = False
    """q and k are normalised per head (Qwen3)"""
    gated_mlp: bool = True
    """three matrices (gate, up, down) instead of two"""
    norm_weight: bool = True
    norm_bias: bool = False
    """LayerNorm instead of RMSNorm"""
    final_norm: bool = True
    sliding_window: int | None = None
    """of every layer; None where layers differ (gpt-oss), which then count as seeing all"""
    num_experts: int = 0
    """0 for one MLP a layer; else `intermediate` is that of one expert"""
    experts_per_token: int = 0
    expert_bias: bool = False
    """the router and the experts have biases (gpt-oss)"""
    sinks: bool = False
    """one learned logit per query head takes part in the softmax (gpt-oss)"""
    embed_dim: int
    """width of the embedding table; OPT-350m projects it to `hidden`"""
    num_position_rows: int = 0
    """rows of a learned position table; 0 for rotary positions"""
    norm_before: bool = True
    """OPT's do_layer_norm_before: normalise before each block instead of after it"""

    @property
    def query_width(self) -> int:
        """N * H, which need not be the hidden size."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """K * H."""
        return self.num_kv_heads * self.head_dim

    @property
    def query_heads_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads


def spec_from_config(config: Mapping[str, Any], *, model_id: str) -> ModelSpec:
    """The spec of a Hugging Face config.json; ConfigError when the family is not supported."""
    model_type = str(config.get("model_type"))
    _refuse_unsupported(config, model_type, model_id)
    spec = FAMILIES[model_type](_Reader(config, model_id))
    if spec.num_heads % spec.num_kv_heads:
        raise ConfigError(
            f"{model_id}: num_attention_heads={spec.num_heads} is not a multiple of "
            f"num_key_value_heads={spec.num_kv_heads}. Correct its config.json.",
        )
    return spec


def dtype_bytes(dtype: str) -> int:
    """Bytes of one value: 2 for bfloat16 and float16, 4 for float32."""
    if dtype not in DTYPE_BYTES:
        raise ConfigError(f"dtype {dtype!r} is not known. Use {', '.join(DTYPE_BYTES)}.")
    return DTYPE_BYTES[dtype]


def num_parameters(spec: ModelSpec) -> int:
    """Values in the checkpoint; a tied head counts once. Llama-3.3-70B: 70,553,706,496."""
    from perfkit.predict.tensors import tensors

    return sum(tensor.num_values for tensor in tensors(spec))


def kv_bytes_per_token(spec: ModelSpec, kv_bytes_per_value: int = 2) -> int:
    """Bytes of KV cache stored for one token, all layers: 2 (K and V) * L * K * H * b.

    Counts kv heads, not query heads (GQA). Leaves out allocator rounding and the cap of a
    sliding window. Source: Pope et al. 2022, arXiv:2211.05102. Llama-3.3-70B, 16 bit: 327,680.
    """
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * kv_bytes_per_value


class _Reader:
    """Reads a config, naming what is missing."""

    def __init__(self, config: Mapping[str, Any], model_id: str) -> None:
        self.config = config
        self.model_id = model_id

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            found = "is missing" if value is None else f"is {value!r}, not a positive integer"
            raise ConfigError(f"{self.model_id}: {key} {found} in its config.json.")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.config.get(key)
        return default if value is None else bool(value)

    def dtype(self) -> str:
        name = self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16"
        return str(name).removeprefix("torch.")

    def common(self) -> dict[str, Any]:
        """What every family names the same way."""
        return {
            "id": self.model_id,
            "model_type": self.config["model_type"],
            "num_layers": self.integer("num_hidden_layers"),
            "hidden": self.integer("hidden_size"),
            "num_heads": self.integer("num_attention_heads"),
            "vocab": self.integer("vocab_size"),
            "max_positions": self.integer("max_position_embeddings"),
            "dtype": self.dtype(),
        }


def _rotary(
    read: _Reader,
    *,
    kv_heads_default: int | None = None,
    intermediate: str = "intermediate_size",
    **more: Any,
) -> ModelSpec:
    """Llama and its relatives: RMSNorm, rotary positions, gated MLP."""
    fields = read.common()
    head_dim = read.integer("head_dim", fields["hidden"] // fields["num_heads"])
    return ModelSpec(
        **fields,
        num_kv_heads=read.integer("num_key_value_heads", kv_heads_default),
        head_dim=head_dim,
        intermediate=read.integer(intermediate),
        embed_dim=fields["hidden"],
        tied=read.flag("tie_word_embeddings"),
        **more,
    )


def _llama(read: _Reader) -> ModelSpec:
    # Llama 1 and 2 configs of 2023 leave num_key_value_heads out: one per query head.
    bias = read.flag("attention_bias")
    return _rotary(
        read,
        kv_heads_default=read.integer("num_attention_heads"),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=read.flag("mlp_bias"),
    )


def _mistral(read: _Reader) -> ModelSpec:
    return _rotary(read, sliding_window=read.config.get("sliding_window"))


def _qwen2(read: _Reader) -> ModelSpec:
    return _rotary(read, attention_bias=True, sliding_window=_qwen_window(read))


def _qwen3(read: _Reader) -> ModelSpec:
    bias = read.flag("attention_bias")
    read.integer("head_dim")
    return _rotary(
        read,
        attention_bias=bias,
        output_bias=bias,
        qk_norm=True,
        sliding_window=_qwen_window(read),
    )


def _mixtral(read: _Reader) -> ModelSpec:
    return _rotary(
        read,
        num_experts=read.integer("num_local_experts"),
        experts_per_token=read.integer("num_experts_per_tok"),
        sliding_window=read.config.get("sliding_window"),
    )


def _qwen3_moe(read: _Reader) -> ModelSpec:
    """Qwen3 with experts in every layer; configurations that mix in dense layers are refused."""
    sparse_step, dense = read.integer("decoder_sparse_step", 1), read.config.get("mlp_only_layers")
    if sparse_step != 1 or dense:
        raise ConfigError(
            f"{read.model_id}: layers without experts among layers with them are not supported "
            f"(decoder_sparse_step={sparse_step}, mlp_only_layers={dense}). Use another model.",
        )
    bias = read.flag("attention_bias")
    read.integer("head_dim")
    return _rotary(
        read,
        intermediate="moe_intermediate_size",
        # transformers 5 writes num_local_experts where the published file has num_experts.
        num_experts=read.integer("num_experts", read.config.get("num_local_experts")),
        experts_per_token=read.integer("num_experts_per_tok"),
        attention_bias=bias,
        output_bias=bias,
        qk_norm=True,
        sliding_window=_qwen_window(read),
    )


def _gpt_oss(read: _Reader) -> ModelSpec:
    bias = read.flag("attention_bias", True)
    return _rotary(
        read,
        num_experts=read.integer("num_local_experts"),
        experts_per_token=read.integer("num_experts_per_tok"),
        expert_bias=True,
        sinks=True,
        attention_bias=bias,
        output_bias=bias,
    )


def _qwen_window(read: _Reader) -> int | None:
    return read.config.get("sliding_window") if read.flag("use_sliding_window") else None


def _opt(read: _Reader) -> ModelSpec:
    """OPT: LayerNorm, learned positions, two-matrix MLP, biases everywhere."""
    fields = read.common()
    norm_before = read.flag("do_layer_norm_before", True)
    bias = read.flag("enable_bias", True)
    affine = read.flag("layer_norm_elementwise_affine", True)
    return ModelSpec(
        **fields,
        num_kv_heads=fields["num_heads"],
        head_dim=fields["hidden"] // fields["num_heads"],
        intermediate=read.integer("ffn_dim"),
        embed_dim=read.integer("word_embed_proj_dim", fields["hidden"]),
        tied=read.flag("tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        gated_mlp=False,
        norm_weight=affine,
        norm_bias=affine,
        final_norm=norm_before and not read.flag("_remove_final_layer_norm"),
        num_position_rows=fields["max_positions"] + OPT_POSITION_OFFSET,
        norm_before=norm_before,
    )


FAMILIES: dict[str, Callable[[_Reader], ModelSpec]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "opt": _opt,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
}
WITH_EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")


def _refuse_unsupported(config: Mapping[str, Any], model_type: str, model_id: str) -> None:
    reason = _why_unsupported(config, model_type)
    if reason:
        raise ConfigError(f"{model_id}: {reason}. Supported: {', '.join(FAMILIES)}.")


def _why_unsupported(config: Mapping[str, Any], model_type: str) -> str | None:
    if config.get("model_type") is None:
        return "model_type is missing in its config.json"
    has_experts = model_type in MIXTURE_OF_EXPERTS or any(config.get(key) for key in EXPERT_KEYS)
    if has_experts and model_type not in WITH_EXPERTS:
        return f"model_type {model_type!r}: this mixture of experts is not supported"
    if model_type in FUSED_QKV:
        return f"model_type {model_type!r} fuses q, k and v in one matrix, not supported"
    if model_type not in FAMILIES:
        return f"model_type {model_type!r} is not supported"
    quantised = config.get("quantization_config")
    if quantised and (model_type != "gpt_oss" or quantised.get("quant_method") != "mxfp4"):
        return "quantization_config is set: of quantised weights only gpt-oss's MXFP4 are supported"
    return None
