"""A model folder that is never loaded, and a study of it."""

import json
from pathlib import Path

STUDY = """
model = "model"

[job]
time_limit = "00:10:00"
stages_per_node = 1

[run]
prompt_tokens = 8

[axes]
tp = [1, 8]
pp = [1, 2]
"""


def save_config(folder: Path) -> None:
    folder.mkdir()
    config = {
        "model_type": "llama",
        "vocab_size": 160,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 256,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
