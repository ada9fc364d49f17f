"""Fills a stage: its own slices of the safetensors files, or random weights.

Only this rank's bytes reach private memory: safetensors hands out views of the mapped file, and a
slice is copied from there straight to the device.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from perfkit.engine.checkpoint import StoredTensor, read_checkpoint
from perfkit.engine.parallel_linear import Slice
from perfkit.engine.sharding import slices
from perfkit.engine.stage import Stage
from perfkit.engine.topology import Topology
from perfkit.errors import ConfigError

DUMMY_RANGE = 0.02
HEAD = "lm_head.weight"


def named_parameters(stage: Stage) -> Iterator[tuple[str, str, nn.Parameter]]:
    """(module name, checkpoint name, parameter) of everything this rank holds, each once."""
    for name, parameter in stage.model.named_parameters():
        yield name, checkpoint_name(stage, name), parameter


def checkpoint_name(stage: Stage, name: str) -> str:
    """The stage numbers its layers from 0; the checkpoint numbers them over the whole model."""
    prefix = stage.family.layers_prefix
    if not name.startswith(prefix):
        return name
    index, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{stage.layers.start + int(index)}.{rest}"


def load_safetensors(stage: Stage, folder: Path, on_progress: Callable[[float], None]) -> None:
    """Copy this rank's slices from the files of a model folder."""
    stored = read_checkpoint(folder)
    parts = slices(stage.model)
    wanted: dict[Path, list[tuple[str, nn.Parameter, Slice | None]]] = {}
    for name, stored_name, parameter in named_parameters(stage):
        source = stored_name if stored_name in stored else _tied(stage, stored_name)
        file = _stored(stored, source, folder).file
        wanted.setdefault(file, []).append((source, parameter, parts.get(name)))
    done, total = 0, sum(len(entries) for entries in wanted.values())
    for file, entries in sorted(wanted.items()):
        try:
            with safe_open(str(file), framework="pt") as tensors:
                for source, parameter, part in entries:
                    _copy(file, tensors.get_slice(source), source, parameter, part)
                    done += 1
                    on_progress(done / total)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file} is damaged: {error}. Copy the file again.") from error


def _tied(stage: Stage, name: str) -> str:
    """A tied head is stored as the embedding; an untied one that is missing stays missing."""
    return stage.family.embedding if name == HEAD and stage.config.tie_word_embeddings else name


def _stored(stored: dict[str, StoredTensor], name: str, folder: Path) -> StoredTensor:
    if name not in stored:
        raise ConfigError(
            f"{folder} has no tensor {name}. Copy config.json and weights from the same place.",
        )
    return stored[name]


def _copy(file: Path, view: Any, name: str, parameter: nn.Parameter, part: Slice | None) -> None:
    """Read only this rank's part of the mapped tensor, straight to the parameter's device."""
    if part is None:
        data = view[:]
    elif part.dim == 0:
        data = view[part.start : part.stop]
    else:
        data = view[:, part.start : part.stop]
    if data.shape != parameter.shape:
        raise ConfigError(
            f"tensor {name} in {file} gives {list(data.shape)} for this rank, the model needs "
            f"{list(parameter.shape)}. Copy config.json and weights from the same place.",
        )
    with torch.no_grad():
        parameter.copy_(data)


def fill_dummy(stage: Stage, topology: Topology, seed: int) -> None:
    """Random weights: norms 1, biases 0, the rest uniform within +-0.02.

    What tensor-parallel ranks hold in common (embedding, norms) must be equal on all of them, so
    the generator starts from the tensor's name; divided tensors add the rank.
    """
    divided = slices(stage.model)
    generator = torch.Generator(device=topology.device)
    with torch.no_grad():
        for name, stored_name, parameter in named_parameters(stage):
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                own = topology.tp_rank if name in divided else 0
                generator.manual_seed(_seed(f"{seed}/{stored_name}/{own}"))
                parameter.uniform_(-DUMMY_RANGE, DUMMY_RANGE, generator=generator)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
