"""Mixtures of experts: each tensor-parallel rank holds a slice of every expert.

    t tokens of a forward, k experts of each, E experts, D hidden, F intermediate

AutoTP leaves stacks of experts whole on every rank without a word. Here F is divided: gate and up
keep some of their outputs, down the inputs that belong to them, and one all-reduce adds up the
partial results, as behind a dense MLP. Whole experts on single ranks would need the same
all-reduce, and leave ranks waiting whenever the router prefers other ranks' experts.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.integrations.moe import (
    ALL_EXPERTS_FUNCTIONS,
    batched_mm_experts_forward,
    grouped_mm_experts_forward,
)

from perfkit.engine.parallel_linear import Slice
from perfkit.engine.topology import Topology
from perfkit.predict.tensors import shard_sizes

NAME = "perfkit"
"""of our forward among Hugging Face's implementations of experts"""
GROUPED: Callable[..., torch.Tensor] = grouped_mm_experts_forward
GATHERED: Callable[..., torch.Tensor] = batched_mm_experts_forward
FEW_TOKENS = 64
"""forwards of at most so many run without a word to the host where grouped_mm cannot"""
GROUPED_MM_CAPABILITY = (9, 0)
"""below it, and for all but bfloat16, torch's grouped_mm copies its offsets to the host"""


def prepare_experts(model: nn.Module, topology: Topology) -> None:
    """Before AutoTP, on meta: this rank's shapes of every stack and sink, and our forward."""
    for _name, module in list(expert_modules(model)):
        module.config._experts_implementation = NAME
        module.tp_group, module.census = topology.tp_group, None
        whole = module.get_parameter("down_proj").shape[1 if module.is_transposed else 2]
        module.whole_columns, own = whole, whole // topology.tp
        module.columns = range(topology.tp_rank * own, (topology.tp_rank + 1) * own)
        for name, dim in divided_dims(module).items():
            _shrink(module, name, dim, module.get_parameter(name).shape[dim] // topology.tp)
    for module in model.modules():
        if hasattr(module, "sinks") and topology.tp > 1:
            _divide_sinks(module, topology)


def _divide_sinks(module: Any, topology: Topology) -> None:
    module.sink_part = part = sink_part(module, topology)
    _shrink(module, "sinks", 0, part.stop - part.start)


def expert_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, module) of every stack of experts."""
    for name, module in model.named_modules():
        if {"gate_up_proj", "down_proj"} <= set(module._parameters):
            yield name, module


def divided_dims(module: Any) -> dict[str, int]:
    """Parameters that are divided -> the dimension that F is; gpt-oss stores [E, in, out]."""
    dims = {"gate_up_proj": 1, "down_proj": 2}
    if module.is_transposed:
        dims = {"gate_up_proj": 2, "down_proj": 1}
    return {**dims, "gate_up_proj_bias": 1} if module.has_bias else dims


def sink_part(module: Any, topology: Topology) -> Slice:
    """The sinks of this rank's query heads, which AutoTP divides by kv head."""
    heads = module.sinks.shape[0]
    sizes = shard_sizes(heads, topology.tp, num_kv_heads=heads // module.num_key_value_groups)
    start = sum(sizes[: topology.tp_rank])
    return Slice(0, start, start + sizes[topology.tp_rank])


def _shrink(module: nn.Module, name: str, dim: int, size: int) -> None:
    whole = module.get_parameter(name)
    shape = [size if index == dim else length for index, length in enumerate(whole.shape)]
    empty = torch.empty(shape, dtype=whole.dtype, device=whole.device)
    setattr(module, name, nn.Parameter(empty, requires_grad=False))


def experts_forward(
    module: Any, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """[t, D] of t tokens; `chosen` [t, k] are the experts of each, `shares` [t, k] their weights.

    On Hopper and later in bfloat16 nothing here waits for the device and every shape is fixed
    by t, so that a CUDA graph can hold it; elsewhere that is true up to FEW_TOKENS tokens.
    """
    if module.census is not None:
        module.census.note(chosen, module.num_experts)
    tokens, per_token = chosen.shape
    never_waits = grouped_mm_stays_on_device(module.down_proj)
    run = implementation(tokens, per_token, module.num_experts, grouped_mm_never_waits=never_waits)
    partial: torch.Tensor = run(module, hidden, chosen, shares)
    if module.tp_group is not None:
        dist.all_reduce(partial, group=module.tp_group)
    return partial


def implementation(
    tokens: int, per_token: int, experts: int, *, grouped_mm_never_waits: bool
) -> Callable[..., torch.Tensor]:
    """What runs `tokens` tokens fastest, where it can without waiting for the device."""
    if grouped_mm_never_waits or tokens > FEW_TOKENS:
        return GROUPED
    # Copying the chosen experts' weights moves each three times; all of them once may be less.
    return GATHERED if 3 * tokens * per_token <= experts else every_expert_forward


def grouped_mm_stays_on_device(stack: torch.Tensor) -> bool:
    """Its kernels for Hopper and later, in bfloat16; on a CPU there is nothing to wait for."""
    if not stack.is_cuda:
        return True
    if stack.dtype != torch.bfloat16:
        return False
    capability: tuple[int, int] = torch.cuda.get_device_capability(stack.device)
    return capability >= GROUPED_MM_CAPABILITY


def every_expert_forward(
    module: Any, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """Every token through every expert; those that were not chosen count zero."""
    up, down = module.gate_up_proj, module.down_proj
    if not module.is_transposed:
        up, down = up.transpose(1, 2), down.transpose(1, 2)
    inner = torch.matmul(hidden, up)  # [E, t, 2 F]
    if module.has_bias:
        inner = inner + module.gate_up_proj_bias[:, None]
    outputs = torch.bmm(module._apply_gate(inner), down)  # [E, t, D]
    if module.has_bias:
        outputs = outputs + module.down_proj_bias[:, None]
    weights = shares.new_zeros(hidden.shape[0], module.num_experts).scatter(1, chosen, shares)
    return (outputs * weights.T[:, :, None]).sum(0).to(hidden.dtype)


ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)


def expert_facts(model: nn.Module, load: str) -> dict[str, Any] | None:
    """For engine.json: what the experts of this rank are, and whether their routing means much."""
    module: Any = next((module for _name, module in expert_modules(model)), None)
    if module is None:
        return None
    random = load == "dummy"
    return {
        "experts": module.num_experts,
        "columns": [module.columns.start, module.columns.stop],
        "routing": "random weights: not representative" if random else "of the checkpoint",
    }
