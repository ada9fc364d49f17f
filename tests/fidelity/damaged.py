"""Copies of a model's folder with the damage that sharding, loading and conversion have done."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def weight_noise(tensors: Tensors) -> None:
    """2 % of noise on every matrix: a lossy conversion that nobody asked for."""
    generator = torch.Generator().manual_seed(3)
    for name in sorted(tensors):
        if tensors[name].dim() == 2:
            noise = torch.randn(tensors[name].shape, generator=generator)
            tensors[name] = tensors[name] * (1 + 0.02 * noise)


def half_an_mlp(tensors: Tensors) -> None:
    """One layer's down projection without half of its inputs: a rank that no sum has reached."""
    name = "model.layers.14.mlp.down_proj.weight"
    half = tensors[name].shape[1] // 2
    tensors[name] = tensors[name].clone()
    tensors[name][:, half:] = 0


def swapped_layers(tensors: Tensors) -> None:
    """Two neighbours in each other's place: a pipeline split that is off by one."""
    before = dict(tensors)
    for name, tensor in before.items():
        if ".layers.14." in name:
            other = name.replace(".layers.14.", ".layers.15.")
            tensors[name], tensors[other] = before[other], tensor


def nothing(_tensors: Tensors) -> None:
    """Weights as they are; the config is what is wrong."""


def wrong_rope(config: dict[str, Any]) -> None:
    """Another RoPE base: a config key that was not carried over, and a default in its place."""
    config["rope_parameters"]["rope_theta"] = 10_000.0


DAMAGE: dict[str, tuple[Callable[[Tensors], None], Callable[[dict[str, Any]], None]]] = {
    "noise": (weight_noise, lambda _config: None),
    "half-mlp": (half_an_mlp, lambda _config: None),
    "swapped-layers": (swapped_layers, lambda _config: None),
    "wrong-rope": (nothing, wrong_rope),
}


def damaged(kind: str, model: Path, root: Path) -> Path:
    """A copy of the model's folder under `root` with one kind of DAMAGE."""
    of_weights, of_config = DAMAGE[kind]
    target = root / kind
    target.mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, target / file.name)
    tensors = load_file(model / "model.safetensors")
    of_weights(tensors)
    half = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(half, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    of_config(config)
    (target / "config.json").write_text(json.dumps(config))
    return target
