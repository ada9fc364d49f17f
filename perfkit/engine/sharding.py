"""Tensor parallelism of one stage by DeepSpeed AutoTP, and which slice of which tensor it holds."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from perfkit.engine.topology import ModelParallelUnit, Topology


def shard(model: nn.Module, topology: Topology, dtype: torch.dtype) -> nn.Module:
    """The model with this rank's shapes, empty on the rank's device."""
    if topology.tp == 1:
        return model.to_empty(device=topology.device)
    with _stdout_to_stderr():
        return _auto_tp(model, topology, dtype)


def _auto_tp(model: nn.Module, topology: Topology, dtype: torch.dtype) -> nn.Module:
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
    return sharded.eval()


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


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a stored tensor that this rank holds: start..stop along one dimension."""

    dim: int
    start: int
    stop: int


def slices(model: nn.Module) -> dict[str, Slice]:
    """Parameter name -> slice, for every parameter that AutoTP divided.

    The bounds come from AutoTP itself (`_partition_sizes`, `tp_index`): private attributes, which
    is why deepspeed is bounded in pyproject and the resulting shapes are asserted at start-up.
    """
    from deepspeed.module_inject.layers import LinearAllreduce, TensorParallel_Layer

    found: dict[str, Slice] = {}
    for name, module in model.named_modules():
        if not isinstance(module, TensorParallel_Layer):
            continue
        sizes, index = module._partition_sizes, module.tp_index
        row_parallel = isinstance(module, LinearAllreduce)
        start = sum(sizes[:index])
        part = Slice(1 if row_parallel else 0, start, start + sizes[index])
        found[f"{name}.weight"] = part
        if module.bias is not None and not row_parallel:
            found[f"{name}.bias"] = part
    return found
