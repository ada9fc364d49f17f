"""Weights in 8 bits: the linear layers of the decoder blocks, one scale for each output channel.

    n outputs and D inputs of a layer, as this rank holds them

torchao turns each weight, as it is loaded and in the run's dtype, into int8 or fp8 (e4m3) values
[n, D] and fp32 scales [n, 1]. Activations stay in the run's dtype, and so do the embedding, the
head, norms and biases. A rank quantises its own shard: a row-parallel layer has a scale for each
output channel and rank, so tp=2 is slightly finer than tp=1, and not equal to it.

The values are kept in layers of our own: a product through torchao's tensors takes 23 us (int8) and
36 us (fp8) more of the host than a plain one, ours 10 and 12 us (torchao 0.18, torch 2.13, one CPU
core), 224 times a token of an 8B model; and a decode step has a kernel that needs the bare values.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from perfkit.collect.settings import RunSettings
from perfkit.engine.families import Family
from perfkit.engine.moe import expert_modules
from perfkit.engine.parallel_linear import ColumnLinear, RowLinear, Slice
from perfkit.errors import ToolMissing
from perfkit.predict.spec import dtype_bytes
from perfkit.predict.tensors import TensorSpec

SCALE = "weight_scale"
"""the buffer of a quantised layer that no checkpoint has"""
SCALE_BYTES = 4
VALUES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
"""torchao's names"""
ROLES = ("qkv", "o", "gate_up", "down")
"""of the tensors whose matrices are quantised"""


