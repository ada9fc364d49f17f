"""What must one rank compute and move in one forward pass? Counted from its exact tensors.

    b sequences of one microbatch, n tokens of each in this pass, S context they attend to,
    D hidden, N query heads, K kv heads, H head size, F intermediate, V vocab, e bytes per value

A pass is a prefill (n = prompt, S = n) or a decode step (n = 1). Counts are of one rank.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from perfkit.errors import ConfigError
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import TensorSpec, kv_heads_of_rank, local_tensors, stage_layers

GEMM_ROLES = ("qkv", "o", "gate_up", "down", "project", "head")

DISPATCHES_PER_LAYER = {"llama": 40, "mistral": 40, "qwen2": 40, "qwen3": 56, "opt": 15}
"""operators that launch work in one decode step of one eager layer; views not counted"""
DISPATCHES_PER_LAYER_TP = {"llama": 45, "mistral": 45, "qwen2": 45, "qwen3": 61, "opt": 26}
"""the same under AutoTP with tp > 1, its two all-reduces included"""
DISPATCHES_PER_PASS = 27
"""once per pass: embedding, positions, rotary table, mask, final norm, head.
All three: TorchDispatchMode, transformers 5.23, torch 2.13, deepspeed 0.19.8, bf16 on the CPU."""

KV_PASSES_EAGER = 3
"""a growing cache reads and writes itself again in each step (torch.cat), then is read"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Where one rank stands in the layout."""

    tp: int
    pp: int
    tp_rank: int
    pp_rank: int
    split: tuple[int, ...] | None = None
    sharding: str = "deepspeed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward of one microbatch."""

    sequences: int
    tokens: int
    context: float
    """mean number of tokens that the last new token attends to"""
    bytes_per_value: int
    eager: bool = True

    @property
    def rows(self) -> int:
        return self.sequences * self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """`count` kernels of one kind; all other numbers are of one of them."""

    kind: str
    """gemm, attention or elementwise"""
    count: int
    flops: float
    num_bytes: float
    rows: int = 0
    """m of a GEMM"""
    weight_values: int = 0
    """n * k of a GEMM"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassWork:
    """Everything one rank does in one pass."""

    kernels: tuple[Kernels, ...]
    dispatches: int
    all_reduces: tuple[tuple[int, float], ...]
    """(how many, bytes of each)"""

    @property
    def flops(self) -> float:
        return sum(k.count * k.flops for k in self.kernels)

    @property
    def num_bytes(self) -> float:
        return sum(k.count * k.num_bytes for k in self.kernels)


def pass_work(spec: ModelSpec, shard: Shard, step: Pass) -> PassWork:
    """Kernels, dispatches and collectives of one rank in one pass."""
    if spec.num_experts:
        raise ConfigError(
            f"{spec.id} has {spec.num_experts} experts a layer: its memory is predicted, its time "
            "is not. Measure it with `perfkit run`.",
        )
    layers = len(stage_layers(spec.num_layers, shard.pp, shard.split)[shard.pp_rank])
    kernels = (
        *(_gemm(g, step) for g in _gemms(spec, shard)),
        _attention(spec, shard, step, layers),
        _elementwise(spec, shard, step, layers),
    )
    return PassWork(
        kernels=kernels,
        dispatches=dispatches(spec, shard, layers),
        all_reduces=all_reduces(spec, shard, step, layers),
    )


def hop_bytes(spec: ModelSpec, step: Pass) -> float:
    """Activations that one stage hands to the next: b * n * D * e, whole on every tp rank."""
    return step.rows * spec.hidden * step.bytes_per_value


def dispatches(spec: ModelSpec, shard: Shard, layers: int) -> int:
    """Operators the host must issue for one eager pass of one stage."""
    per_layer = DISPATCHES_PER_LAYER_TP if shard.tp > 1 else DISPATCHES_PER_LAYER
    return layers * per_layer[spec.model_type] + DISPATCHES_PER_PASS


def all_reduces(
    spec: ModelSpec, shard: Shard, step: Pass, layers: int
) -> tuple[tuple[int, float], ...]:
    """Two per layer of b*n*D*e bytes (after o and down); one of b*V*e for AutoTP's head."""
    if shard.tp == 1:
        return ()
    body = (2 * layers, hop_bytes(spec, step))
    if shard.pp_rank < shard.pp - 1:
        return (body,)
    return (body, (1, step.sequences * spec.vocab * step.bytes_per_value))


@lru_cache(maxsize=4096)
def _gemms(spec: ModelSpec, shard: Shard) -> tuple[tuple[str, int, int, int], ...]:
    """(role, rows, columns, how many) of the rank's matrices; a shared head is the embedding."""
    held = _held(spec, shard)
    shapes = Counter((t.role, *t.shape) for t in held if t.role in GEMM_ROLES and len(t.shape) == 2)
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
        kind="gemm",
        count=count,
        flops=2.0 * m * n * k,
        num_bytes=moved,
        rows=m,
        weight_values=n * k,
    )


def _attention(spec: ModelSpec, shard: Shard, step: Pass, layers: int) -> Kernels:
    """Scores and values: 4 b N H operations per pair of query and key it may see.

    Prefill, causal: n (n + 1) / 2 pairs; decode: S. Bytes: 2 b S K H e of cache, times
    KV_PASSES_EAGER when it grows by copying; queries and outputs 2 b n N H e.
    """
    kv_heads = kv_heads_of_rank(spec, tp=shard.tp, tp_rank=shard.tp_rank)
    context = min(step.context, spec.sliding_window or step.context)
    prefill = step.tokens > 1
    pairs = step.tokens * (step.tokens + 1) / 2 if prefill else context
    query = kv_heads * spec.query_heads_per_kv_head * spec.head_dim
    cache = 2 * step.sequences * context * kv_heads * spec.head_dim * step.bytes_per_value
    passes = KV_PASSES_EAGER if step.eager and not prefill else 1
    moved = passes * cache + 2 * step.rows * query * step.bytes_per_value
    flops = 4.0 * step.sequences * query * pairs
    return Kernels(kind="attention", count=layers, flops=flops, num_bytes=moved)


def _elementwise(spec: ModelSpec, shard: Shard, step: Pass, layers: int) -> Kernels:
    """Norms, residuals, rotary, activation, unfused: bytes only, one sum per layer.

    Two norms, each e read, 5 fp32 passes, 2 e written and scaled: 2 D (3 e + 20); two residual
    additions 6 D e; rotary 8 (N + K) H e; activation and product 5 F e (2 F e if not gated).
    """
    e = step.bytes_per_value
    kv_heads = kv_heads_of_rank(spec, tp=shard.tp, tp_rank=shard.tp_rank)
    heads = kv_heads * (spec.query_heads_per_kv_head + 1)
    columns = spec.intermediate / shard.tp
    per_token = (
        2 * spec.hidden * (3 * e + 20)
        + 6 * spec.hidden * e
        + (0 if spec.num_position_rows else 8 * heads * spec.head_dim * e)
        + (5 if spec.gated_mlp else 2) * columns * e
    )
    return Kernels(kind="elementwise", count=layers, flops=0.0, num_bytes=step.rows * per_token)
