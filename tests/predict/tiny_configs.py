"""Small configurations of every family and its variants.

TINY and WITH_EXPERTS can be run and predicted; COUNTED can only be counted.
"""

from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
ROTARY: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 200}
TINY_LLAMA: dict[str, Any] = {"model_type": "llama", **ROTARY}
TINY: dict[str, dict[str, Any]] = {
    "llama": TINY_LLAMA,
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
LATENT: dict[str, Any] = {
    **SIZES,
    "intermediate_size": 200,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 24,
    "v_head_dim": 20,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
}
COUNTED: dict[str, dict[str, Any]] = {
    "phi3": {"model_type": "phi3", **ROTARY, "pad_token_id": 0},
    "phi3-tied": {"model_type": "phi3", **ROTARY, "pad_token_id": 0, "tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2", **ROTARY, "head_dim": 32, "sliding_window": 8},
    "gemma3": {
        "model_type": "gemma3_text",
        **ROTARY,
        "head_dim": 32,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
    },
    "gemma-untied-biases": {
        "model_type": "gemma2",
        **ROTARY,
        "tie_word_embeddings": False,
        "attention_bias": True,
    },
    "qwen3-moe-mixed": {**WITH_EXPERTS["qwen3-moe"], "mlp_only_layers": [1]},
    "qwen2-moe": {
        "model_type": "qwen2_moe",
        **ROTARY,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 72,
        "decoder_sparse_step": 2,
    },
    "deepseek-v2-lite": {"model_type": "deepseek_v2", **LATENT, "q_lora_rank": None},
    "deepseek-v2": {
        "model_type": "deepseek_v2",
        **LATENT,
        "q_lora_rank": 28,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        **LATENT,
        "q_lora_rank": 28,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 2,
    },
}
