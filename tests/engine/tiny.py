"""Tiny random models of every supported family, saved as a user would have them on disk."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama-untied": {"model_type": "llama", "tie_word_embeddings": False},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama3-rope": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE},
    "llama-eight-heads": {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", "sliding_window": 12},
    "opt": {
        "model_type": "opt",
        "ffn_dim": 192,
        "word_embed_proj_dim": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": None,
        "tie_word_embeddings": True,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2},
    "qwen3-moe": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 48,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
    "gpt-oss": {
        "model_type": "gpt_oss",
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "sliding_window": 6,
        "rope_parameters": YARN,
    },
}


def save_tiny(variant: str, folder: Path) -> Path:
    """A model with enough spread in its weights that greedy tokens differ from step to step."""
    settings = {**SMALL, **VARIANTS[variant]}
    settings = {key: value for key, value in settings.items() if value is not None}
    if variant == "opt":
        settings = {k: v for k, v in settings.items() if k not in ("head_dim", "intermediate_size")}
    torch.manual_seed(7)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith(("bias", "sinks")):
                parameter.normal_(0, 0.2)
    target = folder / variant
    model.save_pretrained(target)
    return target
