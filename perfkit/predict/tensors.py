"""The exact tensors of a checkpoint, and the part of each that one rank holds.

    L layers, D hidden, N query heads, K kv heads, H head size, F intermediate, V vocab, E experts

Shards follow DeepSpeed AutoTP 0.19 (deepspeed/module_inject/tp_shard.py, layers.py); the engine
compares them with what it really holds at every start. AutoTP leaves experts whole; the engine
cuts every expert along F. Standard library only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from perfkit.errors import ConfigError
from perfkit.predict.spec import ModelSpec, dtype_bytes

MLP_GRAIN = 64
"""columns; DeepSpeed's tp_grain_size default (inference/config.py)"""

SHARDINGS = ("deepspeed", "none")

DIMENSIONS = {"column": 0, "row": 1, "head": 1, "expert_1": 1, "expert_2": 2}
HEAD_ROLES = ("qkv", "o", "sinks")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor under its name in the Hugging Face class (files may hold experts one by one)."""

    name: str
    shape: tuple[int, ...]
    role: str
    """embed, position, project, norm, qk_norm, qkv, o, sinks, gate_up, down, router, experts,
    head"""
    shard: str = "replicated"
    """column (dim 0), row (dim 1), replicated, head (dim 1 of the output head), expert_1 and
    expert_2 (that dimension of a stack of experts, in equal parts)"""
    layer: int | None = None

    @property
    def num_values(self) -> int:
        return prod(self.shape)


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every tensor of the checkpoint; a tied head is the embedding and is not listed again."""
    body = [tensor for layer in range(spec.num_layers) for tensor in _layer(spec, layer)]
    return (*_first(spec), *body, *_last(spec, with_head=not spec.tied))


def stage_layers(num_layers: int, pp: int, split: Sequence[int] | None = None) -> list[range]:
    """The layers of each pipeline stage: as even as possible, the first stages the larger.

    `split` gives the counts instead: stage_layers(5, 2) is stage_layers(5, 2, (3, 2)).
    """
    if pp < 1 or pp > num_layers:
        raise ConfigError(f"pp={pp} for {num_layers} layers. Use 1 to {num_layers} stages.")
    if split is None:
        even, more = divmod(num_layers, pp)
        split = [even + (stage < more) for stage in range(pp)]
    if len(split) != pp or sum(split) != num_layers or min(split) < 1:
        raise ConfigError(
            f"layer split {list(split)} does not give {num_layers} layers to {pp} stages. "
            f"Use {pp} positive counts that add up to {num_layers}.",
        )
    starts = [sum(split[:stage]) for stage in range(pp)]
    return [range(start, start + count) for start, count in zip(starts, split, strict=True)]


