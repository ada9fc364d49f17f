"""Small configurations of every supported family and its variants."""

from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
ROTARY: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 200}
TINY: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **ROTARY},
    "llama-tied-biases": {
        "model_type": "llama",
        **ROTARY,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama-wide-heads": {"model_type": "llama", **ROTARY, "head_dim": 32},
    "qwen2": {"model_type": "qwen2", **ROTARY},
    "qwen3-tied": {
        "model_type": "qwen3",
        **ROTARY,
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
    "qwen3-biases": {"model_type": "qwen3", **ROTARY, "head_dim": 32, "attention_bias": True},
    "mistral": {"model_type": "mistral", **ROTARY},
    "opt": {"model_type": "opt", **SIZES, "ffn_dim": 200, "word_embed_proj_dim": 64},
    "opt-350m-like": {
        "model_type": "opt",
        **SIZES,
        "ffn_dim": 256,
        "word_embed_proj_dim": 32,
        "do_layer_norm_before": False,
    },
    "opt-bare": {
        "model_type": "opt",
        **SIZES,
        "ffn_dim": 256,
        "word_embed_proj_dim": 64,
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
        "tie_word_embeddings": False,
    },
}
WITH_EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {
        "model_type": "mixtral",
        **ROTARY,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen3-moe": {
        "model_type": "qwen3_moe",
        **ROTARY,
        "head_dim": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
    },
    "gpt-oss": {
        "model_type": "gpt_oss",
        **ROTARY,
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
    },
}
