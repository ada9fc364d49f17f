"""The exact tensors of a checkpoint, and how each may be cut.

    D hidden, N query heads, K kv heads, H head size, F intermediate, V vocab, E experts

Names are those of the Hugging Face class; engine/disk_names.py knows where files differ: most hold
experts one by one. Gemma 3's vision models put `language_model.` in front. Standard library only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from perfkit.predict.spec import Latent, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor under its name in the Hugging Face class (files may hold experts one by one)."""

    name: str
    shape: tuple[int, ...]
    role: str
    """embed, position, project, norm, qk_norm, latent_norm, latent (DeepSeek's compressions), qkv,
    o, sinks, gate_up, down (of an MLP, also the one beside experts), router, experts, head"""
    shard: str = "replicated"
    """column (dim 0), row (dim 1), replicated, head (dim 1 of the output head), expert_1 and
    expert_2 (that dimension of a stack of experts, in equal parts)"""
    parts: tuple[int, ...] = ()
    """rows of the matrices that a fused one is made of: each of them is cut"""
    layer: int | None = None

    @property
    def num_values(self) -> int:
        return prod(self.shape)


def first_tensors(spec: ModelSpec) -> Iterator[TensorSpec]:
    """What comes before the layers: embedding table and positions."""
    root = _root(spec)
    yield TensorSpec(name=f"{root}.embed_tokens.weight", shape=_table(spec), role="embed")
    if spec.num_position_rows:
        shape = (spec.num_position_rows, spec.hidden)
        yield TensorSpec(name=f"{root}.embed_positions.weight", shape=shape, role="position")
    if spec.embed_dim != spec.hidden:
        shape = (spec.hidden, spec.embed_dim)
        yield TensorSpec(name=f"{root}.project_in.weight", shape=shape, role="project")


def last_tensors(spec: ModelSpec, *, with_head: bool) -> Iterator[TensorSpec]:
    """What comes after the layers: final norm and output head."""
    root = _root(spec)
    if spec.final_norm:
        name = "norm" if spec.gated_mlp else "final_layer_norm"
        yield from _norm(spec, f"{root}.{name}", None)
    if spec.embed_dim != spec.hidden:
        shape = (spec.embed_dim, spec.hidden)
        yield TensorSpec(name=f"{root}.project_out.weight", shape=shape, role="project")
    if with_head:
        yield TensorSpec(name="lm_head.weight", shape=_table(spec), role="head", shard="head")


def layer_tensors(spec: ModelSpec, layer: int) -> Iterator[TensorSpec]:
    """One decoder layer; OPT names its parts differently."""
    at = f"{_root(spec)}.layers.{layer}"
    attention = f"{at}.self_attn"
    if spec.latent:
        yield from _latent(spec, spec.latent, attention, layer)
    else:
        yield from _qkv(spec, attention, layer)
    out = f"{attention}.{'o_proj' if spec.gated_mlp else 'out_proj'}"
    shape = (spec.hidden, spec.output_width)
    yield from _linear(out, shape, "o", "row", layer, spec.output_bias)
    if spec.layer_kinds[layer].experts:
        yield from _experts(spec, f"{at}.mlp", layer)
    else:
        inside = f"{at}.mlp" if spec.gated_mlp else at
        yield from _mlp(spec, inside, spec.intermediate, layer)
    for name in _norm_names(spec):
        yield from _norm(spec, f"{at}.{name}", layer)


def _qkv(spec: ModelSpec, at: str, layer: int) -> Iterator[TensorSpec]:
    d, q, kv = spec.hidden, spec.query_width, spec.kv_width
    widths = {"q_proj": (q,), "k_proj": (kv,), "v_proj": (kv,)}
    for name, rows in {"qkv_proj": (q, kv, kv)}.items() if spec.fused else widths.items():
        parts = rows if spec.fused else ()
        shape = (sum(rows), d)
        bias = spec.attention_bias
        yield from _linear(f"{at}.{name}", shape, "qkv", "column", layer, bias, parts)
    if spec.sinks:
        heads, name = (spec.num_heads,), f"{at}.sinks"
        yield TensorSpec(name=name, shape=heads, role="sinks", shard="column", layer=layer)
    for name in ("q_norm", "k_norm") if spec.qk_norm else ():
        name = f"{at}.{name}.weight"
        yield TensorSpec(name=name, shape=(spec.head_dim,), role="qk_norm", layer=layer)


