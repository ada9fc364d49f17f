"""The linear layers of a tensor-parallel rank: one matrix product, at most one all-reduce."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a stored tensor that this rank holds: start..stop along one dimension."""

    dim: int
    start: int
    stop: int


class ColumnLinear(nn.Module):
    """Rows of the weight [out, in]: each rank makes its own part of the output. Bias likewise."""

    DIM = 0
    bias_divided = True

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        part: Slice,
        group: dist.ProcessGroup | None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.part, self.group = part, group

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.product(inputs, self.bias)

    def product(self, inputs: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return functional.linear(inputs, self.weight, bias)


class RowLinear(ColumnLinear):
    """Columns of the weight: each rank makes a partial sum of the whole output. Bias is whole."""

    DIM = 1
    bias_divided = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.whole(self.product(self.own(inputs)))

    def own(self, inputs: torch.Tensor) -> torch.Tensor:
        """The columns that this rank multiplies: it has no others."""
        return inputs

    def whole(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of every rank's partial product, in place, and the bias."""
        dist.all_reduce(partial, group=self.group)
        return partial if self.bias is None else partial.add_(self.bias)


class HeadLinear(RowLinear):
    """A row-parallel head whose input is whole on every rank, so each takes its own columns."""

    def own(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[..., self.part.start : self.part.stop]
