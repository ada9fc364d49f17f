"""What a model is made of: the few numbers of a Hugging Face config.json that fix its size.

    L layers, D hidden, N query heads, K kv heads, H head size, F intermediate, V vocab,
    E experts, k experts of a token, b bytes per value

Standard library only: the engine imports this module inside containers.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from perfkit.errors import ConfigError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class LayerKind(NamedTuple):
    """What one layer may differ in from another."""

    window: int | None = None
    """tokens it looks back on, itself included; None where it sees all"""
    experts: bool = False
    """a mixture of experts instead of one MLP"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek): one short vector a token is cached, not K and V."""

    query_rank: int | None
    """width of the compressed queries; None where they are not compressed"""
    kv_rank: int
    """width of the vector that all heads' keys and values are made of"""
    rope_dim: int
    """the part of a key that has a position; the same for all heads"""
    nope_dim: int
    """the part of a head's key that has none"""
    value_dim: int

    @property
    def cached_values(self) -> int:
        """Of one token in one layer: kv_rank + rope_dim. DeepSeek-V3: 512 + 64."""
        return self.kv_rank + self.rope_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of one decoder. Biases are per group of linear layers."""

    id: str
    model_type: str
    layer_kinds: tuple[LayerKind, ...]
    """of each layer, in order: a slice of it is a pipeline stage"""
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    """of a query and a key; a latent attention's values have `latent.value_dim`"""
    intermediate: int
    """F of a dense MLP; 0 where every layer has experts"""
    vocab: int
    max_positions: int
    tied: bool
    """the output head is the embedding table"""
    dtype: str = "bfloat16"
    """the checkpoint's own dtype"""
    attention_bias: bool = False
    """q, k and v have a bias"""
    output_bias: bool = False
    """the attention output projection has a bias"""
    mlp_bias: bool = False
    qk_norm: bool = False
    """q and k are normalised per head (Qwen3, Gemma 3)"""
    gated_mlp: bool = True
    """three matrices (gate, up, down) instead of two"""
    fused: bool = False
    """q, k and v are one matrix, gate and up another (Phi-3)"""
    norm_weight: bool = True
    norm_bias: bool = False
    """LayerNorm instead of RMSNorm"""
    norms_per_layer: int = 2
    """4 where the outputs of attention and MLP are normalised too (Gemma)"""
    final_norm: bool = True
    latent: Latent | None = None
    num_experts: int = 0
    """E of a layer with experts; 0 where none has"""
    experts_per_token: int = 0
    expert_intermediate: int = 0
    """F of one expert"""
    shared_intermediate: int = 0
    """F of the MLP beside the experts that every token goes through; 0 for none"""
    expert_bias: bool = False
    """the router and the experts have biases (gpt-oss)"""
    sinks: bool = False
    """one learned logit per query head takes part in the softmax (gpt-oss)"""
    embed_dim: int
    """width of the embedding table; OPT-350m projects it to `hidden`"""
    num_position_rows: int = 0
    """rows of a learned position table; 0 for rotary positions"""
    norm_before: bool = True
    """OPT's do_layer_norm_before: normalise before each block instead of after it"""

    @property
    def num_layers(self) -> int:
        return len(self.layer_kinds)

    @property
    def query_width(self) -> int:
        """N * H, which need not be the hidden size."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """K * H."""
        return self.num_kv_heads * self.head_dim

    @property
    def output_width(self) -> int:
        """Values of all heads that the attention output projection takes."""
        return self.num_heads * self.latent.value_dim if self.latent else self.query_width

    @property
    def query_heads_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def sliding_window(self) -> int | None:
        """The window of every layer; None where a layer sees all or layers differ."""
        windows = {kind.window for kind in self.layer_kinds}
        return windows.pop() if len(windows) == 1 else None


def spec_from_config(config: Mapping[str, Any], *, model_id: str, to_run: bool = True) -> ModelSpec:
    """The spec of a Hugging Face config.json; ConfigError when the family is not supported.

    Families that the engine cannot run have a spec too, for predictions: `to_run=False`.
    """
    from perfkit.predict.families import read_config

    return read_config(config, model_id, to_run=to_run)


def dtype_bytes(dtype: str) -> int:
    """Bytes of one value: 2 for bfloat16 and float16, 4 for float32."""
    if dtype not in DTYPE_BYTES:
        raise ConfigError(f"dtype {dtype!r} is not known. Use {', '.join(DTYPE_BYTES)}.")
    return DTYPE_BYTES[dtype]


def count_kinds(spec: ModelSpec, layers: range | None = None) -> tuple[tuple[LayerKind, int], ...]:
    """(kind, how many layers) of the model or of a pipeline stage, in order of appearance.

    gpt-oss-20b: 12 layers with a window of 128 and 12 that see all, every one with experts.
    """
    kinds = spec.layer_kinds if layers is None else spec.layer_kinds[layers.start : layers.stop]
    return tuple(Counter(kinds).items())


def num_parameters(spec: ModelSpec) -> int:
    """Values in the checkpoint; a tied head counts once. Llama-3.3-70B: 70,553,706,496."""
    from perfkit.predict.tensors import tensors

    return sum(tensor.num_values for tensor in tensors(spec))


def active_parameters(spec: ModelSpec) -> int:
    """Values that one token's forward reads: all but the experts that were not chosen.

    The embedding table counts only as a tied head: a token reads one row of it. gpt-oss-120b:
    5,132,849,472 (its card says 5.1B), DeepSeek-V3: 36,625,618,432 (README_WEIGHTS.md: 36.6B).
    """
    from perfkit.predict.tensors import tensors

    parts = Counter[str]()
    for tensor in tensors(spec):
        parts[tensor.role] += tensor.num_values
    looked_up = 0 if spec.tied else parts["embed"]
    chosen = parts["experts"] * spec.experts_per_token // max(spec.num_experts, 1)
    return sum(parts.values()) - looked_up - parts["experts"] + chosen


def distinct_experts(spec: ModelSpec, tokens: Any) -> Any:
    """Experts of one layer that a batch of B tokens is expected to reach: E (1 - (1 - k/E)^B).

    Exact where each token's k experts are drawn evenly and alone; a real router prefers some, so
    it is an upper bound. Their weights are what a decode step reads. Qwen3-30B-A3B (E 128, k 8):
    8 for one token, 51.6 for 8, 126 for 64.
    """
    missed = (1 - spec.experts_per_token / spec.num_experts) ** tokens
    return spec.num_experts * (1 - missed)


def kv_values_per_layer(spec: ModelSpec, kv_heads: float | None = None) -> float:
    """Values cached for one token in one layer: 2 (K and V) * K * H, of `kv_heads` heads.

    Latent attention caches kv_rank + rope_dim, whole on every tensor-parallel rank.
    """
    if spec.latent:
        return spec.latent.cached_values
    return 2 * (spec.num_kv_heads if kv_heads is None else kv_heads) * spec.head_dim


def kv_bytes_per_token(spec: ModelSpec, kv_bytes_per_value: int = 2) -> int:
    """Bytes of KV cache stored for one token, all layers: 2 (K and V) * L * K * H * b.

    Counts kv heads, not query heads (GQA), or a latent vector (MLA). Leaves out allocator rounding
    and the cap of a sliding window. Source: Pope et al. 2022, arXiv:2211.05102. Llama-3.3-70B,
    16 bit: 327,680; DeepSeek-V3: 70,272.
    """
    return spec.num_layers * int(kv_values_per_layer(spec)) * kv_bytes_per_value
