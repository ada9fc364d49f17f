"""What must one rank compute and move in one forward pass? Counted from its exact tensors.

    b sequences of one microbatch, n tokens of each in this pass, S context they attend to,
    D hidden, N query heads, K kv heads, H head size, F intermediate, V vocab, e bytes per value

A pass is a prefill (n = prompt, S = n) or a decode step (n = 1). Counts are of one rank.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from perfkit.errors import ConfigError
from perfkit.predict.curves import Value
from perfkit.predict.experts import expert_kernels
from perfkit.predict.kernels import Kernels, Pass, Shard, several
from perfkit.predict.spec import LayerKind, ModelSpec, count_kinds
from perfkit.predict.tensors import TensorSpec, kv_heads_of_rank, local_tensors, stage_layers

GEMM_ROLES = ("qkv", "o", "gate_up", "down", "project", "router", "head")
PACKED = ("qkv", "gate_up")

DISPATCHES_PER_LAYER = {
    **{"llama": 40, "mistral": 40, "qwen2": 40, "qwen3": 56, "opt": 15},
    **{"mixtral": 59, "qwen3_moe": 75, "gpt_oss": 77},
}
"""operators that launch work in one decode step of one eager layer; views not counted"""
DISPATCHES_PER_LAYER_TP = {
    **{"llama": 45, "mistral": 45, "qwen2": 45, "qwen3": 61, "opt": 26},
    **{"mixtral": 63, "qwen3_moe": 79, "gpt_oss": 81},
}
"""the same under AutoTP with tp > 1, its two all-reduces included; of experts, where AutoTP divides
the attention only, four more by its share of a Llama layer's"""
DISPATCHES_PER_PASS = 27
"""once per pass: embedding, positions, rotary table, mask, final norm, head.
All three: TorchDispatchMode, transformers 5.23, torch 2.13, deepspeed 0.19.8, bf16 on the CPU."""

KV_COPIES_EAGER = 2
"""a growing cache reads and writes itself again in each step (torch.cat)"""

STRIDED_PER_LAYER, CONTIGUOUS_PER_LAYER = 18, 14
"""elementwise kernels of an eager Llama layer with a prompt: on transposed tensors or between
dtypes, and others; counted in the trace h200-8b-tp1-b32-graph, transformers 5.17"""
SCORE_KERNELS, SCORE_PASSES = 6, 15
"""of an eager attention with sinks, beside its two products: mask, sinks, maximum, difference,
softmax and copy, each over b*N*n*S scores; how often they are read or written"""
KERNELS_PER_STEP = 12
"""small kernels of a captured step outside its layers: embedding, rotary table, norm"""
ONE_BLOCK, BLOCKS_BEYOND = 2**17, 8
"""values of a row up to which one block looks for the largest; by how many more do"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassWork:
    """Everything one rank does in one pass."""

    kernels: tuple[Kernels, ...]
    dispatches: int
    all_reduces: tuple[tuple[int, Value], ...]
    """(how many, bytes of each)"""

    @property
    def flops(self) -> Value:
        return sum(k.count * k.flops for k in self.kernels)


def pass_work(spec: ModelSpec, shard: Shard, step: Pass) -> PassWork:
    """Kernels, dispatches and collectives of one rank in one pass."""
    if spec.model_type not in DISPATCHES_PER_LAYER:
        raise ConfigError(
            f"{spec.id} ({spec.model_type}): its memory is predicted, its time is not: nobody has "
            "counted the kernels of its steps. Count its memory with `perfkit memory`.",
        )
    stage = stage_layers(spec.num_layers, shard.pp, shard.split)[shard.pp_rank]
    layers, kinds = len(stage), count_kinds(spec, stage)
    kernels = (
        *(_gemm(g, step) for g in _gemms(spec, shard, packed=not step.eager)),
        *(_attention(spec, shard, step, kind, n) for kind, n in kinds),
        *(_unfused if step.eager else _fused)(spec, shard, step, layers),
        *expert_kernels(spec, shard, step, sum(kind.experts * n for kind, n in kinds)),
        *([_choice(spec, step)] * (shard.pp_rank == shard.pp - 1)),
    )
    return PassWork(
        kernels=kernels,
        dispatches=dispatches(spec, shard, layers),
        all_reduces=all_reduces(spec, shard, step, layers),
    )


def same_work(spec: ModelSpec, shard: Shard, step: Pass) -> tuple[Any, ...]:
    """Equal for ranks with the same work in a pass: matrices, kv heads, kinds of layers, head."""
    stage = stage_layers(spec.num_layers, shard.pp, shard.split)[shard.pp_rank]
    return (
        _gemms(spec, shard, packed=not step.eager),
        kv_heads_of_rank(spec, tp=shard.tp, tp_rank=shard.tp_rank),
        spec.layer_kinds[stage.start : stage.stop],
        shard.pp_rank == shard.pp - 1,
    )


def hop_bytes(spec: ModelSpec, step: Pass) -> Value:
    """Activations that one stage hands to the next: b * n * D * e, whole on every tp rank."""
    return step.rows * spec.hidden * step.bytes_per_value


def dispatches(spec: ModelSpec, shard: Shard, layers: int) -> int:
    """Operators the host must issue for one eager pass of one stage."""
    per_layer = DISPATCHES_PER_LAYER_TP if shard.tp > 1 else DISPATCHES_PER_LAYER
    return layers * per_layer[spec.model_type] + DISPATCHES_PER_PASS


def all_reduces(
    spec: ModelSpec, shard: Shard, step: Pass, layers: int
) -> tuple[tuple[int, Value], ...]:
    """Two per layer of b*n*D*e bytes (after o and down); one of b*V*e for AutoTP's head."""
    if shard.tp == 1:
        return ()
    body = (2 * layers, hop_bytes(spec, step))
    if shard.pp_rank < shard.pp - 1:
        return (body,)
    return (body, (1, step.sequences * spec.vocab * step.bytes_per_value))