def balanced_layers(spec: ModelSpec, pp: int) -> tuple[int, ...]:
    """Layers of each stage so that the slowest reads the fewest weights in a decode step.

    The last stage also reads the head: it has fewer layers by head / layer, shared among the
    stages. Llama-3.1-8B, whose head is as large as 2.4 layers, over 2 stages: 17 + 15. Counts
    weights only: attention over a long context is alike in all layers.
    """
    stage_layers(spec.num_layers, pp)
    if pp == 1:
        return (spec.num_layers,)
    tensors = local_tensors(spec, tp=1, pp=1, tp_rank=0, pp_rank=0)
    of_layers = sum(tensor.num_values for tensor in tensors if tensor.layer is not None)
    head = spec.vocab * spec.hidden * spec.num_layers / of_layers

    def slowest(last: int) -> float:
        others = -(-(spec.num_layers - last) // (pp - 1))
        return max(others, last + head)

    possible = range(1, spec.num_layers - pp + 2)
    last = min(possible, key=lambda count: (slowest(count), abs(count - spec.num_layers / pp)))
    return (*(len(part) for part in stage_layers(spec.num_layers - last, pp - 1)), last)


def shard_sizes(total: int, tp: int, *, num_kv_heads: int | None = None) -> tuple[int, ...]:
    """How AutoTP cuts one dimension: by whole kv heads where it can, else in grains of 64.

    By heads, first ranks take one more: 576 rows, 3 kv heads, tp=2 -> 384 + 192. By grains, the
    rest of the division goes to the last rank: 1000, tp=2 -> 512 + 488. Source: get_shard_size
    in deepspeed/module_inject/tp_shard.py, 0.19.8.
    """
    if num_kv_heads is not None and total % num_kv_heads == 0:
        return tuple(n * (total // num_kv_heads) for n in _near_even(num_kv_heads, tp))
    if total < MLP_GRAIN:
        return _near_even(total, tp)
    grains, rest = divmod(total, MLP_GRAIN)
    sizes = [n * MLP_GRAIN for n in _near_even(grains, tp)]
    return (*sizes[:-1], sizes[-1] + rest)


def kv_heads_of_rank(spec: ModelSpec, *, tp: int, tp_rank: int) -> int:
    """kv heads that one tensor-parallel rank holds; uneven when tp does not divide them."""
    return _near_even(spec.num_kv_heads, tp)[tp_rank]


def local_tensors(
    spec: ModelSpec,
    *,
    tp: int,
    pp: int,
    tp_rank: int,
    pp_rank: int,
    split: Sequence[int] | None = None,
    sharding: str = "deepspeed",
) -> tuple[TensorSpec, ...]:
    """The tensors one rank holds, with local shapes and the checkpoint's own names.

    The first stage has the embedding, the last the final norm and the head. A tied head is
    shared (not listed) only with tp=1 and pp=1: AutoTP clones it before it shards it, and a last
    stage of its own needs a copy.
    """
    check_layout(spec, tp=tp, pp=pp, split=split, sharding=sharding)
    layers = stage_layers(spec.num_layers, pp, split)[pp_rank]
    first = _first(spec) if pp_rank == 0 else ()
    shared_head = spec.tied and tp == 1 and pp == 1
    last = _last(spec, with_head=not shared_head) if pp_rank == pp - 1 else ()
    whole = [*first, *(tensor for layer in layers for tensor in _layer(spec, layer)), *last]
    return tuple(_shard(tensor, spec, tp, tp_rank) for tensor in whole)


def local_parameter_bytes(
    spec: ModelSpec,
    *,
    tp: int,
    pp: int,
    tp_rank: int,
    pp_rank: int,
    dtype: str | None = None,
    split: Sequence[int] | None = None,
    sharding: str = "deepspeed",
) -> int:
    """Bytes of the parameters one rank holds, in `dtype` (default: the checkpoint's own)."""
    held = local_tensors(
        spec, tp=tp, pp=pp, tp_rank=tp_rank, pp_rank=pp_rank, split=split, sharding=sharding
    )
    return sum(tensor.num_values for tensor in held) * dtype_bytes(dtype or spec.dtype)


def check_layout(
    spec: ModelSpec,
    *,
    tp: int,
    pp: int,
    num_ranks: int | None = None,
    split: Sequence[int] | None = None,
    sharding: str = "deepspeed",
) -> None:
    """ConfigError, with what to use instead, for a layout that cannot run."""
    if tp < 1 or pp < 1:
        raise ConfigError(f"tp={tp}, pp={pp}: both degrees must be 1 or more.")
    if sharding not in SHARDINGS:
        raise ConfigError(f"sharding {sharding!r} is not known. Use {' or '.join(SHARDINGS)}.")
    if sharding == "none" and tp > 1:
        raise ConfigError(f"tp={tp} needs sharding 'deepspeed'; without sharding use tp=1.")
    if tp > spec.num_kv_heads:
        raise ConfigError(_too_many_shards(spec, tp))
    if spec.num_experts and spec.intermediate % tp:
        raise ConfigError(_uneven_experts(spec, tp))
    stage_layers(spec.num_layers, pp, split)
    if num_ranks is not None and tp * pp != num_ranks:
        raise ConfigError(
            f"tp={tp} x pp={pp} is {tp * pp} ranks, but {num_ranks} were started. "
            f"Start {tp * pp} ranks or choose {_layouts(spec, num_ranks)}.",
        )


def usable_degrees(spec: ModelSpec) -> list[int]:
    """Tensor-parallel degrees that give every rank the same number of kv heads."""
    even = [n for n in range(1, spec.num_kv_heads + 1) if spec.num_kv_heads % n == 0]
    return [n for n in even if not spec.num_experts or spec.intermediate % n == 0]


def layout_note(spec: ModelSpec, tp: int) -> str | None:
    """What a user should know of a layout that runs: shards that are not equal."""
    if spec.num_kv_heads % tp == 0:
        return None
    return f"tp={tp} does not divide {spec.num_kv_heads} kv heads: the ranks are uneven"


def _too_many_shards(spec: ModelSpec, tp: int) -> str:
    degrees = ", ".join(map(str, usable_degrees(spec)))
    return (
        f"tp={tp} is more than the {spec.num_kv_heads} kv heads of {spec.id}: AutoTP splits "
        f"attention by kv head, so some ranks would hold none. Use tp {degrees}, and pp for more "
        "GPUs."
    )


def _uneven_experts(spec: ModelSpec, tp: int) -> str:
    degrees = ", ".join(map(str, usable_degrees(spec)))
    return (
        f"tp={tp} does not divide the intermediate size {spec.intermediate} of the experts of "
        f"{spec.id}: every rank holds an equal part of each expert. Use tp {degrees}."
    )


def _layouts(spec: ModelSpec, num_ranks: int) -> str:
    degrees = [n for n in usable_degrees(spec) if num_ranks % n == 0]
    return " or ".join(f"tp={n} pp={num_ranks // n}" for n in degrees)


def _near_even(total: int, parts: int) -> tuple[int, ...]:
    return tuple(total // parts + (rank < total % parts) for rank in range(parts))


def _shard(tensor: TensorSpec, spec: ModelSpec, tp: int, tp_rank: int) -> TensorSpec:
    """The local part of one tensor. Column biases are cut with their rows, row biases kept."""
    if tp == 1 or tensor.shard == "replicated":
        return tensor
    dimension = DIMENSIONS[tensor.shard]
    by_heads = tensor.role in HEAD_ROLES or not (spec.gated_mlp or tensor.role == "head")
    heads = spec.num_kv_heads if by_heads else None
    shape = list(tensor.shape)
    if tensor.role == "experts":
        shape[dimension] //= tp
    else:
        shape[dimension] = shard_sizes(shape[dimension], tp, num_kv_heads=heads)[tp_rank]
    return replace(tensor, shape=tuple(shape))


def _first(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    root = _root(spec)
    found = [
        TensorSpec(name=f"{root}.embed_tokens.weight", shape=_table(spec), role="embed"),
    ]
    if spec.num_position_rows:
        shape = (spec.num_position_rows, spec.hidden)
        name = f"{root}.embed_positions.weight"
        found.append(TensorSpec(name=name, shape=shape, role="position"))
    if spec.embed_dim != spec.hidden:
        shape = (spec.hidden, spec.embed_dim)
        name = f"{root}.project_in.weight"
        found.append(TensorSpec(name=name, shape=shape, role="project"))
    return tuple(found)


def _last(spec: ModelSpec, *, with_head: bool) -> tuple[TensorSpec, ...]:
    root = _root(spec)
    name = "norm" if spec.gated_mlp else "final_layer_norm"
    found = [*_norm(spec, f"{root}.{name}", None)] if spec.final_norm else []
    if spec.embed_dim != spec.hidden:
        shape = (spec.embed_dim, spec.hidden)
        found.append(TensorSpec(name=f"{root}.project_out.weight", shape=shape, role="project"))
    if with_head:
        head = TensorSpec(name="lm_head.weight", shape=_table(spec), role="head", shard="head")
        found.append(head)
    return tuple(found)


def _layer(spec: ModelSpec, layer: int) -> Iterator[TensorSpec]:
    """One decoder layer; OPT names its parts differently."""
    d, q, kv = spec.hidden, spec.query_width, spec.kv_width
    gated = spec.gated_mlp
    at = f"{_root(spec)}.layers.{layer}"
    qkv_bias = spec.attention_bias
    out = "o_proj" if gated else "out_proj"
    for name, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
        yield from _linear(f"{at}.self_attn.{name}", (rows, d), "qkv", "column", layer, qkv_bias)
    yield from _linear(f"{at}.self_attn.{out}", (d, q), "o", "row", layer, spec.output_bias)
    if spec.sinks:
        name = f"{at}.self_attn.sinks"
        shape = (spec.num_heads,)
        yield TensorSpec(name=name, shape=shape, role="sinks", shard="column", layer=layer)
    yield from (_experts if spec.num_experts else _mlp)(spec, at, layer)
    for name in ("q_norm", "k_norm") if spec.qk_norm else ():
        name = f"{at}.self_attn.{name}.weight"
        yield TensorSpec(name=name, shape=(spec.head_dim,), role="qk_norm", layer=layer)
    llama_norms = ("input_layernorm", "post_attention_layernorm")
    for name in llama_norms if gated else ("self_attn_layer_norm", "final_layer_norm"):
        yield from _norm(spec, f"{at}.{name}", layer)


def _mlp(spec: ModelSpec, at: str, layer: int) -> Iterator[TensorSpec]:
    d, f, bias = spec.hidden, spec.intermediate, spec.mlp_bias
    for name in ("mlp.gate_proj", "mlp.up_proj") if spec.gated_mlp else ("fc1",):
        yield from _linear(f"{at}.{name}", (f, d), "gate_up", "column", layer, bias)
    down = "mlp.down_proj" if spec.gated_mlp else "fc2"
    yield from _linear(f"{at}.{down}", (d, f), "down", "row", layer, bias)


def _experts(spec: ModelSpec, at: str, layer: int) -> Iterator[TensorSpec]:
    """A router [E, D], and every expert in two stacks: [E, out, in], in gpt-oss [E, in, out].

    The bias of the down projection is as large on every rank, and zero on all but the first.
    """
    d, f, e = spec.hidden, spec.intermediate, spec.num_experts
    gpt_oss = spec.model_type == "gpt_oss"
    router = f"{at}.mlp.{'router' if gpt_oss else 'gate'}"
    yield from _linear(router, (e, d), "router", "replicated", layer, spec.expert_bias)
    stacks = {
        "gate_up_proj": ((e, d, 2 * f), "expert_2") if gpt_oss else ((e, 2 * f, d), "expert_1"),
        "down_proj": ((e, f, d), "expert_1") if gpt_oss else ((e, d, f), "expert_2"),
    }
    biases = {
        "gate_up_proj_bias": ((e, 2 * f), "expert_1"),
        "down_proj_bias": ((e, d), "replicated"),
    }
    for name, (shape, shard) in {**stacks, **(biases if spec.expert_bias else {})}.items():
        name = f"{at}.mlp.experts.{name}"
        yield TensorSpec(name=name, shape=shape, role="experts", shard=shard, layer=layer)


def _linear(
    name: str, shape: tuple[int, int], role: str, shard: str, layer: int, bias: bool
) -> Iterator[TensorSpec]:
    yield TensorSpec(name=f"{name}.weight", shape=shape, role=role, shard=shard, layer=layer)
    if bias:
        rule = "column" if shard == "column" else "replicated"
        yield TensorSpec(name=f"{name}.bias", shape=shape[:1], role=role, shard=rule, layer=layer)


def _norm(spec: ModelSpec, name: str, layer: int | None) -> Iterator[TensorSpec]:
    for part, present in (("weight", spec.norm_weight), ("bias", spec.norm_bias)):
        if present:
            yield TensorSpec(name=f"{name}.{part}", shape=(spec.hidden,), role="norm", layer=layer)


def _root(spec: ModelSpec) -> str:
    return "model" if spec.model_type != "opt" else "model.decoder"


def _table(spec: ModelSpec) -> tuple[int, int]:
    return (spec.vocab, spec.embed_dim)
