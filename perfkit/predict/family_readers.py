"""How each model family says in its config.json what it is made of.

Standard library only: the engine imports this module inside containers.
"""

from collections.abc import Iterable
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict.config_reader import ConfigReader
from perfkit.predict.spec import Latent, LayerKind, ModelSpec

OPT_POSITION_OFFSET = 2
"""OPT's position table has two rows before position 0 (OPTLearnedPositionalEmbedding)."""


def _rotary(
    read: ConfigReader,
    *,
    kv_heads_default: int | None = None,
    windows: Iterable[int | None] | None = None,
    expert_layers: Iterable[bool] | None = None,
    **more: Any,
) -> ModelSpec:
    """Llama and its relatives: RMSNorm, rotary positions, gated MLP."""
    layers, hidden = read.num_layers, read.integer("hidden_size")
    windows = [None] * layers if windows is None else windows
    expert_layers = [False] * layers if expert_layers is None else expert_layers
    kinds = tuple(map(LayerKind, windows, expert_layers))
    all_experts = all(kind.experts for kind in kinds)
    fields = {
        **read.common(),
        "layer_kinds": kinds,
        "num_kv_heads": read.integer("num_key_value_heads", kv_heads_default),
        "head_dim": read.integer("head_dim", hidden // read.num_heads),
        "intermediate": 0 if all_experts else read.integer("intermediate_size"),
        "embed_dim": hidden,
        "tied": read.flag("tie_word_embeddings"),
    }
    return ModelSpec(**{**fields, **more})


def _attention_biases(read: ConfigReader) -> dict[str, Any]:
    bias = read.flag("attention_bias")
    return {"attention_bias": bias, "output_bias": bias}


def llama(read: ConfigReader) -> ModelSpec:
    # Llama 1 and 2 configs of 2023 leave num_key_value_heads out: one per query head.
    heads, mlp_bias = read.num_heads, read.flag("mlp_bias")
    return _rotary(read, kv_heads_default=heads, **_attention_biases(read), mlp_bias=mlp_bias)


def mistral(read: ConfigReader) -> ModelSpec:
    return _rotary(read, windows=read.windows())


def phi3(read: ConfigReader) -> ModelSpec:
    return _rotary(read, kv_heads_default=read.num_heads, windows=read.windows(), fused=True)


def qwen2(read: ConfigReader) -> ModelSpec:
    return _rotary(read, attention_bias=True, windows=_upper_windows(read))


def qwen3(read: ConfigReader) -> ModelSpec:
    read.integer("head_dim")
    return _rotary(read, **_attention_biases(read), qk_norm=True, windows=_upper_windows(read))


def gemma2(read: ConfigReader) -> ModelSpec:
    """Every second layer slides, from the first on. Capped scores and logits have no size."""
    windows = read.windows(lambda layer: layer % 2 == 0)
    return _rotary(read, **_attention_biases(read), norms_per_layer=4, windows=windows)


def gemma3(read: ConfigReader) -> ModelSpec:
    """All layers slide but each sixth."""
    period = read.integer("sliding_window_pattern")
    windows = read.windows(lambda layer: (layer + 1) % period != 0)
    biases = _attention_biases(read)
    return _rotary(read, **biases, qk_norm=True, norms_per_layer=4, windows=windows)


def mixtral(read: ConfigReader) -> ModelSpec:
    return _rotary(
        read,
        windows=read.windows(),
        expert_layers=[True] * read.num_layers,
        **read.experts("num_local_experts", width="intermediate_size"),
    )


def gpt_oss(read: ConfigReader) -> ModelSpec:
    return _rotary(
        read,
        windows=read.windows(lambda layer: layer % 2 == 0),
        expert_layers=[True] * read.num_layers,
        **read.experts("num_local_experts", width="intermediate_size"),
        **_attention_biases(read),
        expert_bias=True,
        sinks=True,
    )


def qwen3_moe(read: ConfigReader) -> ModelSpec:
    read.integer("head_dim")
    return _rotary(
        read,
        windows=read.windows(on=read.flag("use_sliding_window")),
        expert_layers=_sparse_layers(read),
        # transformers 5 writes num_local_experts where the published file has num_experts.
        **read.experts("num_experts", "num_local_experts"),
        **_attention_biases(read),
        qk_norm=True,
    )


def qwen2_moe(read: ConfigReader) -> ModelSpec:
    """Qwen2 with experts, and one gated MLP beside them that every token goes through."""
    first = read.natural("max_window_layers")
    return _rotary(
        read,
        windows=read.windows(
            lambda layer: layer % 2 == 0 and layer < first, on=read.flag("use_sliding_window")
        ),
        expert_layers=_sparse_layers(read),
        **read.experts("num_experts", "num_local_experts"),
        shared_intermediate=read.integer("shared_expert_intermediate_size"),
        attention_bias=read.flag("qkv_bias", True),
    )


def deepseek(read: ConfigReader) -> ModelSpec:
    """DeepSeek V2 and V3 without V3's module for predicting a second token (layer L)."""
    if read.integer("moe_layer_freq", 1) != 1:
        raise ConfigError(f"{read.model_id}: moe_layer_freq is not 1: its layers are not known.")
    latent = Latent(
        query_rank=read.integer("q_lora_rank") if read.config.get("q_lora_rank") else None,
        kv_rank=read.integer("kv_lora_rank"),
        rope_dim=read.integer("qk_rope_head_dim"),
        nope_dim=read.integer("qk_nope_head_dim"),
        value_dim=read.integer("v_head_dim"),
    )
    experts = read.experts("n_routed_experts")
    dense = read.natural("first_k_dense_replace")
    return _rotary(
        read,
        kv_heads_default=read.num_heads,
        latent=latent,
        head_dim=latent.nope_dim + latent.rope_dim,
        expert_layers=[layer >= dense for layer in range(read.num_layers)],
        **experts,
        shared_intermediate=read.natural("n_shared_experts") * experts["expert_intermediate"],
        **_attention_biases(read),
        mlp_bias=read.flag("mlp_bias"),
    )


def _upper_windows(read: ConfigReader) -> list[int | None]:
    """Qwen's layers from max_window_layers on, when use_sliding_window is on."""
    first, on = read.natural("max_window_layers"), read.flag("use_sliding_window")
    return read.windows(lambda layer: layer >= first, on=on)


def _sparse_layers(read: ConfigReader) -> list[bool]:
    """Qwen's layers with experts: each decoder_sparse_step-th but those of mlp_only_layers."""
    step, dense = read.integer("decoder_sparse_step", 1), read.config.get("mlp_only_layers") or ()
    return [(layer + 1) % step == 0 and layer not in dense for layer in range(read.num_layers)]


def opt(read: ConfigReader) -> ModelSpec:
    """OPT: LayerNorm, learned positions, two-matrix MLP, biases everywhere."""
    norm_before = read.flag("do_layer_norm_before", True)
    bias = read.flag("enable_bias", True)
    affine = read.flag("layer_norm_elementwise_affine", True)
    hidden = read.integer("hidden_size")
    return ModelSpec(
        **read.common(),
        layer_kinds=(LayerKind(),) * read.num_layers,
        num_kv_heads=read.num_heads,
        head_dim=hidden // read.num_heads,
        intermediate=read.integer("ffn_dim"),
        embed_dim=read.integer("word_embed_proj_dim", hidden),
        tied=read.flag("tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        gated_mlp=False,
        norm_weight=affine,
        norm_bias=affine,
        final_norm=norm_before and not read.flag("_remove_final_layer_norm"),
        num_position_rows=read.integer("max_position_embeddings") + OPT_POSITION_OFFSET,
        norm_before=norm_before,
    )