@lru_cache(maxsize=4096)
def _gemms(spec: ModelSpec, shard: Shard, *, packed: bool) -> tuple[tuple[str, int, int, int], ...]:
    """(role, rows, columns, how many) of the rank's matrices; a shared head is the embedding.

    `packed`: q, k and v of a layer are one matrix, gate and up another.
    """
    shapes: Counter[tuple[str, int, int]] = Counter()
    parts: dict[tuple[str, int | None, int], int] = defaultdict(int)
    for tensor in _held(spec, shard):
        if tensor.role not in GEMM_ROLES or len(tensor.shape) != 2:
            continue
        rows, columns = tensor.shape
        if packed and tensor.role in PACKED:
            parts[tensor.role, tensor.layer, columns] += rows
        else:
            shapes[tensor.role, rows, columns] += 1
    for (role, _layer, columns), rows in parts.items():
        shapes[role, rows, columns] += 1
    if spec.tied and shard.tp == shard.pp == 1:
        shapes["head", spec.vocab, spec.embed_dim] += 1
    return tuple((role, n, k, count) for (role, n, k), count in shapes.items())


def _held(spec: ModelSpec, shard: Shard) -> tuple[TensorSpec, ...]:
    return local_tensors(
        spec,
        tp=shard.tp,
        pp=shard.pp,
        tp_rank=shard.tp_rank,
        pp_rank=shard.pp_rank,
        split=shard.split,
        sharding=shard.sharding,
    )


def _gemm(gemm: tuple[str, int, int, int], step: Pass) -> Kernels:
    """2 m n k operations; weights n*k read once, input m*k read, output m*n written.

    The head sees the last position of each sequence only.
    """
    role, n, k, count = gemm
    m = step.sequences if role == "head" else step.rows
    moved = (n * k + m * k + m * n) * step.bytes_per_value
    return Kernels(
        kind="gemm" if step.eager else "product",
        count=count,
        flops=2.0 * m * n * k,
        num_bytes=moved,
        rows=m,
        weight_values=n * k,
    )


