"""Tensor parallelism of one stage: a back end cuts it, our own thin layers run it.

AutoTP decides which linear layers are divided, how, and between whom. Its layers then go through
autograd functions and a communication wrapper at every call, which costs host time in a decode step
that is host-bound; so each is replaced by a layer that holds the same parameters and does one
matrix product and one all-reduce.

The other back ends are for comparison, and for where DeepSpeed is not: `hf-tp` cuts by Hugging
Face's own plan for the family, `none` cuts nothing, so it is refused unless tp=1.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn

from perfkit.engine.moe import prepare_experts
from perfkit.engine.parallel_linear import ColumnLinear, HeadLinear, RowLinear, Slice
from perfkit.engine.plan_sharding import shard_by_plan
from perfkit.engine.topology import ModelParallelUnit, Topology


def shard(
    model: nn.Module, topology: Topology, dtype: torch.dtype, backend: str = "autotp"
) -> nn.Module:
    """The model with this rank's shapes, empty on the rank's device."""
    prepare_experts(model, topology)
    if topology.tp == 1:
        return model.to_empty(device=topology.device)
    return BACKENDS[backend](model, topology, dtype)


def _auto_tp(model: nn.Module, topology: Topology, dtype: torch.dtype) -> nn.Module:
    with _stdout_to_stderr():
        return _init_inference(model, topology, dtype)


def _init_inference(model: nn.Module, topology: Topology, dtype: torch.dtype) -> nn.Module:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # The shared-memory all-reduce for CPUs ignores the group (it hangs with TP x PP) and needs a
    # compiler at run time; marked incompatible, DeepSpeed takes torch.distributed instead.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        "nccl" if topology.device.type == "cuda" else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
    )
    # tp_group alone is overwritten by ranks 0..tp-1; mpu alone shards nothing. Both are needed.
    tensor_parallel = {
        "tp_size": topology.tp,
        "tp_group": topology.tp_group,
        "mpu": ModelParallelUnit(topology),
    }
    engine = deepspeed.init_inference(
        model, tensor_parallel=tensor_parallel, dtype=dtype, replace_with_kernel_inject=False
    )
    sharded: nn.Module = engine.module
    lighten(sharded, topology)
    return sharded.eval()


BACKENDS: dict[str, Callable[[nn.Module, Topology, torch.dtype], nn.Module]] = {
    "autotp": _auto_tp,
    "hf-tp": lambda model, topology, _dtype: shard_by_plan(model, topology),
}


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """DeepSpeed prints to stdout on every rank; stdout is for results."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def lighten(model: nn.Module, topology: Topology) -> None:
    """Replace AutoTP's layers by ours, in place; the parameters stay the same objects.

    `_partition_sizes` and `tp_index` are private attributes: they are why deepspeed is bounded in
    pyproject, and why shapes and bytes are checked at start-up.
    """
    from deepspeed.module_inject.layers import (
        LinearAllreduce,
        LinearLayer,
        LmHeadLinearAllreduce,
        TensorParallel_Layer,
    )

    # The most specific first: the head is a LinearAllreduce too.
    ours = {
        LmHeadLinearAllreduce: HeadLinear,
        LinearAllreduce: RowLinear,
        LinearLayer: ColumnLinear,
    }
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, TensorParallel_Layer):
            continue
        kind = next((mine for theirs, mine in ours.items() if isinstance(layer, theirs)), None)
        assert kind is not None, f"AutoTP made {name} a {type(layer).__name__}"
        sizes, index = layer._partition_sizes, layer.tp_index
        start = sum(sizes[:index])
        parent, _, child = name.rpartition(".")
        part = Slice(kind.DIM, start, start + sizes[index])
        replacement = kind(layer.weight, layer.bias, part, topology.tp_group)
        setattr(model.get_submodule(parent), child, replacement)


def slices(model: nn.Module) -> dict[str, Slice]:
    """Parameter name -> the part of the stored tensor it holds; whole tensors are not listed."""
    found: dict[str, Slice] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, RowLinear | ColumnLinear):
            found[f"{name}.weight"] = layer.part
            if layer.bias is not None and layer.bias_divided:
                found[f"{name}.bias"] = layer.part
        if hasattr(layer, "sink_part"):
            found[f"{name}.sinks"] = layer.sink_part
    return found
