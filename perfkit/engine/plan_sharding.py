"""Cuts a stage by Hugging Face's own tensor-parallel plan of its family, without DeepSpeed."""

import re
from typing import Any

import torch
from torch import nn

from perfkit.engine.parallel_linear import ColumnLinear, HeadLinear, RowLinear, Slice
from perfkit.engine.topology import Topology
from perfkit.errors import ConfigError
from perfkit.predict.tensors import shard_sizes

LAYERS = {"colwise": ColumnLinear, "rowwise": RowLinear}
HEAD = "lm_head"


def shard_by_plan(model: nn.Module, topology: Topology) -> nn.Module:
    """The model with this rank's shapes, empty on the rank's device; sizes as AutoTP has them."""
    config: Any = model.config
    plan = config.base_model_tp_plan
    if not plan:
        raise ConfigError(
            f"--sharding hf-tp: transformers has no tensor-parallel plan for {config.model_type}. "
            "Use --sharding autotp.",
        )
    for name, layer in list(model.named_modules()):
        kind = HeadLinear if name == HEAD else LAYERS.get(plan.get(_pattern(name), ""))
        if isinstance(layer, nn.Linear) and kind is not None:
            parent, _, child = name.rpartition(".")
            heads = config.num_key_value_heads if ".self_attn." in name else None
            setattr(model.get_submodule(parent), child, _cut(layer, kind, heads, topology))
    return model.to_empty(device=topology.device)


def _pattern(name: str) -> str:
    """model.layers.3.mlp.up_proj -> layers.*.mlp.up_proj, as plans name it."""
    return re.sub(r"\.\d+\.", ".*.", name).removeprefix("model.")


def _cut(
    layer: nn.Linear, kind: type[ColumnLinear], kv_heads: int | None, topology: Topology
) -> ColumnLinear:
    sizes = shard_sizes(layer.weight.shape[kind.DIM], topology.tp, num_kv_heads=kv_heads)
    start = sum(sizes[: topology.tp_rank])
    part = Slice(kind.DIM, start, start + sizes[topology.tp_rank])
    weight = _empty(layer.weight, kind.DIM, part)
    bias = layer.bias
    if bias is not None and kind.bias_divided:
        bias = _empty(bias, 0, part)
    return kind(weight, bias, part, topology.tp_group)


def _empty(whole: torch.Tensor, dim: int, part: Slice) -> nn.Parameter:
    shape = list(whole.shape)
    shape[dim] = part.stop - part.start
    empty = torch.empty(shape, dtype=whole.dtype, device=whole.device)
    return nn.Parameter(empty, requires_grad=False)
