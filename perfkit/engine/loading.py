"""Fills a stage: its own slices of the safetensors files, or random weights.

Only this rank's bytes reach private memory: safetensors hands out views of the mapped file, and a
slice is copied from there straight to the device.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from perfkit.engine.checkpoint import StoredTensor, read_checkpoint
from perfkit.engine.moe import divided_dims, expert_modules
from perfkit.engine.pieces import PackedPiece, Piece, expert_pieces, plain_piece
from perfkit.engine.quantize import QuantizedColumn, quantised_layers
from perfkit.engine.sharding import slices
from perfkit.engine.stage import Stage
from perfkit.engine.topology import Topology
from perfkit.errors import ConfigError

DUMMY_RANGE = 0.02
HEAD = "lm_head.weight"


def named_parameters(stage: Stage) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(module name, checkpoint name, parameter) of everything this rank holds, each once.

    Quantised weights are among them, although they are buffers.
    """
    quantised = quantised_layers(stage.model).items()
    weights = ((f"{name}.weight", layer.weight) for name, layer in quantised)
    for name, parameter in (*stage.model.named_parameters(), *weights):
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
    wanted = pieces(stage, stored)
    for piece in wanted:
        if piece.stored not in stored:
            raise ConfigError(
                f"{folder} has no tensor {piece.stored}. "
                "Copy config.json and weights from the same place.",
            )
    wanted.sort(key=lambda piece: stored[piece.stored].file)
    with Files(stored) as files:
        for number, piece in enumerate(wanted, start=1):
            _copy(piece, files, stored[piece.stored].file)
            on_progress(number / len(wanted))


def pieces(stage: Stage, stored: Mapping[str, StoredTensor]) -> list[Piece | PackedPiece]:
    """Everything to be read for this rank; a bias that another rank adds is set to zero here."""
    parts, experts = slices(stage.model), dict(expert_modules(stage.model))
    quantised = quantised_layers(stage.model)
    found: list[Piece | PackedPiece] = []
    for name, stored_name, parameter in named_parameters(stage):
        owner, _, last = name.rpartition(".")
        if last == "down_proj_bias" and experts[owner].columns.start:
            parameter.data.zero_()
        elif owner in experts:
            found.extend(expert_pieces(stored_name, experts[owner], parameter, stored))
        else:
            source = stored_name if stored_name in stored else _tied(stage, stored_name)
            layer = quantised.get(owner) if last == "weight" else None
            found.append(plain_piece(source, parameter, parts.get(name), stored, layer))
    return found


def _tied(stage: Stage, name: str) -> str:
    """A tied head is stored as the embedding; an untied one that is missing stays missing."""
    return stage.family.embedding if name == HEAD and stage.config.tie_word_embeddings else name


class Files:
    """The model's files, mapped when first needed."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self.stored = stored
        self._open: dict[Path, Any] = {}
        self._until_exit = contextlib.ExitStack()

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_error: object) -> None:
        self._until_exit.close()

    def read(self, name: str, index: tuple[slice, ...]) -> torch.Tensor:
        """A part of a stored tensor; on a CPU a view of the file until it is copied."""
        file = self.stored[name].file
        try:
            if file not in self._open:
                opened = safe_open(str(file), framework="pt")
                self._open[file] = self._until_exit.enter_context(opened)
            values: torch.Tensor = self._open[file].get_slice(name)[index]
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file} is damaged: {error}. Copy the file again.") from error
        return values


def _copy(piece: Piece | PackedPiece, files: Files, file: Path) -> None:
    """Read only this rank's part of the mapped tensor, straight to the parameter's device."""
    values = piece.values(files)
    if values.shape != piece.target.shape:
        raise ConfigError(
            f"tensor {piece.stored} in {file} gives {list(values.shape)} for this rank, the model "
            f"needs {list(piece.target.shape)}. Copy config.json and weights from the same place.",
        )
    with torch.no_grad():
        piece.fill(values)


def fill_dummy(stage: Stage, topology: Topology, seed: int) -> None:
    """Random weights: norms 1, biases and sinks 0, the rest uniform within +-0.02.

    What tensor-parallel ranks hold in common (embedding, norms) must be equal on all of them, so
    the generator starts from the tensor's name; divided tensors add the rank.
    """
    divided = {*slices(stage.model), *divided_stacks(stage.model)}
    quantised = quantised_layers(stage.model)
    generator = torch.Generator(device=topology.device)
    with torch.no_grad():
        for name, stored_name, parameter in named_parameters(stage):
            if name.endswith(("bias", "sinks")):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                own = topology.tp_rank if name in divided else 0
                generator.manual_seed(_seed(f"{seed}/{stored_name}/{own}"))
                _fill_random(parameter, quantised.get(name.rpartition(".")[0]), generator)


def _fill_random(
    parameter: torch.Tensor, layer: QuantizedColumn | None, generator: torch.Generator
) -> None:
    """Uniform within +-0.02; a layer with 8-bit weights quantises the same numbers."""
    if layer is None:
        parameter.uniform_(-DUMMY_RANGE, DUMMY_RANGE, generator=generator)
        return
    weight = torch.empty(parameter.shape, dtype=layer.dtype, device=parameter.device)
    layer.set_weight(weight.uniform_(-DUMMY_RANGE, DUMMY_RANGE, generator=generator))


def divided_stacks(model: nn.Module) -> Iterator[str]:
    """Parameters of experts of which each rank has its own part."""
    for name, module in expert_modules(model):
        yield from (f"{name}.{parameter}" for parameter in divided_dims(module))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
