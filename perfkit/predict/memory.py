"""How much memory does each rank need?

B batch, M microbatches, S context, n tokens of one prompt, L layers, D hidden, N query heads,
K kv heads, H head size, F intermediate, k experts of a token, V vocab, b bytes per value
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from perfkit.errors import ConfigError
from perfkit.predict.curves import Value
from perfkit.predict.spec import ModelSpec, count_kinds, dtype_bytes, kv_values_per_layer
from perfkit.predict.tensors import (
    kv_heads_of_rank,
    local_parameter_bytes,
    shard_sizes,
    stage_layers,
)

MIB, GIB = 2**20, 2**30

CUDA_CONTEXT_BYTES = 740_000_000
"""one process's CUDA context and loaded kernels: NVML's used less PyTorch's reserved, 0.73 to 0.80
GB on one H100 or H200 (CUDA 13.0, torch 2.11)"""
NCCL_TP_BYTES, NCCL_PP_BYTES = 1_360_000_000, 850_000_000
"""the same beyond a context's with a tensor-parallel pair (two communicators) and with a pipeline
pair over NVLink, NCCL 2.28.9: 1.3 to 1.4 and 0.7 to 1.0 GB"""
CUBLAS_WORKSPACE_BYTES = 32 * MIB
"""PyTorch's default on sm90: 4096 KiB * 8; aten/src/ATen/cuda/CublasHandlePool.cpp"""
ALLOCATOR_SLACK = 1.15
"""reserved / allocated of PyTorch's caching allocator is 1.03 to 1.15: below it a fit is tight"""
VERDICTS = ("fits", "tight", "does not fit")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """What is held at once: `batch` sequences of `context` tokens, prompts of `prompt`.

    Numbers, or arrays of them for many plans of one layout.
    """

    batch: Value = 1
    context: Value = 2048
    prompt: Value | None = None
    """tokens of one prefill; the context when None"""
    microbatches: int = 1
    dtype: str = "bfloat16"
    device: str = "cuda"
    decode: str = "eager"
    """eager: caches grow, and those of sliding layers end at their window; graph: every layer has
    `context` slots from the start"""

    @property
    def prompt_tokens(self) -> Value:
        """Of one sequence."""
        return self.context if self.prompt is None else self.prompt

    @property
    def prefill_tokens(self) -> Value:
        """Tokens of one microbatch's prefill: they set the activation peak."""
        return self.sequences_per_microbatch * self.prompt_tokens

    @property
    def sequences_per_microbatch(self) -> Value:
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
) -> dict[str, Value]:
    """Bytes of one rank by part, from its exact local tensors; workspaces count as activations."""
    kv_heads = kv_heads_of_rank(spec, tp=tp, tp_rank=tp_rank)
    layers = stage_layers(spec.num_layers, pp, split)[pp_rank]
    return {
        "weights_bytes": local_parameter_bytes(
            spec, tp=tp, pp=pp, tp_rank=tp_rank, pp_rank=pp_rank, dtype=work.dtype, split=split
        ),
        "kv_bytes": kv_bytes(spec, work, layers=layers, kv_heads=kv_heads),
        "activation_bytes": activation_bytes(
            spec,
            work,
            kv_heads=kv_heads,
            columns=max(shard_sizes(spec.intermediate, tp)),
            expert_columns=spec.expert_intermediate / tp,
            shared_columns=max(shard_sizes(spec.shared_intermediate, tp)),
            last=pp_rank == pp - 1,
        )
        + workspace_bytes(work),
        "overhead_bytes": overhead_bytes(tp=tp, pp=pp) if work.device == "cuda" else 0,
    }


def kv_bytes(spec: ModelSpec, work: Workload, *, layers: range, kv_heads: float) -> Value:
    """Most KV cache that one rank holds, all its microbatches: 2 * K * H * b * B * tokens.

    Tokens are summed over the rank's layers: S where a layer sees all; in a sliding layer of
    window W, which transformers 5.23 cuts to its last W - 1 before each step adds one, min(S, W).
    Until the first decode step every layer still holds its whole prompt of n (what is kept is a
    view of it), so the larger of the two counts. Graph decode keeps S in every layer. Latent
    attention has kv_rank + rope_dim instead of 2 * K * H. Leaves out the copy of one layer's K or
    V that exists while a cache grows: 1 / (2 L) of the cache.
    """
    at_start = len(layers) * work.prompt_tokens
    at_end = sum(
        count * (work.context if kind.window is None else np.minimum(work.context, kind.window))
        for kind, count in count_kinds(spec, layers)
    )
    tokens = len(layers) * work.context if work.decode == "graph" else np.maximum(at_start, at_end)
    return kv_values_per_layer(spec, kv_heads) * dtype_bytes(work.dtype) * work.batch * tokens


