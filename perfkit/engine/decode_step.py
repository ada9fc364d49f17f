"""One decode step of a stage, on static buffers: the Hugging Face layers' weights in fewer kernels.

    b sequences, D hidden, N query heads, K kv heads, H head size, F intermediate (this rank's own)

q, k and v are one matrix product, gate and up another: `pack` lays their weights side by side
before they are loaded, and the modules' own parameters become views of that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from perfkit.engine.decode_kernels import Kernels
from perfkit.engine.parallel_linear import RowLinear
from perfkit.engine.quantize import SCALE, quantised_linear
from perfkit.engine.stage import Stage
from perfkit.engine.static_kv import StaticKV
from perfkit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Packed:
    """Weights [sum of rows, D] of linear layers that share an input, their biases and scales."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    weight_scale: torch.Tensor | None
    """[sum of rows, 1] where the weights are quantised"""


def pack(layers: Sequence[nn.Module]) -> Packed:
    """Put the layers' parameters side by side; each keeps its own parameter, now a view."""
    weight = _side_by_side(layers, "weight")
    assert weight is not None
    return Packed(weight, _side_by_side(layers, "bias"), _side_by_side(layers, SCALE))


def _side_by_side(layers: Sequence[nn.Module], name: str) -> torch.Tensor | None:
    """None where the layers have no such parameter."""
    if getattr(layers[0], name, None) is None:
        return None
    parameters: list[torch.Tensor] = [getattr(layer, name) for layer in layers]
    first, rows = parameters[0], sum(len(parameter) for parameter in parameters)
    whole = first.new_empty(rows, *first.shape[1:])
    row = 0
    for parameter in parameters:
        part = whole[row : row + len(parameter)]
        part.copy_(parameter.data)
        parameter.data = part
        row += len(part)
    return whole


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm: weight [size] and epsilon."""

    weight: torch.Tensor
    eps: float

    @classmethod
    def of(cls, module: Any) -> "Norm":
        return cls(module.weight, module.variance_epsilon)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLayer:
    """One decoder layer, as the step runs it."""

    before_attention: Norm
    before_mlp: Norm
    qkv: Packed
    query_norm: Norm | None
    key_norm: Norm | None
    output: nn.Module
    head_size: int
    kv_heads: int
    scale: float
    window: int | None
    sinks: torch.Tensor | None
    mlp: Callable[[torch.Tensor], torch.Tensor]
    """[b, D] -> [b, D]"""


class DecodeStep:
    """Runs one new token a sequence through a stage whose prompt is in a StaticKV."""

    def __init__(self, stage: Stage, kernels: Kernels) -> None:
        if stage.family.learned_positions:
            raise ConfigError(
                f"--decode graph does not run {stage.config.model_type}: it has no rotary "
                "positions. Use --decode eager.",
            )
        self.stage, self.kernels = stage, kernels
        decoder: Any = stage.decoder
        self.embedding = decoder.embed_tokens if stage.first else None
        self.rotary = decoder.rotary_emb
        self.layers = [self._layer(index, layer) for index, layer in enumerate(decoder.layers)]
        self.final_norm = Norm.of(getattr(decoder, stage.family.norm)) if stage.last else None

    def _layer(self, index: int, layer: Any) -> DecodeLayer:
        heads = layer.self_attn
        size = heads.head_dim
        return DecodeLayer(
            before_attention=Norm.of(layer.input_layernorm),
            before_mlp=Norm.of(layer.post_attention_layernorm),
            qkv=pack([heads.q_proj, heads.k_proj, heads.v_proj]),
            query_norm=Norm.of(heads.q_norm) if hasattr(heads, "q_norm") else None,
            key_norm=Norm.of(heads.k_norm) if hasattr(heads, "k_norm") else None,
            output=heads.o_proj,
            head_size=size,
            kv_heads=heads.k_proj.weight.shape[0] // size,
            scale=heads.scaling,
            window=self.stage.windows[index],
            sinks=getattr(heads, "sinks", None),
            mlp=self._mlp(layer.mlp),
        )

    def _mlp(self, module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """The gated MLP in three kernels; any other (experts) as it is."""
        if not hasattr(module, "gate_proj") or self.stage.config.hidden_act != "silu":
            return lambda inputs: _first(module(inputs[:, None]))[:, 0]
        both, gated = pack([module.gate_proj, module.up_proj]), self.kernels.gated
        return lambda inputs: self._project(
            module.down_proj, gated(self._product(both, inputs, both.bias))
        )

    def _product(self, layer: Any, inputs: torch.Tensor, bias: Any = None) -> torch.Tensor:
        """[b, D] times the weights of a layer, or of several, that may be quantised."""
        scale = getattr(layer, SCALE, None)
        if scale is None:
            return self.kernels.linear(inputs, layer.weight, bias)
        return quantised_linear(inputs, layer.weight, scale, bias)

    def _project(self, module: Any, inputs: torch.Tensor) -> torch.Tensor:
        """A linear layer, or this rank's part of one, and the sum over its ranks."""
        if isinstance(module, RowLinear):
            return module.whole(self._product(module, module.own(inputs)))
        return self._product(module, inputs, module.bias)

    def new_kv(self, batch: int, slots: int, device: torch.device) -> StaticKV:
        """Buffers for a microbatch of `batch` sequences of at most `slots` tokens."""
        first = self.layers[0]
        shape = (batch, slots, first.kv_heads, first.head_size)
        return StaticKV(shape, len(self.layers), first.before_attention.weight.dtype, device)

    def __call__(self, inputs: torch.Tensor, kv: StaticKV) -> torch.Tensor:
        """Token ids [b, 1] or hidden [b, 1, D] -> hidden [b, 1, D], or logits [b, V] when last."""
        add_norm = self.kernels.add_norm
        hidden = self.embedding(inputs)[:, 0] if self.embedding is not None else inputs[:, 0]
        cos, sin = self._rotary(hidden, kv)
        first = self.layers[0].before_attention
        normed = self.kernels.norm(hidden, first.weight, first.eps)
        for index, layer in enumerate(self.layers):
            delta = self._attend(index, layer, normed, cos, sin, kv)
            after = layer.before_mlp
            hidden, normed = add_norm(hidden, delta, after.weight, after.eps)
            delta = layer.mlp(normed)
            following = self._norm_after(index)
            if following is None:
                return (hidden + delta)[:, None]
            hidden, normed = add_norm(hidden, delta, following.weight, following.eps)
        return self._project(self.stage.head, normed)

    def _rotary(self, hidden: torch.Tensor, kv: StaticKV) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [b, 1, H] of the slot; some families give the one half that both share."""
        cos, sin = self.rotary(hidden[:, None], (kv.slot - kv.starts)[:, None])
        if cos.shape[-1] < self.layers[0].head_size:
            cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)
        return cos, sin

    def _norm_after(self, index: int) -> Norm | None:
        """The next layer's, or the final one; None at the end of a stage that is not the last."""
        if index + 1 < len(self.layers):
            return self.layers[index + 1].before_attention
        return self.final_norm

    def _attend(
        self,
        index: int,
        layer: DecodeLayer,
        normed: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        kv: StaticKV,
    ) -> torch.Tensor:
        kernels, keys, values = self.kernels, kv.keys[index], kv.values[index]
        heads = self._product(layer.qkv, normed, layer.qkv.bias)
        heads = heads.view(normed.shape[0], -1, layer.head_size)
        if layer.query_norm is not None and layer.key_norm is not None:
            heads = self._normed_heads(layer, heads)
        query = kernels.rotate_and_store(heads, cos, sin, keys, values, kv.slot)
        seen = kernels.attention(query, kv, index, layer.scale, layer.window, layer.sinks)
        return self._project(layer.output, seen.flatten(1))

    def _normed_heads(self, layer: DecodeLayer, heads: torch.Tensor) -> torch.Tensor:
        """q and k of each head normalised, v as it is (Qwen3)."""
        assert layer.query_norm is not None
        assert layer.key_norm is not None
        k = layer.kv_heads
        query, key, value = torch.split(heads, [heads.shape[1] - 2 * k, k, k], dim=1)
        norm = self.kernels.norm
        query = norm(query.contiguous(), layer.query_norm.weight, layer.query_norm.eps)
        key = norm(key.contiguous(), layer.key_norm.weight, layer.key_norm.eps)
        return torch.cat((query, key, value), dim=1)


def _first(outputs: Any) -> torch.Tensor:
    """Layers with experts return their router's logits too."""
    found: torch.Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return found