def _attention(spec: ModelSpec, shard: Shard, step: Pass, kind: LayerKind, layers: int) -> Kernels:
    """Scores and values: 4 b N H operations per pair of query and key it may see.

    Prefill, causal: n (n + 1) / 2 pairs; decode: S. Bytes: 2 b S K H e of cache; queries and
    outputs 2 b n N H e.
    """
    kv_heads = kv_heads_of_rank(spec, tp=shard.tp, tp_rank=shard.tp_rank)
    context = step.context if kind.window is None else np.minimum(step.context, kind.window)
    prefill = step.prefill
    pairs = step.tokens * (step.tokens + 1) / 2 if prefill else context
    if prefill and spec.sinks:
        pairs = step.tokens**2  # no fused kernel: all scores, masked later
    heads = kv_heads * spec.query_heads_per_kv_head
    query = heads * spec.head_dim
    cache = 2 * step.sequences * context * kv_heads * spec.head_dim * step.bytes_per_value
    return Kernels(
        kind="prefill_attention" if prefill else "decode_attention",
        count=layers,
        flops=4.0 * step.sequences * query * pairs,
        num_bytes=cache + 2 * step.rows * query * step.bytes_per_value,
        heads=step.sequences * heads,
        tokens=step.tokens,
    )


def _unfused(spec: ModelSpec, shard: Shard, step: Pass, layers: int) -> tuple[Kernels, ...]:
    """Norms, residuals, rotary positions, activation, cache: bytes of one layer's eager kernels.

    At full speed, a token: two norms' squares 8 D, means 4 D and roundings (4 + e) D, two
    residual additions 3 e D each, activation and product 5 F e (2 F e if not gated); norms of
    queries and keys as those of D. Strided: two norms' widenings (4 + e) D, scalings 8 D and
    weights 2 e D; rotary halves, products and sum 10 e of each query and key; the cache 4 e K H,
    and what a growing one copies.
    """
    e, rows = step.bytes_per_value, step.rows
    kv_heads = kv_heads_of_rank(spec, tp=shard.tp, tp_rank=shard.tp_rank)
    heads = kv_heads * (spec.query_heads_per_kv_head + 1)
    columns = spec.intermediate / shard.tp
    even = spec.hidden * (2 * (16 + e) + 6 * e) + (5 if spec.gated_mlp else 2) * columns * e
    strided = spec.hidden * 2 * (12 + 3 * e) + 4 * e * kv_heads * spec.head_dim
    strided += 0 if spec.num_position_rows else 10 * e * heads * spec.head_dim
    if spec.qk_norm:
        even += (16 + e) * heads * spec.head_dim
        strided += (12 + 3 * e) * heads * spec.head_dim
    kernels = [
        several("elementwise", layers, CONTIGUOUS_PER_LAYER, rows * even),
        several("strided", layers, STRIDED_PER_LAYER, rows * strided),
    ]
    if spec.sinks:
        queries = kv_heads * spec.query_heads_per_kv_head
        scores = step.rows * queries * step.context * e
        kernels.append(several("strided", layers, SCORE_KERNELS, SCORE_PASSES * scores))
    if not step.prefill:
        cached = 2 * step.sequences * step.context * kv_heads * spec.head_dim * e
        kernels.append(several("elementwise", layers, 2, KV_COPIES_EAGER * cached))
    return tuple(kernels)


def _choice(spec: ModelSpec, step: Pass) -> Kernels:
    """The likeliest of V logits: one block of the GPU for each row, up to 2^17 values; beyond,
    torch 2.11 divides a row among several (H200: V 128,256 37 us, V 151,936 9 us)."""
    values = spec.vocab if spec.vocab <= ONE_BLOCK else spec.vocab / BLOCKS_BEYOND
    return several("choice", 1, 1, values * step.bytes_per_value)


def _fused(spec: ModelSpec, shard: Shard, step: Pass, layers: int) -> tuple[Kernels, ...]:
    """A captured step's own kernels: rotary and cache one, addition and norm one, twice, gated
    activation one, of normed queries and keys three more; and the few outside the layers."""
    e, rows = step.bytes_per_value, step.rows
    kv_heads = kv_heads_of_rank(spec, tp=shard.tp, tp_rank=shard.tp_rank)
    heads = kv_heads * (spec.query_heads_per_kv_head + 2)
    columns = spec.intermediate / shard.tp
    return (
        several("elementwise", layers, 1, rows * 2 * e * heads * spec.head_dim),
        several("norm", layers, 2, rows * 8 * e * spec.hidden),
        several("elementwise", layers, 1, rows * 3 * e * columns),
        *([several("norm", layers, 2, rows * 2 * e * heads * spec.head_dim)] * spec.qk_norm),
        *([several("elementwise", layers, 1, rows * 2 * e * heads * spec.head_dim)] * spec.qk_norm),
        several("elementwise", 1, KERNELS_PER_STEP, 0.0),
    )
