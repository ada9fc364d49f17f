"""How much memory does each rank need?

B batch, S context, n tokens of one prefill, L layers, D hidden, N query heads, K kv heads,
H head size, F intermediate, V vocab, t tensor-parallel degree, b bytes per value
"""

from collections.abc import Sequence
from dataclasses import dataclass

from perfkit.errors import ConfigError
from perfkit.predict.spec import ModelSpec, dtype_bytes
from perfkit.predict.tensors import (
    kv_heads_of_rank,
    local_parameter_bytes,
    shard_sizes,
    stage_layers,
)

MIB, GIB = 2**20, 2**30

CUDA_CONTEXT_BYTES = 512 * MIB
"""one process's CUDA context and loaded kernels; about 0.5 GiB on Hopper, differs by driver"""
NCCL_BUFFER_BYTES = 384 * MIB
"""NCCL channel buffers of one rank: 0.35-0.40 GiB; NVIDIA aiconfigurator 0.12.0 counts 0.4"""
CUBLAS_WORKSPACE_BYTES = 32 * MIB
"""PyTorch's default on sm90: 4096 KiB * 8; aten/src/ATen/cuda/CublasHandlePool.cpp"""
ALLOCATOR_SLACK = 1.15
"""reserved / allocated of PyTorch's caching allocator is 1.03 to 1.15: below it a fit is tight"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is held at once: `batch` sequences of `context` tokens, prompts of `prompt`."""

    batch: int = 1
    context: int = 2048
    prompt: int | None = None
    """tokens of one prefill; the context when None"""
    microbatches: int = 1
    dtype: str = "bfloat16"
    device: str = "cuda"

    @property
    def prefill_tokens(self) -> int:
        """Tokens of one microbatch's prefill: they set the activation peak."""
        return self.sequences_per_microbatch * (self.prompt or self.context)

    @property
    def sequences_per_microbatch(self) -> int:
        return -(-self.batch // self.microbatches)


def rank_parts(
    spec: ModelSpec,
    work: Workload,
    *,
    tp: int,
    pp: int,
    tp_rank: int,
    pp_rank: int,
    split: Sequence[int] | None = None,
) -> dict[str, float]:
    """Bytes of one rank by part, from its exact local tensors."""
    layers = len(stage_layers(spec.num_layers, pp, split)[pp_rank])
    return {
        "weights_bytes": local_parameter_bytes(
            spec, tp=tp, pp=pp, tp_rank=tp_rank, pp_rank=pp_rank, dtype=work.dtype, split=split
        ),
        "kv_bytes": kv_bytes(
            spec, work, layers=layers, kv_heads=kv_heads_of_rank(spec, tp=tp, tp_rank=tp_rank)
        ),
        "activation_bytes": activation_bytes(
            spec,
            work,
            kv_heads=kv_heads_of_rank(spec, tp=tp, tp_rank=tp_rank),
            columns=max(shard_sizes(spec.intermediate, tp)),
            last=pp_rank == pp - 1,
        ),
        "overhead_bytes": overhead_bytes(num_ranks=tp * pp) if work.device == "cuda" else 0,
    }


def kv_bytes(spec: ModelSpec, work: Workload, *, layers: int, kv_heads: float) -> float:
    """KV cache of one rank, all its microbatches: 2 * L * K * H * b * B * S, its own L and K.

    S is capped by a sliding window. Leaves out the copy of one layer's K or V that exists while a
    cache grows: 1 / (2 L) of the cache.
    """
    held = min(work.context, spec.sliding_window or work.context)
    per_token = 2 * layers * kv_heads * spec.head_dim * dtype_bytes(work.dtype)
    return per_token * work.batch * held


def activation_bytes(
    spec: ModelSpec, work: Workload, *, kv_heads: float, columns: float, last: bool
) -> float:
    """Largest set of activations alive at once in one eager prefill of m = (B/M) * n tokens.

    The largest of: norm m*D*(b + 3*4) (fp32 copy, its square, the product); attention
    m*b*(2*D + 5*N*H + 2*K*H) (residual, input, q with its rotary temporaries and output, k, v);
    MLP m*b*(2*D + 3*F); logits of the last position only (B/M)*V*(b + 4), last stage. N, K and F
    are the rank's own. Leaves out masks, the math path's scores and workspaces: unverified.
    """
    b, m = dtype_bytes(work.dtype), work.prefill_tokens
    query = kv_heads * spec.query_heads_per_kv_head * spec.head_dim
    norm = m * spec.hidden * (b + 3 * 4)
    attention = m * b * (2 * spec.hidden + 5 * query + 2 * kv_heads * spec.head_dim)
    mlp = m * b * (2 * spec.hidden + (3 if spec.gated_mlp else 2) * columns)
    logits = work.sequences_per_microbatch * spec.vocab * (b + 4) if last else 0
    return max(norm, attention, mlp, logits)


def overhead_bytes(*, num_ranks: int) -> int:
    """What a GPU holds before the first tensor: CUDA context, cuBLAS workspace, NCCL buffers.

    On a CPU it is counted as 0: a process's own size is no part of the model.
    """
    nccl = NCCL_BUFFER_BYTES if num_ranks > 1 else 0
    return CUDA_CONTEXT_BYTES + CUBLAS_WORKSPACE_BYTES + nccl


def verdict(total_bytes: float, capacity_bytes: int | None) -> str | None:
    """fits, tight (fits only without allocator slack), does not fit; None when unknown."""
    if capacity_bytes is None:
        return None
    if total_bytes > capacity_bytes:
        return "does not fit"
    return "tight" if total_bytes * ALLOCATOR_SLACK > capacity_bytes else "fits"


def check_work(spec: ModelSpec, work: Workload) -> None:
    for name in ("batch", "context", "microbatches"):
        if getattr(work, name) < 1:
            raise ConfigError(f"{name}={getattr(work, name)}: use 1 or more.")
    if work.context > spec.max_positions:
        raise ConfigError(
            f"context={work.context} is more than the {spec.max_positions} positions of {spec.id}."
        )
