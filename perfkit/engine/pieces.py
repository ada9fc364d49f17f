"""From which stored values each parameter of a rank is filled: one piece, one copy.

E experts, D hidden, F intermediate, `columns` the part of F that this rank holds
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from perfkit.engine.disk_names import (
    BLOCKS,
    EXPERTS,
    MXFP4_BLOCK,
    PARTS,
    SCALES,
    disk_name,
    expert_name,
    form,
)
from perfkit.engine.moe import divided_dims
from perfkit.engine.mxfp4 import dequantise
from perfkit.engine.parallel_linear import Slice
from perfkit.engine.quantize import QuantizedColumn

Index = tuple[slice, ...]
ALL = slice(None)


class Reader(Protocol):
    """Reads a part of a stored tensor."""

    def read(self, name: str, index: Index) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one stored tensor, and the part of a parameter that it fills."""

    stored: str
    index: Index
    target: torch.Tensor

    def values(self, files: Reader) -> torch.Tensor:
        return files.read(self.stored, self.index)

    def fill(self, values: torch.Tensor) -> None:
        self.target.copy_(values)


@dataclass(frozen=True, slots=True)
class WeightPiece(Piece):
    """The weight of a layer that keeps it in 8 bits, quantised on the way."""

    layer: QuantizedColumn

    def fill(self, values: torch.Tensor) -> None:
        self.layer.set_weight(values)


@dataclass(frozen=True, slots=True)
class PackedPiece:
    """One expert of an MXFP4 stack, [E, out, in / 32, 16] on disk, [in, out] in the module."""

    stack: str
    index: Index
    """of the blocks and of the scales"""
    columns: slice
    """of the inputs, once unpacked: a rank's part may start inside a block"""
    target: torch.Tensor

    @property
    def stored(self) -> str:
        return self.stack + BLOCKS

    def values(self, files: Reader) -> torch.Tensor:
        device = self.target.device
        blocks = files.read(self.stored, self.index).to(device)
        scales = files.read(self.stack + SCALES, self.index).to(device)
        return dequantise(blocks, scales)[0, :, self.columns].T

    def fill(self, values: torch.Tensor) -> None:
        self.target.copy_(values)


def plain_piece(
    name: str,
    parameter: torch.Tensor,
    part: Slice | None,
    stored: Container[str],
    layer: QuantizedColumn | None = None,
) -> Piece:
    """All of a stored tensor, or this rank's slice of it; `layer` keeps it in 8 bits."""
    index: Index = (ALL,) if part is None else _along(part.dim, part.start, part.stop)
    if layer is not None:
        return WeightPiece(disk_name(name, stored), index, parameter, layer)
    return Piece(disk_name(name, stored), index, parameter)


def expert_pieces(
    name: str, module: Any, parameter: torch.Tensor, stored: Container[str]
) -> Iterator[Piece | PackedPiece]:
    """A parameter of a stack of experts, expert by expert; `name` as the whole model has it."""
    make = FORMS[form(name, stored)]
    for expert in range(module.num_experts):
        yield from make(name, module, parameter, expert, stored)


def _of_stack(
    name: str, module: Any, parameter: torch.Tensor, expert: int, _stored: Container[str]
) -> Iterator[Piece]:
    """From a stack of the module's own layout: gate, then up; in gpt-oss they alternate."""
    kind = name.partition(EXPERTS)[2]
    dim, columns = divided_dims(module).get(kind), module.columns
    one, whole = slice(expert, expert + 1), module.whole_columns
    start, stop = columns.start, columns.stop
    if dim is None:
        yield Piece(name, (one,), parameter[one])
        return
    ranges = [(start, stop)]
    if kind.startswith("gate_up") and module.is_concatenated:
        ranges = [(start, stop), (whole + start, whole + stop)]
    elif kind.startswith("gate_up"):
        ranges = [(2 * start, 2 * stop)]
    first = 0
    for low, high in ranges:
        target = parameter[one].narrow(dim, first, high - low)
        yield Piece(name, (one, *_along(dim, low, high)[1:]), target)
        first += high - low


def _of_matrices(
    name: str, module: Any, parameter: torch.Tensor, expert: int, stored: Container[str]
) -> Iterator[Piece]:
    """From gate [F, D], up [F, D] and down [D, F] of one expert."""
    columns, parts = module.columns, PARTS[name.partition(EXPERTS)[2]]
    dim = 0 if len(parts) == 2 else 1
    index = _along(dim, columns.start, columns.stop)
    rows = parameter.shape[1] // len(parts)
    for number, part in enumerate(parts):
        target = parameter[expert, number * rows : (number + 1) * rows]
        yield Piece(expert_name(name, expert, part, stored), index, target)


def _of_packed(
    name: str, module: Any, parameter: torch.Tensor, expert: int, _stored: Container[str]
) -> Iterator[PackedPiece]:
    """From MXFP4: outputs are rows, inputs are in blocks of 32."""
    one, start, stop = slice(expert, expert + 1), module.columns.start, module.columns.stop
    if name.endswith("down_proj"):
        first = start // MXFP4_BLOCK
        blocks = slice(first, -(-stop // MXFP4_BLOCK))
        inputs = slice(start - first * MXFP4_BLOCK, stop - first * MXFP4_BLOCK)
        yield PackedPiece(name, (one, ALL, blocks), inputs, parameter[expert])
    else:
        rows = slice(2 * start, 2 * stop)
        yield PackedPiece(name, (one, rows), ALL, parameter[expert])


FORMS: dict[str, Callable[..., Iterator[Piece | PackedPiece]]] = {
    "whole": _of_stack,
    "packed": _of_packed,
    "each": _of_matrices,
}


def _along(dim: int, start: int, stop: int) -> Index:
    return (*(ALL for _ in range(dim)), slice(start, stop))
