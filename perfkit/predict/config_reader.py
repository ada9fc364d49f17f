"""Keys of a config.json, read with the name of the model and of what is missing."""

from collections.abc import Callable, Mapping
from typing import Any

from perfkit.errors import ConfigError

SLIDING = "sliding_attention"

DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "qwen2": {"sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"sliding_window": 4096, "max_window_layers": 28},
    "qwen3_moe": {"sliding_window": 4096},
    "qwen2_moe": {"sliding_window": 4096, "max_window_layers": 28},
    "gpt_oss": {"sliding_window": 128, "attention_bias": True},
    "deepseek_v2": {"first_k_dense_replace": 0, "n_shared_experts": 2},
    "deepseek_v3": {"first_k_dense_replace": 3, "n_shared_experts": 1},
    "gemma2": {
        "sliding_window": 4096,
        "head_dim": 256,
        "vocab_size": 256_000,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
    },
}
"""What transformers 5.23 takes where a file leaves a key out (configuration_*.py)."""


class ConfigReader:
    """One config; DEFAULTS stand for keys that it leaves out."""

    def __init__(self, config: Mapping[str, Any], model_id: str) -> None:
        self.config: dict[str, Any] = {**DEFAULTS.get(config["model_type"], {}), **config}
        self.model_id = model_id

    @property
    def num_layers(self) -> int:
        return self.integer("num_hidden_layers")

    @property
    def num_heads(self) -> int:
        return self.integer("num_attention_heads")

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.config.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            kind = "a positive integer" if least else "an integer of 0 or more"
            found = "is missing" if value is None else f"is {value!r}, not {kind}"
            raise ConfigError(f"{self.model_id}: {key} {found} in its config.json.")
        return value

    def natural(self, key: str) -> int:
        """An integer that may be 0, and is where the key is null."""
        return self.integer(key, 0, least=0)

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
            "hidden": self.integer("hidden_size"),
            "num_heads": self.num_heads,
            "vocab": self.integer("vocab_size"),
            "max_positions": self.integer("max_position_embeddings"),
            "dtype": self.dtype(),
        }

    def experts(self, *names: str, width: str = "moe_intermediate_size") -> dict[str, Any]:
        """How many experts, how many of them a token takes, and how wide one is."""
        key = next((name for name in names if self.config.get(name) is not None), names[0])
        return {
            "num_experts": self.integer(key),
            "experts_per_token": self.integer("num_experts_per_tok"),
            "expert_intermediate": self.integer(width),
        }

    def windows(
        self, slides: Callable[[int], bool] = lambda _layer: True, *, on: bool = True
    ) -> list[int | None]:
        """The window of each layer: by layer_types where the file has them, else where `slides`."""
        window = self.config.get("sliding_window") if on else None
        kinds = self.config.get("layer_types")
        if window is None:
            return [None] * self.num_layers
        if kinds is None:
            sliding = [slides(layer) for layer in range(self.num_layers)]
        else:
            sliding = [kind == SLIDING for kind in kinds]
        if len(sliding) != self.num_layers:
            raise ConfigError(
                f"{self.model_id}: layer_types names {len(sliding)} layers of {self.num_layers}. "
                "Correct its config.json.",
            )
        return [window if slide else None for slide in sliding]
