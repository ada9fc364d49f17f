"""Which tensors one rank holds, and how large its part of each is.

    L layers, K kv heads, F intermediate, E experts

Shards follow DeepSpeed AutoTP 0.19 (deepspeed/module_inject/tp_shard.py, layers.py); the engine
compares them with what it really holds at every start. AutoTP leaves experts whole; the engine
cuts every expert along F. `hf-tp` cuts what Hugging Face's plan of the family names, into the same
sizes. Standard library only.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from perfkit.errors import ConfigError
from perfkit.predict.layer_tensors import TensorSpec as TensorSpec
from perfkit.predict.layer_tensors import first_tensors, last_tensors, layer_tensors
from perfkit.predict.spec import ModelSpec, dtype_bytes

MLP_GRAIN = 64
"""columns; DeepSpeed's tp_grain_size default (inference/config.py)"""

SHARDINGS = ("deepspeed", "hf-tp", "none")
NO_PLAN = ("opt", "gpt_oss")
"""families for which transformers 5.23 has no tensor-parallel plan (base_model_tp_plan)"""
NOT_CUT_ALIKE = ("phi3",)
"""its plan cuts fused matrices across their parts and gathers what comes out"""
WHOLE_IN_PLAN = {"deepseek_v3": ".self_attn.", "qwen2_moe": ".shared_expert."}
"""modules that the plan of the family leaves whole"""

DIMENSIONS = {"column": 0, "row": 1, "head": 1, "expert_1": 1, "expert_2": 2}
HEAD_ROLES = ("qkv", "o", "sinks")


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every tensor of the checkpoint; a tied head is the embedding and is not listed again."""
    last = last_tensors(spec, with_head=not spec.tied)
    return (*first_tensors(spec), *_of_layers(spec, range(spec.num_layers)), *last)


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
    first = first_tensors(spec) if pp_rank == 0 else ()
    shared_head = spec.tied and tp == 1 and pp == 1
    last = last_tensors(spec, with_head=not shared_head) if pp_rank == pp - 1 else ()
    inner = [_layer_shards(spec, layer, tp, tp_rank, sharding) for layer in layers]
    before, after = ([_shard(one, spec, tp, tp_rank) for one in ends] for ends in (first, last))
    return (*before, *itertools.chain.from_iterable(inner), *after)


@lru_cache(maxsize=4096)
def _layer_shards(
    spec: ModelSpec, layer: int, tp: int, tp_rank: int, sharding: str
) -> tuple[TensorSpec, ...]:
    """One layer's tensors as a rank holds them: the same in every pipeline."""
    kept = WHOLE_IN_PLAN.get(spec.model_type) if sharding == "hf-tp" else None
    return tuple(
        tensor if kept and kept in tensor.name else _shard(tensor, spec, tp, tp_rank)
        for tensor in layer_tensors(spec, layer)
    )


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
    layout = (tp, pp, tp_rank, pp_rank, None if split is None else tuple(split), sharding)
    return _local_values(spec, *layout) * dtype_bytes(dtype or spec.dtype)


@lru_cache(maxsize=4096)
def _local_values(
    spec: ModelSpec,
    tp: int,
    pp: int,
    tp_rank: int,
    pp_rank: int,
    split: tuple[int, ...] | None,
    sharding: str,
) -> int:
    held = local_tensors(
        spec, tp=tp, pp=pp, tp_rank=tp_rank, pp_rank=pp_rank, split=split, sharding=sharding
    )
    return sum(tensor.num_values for tensor in held)


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
    if sharding == "hf-tp" and tp > 1 and spec.model_type in (*NO_PLAN, *NOT_CUT_ALIKE):
        raise ConfigError(
            f"tp={tp}, sharding 'hf-tp': no plan of transformers for {spec.model_type} that cuts "
            "matrices as is counted here. Use sharding 'deepspeed'.",
        )
    if tp > spec.num_kv_heads:
        raise ConfigError(_too_many_shards(spec, tp))
    if spec.num_experts and spec.expert_intermediate % tp:
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
    return [n for n in even if not spec.num_experts or spec.expert_intermediate % n == 0]


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
        f"tp={tp} does not divide the intermediate size {spec.expert_intermediate} of the experts "
        f"of {spec.id}: every rank holds an equal part of each expert. Use tp {degrees}."
    )


def _layouts(spec: ModelSpec, num_ranks: int) -> str:
    degrees = [n for n in usable_degrees(spec) if num_ranks % n == 0]
    return " or ".join(f"tp={n} pp={num_ranks // n}" for n in degrees)


def _near_even(total: int, parts: int) -> tuple[int, ...]:
    return tuple(total // parts + (rank < total % parts) for rank in range(parts))


def _of_layers(spec: ModelSpec, layers: range) -> Iterator[TensorSpec]:
    return (tensor for layer in layers for tensor in layer_tensors(spec, layer))


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
        parts = tensor.parts or (shape[dimension],)
        sizes = [shard_sizes(part, tp, num_kv_heads=heads)[tp_rank] for part in parts]
        shape[dimension] = sum(sizes)
    return replace(tensor, shape=tuple(shape))