class QuantizedColumn(ColumnLinear):
    """A layer whose weight is 8-bit values and scales; also the whole layer of a single rank."""

    weight: torch.Tensor  # type: ignore[assignment]
    weight_scale: torch.Tensor

    def __init__(self, layer: nn.Module, part: Slice, group: Any, settings: RunSettings) -> None:
        bias: nn.Parameter | None = layer.bias  # type: ignore[assignment]
        super().__init__(layer.get_parameter("weight"), bias, part, group)
        values = self.weight.data.view(VALUES[settings.quantize])
        # Buffers: whoever asks a model for its dtype looks at its parameters.
        del self.weight
        self.register_buffer("weight", values)
        scale = torch.empty(len(values), 1, dtype=torch.float32, device=values.device)
        self.register_buffer(SCALE, scale)
        self.form, self.dtype = settings.quantize, getattr(torch, settings.dtype)

    def product(self, inputs: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return quantised_linear(inputs, self.weight, self.weight_scale, bias)

    def set_weight(self, weight: torch.Tensor) -> None:
        """Quantise this rank's part [n, D] of a stored weight, or of random numbers."""
        values, scale = quantised(weight.to(self.weight.device, self.dtype), self.form)
        self.weight.copy_(values)
        self.weight_scale.copy_(scale)


class QuantizedRow(QuantizedColumn, RowLinear):
    """The same behind a row-parallel layer's all-reduce."""


def quantised(weight: torch.Tensor, form: str) -> tuple[torch.Tensor, torch.Tensor]:
    """torchao's 8-bit values [n, D] and fp32 scales [n, 1] of a weight [n, D]."""
    torchao = torchao_quantization()
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    config = getattr(torchao, CONFIGS[form])
    torchao.quantize_(layer, config(granularity=torchao.PerRow(), set_inductor_config=False))
    found: Any = layer.weight
    # A row of zeros has the scale 0 in fp8, and torchao divides by it.
    found.qdata.view(torch.int8).masked_fill_(found.scale == 0, 0)
    return found.qdata, found.scale


def torchao_quantization() -> Any:
    """torchao's quantisation API; ToolMissing where this torch lacks what it needs.

    Loading it logs the names of extensions that were built for another torch: none is used here.
    """
    try:
        from torchao import quantization
    except ImportError as error:
        raise ToolMissing(
            f"--quantize: this torch, {torch.__version__}, cannot load torchao: {error}. Use torch "
            "2.11 or newer with torchao 0.18, or --quantize none.",
        ) from error
    return quantization


@dataclass(frozen=True, slots=True)
class FewRows:
    """The module quantize_triton, or why a GPU goes without it."""

    kernel: Any = None
    problem: str | None = None


@functools.cache
def few_rows(device: torch.device, dtype: torch.dtype) -> FewRows:
    """What multiplies a few rows by weights of this dtype; fp8 needs a GPU that has it."""
    if device.type != "cuda":
        return FewRows()
    try:
        from perfkit.engine import quantize_triton as fused

        values = torch.zeros(16, 32, dtype=torch.int8, device=device).view(dtype)
        inputs = torch.zeros(1, 32, dtype=torch.bfloat16, device=device)
        fused.linear(inputs, values, torch.ones(16, 1, device=device))
    except Exception as error:  # Whatever a compiler says, the plain product does the same.
        first_line = str(error).strip().partition("\n")[0]
        return FewRows(problem=f"{type(error).__name__}: {first_line}")
    return FewRows(fused)


def quantised_linear(
    inputs: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """[.., D] times the dequantised [n, D] transposed; 8-bit values are exact in every dtype.

    A few rows go through one kernel on a GPU. The plain product reads 1 byte a value, writes 2,
    scales them (2 and 2) and reads 2: for a prefill that is little, for a decode step it is all.
    """
    fused = few_rows(values.device, values.dtype).kernel
    if fused is not None and fused.takes(inputs):
        product: torch.Tensor = fused.linear(inputs, values, scale, bias)
        return product
    weight = values.to(inputs.dtype).mul_(scale)
    return functional.linear(inputs, weight, bias)


def prepare(model: nn.Module, family: Family) -> None:
    """Before sharding, on meta: weights of 8 bits, so that 16-bit ones are never allocated.

    int8 stands for fp8 too, because DeepSpeed converts whatever is a floating-point number.
    """
    assert next(expert_modules(model), None) is None, "check_quantize refuses experts"
    for _name, layer in _linears(model, family):
        empty = torch.empty_like(layer.get_parameter("weight"), dtype=torch.int8)
        layer.weight = nn.Parameter(empty, requires_grad=False)


def replace_linears(model: nn.Module, family: Family, settings: RunSettings) -> None:
    """After sharding: the layers that keep 8-bit weights, in place of those that cannot."""
    for name, layer in list(_linears(model, family)):
        kind = QuantizedRow if isinstance(layer, RowLinear) else QuantizedColumn
        part, group = Slice(0, 0, len(layer.get_parameter("weight"))), None
        if isinstance(layer, ColumnLinear):
            part, group = layer.part, layer.group
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, kind(layer, part, group, settings))


def _linears(model: nn.Module, family: Family) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        if name.startswith(family.layers_prefix) and isinstance(layer, nn.Linear | ColumnLinear):
            yield name, layer


def quantised_layers(model: nn.Module) -> dict[str, QuantizedColumn]:
    """Module name -> layer of those that keep 8-bit weights."""
    return {n: layer for n, layer in model.named_modules() if isinstance(layer, QuantizedColumn)}


def quantised_bytes(model: nn.Module) -> int:
    """Bytes of the 8-bit values and of their scales."""
    layers = quantised_layers(model).values()
    return sum(t.numel() * t.element_size() for x in layers for t in (x.weight, x.weight_scale))


def parameter_bytes(held: Iterable[TensorSpec], settings: RunSettings) -> int:
    """Bytes of a rank's local tensors: 1 a quantised value, 4 a scale, the dtype's the others."""
    total, width = 0, dtype_bytes(settings.dtype)
    for tensor in held:
        eight = settings.quantize != "none" and tensor.role in ROLES and len(tensor.shape) == 2
        scales = SCALE_BYTES * tensor.shape[0] if eight else 0
        total += tensor.num_values * (1 if eight else width) + scales
    return total


def quantize_facts(model: nn.Module, settings: RunSettings) -> dict[str, Any] | None:
    """For engine.json: what is in 8 bits, by what, and what is not."""
    layers = quantised_layers(model)
    if not layers:
        return None
    first = next(iter(layers.values())).weight
    return {
        "form": str(VALUES[settings.quantize]).removeprefix("torch."),
        "scale": "one of each output channel and rank, float32",
        "quantised": "linear layers of the decoder blocks",
        "not_quantised": f"activations, embedding, head, norms and biases: {settings.dtype}",
        "layers": len(layers),
        "bytes": quantised_bytes(model),
        "torchao": version("torchao"),
        "plain_products_because": few_rows(first.device, first.dtype).problem,
    }