def _latent(spec: ModelSpec, latent: Latent, at: str, layer: int) -> Iterator[TensorSpec]:
    """Compressions are whole on every rank, what makes heads of them is cut by head."""
    d, heads, bias = spec.hidden, spec.num_heads, spec.attention_bias
    rank = latent.query_rank
    if rank is None:
        yield from _linear(f"{at}.q_proj", (spec.query_width, d), "qkv", "column", layer, False)
    else:
        yield from _linear(f"{at}.q_a_proj", (rank, d), "latent", "replicated", layer, bias)
        yield _latent_norm(f"{at}.q_a_layernorm", rank, layer)
        shape = (spec.query_width, rank)
        yield from _linear(f"{at}.q_b_proj", shape, "qkv", "column", layer, False)
    name, shape = f"{at}.kv_a_proj_with_mqa", (latent.cached_values, d)
    yield from _linear(name, shape, "latent", "replicated", layer, bias)
    yield _latent_norm(f"{at}.kv_a_layernorm", latent.kv_rank, layer)
    shape = (heads * (latent.nope_dim + latent.value_dim), latent.kv_rank)
    yield from _linear(f"{at}.kv_b_proj", shape, "qkv", "column", layer, False)


def _latent_norm(name: str, width: int, layer: int) -> TensorSpec:
    return TensorSpec(name=f"{name}.weight", shape=(width,), role="latent_norm", layer=layer)


def _mlp(spec: ModelSpec, at: str, width: int, layer: int) -> Iterator[TensorSpec]:
    d, bias = spec.hidden, spec.mlp_bias
    if spec.fused:
        name, parts = f"{at}.gate_up_proj", (width, width)
        yield from _linear(name, (2 * width, d), "gate_up", "column", layer, bias, parts)
    else:
        for name in ("gate_proj", "up_proj") if spec.gated_mlp else ("fc1",):
            yield from _linear(f"{at}.{name}", (width, d), "gate_up", "column", layer, bias)
    down = f"{at}.{'down_proj' if spec.gated_mlp else 'fc2'}"
    yield from _linear(down, (d, width), "down", "row", layer, bias)


def _experts(spec: ModelSpec, at: str, layer: int) -> Iterator[TensorSpec]:
    """A router [E, D], and every expert in two stacks: [E, out, in], in gpt-oss [E, in, out].

    The bias of the down projection is as large on every rank, and zero on all but the first.
    """
    d, f, e = spec.hidden, spec.expert_intermediate, spec.num_experts
    gpt_oss = spec.model_type == "gpt_oss"
    router = f"{at}.{'router' if gpt_oss else 'gate'}"
    yield from _linear(router, (e, d), "router", "replicated", layer, spec.expert_bias)
    if spec.model_type == "deepseek_v3":
        name = f"{router}.e_score_correction_bias"
        yield TensorSpec(name=name, shape=(e,), role="router", layer=layer)
    stacks = {
        "gate_up_proj": ((e, d, 2 * f), "expert_2") if gpt_oss else ((e, 2 * f, d), "expert_1"),
        "down_proj": ((e, f, d), "expert_1") if gpt_oss else ((e, d, f), "expert_2"),
    }
    biases = {
        "gate_up_proj_bias": ((e, 2 * f), "expert_1"),
        "down_proj_bias": ((e, d), "replicated"),
    }
    for name, (shape, shard) in {**stacks, **(biases if spec.expert_bias else {})}.items():
        name = f"{at}.experts.{name}"
        yield TensorSpec(name=name, shape=shape, role="experts", shard=shard, layer=layer)
    if spec.shared_intermediate:
        yield from _shared_expert(spec, at, layer)


def _shared_expert(spec: ModelSpec, at: str, layer: int) -> Iterator[TensorSpec]:
    """The MLP of every token; Qwen2's has a gate of its own, one number a token."""
    qwen = spec.model_type == "qwen2_moe"
    name = f"{at}.{'shared_expert' if qwen else 'shared_experts'}"
    yield from _mlp(spec, name, spec.shared_intermediate, layer)
    if qwen:
        shape = (1, spec.hidden)
        yield from _linear(f"{name}_gate", shape, "router", "replicated", layer, False)


def _linear(
    name: str,
    shape: tuple[int, int],
    role: str,
    shard: str,
    layer: int,
    bias: bool,
    parts: tuple[int, ...] = (),
) -> Iterator[TensorSpec]:
    weight = TensorSpec(
        name=f"{name}.weight", shape=shape, role=role, shard=shard, parts=parts, layer=layer
    )
    yield weight
    if bias:
        rule = "column" if shard == "column" else "replicated"
        yield TensorSpec(name=f"{name}.bias", shape=shape[:1], role=role, shard=rule, layer=layer)


def _norm_names(spec: ModelSpec) -> tuple[str, ...]:
    if not spec.gated_mlp:
        return ("self_attn_layer_norm", "final_layer_norm")
    inner = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return (
        "input_layernorm",
        "post_attention_layernorm",
        *(inner if spec.norms_per_layer == 4 else ()),
    )


def _norm(spec: ModelSpec, name: str, layer: int | None) -> Iterator[TensorSpec]:
    for part, present in (("weight", spec.norm_weight), ("bias", spec.norm_bias)):
        if present:
            yield TensorSpec(name=f"{name}.{part}", shape=(spec.hidden,), role="norm", layer=layer)


def _root(spec: ModelSpec) -> str:
    return "model" if spec.model_type != "opt" else "model.decoder"


def _table(spec: ModelSpec) -> tuple[int, int]:
    return (spec.vocab, spec.embed_dim)