def activation_bytes(
    spec: ModelSpec,
    work: Workload,
    *,
    kv_heads: float,
    columns: float,
    last: bool,
    expert_columns: float = 0,
    shared_columns: float = 0,
) -> Value:
    """Largest set of activations alive at once in one eager prefill of m = (B/M) * n tokens.

    What the decoder's loop holds, 2*m*D*b (the embeddings and the layer's input), and the largest
    of: norm m*D*(b + 3*4) (fp32 copy, its square, the product); attention; MLP m*b*(2*D + 3*F);
    experts m*b*(2*D + k*max(D + 4*F, 4*D + F)) and then the MLP beside them, m*b*(3*D + 3*F);
    logits of the last position only (B/M)*V*(b + 4), last stage. N, K and each F are the rank's
    own. Leaves out masks, the math path's scores and workspaces. 8B, batch 32, 2048 tokens, H200:
    7.79 GB, allocated 7.90 beside weights and cache.
    """
    b, m, d = dtype_bytes(work.dtype), work.prefill_tokens, spec.hidden
    k = spec.experts_per_token
    parts = (
        m * d * (b + 3 * 4),
        _attention_bytes(spec, work, kv_heads),
        m * b * (2 * d + (3 if spec.gated_mlp else 2) * columns),
        m * b * (2 * d + k * max(d + 4 * expert_columns, 4 * d + expert_columns)),
        m * b * (3 * d + 3 * shared_columns) if shared_columns else 0,
        work.sequences_per_microbatch * spec.vocab * (b + 4) if last else 0,
    )
    return 2 * m * d * b + reduce(np.maximum, parts)


def _attention_bytes(spec: ModelSpec, work: Workload, kv_heads: float) -> Value:
    """m*b*(2*D + 5*N*H + 2*K*H): residual, input, q with its rotary temporaries and output, k, v.

    With sinks (gpt-oss), no fused kernel: three score matrices of N*n*(n + 1) a sequence. Latent
    attention: keys and values of all heads are made anew from the cache in every step, so S
    tokens of N*(2*nope + rope + value) instead of k and v.
    """
    b, m = dtype_bytes(work.dtype), work.prefill_tokens
    heads = kv_heads * spec.query_heads_per_kv_head
    query = 2 * spec.hidden + 5 * heads * spec.head_dim
    if latent := spec.latent:
        held = work.sequences_per_microbatch * work.context
        width = 2 * latent.nope_dim + latent.rope_dim + latent.value_dim
        return b * (m * query + held * heads * width)
    scores = 3 * m * heads * (work.prompt_tokens + 1) if spec.sinks else 0
    return b * (m * (query + 2 * kv_heads * spec.head_dim) + scores)


def workspace_bytes(work: Workload) -> int:
    """cuBLAS workspaces that PyTorch allocates, one for each stream that multiplies matrices.

    Captured steps: the default stream's, the captures' and one for the warm-up of each of M
    microbatches. 8B on H200: allocated beside weights, cache and activations 0.10 GB at M = 1,
    0.14 at 2, 0.20 to 0.25 at 4.
    """
    if work.device != "cuda":
        return 0
    streams = 2 + work.microbatches if work.decode == "graph" else 1
    return streams * CUBLAS_WORKSPACE_BYTES


def overhead_bytes(*, tp: int, pp: int) -> int:
    """What a GPU holds that PyTorch's allocator does not: CUDA context, NCCL buffers.

    On a CPU it is counted as 0: a process's own size is no part of the model.
    """
    nccl = (NCCL_TP_BYTES if tp > 1 else 0) + (NCCL_PP_BYTES if pp > 1 else 0)
    return CUDA_CONTEXT_BYTES + nccl


def allocated_bytes(parts: Mapping[str, Value]) -> Value:
    """The part of rank_parts that PyTorch's allocator counts at its peak."""
    return sum(size for name, size in parts.items() if name != "overhead_bytes")


def verdict(total_bytes: float, capacity_bytes: int | None) -> str | None:
    """One of VERDICTS; None when the capacity is unknown."""
    return None if capacity_bytes is None else VERDICTS[int(fit(total_bytes, capacity_bytes))]


def fit(total_bytes: Value, capacity_bytes: int) -> Value:
    """The place in VERDICTS: it fits, only without allocator slack, or not."""
    tight = total_bytes * ALLOCATOR_SLACK > capacity_bytes
    return np.add(tight, total_bytes > capacity_bytes, dtype=int)


def check_work(spec: ModelSpec, work: Workload) -> None:
    for name in ("batch", "context", "microbatches"):
        if getattr(work, name) < 1:
            raise ConfigError(f"{name}={getattr(work, name)}: use 1 or more.")
    if work.context > spec.max_positions:
        raise ConfigError(
            f"context={work.context} is more than the {spec.max_positions} positions of {spec.id}."
        )
